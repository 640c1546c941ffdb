"""Loading and saving of models with a base LM that checkpoints only name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from huggingface_hub import CommitInfo
from transformers import PreTrainedModel

from .base_model import HUB_ARGUMENTS, BaseModelStub, device_map_of, load_base_model
from .configuration_difflm import DiffLMConfig
from .hub.mixin import PushToHubMixin
from .lora import lora_parameters


class DiffLMPreTrainedModel(PushToHubMixin, PreTrainedModel):
    """Loading and saving of [`DiffLMModel`] and [`DiffLMForCausalLM`], with a base LM that checkpoints only name."""

    config_class = DiffLMConfig
    base_model_prefix = "difflm"
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    lm_module: str  # the name of the causal LM among the modules

    @property
    def supports_gradient_checkpointing(self) -> bool:
        # Checkpointed layers ignore the cache, and with it the memory.
        return self.config.injection != "kv_memory"

    def activation_checkpointing_enable(self, *args, **kwargs) -> None:
        """
        As that of `PreTrainedModel`, for encoder and causal LM, whether it is frozen or not.

        Raises:
            `ValueError`: with `injection="kv_memory"`.
        """
        if not self.supports_gradient_checkpointing:
            raise ValueError(
                f"injection={self.config.injection!r} does not support activation checkpointing, which leaves out the "
                "cache that the memory is in; turn it off, or take another injection"
            )
        super().activation_checkpointing_enable(*args, **kwargs)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike | None,
        *args,
        base_model: str | os.PathLike | None = None,
        **kwargs,
    ):
        """
        Loads a model as `PreTrainedModel.from_pretrained` does, from safetensors alone, and the base that it names.

        Args:
            pretrained_model_name_or_path (`str` or `Path`): Hub id or folder.
            base_model (`str` or `Path`, *optional*):
                A copy of the frozen base LM, in place of the one that the checkpoint names.
            kwargs (*optional*):
                Those of `PreTrainedModel.from_pretrained`. Dtype, devices, token and cache go for the base as well,
                `quantization_config` for the base alone.

        Raises:
            `ValueError`: when the base is not the one that the checkpoint was trained with, or is there already; when
                the checkpoint lacks LoRA weights.
        """
        kwargs.setdefault("use_safetensors", True)
        config = kwargs.get("config")
        if not isinstance(config, DiffLMConfig):
            where = {k: kwargs[k] for k in (*HUB_ARGUMENTS, "revision", "subfolder") if k in kwargs}
            config = DiffLMConfig.from_pretrained(config or pretrained_model_name_or_path, **where)
        if config.base_model is not None:
            lm = load_base_model(config, base_model, cls.lm_module, **{"device_map": None, **kwargs})
            kwargs["lm"] = stub = BaseModelStub(lm)
            if isinstance(device_map := kwargs.get("device_map"), dict):
                # What the stub has of the base is small, and goes to where the injection is until the base gets it.
                injection = device_map_of(f"{cls.lm_module.removesuffix('lm')}injection", device_map)
                rest = {k: v for k, v in device_map.items() if not k.startswith(f"{cls.lm_module}.")}
                kwargs["device_map"] = rest | {cls.lm_module: next(iter(injection.values()))}
        elif base_model is not None:
            raise ValueError(f"{pretrained_model_name_or_path} holds its own LM; leave base_model={base_model!r} out")
        elif kwargs.get("quantization_config") is not None:
            raise ValueError(
                f"{pretrained_model_name_or_path} holds its own LM, and only a base that a checkpoint names can be "
                "quantized; leave quantization_config out"
            )
        is_quantized = kwargs.pop("quantization_config", None) is not None
        with_info = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs)
        if config.base_model is not None:
            stub.fill(lm)
            model._set_lm(lm)
        lora = {f"{cls.lm_module}.{name}" for name in lora_parameters(model.get_submodule(cls.lm_module))}
        if missing := sorted(lora.intersection(info["missing_keys"])):
            raise ValueError(
                f"{pretrained_model_name_or_path} has no weights of {missing[0]}, which its configuration asks for by "
                f"lora={config.lora}"
            )
        # Loading makes new parameters, which are not frozen.
        model._freeze()
        if is_quantized and kwargs.get("device_map") is None:
            # transformers puts quantized models on the GPU.
            model.to(lm.device)
        return (model, info) if with_info else model

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        *args,
        include_base_weights: bool = False,
        max_shard_size: int | str = "50GB",
        **kwargs,
    ) -> None:
        """
        Saves a model as `PreTrainedModel.save_pretrained` does; of a frozen base LM that came from elsewhere, the name
        alone.

        Args:
            save_directory (`str` or `Path`): Where to.
            include_base_weights (`bool`, defaults to `False`): Save the base's weights too, to depend on nothing else.
            max_shard_size (`int` or `str`, defaults to `"50GB"`): Bytes of a file of weights.
            kwargs (*optional*): Those of `PreTrainedModel.save_pretrained`.

        Raises:
            `ValueError`: when the base's weights are to be saved, but are quantized.
        """
        if kwargs.get("push_to_hub") and not include_base_weights:
            self.check_publishable()
        # A base that is trained after all is another one.
        is_whole = include_base_weights or not self.config.freeze_decoder
        with self.with_base_weights() if is_whole else nullcontext():
            super().save_pretrained(save_directory, *args, max_shard_size=max_shard_size, **kwargs)

    @contextmanager
    def with_base_weights(self) -> Iterator[None]:
        """
        Within it, a frozen base LM is taken for a part of the model like any other. Raises a `ValueError` where the
        base is quantized.
        """
        if getattr(self.get_submodule(self.lm_module), "is_quantized", False):
            raise ValueError(
                "the base model is quantized, and has lost the weights that would be saved; load this model without "
                "quantization_config to save with include_base_weights=True"
            )
        config, left_out = self.config, self._keys_to_ignore_on_save
        base = config.base_model, config.base_revision
        config.base_model = config.base_revision = None
        self._keys_to_ignore_on_save = set()
        try:
            yield
        finally:
            config.base_model, config.base_revision = base
            self._keys_to_ignore_on_save = left_out

    def push_to_hub(self, repo_id: str, *, include_base_weights: bool = False, **kwargs) -> CommitInfo:
        """
        Saves to a repository of the Hub, as [`PushToHubMixin.push_to_hub`] says.

        Args:
            repo_id (`str`): The repository.
            include_base_weights (`bool`, defaults to `False`): Push the weights of a frozen base LM too.
            kwargs (*optional*): Those of [`PushToHubMixin.push_to_hub`].

        Raises:
            `ValueError`: when the base is a folder of this machine, and its weights are not pushed.
        """
        if not include_base_weights:
            self.check_publishable()
        return super().push_to_hub(repo_id, include_base_weights=include_base_weights, **kwargs)

    def check_publishable(self) -> None:
        """Raises a `ValueError` when the base is one that others cannot load."""
        base = self.config.base_model
        if base is not None and os.path.isabs(base):
            raise ValueError(
                f"the base model is {base}, which others do not have: push with include_base_weights=True, "
                "or train with the Hub id of the base"
            )
