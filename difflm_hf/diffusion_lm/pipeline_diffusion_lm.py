"""Noise → word embeddings → texts."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature
from numbers import Integral, Real
from tempfile import TemporaryDirectory
from typing import Any, Literal, get_args

import torch
from diffusers import DiffusionPipeline, SchedulerMixin
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from huggingface_hub import CommitInfo, ModelCard
from transformers import PreTrainedTokenizerFast

from ..control.guidance import Guide, check_guides
from ..hub.components import ComponentsMixin, register_components
from ..hub.damage import check_weights, explain_damage
from ..hub.loading import pipeline_folder
from ..hub.text_cards import text_model_card
from ..hub.upload import commit_files, folder_files, full_repo_id
from ..seeds import draw_seed, generator_of
from ..step_callbacks import latents_after_step, step_callback
from ..utils import default_dtype, onload
from .configuration_diffusion_lm import DiffusionLMConfig
from .constraints import clamp_to_words, constrain, free_words, given_words
from .measures import likelihood_bound
from .minimum_bayes_risk import minimum_bayes_risk
from .modeling_diffusion_lm import DiffusionLMModel
from .schedule import check_scheduler, check_steps
from .steering import Steering, Update


OutputType = Literal["text", "seq"]
NUM_INFERENCE_STEPS = 20
NUM_DRAWS = 4  # of noise, by which the likelihood of a candidate is estimated
FILES = (
    "model_index.json",
    "model/config.json",
    "model/model*.safetensors",
    "scheduler/scheduler_config.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/tokenizer.json",
)


@dataclass
class DiffusionLMPipelineOutput(BaseOutput):
    """
    Output of [`DiffusionLMPipeline`].

    Args:
        texts (`list[str]`, *optional*): The texts, unless `output_type="seq"`.
        sequences (`torch.LongTensor` of shape `(num_texts, length)`): Their words, padded after the end.
    """

    texts: list[str] | None
    sequences: torch.LongTensor


class DiffusionLMPipeline(ComponentsMixin, DiffusionPipeline):
    """
    Writes texts, all words at once, by diffusion over word embeddings (arXiv 2205.14217).

    Text i of a seed is written from a random generator of its own: it is the same however many are asked for, and in
    whatever batches. (In bfloat16 sums may round otherwise from one size of a batch to another.)

    Args:
        model ([`DiffusionLMModel`]): Embeddings, and the network that takes noise from them.
        scheduler (`DDPMScheduler`, `DDIMScheduler` or `DPMSolverMultistepScheduler`):
            The sampler, by [`make_scheduler`].
        tokenizer (`PreTrainedTokenizerFast`): Texts to words and back, by [`train_word_tokenizer`].
        training (`dict`, *optional*): What training recorded, for the model card.
    """

    model_cpu_offload_seq = "model"
    _callback_tensor_inputs = ("latents", "clean", "logits")
    _interrupt = False

    @property
    def interrupt(self) -> bool:
        """Whether a callback has set `pipe._interrupt`: the steps that are left of its batch are then left out."""
        return self._interrupt

    def __init__(
        self,
        model: DiffusionLMModel,
        scheduler: SchedulerMixin,
        tokenizer: PreTrainedTokenizerFast,
        training: dict[str, Any] | None = None,
    ):
        super().__init__()
        check_scheduler(scheduler, model.config)
        if len(tokenizer) != model.config.vocab_size:
            raise ValueError(
                f"the tokenizer has {len(tokenizer)} words, and the model {model.config.vocab_size}; take the "
                "one that it was trained with"
            )
        self.register_modules(model=model, scheduler=scheduler, tokenizer=tokenizer)
        self.register_to_config(training=training)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs) -> DiffusionLMPipeline:
        """
        Loads a pipeline from a folder or the Hub, after a look at its files.

        Args:
            pretrained_model_name_or_path (`str` or `Path`): A folder, or a Hub id.
            kwargs (*optional*):
                Those of `DiffusionPipeline.from_pretrained`. `dtype` defaults to the fastest that this machine
                generates in.

        Raises:
            `OSError`: when there is no such pipeline, or a file of it is missing or damaged. The message names it.
        """
        register_components(cls.libraries)
        name = os.fspath(pretrained_model_name_or_path)
        kwargs.setdefault("use_safetensors", True)
        if kwargs.get("dtype") is None and kwargs.get("torch_dtype") is None:
            kwargs["dtype"] = default_dtype()
        folder = pipeline_folder(name, cls.download, {"model": DiffusionLMModel}, FILES, **kwargs)
        with explain_damage(folder):
            pipe = super().from_pretrained(folder, **kwargs)
        if "model" not in kwargs:
            check_weights(folder / "model", pipe.model)
        pipe.register_to_config(_name_or_path=name)
        return pipe

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs) -> None:
        """
        Saves the pipeline in a folder.

        Args:
            save_directory (`str` or `Path`): The folder.
            kwargs (*optional*): Those of `DiffusionPipeline.save_pretrained`.
        """
        nameless = copy.copy(self)
        nameless.register_to_config(_name_or_path="")  # a path of this machine says nothing elsewhere
        super(DiffusionLMPipeline, nameless).save_pretrained(save_directory, **kwargs)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        card: ModelCard | None = None,
        license: str | None = None,
        datasets: Sequence[str] = (),
        language: str | Sequence[str] | None = None,
        tags: Sequence[str] = (),
        **kwargs,
    ) -> CommitInfo:
        """
        Makes the pipeline and its card one commit of a repository of the Hub, in place of what is there.

        The tokenizer is part of it: it names all words that the training texts have often enough.

        Args:
            repo_id (`str`): The repository, `"name"` or `"namespace/name"`; created where it does not exist.
            card (`ModelCard`, *optional*): In place of a generated one.
            license, datasets, language, tags (*optional*): As [`~difflm_hf.hub.text_cards.text_model_card`] has them.
            kwargs (*optional*):
                `private`, `token`, `revision`, `create_pr`, `commit_message` and `commit_description` of
                [`~difflm_hf.hub.upload.commit_files`].

        Returns:
            `CommitInfo`.

        Raises:
            `HfHubHTTPError`, `ConnectionError`: when the Hub refuses, or is out of reach. The message says what to do.
        """
        repo_id = full_repo_id(repo_id, kwargs.get("token"))
        card = card or text_model_card(self, repo_id, license, datasets, language, tags)
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            files = {**folder_files(folder), "README.md": str(card).encode()}
            return commit_files(
                files,
                repo_id,
                **{"commit_message": f"Upload {type(self).__name__}", **kwargs},
                delete_patterns=[f"{name}/*" for name in self.components],
            )

    @torch.no_grad()
    def __call__(
        self,
        num_texts: int | None = None,
        num_inference_steps: int = NUM_INFERENCE_STEPS,
        length: int | None = None,
        infill: str | Sequence[str] | None = None,
        guides: Guide | Sequence[Guide] = (),
        steering: Steering | Update | None = None,
        temperature: float = 0.7,
        clamp: bool = False,
        num_candidates: int = 1,
        batch_size: int = 64,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_type: OutputType = "text",
        return_dict: bool = True,
        callback_on_step_end: Callable[[DiffusionLMPipeline, int, torch.Tensor, dict[str, Any]], dict] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> DiffusionLMPipelineOutput | tuple:
        """
        Args:
            num_texts (`int`, *optional*): Texts to write; 1 when not given, or one for each of a list of generators.
            num_inference_steps (`int`, defaults to 20):
                Steps of the scheduler, which divide its noise levels. Models without `weighted_embeddings` need 200
                or more.
            length (`int`, *optional*): Words of each text, punctuation included; any number when not given.
            infill (`str` or `Sequence[str]`, *optional*):
                Texts whose gaps are to be filled (section 5.2); each `[mask]` stands for one word, each `[gap]` for
                any number of them. The words around them stay as they are.
            guides (`Guide` or `Sequence[Guide]`, defaults to none): What texts are steered by, together.
            steering ([`Steering`] or `str`, *optional*):
                How, or its `update` alone; by `"words"` when not given, and of models without `weighted_embeddings` by
                `"norm"`.
            temperature (`float`, defaults to 0.7):
                Of the words in each prediction of x₀, with `weighted_embeddings`: 1 is what the model learnt; below 1
                texts are more fluent and less diverse. The fewer the steps, the lower it may be: 0.65 at 20 steps does
                about what 0.85 does at 50 and 0.9 at 200. Gaps are filled best at 0.25.
            clamp (`bool`, defaults to `False`):
                Move each prediction of x₀ to the nearest word embedding (the clamping trick, section 4.3).
            num_candidates (`int`, defaults to 1):
                Write so many for each text, and return the best by the scores of guides and the likelihood of its
                words; without guides that which is the most like the others, by BLEU: the minimum Bayes risk (section
                4.3).
            batch_size (`int`, defaults to 64): Texts that are written at once.
            generator (`torch.Generator` or a list of them, *optional*):
                For reproducible texts. Of a list each gives one text, the one that a call with it alone gives.
            output_type (`str`, defaults to `"text"`): `"text"`, or `"seq"` for ids alone.
            return_dict (`bool`, defaults to `True`): Whether to return a [`DiffusionLMPipelineOutput`] or a tuple.
            callback_on_step_end (`Callable`, *optional*):
                Called as `callback(pipe, step, timestep, tensors)` after each step of each batch; `"latents"` that it
                returns take the place of those of the batch. One that sets `pipe._interrupt = True` leaves out the
                steps that are left of the batch.
            callback_on_step_end_tensor_inputs (`Sequence[str]`, defaults to `("latents",)`):
                Which tensors it gets: `"latents"`, `"clean"`, `"logits"`.

        Returns:
            [`DiffusionLMPipelineOutput`], or a tuple of texts (unless `output_type="seq"`) and sequences.

        Raises:
            `ValueError`: for arguments out of range, guides that do not fit, and texts without a gap, with unknown
                words, or that are too long. The message names them.
        """
        guides = check_guides(guides)
        self.check_inputs(num_texts, num_inference_steps, guides, temperature, num_candidates, batch_size, output_type)
        callback = step_callback(
            callback_on_step_end, callback_on_step_end_tensor_inputs, self._callback_tensor_inputs
        )
        config = self.model.config
        if steering is None:
            steering = "words" if config.weighted_embeddings else "norm"
        if not isinstance(steering, Steering):
            steering = Steering(steering)
        if steering.update == "words" and not config.weighted_embeddings:
            raise ValueError("steering by 'words' needs a model with weighted_embeddings; take Steering('norm')")
        infill = [infill] if isinstance(infill, str) else infill if infill is None else list(infill)
        if infill is not None:
            if not infill:
                raise ValueError("infill has no text")
            if num_texts not in (None, len(infill)) or length is not None:
                raise ValueError("infill says which texts, and how long; leave out num_texts and length")
            num_texts = len(infill)
        if isinstance(generator, list | tuple):
            if not generator or num_texts not in (None, len(generator)):
                raise ValueError(f"{num_texts} texts are asked for, and there are {len(generator)} generators")
            seeds = [(draw_seed(of_text), 0) for of_text in generator]
        else:
            seed = draw_seed(generator)
            seeds = [(seed, row) for row in range(1 if num_texts is None else num_texts)]
        if infill is None:
            allowed = free_words(config, length).expand(len(seeds) * num_candidates, -1, -1)
        else:
            allowed = given_words(infill, self.tokenizer, config, num_candidates, seeds)
        generators = [generator_of(*of_text, candidate) for of_text in seeds for candidate in range(num_candidates)]
        sampling = {
            "has_given": infill is not None,
            "num_inference_steps": num_inference_steps,
            "guides": guides,
            "steering": steering,
            "temperature": temperature,
            "clamp": clamp,
            "callback": callback,
        }
        sequences = []
        with self.progress_bar(total=len(allowed)) as progress_bar:
            for start in range(0, len(allowed), batch_size):
                rows = slice(start, start + batch_size)
                sequences.append(self._write(allowed[rows], generators[rows], **sampling))
                progress_bar.update(len(sequences[-1]))
        ids = torch.cat(sequences)
        if num_candidates > 1:
            ids = torch.stack([part[self._choose(part, guides)] for part in ids.split(num_candidates)])
        self.maybe_free_model_hooks()
        texts = self.to_texts(ids) if output_type == "text" else None
        if not return_dict:
            return (ids,) if texts is None else (texts, ids)
        return DiffusionLMPipelineOutput(texts=texts, sequences=ids)

    def check_inputs(
        self,
        num_texts: int | None,
        num_inference_steps: int,
        guides: Sequence[Guide],
        temperature: float,
        num_candidates: int,
        batch_size: int,
        output_type: str,
    ) -> None:
        """Raises a `ValueError` for the first argument out of range."""
        for name, value in (
            ("num_texts", 1 if num_texts is None else num_texts),
            ("num_candidates", num_candidates),
            ("batch_size", batch_size),
        ):
            if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
                raise ValueError(f"{name}={value!r} is not a positive integer")
        check_steps(num_inference_steps, self.model.config)
        if not isinstance(temperature, Real) or not 0 < temperature < float("inf"):
            raise ValueError(f"temperature={temperature!r} is not a number above 0")
        for guide in guides:
            table, own = guide.embeddings, self.model.embeddings
            if table is not None and (table.shape != own.shape or not torch.allclose(table.to(own), own, 1e-2, 1e-2)):
                raise ValueError(
                    f"{guide.name} knows the word embeddings of another model; teach it those of this one"
                )
        if output_type not in get_args(OutputType):
            raise ValueError(f"output_type={output_type!r} is not one of {', '.join(map(repr, get_args(OutputType)))}")
        check_scheduler(self.scheduler, self.model.config)

    def _choose(self, candidates: torch.Tensor, guides: Sequence[Guide]) -> int:
        """
        The best of several texts: by minimum Bayes risk, and where there are guides by Σ scale · score + log p(text),
        per word and times their mean number of words, as otherwise short texts would win.
        """
        if not guides:
            return minimum_bayes_risk(self.to_texts(candidates))
        clean = self.model.embed(candidates.to(self.model.device))
        start = torch.zeros((), dtype=torch.long, device=clean.device)
        scores = torch.zeros(len(clean), device=clean.device)
        for guide in guides:
            score = guide.score(clean, start) if guide.noisy else guide.score(clean)
            if not score.isfinite().all():
                raise ValueError(f"{guide.name}: its score of a text is not finite")
            scores = scores + guide.scale * score
        bounds = likelihood_bound(self.model, candidates, NUM_DRAWS, generator=torch.Generator().manual_seed(0))
        lengths = (candidates != self.model.config.pad_token_id).sum(1).double()
        return int((scores.cpu() - bounds / lengths * lengths.mean()).argmax())

    def to_texts(self, sequences: torch.Tensor) -> list[str]:
        """Texts of ids: what is between `<s>` and `</s>`."""
        return self.tokenizer.batch_decode(sequences, skip_special_tokens=True)

    def _write(
        self,
        allowed: torch.Tensor,
        generators: list[torch.Generator],
        has_given: bool,
        num_inference_steps: int,
        guides: Sequence[Guide],
        steering: Steering,
        temperature: float,
        clamp: bool,
        callback: Callable | None,
    ) -> torch.Tensor:
        """The words of a batch, of shape `(batch_size, max_sequence_length)`; `has_given` of texts with gaps."""
        model, config = onload(self.model).eval(), self.model.config
        allowed = allowed.to(model.device)
        scheduler = copy.deepcopy(self.scheduler)
        scheduler.set_timesteps(num_inference_steps, device=model.device)
        timesteps = scheduler.timesteps
        chance = {"generator": generators} if "generator" in signature(scheduler.step).parameters else {}
        shape = (len(generators), config.max_sequence_length, config.embedding_size)
        latents = randn_tensor(shape, generator=generators, device=model.device) * scheduler.init_noise_sigma
        is_given = (allowed.sum(-1, keepdim=True) == 1) & has_given
        given = model.embed(allowed.long().argmax(-1))
        output, clean = None, None
        self._interrupt = False
        for step, timestep in enumerate(timesteps):
            # Without noise in them, given words say more to those that are missing.
            latents = torch.where(is_given, model.noise_level(timestep[None])[0] * given, latents)
            output = constrain(model, model(latents, timestep, clean), allowed, temperature)
            if guides and steering.update == "words":
                output = steering.reweigh(model, output, guides, latents, timestep, step)
            output = clamp_to_words(model, output) if clamp else output
            clean = output.clean
            latents = scheduler.step(
                self._prediction(latents, timestep, clean), timestep, latents, **chance
            ).prev_sample
            following = timesteps[step + 1] if step + 1 < len(timesteps) else None
            is_moved = guides and steering.update != "words" and following is not None
            if is_moved and following >= steering.last * config.num_train_timesteps:

                def predict(noisy: torch.Tensor, timestep=following, shown=clean) -> torch.Tensor:
                    return constrain(model, model(noisy, timestep, shown), allowed, temperature).clean

                sigma = model.noise_level(following[None])[1]
                latents = steering.move(latents, guides, following, sigma, predict, step)
            if callback is not None:
                shown = {"latents": latents, "clean": clean, "logits": output.logits}
                latents = latents_after_step(callback, self, step, timestep, shown)
                if self.interrupt:
                    break
        if output.logits.isnan().any():
            raise ValueError("the words of texts are not finite: a guide, a callback or the temperature goes too far")
        return _after_end(output.logits.argmax(-1).cpu(), config)

    def _prediction(self, latents: torch.Tensor, timestep: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        """x̂₀ as the scheduler takes it."""
        if self.model.config.prediction_type == "sample":
            return clean
        scale, deviation = self.model.noise_level(timestep[None])
        return (latents - scale * clean) / deviation


def _after_end(ids: torch.Tensor, config: DiffusionLMConfig) -> torch.Tensor:
    """Words up to the first that ends or fills a text, and padding from there."""
    is_end = (ids == config.eos_token_id) | (ids == config.pad_token_id)
    after = is_end.cumsum(1) - is_end.long() > 0
    ids = torch.where(is_end, config.eos_token_id, ids)
    return ids.masked_fill(after, config.pad_token_id)


DiffusionLMPipeline.libraries = {DiffusionLMPipeline: "diffusers", DiffusionLMModel: "transformers"}
register_components(DiffusionLMPipeline.libraries)
