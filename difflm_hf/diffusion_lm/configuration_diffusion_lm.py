"""Sizes and switches of Diffusion-LM."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from ..checks import check_integer


PREDICTIONS = ("sample", "epsilon")


class DiffusionLMConfig(PreTrainedConfig):
    """
    Configuration of a [`DiffusionLMModel`] (arXiv 2205.14217). The defaults are the paper's; what later work found is
    a switch each.

    Args:
        vocab_size (`int`, defaults to 821): Words.
        max_sequence_length (`int`, defaults to 64): Words of a text, with those that begin, end and fill it.
        embedding_size (`int`, defaults to 16): Dimension d of the word embeddings, in which the diffusion is.
        encoder_config (`dict` or `PreTrainedConfig`, *optional*):
            The transformer: `model_type` of a bidirectional encoder of transformers, and its fields, among them its
            positions. BERT-base if not given.
        num_train_timesteps (`int`, defaults to 2000): Noise levels T.
        noise_factor (`float`, defaults to 1.0):
            F of Difformer (arXiv 2212.09412, section 3.3), by which the noise of all levels is larger:
            ᾱ becomes ᾱ / (F² − (F² − 1) ᾱ).
        prediction_type (`str`, defaults to `"sample"`):
            What the network predicts: the clean embeddings x₀ (`"sample"`), or the noise (`"epsilon"`).
        train_embeddings (`bool`, defaults to `True`): Learn the embeddings end to end, or leave them as they begin.
        normalize_embeddings (`bool`, defaults to `False`): Keep embeddings on the sphere of radius √d.
        noisy_embeddings (`bool`, defaults to `True`):
            Diffuse Emb(w) + σ₀ε (section 4.1), rather than Emb(w) itself.
        self_conditioning (`bool`, defaults to `False`):
            Show the network its own last prediction of x₀ (arXiv 2208.04202).
        weighted_embeddings (`bool`, defaults to `False`):
            Predict x₀ as the mean of all embeddings, weighted by the probabilities of their words (arXiv 2211.15089).
        output_prior (`bool`, defaults to `False`):
            Add to the logits what the noisy embedding at a position says of its word by itself, log N(x_t; √ᾱ Emb(w),
            1 − ᾱ) (arXiv 2305.18619, section 3.2).
        cross_entropy_weight (`float`, defaults to 0.0):
            Weight in the loss of the cross-entropy of the words given the prediction of x₀.
        pad_weight (`float`, defaults to 1.0): Weight in the loss of positions after the end of a text.
        length_counts (`list[int]`, *optional*):
            How many texts of training have 0, 1, 2 … words, by which lengths of gaps are drawn.
        bos_token_id, eos_token_id, unk_token_id, pad_token_id (`int`, defaults to 0, 1, 2 and 3):
            Of the words that begin, end, stand for unknown words, and fill a text.
        kwargs (*optional*): Those of `PreTrainedConfig`.

    Raises:
        `ValueError`: for a value out of range, and for switches that exclude each other.
    """

    model_type = "diffusion_lm"
    sub_configs = {"encoder_config": AutoConfig}

    def __init__(
        self,
        vocab_size: int = 821,
        max_sequence_length: int = 64,
        embedding_size: int = 16,
        encoder_config: dict[str, Any] | PreTrainedConfig | None = None,
        num_train_timesteps: int = 2000,
        noise_factor: float = 1.0,
        prediction_type: str = "sample",
        train_embeddings: bool = True,
        normalize_embeddings: bool = False,
        noisy_embeddings: bool = True,
        self_conditioning: bool = False,
        weighted_embeddings: bool = False,
        output_prior: bool = False,
        cross_entropy_weight: float = 0.0,
        pad_weight: float = 1.0,
        length_counts: list[int] | None = None,
        bos_token_id: int = 0,
        eos_token_id: int = 1,
        unk_token_id: int = 2,
        pad_token_id: int = 3,
        **kwargs,
    ):
        for name, value, least in (
            ("vocab_size", vocab_size, 5),
            ("max_sequence_length", max_sequence_length, 3),
            ("embedding_size", embedding_size, 1),
            ("num_train_timesteps", num_train_timesteps, 2),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name}={value!r} is not an integer of {least} or more")
        ids = {"bos": bos_token_id, "eos": eos_token_id, "unk": unk_token_id, "pad": pad_token_id}
        for name, value in ids.items():
            check_integer(f"{name}_token_id", value, least=0, most=vocab_size - 1)
        for name, value, is_valid in (
            ("noise_factor", noise_factor, noise_factor >= 1),
            ("cross_entropy_weight", cross_entropy_weight, cross_entropy_weight >= 0),
            ("pad_weight", pad_weight, pad_weight >= 0),
        ):
            if not is_valid:
                raise ValueError(f"{name}={value!r} is out of range")
        if prediction_type not in PREDICTIONS:
            raise ValueError(f"prediction_type={prediction_type!r} is not one of {', '.join(map(repr, PREDICTIONS))}")
        if prediction_type == "epsilon" and weighted_embeddings:
            raise ValueError("weighted_embeddings are a prediction of x₀, not of the noise: prediction_type='sample'")
        if encoder_config is None:
            encoder_config = {"model_type": "bert"}
        if isinstance(encoder_config, dict):
            encoder_config = AutoConfig.for_model(**encoder_config)
        most = getattr(encoder_config, "max_position_embeddings", max_sequence_length)
        if max_sequence_length > most:
            raise ValueError(f"max_sequence_length={max_sequence_length} is beyond the encoder's {most} positions")
        # Embeddings come from elsewhere.
        encoder_config.vocab_size, encoder_config.pad_token_id = 1, 0
        for name in ("bos", "eos", "cls", "sep"):
            setattr(encoder_config, f"{name}_token_id", None)
        self.encoder_config = encoder_config
        self.vocab_size = vocab_size
        self.max_sequence_length = max_sequence_length
        self.embedding_size = embedding_size
        self.num_train_timesteps = num_train_timesteps
        self.noise_factor = noise_factor
        self.prediction_type = prediction_type
        self.train_embeddings = train_embeddings
        self.normalize_embeddings = normalize_embeddings
        self.noisy_embeddings = noisy_embeddings
        self.self_conditioning = self_conditioning
        self.weighted_embeddings = weighted_embeddings
        self.output_prior = output_prior
        self.cross_entropy_weight = cross_entropy_weight
        self.pad_weight = pad_weight
        self.length_counts = length_counts
        self.unk_token_id = unk_token_id
        super().__init__(bos_token_id=bos_token_id, eos_token_id=eos_token_id, pad_token_id=pad_token_id, **kwargs)


AutoConfig.register(DiffusionLMConfig.model_type, DiffusionLMConfig, exist_ok=True)
