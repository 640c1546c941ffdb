"""DiffLM configuration."""

from __future__ import annotations

import copy
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

from .configuration_running_sum import RunningSumConfig  # noqa: F401 (AutoConfig learns of it)


class DiffLMConfig(PreTrainedConfig):
    r"""
    Configuration of a [`DiffLMModel`]: an encoder, a decoder, and how latents get from one to the other.

    Args:
        encoder_config (`PreTrainedConfig` or `dict`, *optional*):
            Any configuration that `AutoModel` knows. Defaults to a small BERT.
        decoder_config (`PreTrainedConfig` or `dict`, *optional*):
            Any configuration that `AutoModelForCausalLM` knows. Defaults to a small Llama.
        latent_size (`int`, defaults to 8): Dimension of the latent vector z, d_z in the paper.
        injection (`str`, defaults to `"soft_prompt"`):
            How z reaches the decoder: `"soft_prompt"`, `"prefix_soft_prompt"`, `"kv_memory"` or `"input_embed"`.
        num_latent_tokens (`int`, defaults to 4):
            Virtual tokens that z becomes: embeddings for the soft prompts, past keys and values for `"kv_memory"`.
        num_prefix_tokens (`int`, defaults to 8): Learned vectors before those of z in `"prefix_soft_prompt"`.
        injection_initializer_range (`float`, *optional*):
            Standard deviation of the weights that the map from z starts with. Defaults to the causal LM's own
            `initializer_range`.
        posterior (`str`, defaults to `"linear"`):
            The map from the encoder's mean-pooled state to q(z|x): `"linear"`, or `"standardized"` for records whose
            states are much alike, such as documents.
        freeze_decoder (`bool`, defaults to `False`): Leave the causal LM as it is; train encoder and injection only.
        base_model (`str`, *optional*):
            Hub id or folder of the pretrained causal LM that a frozen decoder is. Checkpoints then leave its weights
            out, and loading fetches them from there.
        base_revision (`str`, *optional*): The commit of `base_model`, where that is a Hub id.
        lora (`dict`, *optional*):
            Fields of a [`~peft.LoraConfig`], such as `{"r": 8, "lora_alpha": 16}`: the frozen causal LM gets LoRA
            layers (arXiv 2106.09685), which are trained. `target_modules` defaults to `"all-linear"`.
        encode_with_decoder (`bool`, defaults to `False`):
            The causal LM encodes, too, without latents; there is no `encoder_config` then.
        position_ranges (`list[tuple[int, int]]`, *optional*):
            The ids `[start, end)` that the record format allows at each position after BOS; the last holds for every
            further position if `num_texts` is not 0. Losses and samples are then computed over these ids alone.
        num_texts (`int`, defaults to 0): Texts closed by EOS at the end of a record, with `position_ranges`.
        max_record_length (`int`, *optional*): Tokens of the longest record, BOS included.
        condition_size (`int`, defaults to 0):
            With `position_ranges`: the size of the vector that says which fields of a record are known, and how. It
            is injected beside z. 0 stands for a model that is told nothing.

    Example:

    ```python
    >>> from transformers import AutoConfig
    >>> from difflm_hf import DiffLMConfig, DiffLMModel

    >>> config = DiffLMConfig(decoder_config=AutoConfig.for_model("gpt2", n_embd=64, n_layer=2, n_head=2))
    >>> model = DiffLMModel(config)
    ```
    """

    model_type = "difflm"
    sub_configs = {"encoder_config": AutoConfig, "decoder_config": AutoConfig}
    has_no_defaults_at_init = False

    def __init__(
        self,
        encoder_config: PreTrainedConfig | dict[str, Any] | None = None,
        decoder_config: PreTrainedConfig | dict[str, Any] | None = None,
        latent_size: int = 8,
        injection: str = "soft_prompt",
        num_latent_tokens: int = 4,
        num_prefix_tokens: int = 8,
        injection_initializer_range: float | None = None,
        posterior: str = "linear",
        freeze_decoder: bool = False,
        base_model: str | None = None,
        base_revision: str | None = None,
        lora: dict[str, Any] | None = None,
        encode_with_decoder: bool = False,
        position_ranges: list[tuple[int, int]] | None = None,
        num_texts: int = 0,
        max_record_length: int | None = None,
        condition_size: int = 0,
        **kwargs,
    ):
        self.encoder_config = None if encode_with_decoder else _to_config(encoder_config, "bert")
        self.decoder_config = _to_config(decoder_config, "llama")
        self.latent_size = latent_size
        self.injection = injection
        self.num_latent_tokens = num_latent_tokens
        self.num_prefix_tokens = num_prefix_tokens
        self.injection_initializer_range = injection_initializer_range
        self.posterior = posterior
        self.freeze_decoder = freeze_decoder
        self.base_model = base_model
        self.base_revision = base_revision
        self.lora = lora
        self.encode_with_decoder = encode_with_decoder
        self.position_ranges = position_ranges and [(start, end) for start, end in position_ranges]
        self.num_texts = num_texts
        self.max_record_length = max_record_length
        self.condition_size = condition_size
        super().__init__(**kwargs)

    @property
    def fixed_ranges(self) -> list[tuple[int, int]]:
        """The ranges of all positions before the texts."""
        ranges = self.position_ranges
        return ranges[:-1] if self.num_texts else ranges

    @property
    def num_uniforms(self) -> int:
        """Random numbers that choose the ids of a record: one for each, and two that those of lists are made of."""
        return self.max_record_length - 1 + 2 * bool(getattr(self.decoder_config, "levels", None))

    @property
    def injected_size(self) -> int:
        """The size of what is injected: z, and what is known."""
        return self.latent_size + self.condition_size

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs) -> DiffLMConfig:
        # In a call of `from_pretrained`, it is a copy of the base to load, and not another name for it.
        copy_of_base = {key: kwargs.pop(key) for key in ("base_model",) if key in kwargs}
        loaded = super().from_dict(_implied_fields(config_dict) | config_dict, **kwargs)
        if kwargs.get("return_unused_kwargs"):
            return loaded[0], loaded[1] | copy_of_base
        return loaded

    def to_dict(self) -> dict[str, Any]:
        # Paths of this machine say nothing elsewhere.
        fields = _without_paths(super().to_dict())
        # How a base was quantized is up to who loads it, and nothing else of a checkpoint is quantized.
        fields["decoder_config"].pop("quantization_config", None)
        return fields

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        """The decoder's configuration, from which `generate` reads layers, heads and vocabulary."""
        return self.decoder_config.get_text_config(decoder=True)


