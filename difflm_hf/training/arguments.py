"""What training can be told: of the data, of the model, of the Hub, and of each phase."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub.utils import validate_repo_id
from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy

from ..base_model import check_quantization
from ..checks import check_choices, check_positive, is_number, shown
from ..injection import INJECTIONS
from ..modeling_difflm import DiffLMModel
from ..privacy.budget import PrivacyBudget
from ..processing_difflm import KEY_ORDERS, NESTED, DiffLMProcessor
from ..records import RecordSchema
from .beta_schedule import BetaSchedule
from .recipes import TUNINGS


@dataclass
class DataArguments:
    """
    How [`train`] takes the records.

    Args:
        categorical (`list[str]`, defaults to none): Columns that inference is to take as categories.
        max_length (`int`, defaults to 1024):
            Tokens that a document may take, a row's texts, or a whole row with `base_model`.
        overlong (`str`, defaults to `"raise"`):
            What becomes of records that take more: an error, or by `"drop"` they are left out, and counted in a
            warning and the model card.
        key_order (`str`, defaults to `"schema"`):
            That of JSON records in training: that of the schema, which inference takes from the data, or `"shuffled"`.
        min_category_count (`int`, defaults to 1):
            Leave out records with categories of fewer records than this: the schema, which is a part of the model,
            names all categories, and so may give people away. The smallest and largest numbers of a column are moved
            to what as many records have, where no rule but [`Ascending`] ties it to others. Numbers and pieces of
            text that fewer records have get no token of their own.
        find_rules (`bool`, defaults to `False`):
            Whether inference is to look for rules between columns, which then hold for all generated records.
        accept (`list[str]`, defaults to none):
            Columns that are what inference took them for, whatever else they could be.
        strict (`bool`, defaults to `False`):
            Whether all that inference doubts is an error. Columns of texts that are most likely numbers or dates are
            one in any case.
        nested (`str`, defaults to `"auto"`):
            How records with nested values are learnt without a pretrained LM: as `"rows"` inside rows, or as the text
            of their `"json"`, see [`DiffLMProcessor.from_records`].
        max_records (`int`, *optional*):
            Learn from so many records, drawn at random in one pass, and from those that hold a value or a bound that
            no record before had: schema and codec know of all. Of a stream 1,000,000 when not given, of all else all
            records. A stream or a Parquet file is then never in memory as a whole.

    Raises:
        `ValueError`: for a value that is none of those.
    """

    categorical: list[str] = field(default_factory=list, metadata={"help": "Columns to take as categories."})
    max_length: int = field(default=1024, metadata={"help": "Tokens that a document, or a row's texts, may take."})
    overlong: str = field(default="raise", metadata={"help": "What becomes of longer records: raise or drop."})
    key_order: str = field(default="schema", metadata={"help": "Of JSON records in training: schema or shuffled."})
    min_category_count: int = field(default=1, metadata={"help": "Leave out records with rarer categories."})
    find_rules: bool = field(default=False, metadata={"help": "Look for rules between columns."})
    accept: list[str] = field(default_factory=list, metadata={"help": "Columns as inferred, whatever the doubt."})
    strict: bool = field(default=False, metadata={"help": "Take all that inference doubts for errors."})
    nested: str = field(default="auto", metadata={"help": "How nested values are learnt: auto, rows or json."})
    max_records: int | None = field(default=None, metadata={"help": "Learn from so many records, drawn at random."})

    def __post_init__(self):
        for name in ("categorical", "accept"):
            if isinstance(columns := getattr(self, name), str):
                raise ValueError(f"{name}={columns!r} is one name; give a list of names of columns")
            setattr(self, name, list(columns))
        check_choices(self, overlong=("raise", "drop"), key_order=KEY_ORDERS, nested=NESTED)
        check_positive(max_length=self.max_length, min_category_count=self.min_category_count)
        if self.max_records is not None:
            check_positive(max_records=self.max_records)


@dataclass
class ModelArguments:
    """
    What [`train`] trains.

    Args:
        base_model (`str`, *optional*):
            Hub id, folder or GGUF file of a pretrained causal LM, which then writes records, as JSON or as the texts
            that they are. Not given, a small one is trained from scratch: on documents (texts, and records with
            nested values) likewise, on rows of tables in the compact format.
        base_encoder (`str`, *optional*):
            Hub id or folder of a pretrained encoder, with `base_model`. Not given, the base model encodes, too.
        tuning (`str`, defaults to `"frozen"`):
            What of `base_model` is trained: nothing by `"frozen"`, LoRA layers by `"lora"`, or all of it by `"full"`.
        quantization (`str`, *optional*):
            Load a `base_model` that is not trained itself in `"8bit"` or `"4bit"`, by bitsandbytes.
        activation_checkpointing (`bool`, defaults to `False`):
            Compute activations anew in the backward pass: less memory, about a third more time.
        injection (`str`, defaults to `"soft_prompt"`): One of the four ways of [`DiffLMConfig`].
        attn_implementation (`str`, *optional*):
            How `base_model` computes attention: `"eager"`, `"sdpa"` or `"flash_attention_2"`.
        trust_remote_code (`bool`, defaults to `False`):
            Run code that the repositories of `base_model` and `base_encoder` bring with them.

    Raises:
        `ValueError`: for a value that is none of those, and for arguments that exclude each other.
    """

    base_model: str | None = field(default=None, metadata={"help": "A pretrained causal LM, to write records."})
    base_encoder: str | None = field(default=None, metadata={"help": "A pretrained encoder, beside the base model."})
    tuning: str = field(default="frozen", metadata={"help": "What of the base is trained: frozen, lora or full."})
    quantization: str | None = field(default=None, metadata={"help": "Load the base model in 8bit or 4bit."})
    activation_checkpointing: bool = field(default=False, metadata={"help": "Less memory, a third more time."})
    injection: str = field(default="soft_prompt", metadata={"help": "How latents reach the causal LM."})
    attn_implementation: str | None = field(default=None, metadata={"help": "How the base computes attention."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code that the base brings with it."})

    def __post_init__(self):
        check_choices(self, tuning=tuple(TUNINGS), quantization=(None, "8bit", "4bit"), injection=tuple(INJECTIONS))
        if self.base_model is None and (self.tuning != "frozen" or self.quantization is not None):
            raise ValueError("tuning and quantization are of a base_model; give one, or leave them out")
        if self.base_model is None and (self.attn_implementation is not None or self.trust_remote_code):
            raise ValueError(
                "attn_implementation and trust_remote_code are of a base_model; give one, or leave them out"
            )
        if self.tuning == "full" and self.quantization is not None:
            raise ValueError("a quantized LM cannot be trained; choose tuning='lora', or leave quantization out")
        if self.base_model is not None:
            check_quantization(self.base_model, self.quantization)
        if self.base_encoder is not None and self.base_model is None:
            raise ValueError("base_encoder goes with base_model; give both, or neither")

    def to_record(self) -> dict[str, Any]:
        """The arguments as the record of a training has them: of folders the names, as paths say nothing elsewhere."""
        bases = {name: getattr(self, name) for name in ("base_model", "base_encoder")}
        names = {name: Path(base).name if base and os.path.exists(base) else base for name, base in bases.items()}
        return {**asdict(self), **names}


@dataclass
class PrivacyArguments:
    """
    How little [`train`] is to tell of a single record: differential privacy, by DP-SGD (arXiv 1607.00133) in both
    phases.

    Args:
        epsilon (`float`): ε, of all of the training together.
        delta (`float`, defaults to 1e-5): δ, less than 1 / the number of records.
        max_grad_norm (`float`, defaults to 1.0): The norm that the gradient of each record is clipped to.

    Raises:
        `ImportError`: where Opacus is not installed.
        `ValueError`: for a value that is none of those.
    """

    epsilon: float
    delta: float = 1e-5
    max_grad_norm: float = 1.0

    def __post_init__(self):
        self.budget()
        if not is_number(self.max_grad_norm) or not 0 < self.max_grad_norm < float("inf"):
            raise ValueError(f"max_grad_norm={shown(self.max_grad_norm)} is no norm above 0")

    def budget(self) -> PrivacyBudget:
        """ε and δ to spend."""
        return PrivacyBudget(self.epsilon, self.delta)


@dataclass
class HubArguments:
    """
    Where [`train`] pushes the model, and what of it. The first five are those of `TrainingArguments`, the others those
    of [`DiffLMPipeline.push_to_hub`].

    Args:
        hub_model_id (`str`, *optional*): The repository; the name of the output folder if not given.
        hub_strategy (`str`, defaults to `"every_save"`):
            What to push before the end: nothing by `"end"`, by `"every_save"` the latest weights into
            `checkpoints/vae` and `checkpoints/denoiser`, and by `"checkpoint"` and `"all_checkpoints"` also the
            Trainer's checkpoints. The pipeline that a repository holds stays as it is until the end.
        hub_private_repo (`bool`, *optional*): Whether a new repository is private.
        hub_token (`str`, *optional*): A token to write with; the one of `hf auth login` if not given.
        hub_revision (`str`, *optional*): The branch, which is created where it does not exist.
        license (`str`, *optional*): The Hub's identifier of the licence of the weights.
        datasets (`list[str]`, defaults to none): Hub ids of the training data.
        include_code (`bool`, defaults to `False`): Push the code too, for those who have not installed the package.
        include_base_weights (`bool`, defaults to `False`):
            Push the weights of a frozen base LM too, rather than its name and commit.
        allow_rare_categories (`bool`, defaults to `False`):
            Publish the categories, and the numbers that are listed one by one, of fewer than 10 records, and all of
            the vocabulary of texts.
    """

    hub_model_id: str | None = field(default=None, metadata={"help": "The repository."})
    hub_strategy: str = field(default="every_save", metadata={"help": "What to push before the end."})
    hub_private_repo: bool | None = field(default=None, metadata={"help": "Whether a new repository is private."})
    hub_token: str | None = field(default=None, metadata={"help": "A token to write with."})
    hub_revision: str | None = field(default=None, metadata={"help": "The branch; a new one is made."})
    license: str | None = field(default=None, metadata={"help": "Licence of the weights, as the Hub names it."})
    datasets: list[str] = field(default_factory=list, metadata={"help": "Hub ids of the training data."})
    include_code: bool = field(default=False, metadata={"help": "Push the code too."})
    include_base_weights: bool = field(default=False, metadata={"help": "Push the weights of a frozen base LM too."})
    allow_rare_categories: bool = field(default=False, metadata={"help": "Publish rare categories and all texts."})

    def training_fields(self, output_dir: Path) -> dict[str, Any]:
        """The fields of `TrainingArguments` for pushes before the end of a run in `output_dir`."""
        return {
            "push_to_hub": True,
            "hub_model_id": self.repo_id(output_dir),
            "hub_strategy": self.hub_strategy,
            "hub_private_repo": self.hub_private_repo,
            "hub_token": self.hub_token,
            "hub_revision": self.hub_revision,
        }

    def push_fields(self, output_dir: Path) -> dict[str, Any]:
        """The arguments of [`DiffLMPipeline.push_to_hub`] at the end of a run in `output_dir`."""
        return {
            "repo_id": self.repo_id(output_dir),
            "private": self.hub_private_repo,
            "token": self.hub_token,
            "revision": self.hub_revision,
            "license": self.license,
            "datasets": self.datasets,
            "include_code": self.include_code,
            "include_base_weights": self.include_base_weights,
            "allow_rare_categories": self.allow_rare_categories,
        }

    def __post_init__(self):
        check_choices(self, hub_strategy=tuple(strategy.value for strategy in HubStrategy))
        if self.hub_model_id is not None:
            validate_repo_id(self.hub_model_id)
        self.datasets = [self.datasets] if isinstance(self.datasets, str) else list(self.datasets)

    def check(self, model_args: ModelArguments) -> None:
        """Raises a `ValueError` for what cannot be pushed, whatever the records."""
        if self.include_base_weights and model_args.quantization is not None:
            raise ValueError(
                "include_base_weights is for the base's own weights, and a quantized base has lost them; leave it "
                "out, and push what is trained by "
                "DiffLMPipeline.from_pretrained(output_dir).push_to_hub(..., include_base_weights=True)"
            )

    def check_publishable(self, processor: DiffLMProcessor, vae: DiffLMModel) -> None:
        """Raises a `ValueError` for what may not be pushed of a processor and a model that was not trained yet."""
        if not self.allow_rare_categories:
            processor.check_publishable()
        if not self.include_base_weights:
            vae.check_publishable()

    def repo_id(self, output_dir: Path) -> str:
        """The repository of a run in `output_dir`."""
        return self.hub_model_id or output_dir.absolute().name


@dataclass
class BaseTrainingArguments(TrainingArguments):
    """
    `TrainingArguments` of both phases: the model may be in a subfolder of its repository, records keep columns that
    `forward` does not take, such as those that a loss is computed from, a process trains on one device, and losses
    that are no numbers show.

    Args:
        hub_subfolder (`str`, *optional*): Where in the repository the model is, with `push_to_hub`.
        ema_decay (`float`, *optional*):
            Largest decay of the moving average of the weights, which warms up from 0. With it, that average is
            evaluated, and is what training ends with.
    """

    hub_subfolder: str | None = field(default=None, metadata={"help": "Where in the repository the model is."})
    ema_decay: float | None = field(default=None, metadata={"help": "Largest decay of the weights' moving average."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Drop what `forward` does not take."})
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Log the mean in place of such losses."})

    @property
    def n_gpu(self) -> int:
        # Else DataParallel makes copies in threads, which do not have their parameters. accelerate has processes.
        return min(1, super().n_gpu)


@dataclass
class DiffLMTrainingArguments(BaseTrainingArguments):
    """
    `TrainingArguments`, and how β goes.

    Args:
        hub_subfolder, ema_decay (*optional*): As of [`BaseTrainingArguments`].
        beta_schedule (`str`, defaults to `"constant"`): `"constant"`, `"decreasing"` or `"cyclical"`.
        beta_max, beta_min (`float`, defaults to 0.5 and 0.001): Bounds of β.
        beta_decay (`float`, defaults to 0.7): Factor of `"decreasing"`.
        beta_patience (`int`, defaults to 2): Evaluations without improvement before `"decreasing"` takes a step.
        beta_cycles (`int`, defaults to 4): Cycles of `"cyclical"`.
        free_bits (`float`, defaults to 0.0): Nats of each latent dimension that the KL term leaves free.
        posterior_learning_rate (`float`, *optional*):
            Learning rate of the map from states to posteriors, where it is another.
    """

    beta_schedule: str = field(default="constant", metadata={"help": "constant, decreasing or cyclical."})
    beta_max: float = field(default=0.5, metadata={"help": "Largest weight of the KL term."})
    beta_min: float = field(default=0.001, metadata={"help": "Smallest weight of the KL term."})
    beta_decay: float = field(default=0.7, metadata={"help": "Factor of the decreasing schedule."})
    beta_patience: int = field(default=2, metadata={"help": "Stalled evaluations before beta decreases."})
    beta_cycles: int = field(default=4, metadata={"help": "Cycles of the cyclical schedule."})
    free_bits: float = field(default=0.0, metadata={"help": "Nats per latent dimension that cost nothing."})
    posterior_learning_rate: float | None = field(default=None, metadata={"help": "Of the map to posteriors."})

    def __post_init__(self):
        super().__post_init__()
        rate = self.posterior_learning_rate
        if rate is not None and not (is_number(rate) and 0 <= rate < math.inf):
            raise ValueError(f"posterior_learning_rate={rate!r} is no finite number from 0 on")
        self.make_beta_schedule()  # says what it does not take

    def make_beta_schedule(self) -> BetaSchedule:
        """β as these arguments have it."""
        bounds = (self.beta_max, self.beta_min)
        return BetaSchedule(self.beta_schedule, *bounds, self.beta_decay, self.beta_patience, self.beta_cycles)


@dataclass
class LatentDiffusionTrainingArguments(BaseTrainingArguments):
    """
    `TrainingArguments`, and what is drawn in the latent diffusion.

    Args:
        hub_subfolder (`str`, *optional*): As of [`BaseTrainingArguments`].
        sample_posterior (`bool`, defaults to `True`):
            Draw latents from the records' posteriors, anew each time, rather than take the means of these. The decoder
            is trained on such draws, so that it writes the truest records from them.
        ema_decay (`float`, defaults to 0.999): As of [`BaseTrainingArguments`].
    """

    sample_posterior: bool = field(default=True, metadata={"help": "Train on posterior samples, not their means."})
    ema_decay: float | None = field(default=0.999, metadata={"help": "Largest decay of the weights' moving average."})


def check_types(**arguments: Any) -> None:
    """Raises a `ValueError` for the first argument of [`train`] that is of another type than its name says."""
    types = {
        "schema": RecordSchema,
        "data_args": DataArguments,
        "model_args": ModelArguments,
        "privacy_args": PrivacyArguments,
        "hub_args": HubArguments,
        "seed": int,
    }
    for name, value in arguments.items():
        if value is not None and not isinstance(value, types[name]):
            raise ValueError(f"{name} is a {type(value).__name__}, {value!r}; give a {types[name].__name__}")