def document_initializer_range(latent_size: int, injection: str) -> float | None:
    """
    The `injection_initializer_range` for documents and for pretrained LMs. Such an LM goes its own way, and learns to
    look away from latents that start as noise: what becomes of these should differ between records, but for what is
    added to every token.
    """
    return None if injection == "input_embed" else 0.3 * latent_size**-0.5


class DiffLMPipelineConfig(PreTrainedConfig):
    """
    Tells transformers, whose own pipelines look for a `config.json`, that a repository holds a [`DiffLMPipeline`].
    What there is to configure stands with its components.
    """

    model_type = "difflm-pipeline"


def _implied_fields(fields: dict[str, Any]) -> dict[str, Any]:
    """What checkpoints mean that do not state all fields: those with `position_ranges` are of rows of a table."""
    if fields.get("position_ranges") is not None:
        return {"posterior": "linear", "injection_initializer_range": None}
    latent_size, injection = fields.get("latent_size", 8), fields.get("injection", "soft_prompt")
    return {
        "posterior": "standardized",
        "injection_initializer_range": document_initializer_range(latent_size, injection),
    }


def _without_paths(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _without_paths(value) if isinstance(value, dict) else value
        for name, value in fields.items()
        if name != "_name_or_path"
    }


def _to_config(config: PreTrainedConfig | dict[str, Any] | None, default: str) -> PreTrainedConfig:
    if config is None:
        small = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 512}
        return AutoConfig.for_model(default, **small)
    if not isinstance(config, dict):
        # A copy, since what is set here, such as the attention implementation, is not meant for the model of it.
        return copy.deepcopy(config)
    if config.get("model_type") in CONFIG_MAPPING or "auto_map" not in config:
        return AutoConfig.for_model(**config)
    # A base that brings code with it has a class of its own there, for which this one stands until the base is loaded.
    stand_in = type("BaseConfig", (PreTrainedConfig,), {"model_type": config.get("model_type", "")})
    return stand_in.from_dict(config)


# Code from a repository may have registered its own copy before.
AutoConfig.register("difflm", DiffLMConfig, exist_ok=True)
