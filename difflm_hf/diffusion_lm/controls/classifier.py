"""Classifiers of noisy embeddings, which guides are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from huggingface_hub import PyTorchModelHubMixin
from torch import nn
from transformers import AutoConfig, AutoModel

from ...control.guidance import Guide
from ..modeling_diffusion_lm import DiffusionLMModel
from ..word_tokenizer import encode_texts


if TYPE_CHECKING:
    from ..pipeline_diffusion_lm import DiffusionLMPipeline


class EmbeddingClassifier(nn.Module, PyTorchModelHubMixin):
    """
    Labels of texts, words or pairs of words, told from embeddings with any amount of noise: the base of controls that
    are taught (arXiv 2205.14217, section 5.1).

    A subclass says its head in `build_head`, what labels ask of it in `targets_of`, its loss in `loss`, and its
    logarithms of probabilities in guides. It saves and loads by `save_pretrained`, `from_pretrained` and
    `push_to_hub`.

    Args:
        embedding_size, max_sequence_length, num_train_timesteps (`int`): Those of the model.
        labels: What it tells.
        num_words (`int`): Of the model's embeddings.
        width (`int`, defaults to 128), num_layers (`int`, defaults to 3): Of its transformer.
        noisy (`bool`, defaults to `False`):
            Whether it looks at the noisy embeddings, as in the paper, rather than at what the model predicts from
            them, by which [`Steering`] of `"words"` goes further.
    """

    default_batch_size = 64

    def __init__(
        self,
        embedding_size: int,
        max_sequence_length: int,
        num_train_timesteps: int,
        labels: Any,
        num_words: int,
        width: int = 128,
        num_layers: int = 3,
        noisy: bool = False,
    ):
        super().__init__()
        self.labels, self.noisy = labels, noisy
        self.max_sequence_length, self.num_train_timesteps = max_sequence_length, num_train_timesteps
        self.register_buffer("table", torch.zeros(num_words, embedding_size))
        config = AutoConfig.for_model(
            "modernbert",
            vocab_size=1,
            pad_token_id=0,
            **dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")),
            hidden_size=width,
            num_hidden_layers=num_layers,
            num_attention_heads=4,
            intermediate_size=2 * width,
            mlp_dropout=0.1,
            initializer_range=width**-0.5,
        )
        self.input = nn.Linear(embedding_size, width)
        self.timesteps = Timesteps(width, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(width, width)
        self.encoder = AutoModel.from_config(config)
        self.build_head(width)

    def build_head(self, width: int) -> None:
        """Adds what tells labels from states of `width` dimensions."""
        raise NotImplementedError(f"{type(self).__name__} does not say what it tells")

    @classmethod
    def for_model(cls, model: DiffusionLMModel, labels: Any, **kwargs) -> EmbeddingClassifier:
        """A new classifier of a model's embeddings."""
        config = model.config
        found = cls(
            config.embedding_size,
            config.max_sequence_length,
            config.num_train_timesteps,
            labels,
            config.vocab_size,
            **kwargs,
        )
        found.table.copy_(model.embeddings)
        return found

    @classmethod
    def fit(
        cls,
        pipe: DiffusionLMPipeline,
        texts: Sequence[str],
        labels: Sequence[Any],
        num_steps: int = 2000,
        batch_size: int | None = None,
        learning_rate: float = 2e-3,
        seed: int = 0,
        **kwargs,
    ) -> EmbeddingClassifier:
        """
        A new classifier, taught the labels of texts with noise.

        Args:
            pipe ([`DiffusionLMPipeline`]): The model.
            texts (`Sequence[str]`): Texts. Those of more words than the model takes are left out.
            labels (`Sequence`): Those of each text, as the class says it.
            num_steps (`int`, defaults to 2000): Steps of its training.
            batch_size (`int`, *optional*): Texts of a step; 64 when not given, of constituents 32.
            learning_rate (`float`, defaults to 2e-3): The highest one.
            seed (`int`, defaults to 0): Of its first weights, and of the noise.
            kwargs (*optional*): `width`, `num_layers` and `noisy` of [`EmbeddingClassifier`].

        Raises:
            `ValueError`: for texts without labels, and labels that do not suit their text.
        """
        if not len(texts):
            raise ValueError("there are no texts to teach")
        if len(texts) != len(labels):
            raise ValueError(f"{len(texts)} texts have labels for {len(labels)}; give them for each")
        ids, kept = encode_texts(texts, pipe.tokenizer, pipe.model.config.max_sequence_length)
        names, targets = cls.targets_of(pipe, [texts[k] for k in kept], [labels[k] for k in kept])
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            found = cls.for_model(pipe.model, names, **kwargs).to(pipe.model.device)
            found.teach(pipe, ids, targets, num_steps, batch_size or cls.default_batch_size, learning_rate)
        return found

    @classmethod
    def targets_of(
        cls, pipe: DiffusionLMPipeline, texts: Sequence[str], labels: Sequence[Any]
    ) -> tuple[Any, torch.Tensor]:
        """What there is to tell, and of each text what [`~EmbeddingClassifier.loss`] takes."""
        raise NotImplementedError(f"{cls.__name__} does not say what labels ask of it")

    def hidden(self, embeddings: torch.Tensor, timestep: torch.Tensor | None = None) -> torch.Tensor:
        """
        States of shape `(batch_size, length, width)` of embeddings of shape `(batch_size, length, embedding_size)`, at
        timesteps of shape `(batch_size,)` or `()`, which are not looked at unless `noisy`.
        """
        states = self.input(embeddings)
        if self.noisy:
            timestep = torch.as_tensor(timestep, device=embeddings.device).expand(len(embeddings))
            time = self.timesteps(timestep * 1000 / self.num_train_timesteps)
            states = states + self.time_embedding(time)[:, None]
        return self.encoder(inputs_embeds=states).last_hidden_state

    def loss(self, states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The loss of states and the targets of their texts."""
        raise NotImplementedError(f"{type(self).__name__} does not say what it learns")

    def make_guide(self, score: Callable[[torch.Tensor], torch.Tensor], name: str, scale: float) -> Guide:
        """A guide by a function of states, which gives a score of shape `(batch_size,)`."""

        def of(embeddings: torch.Tensor, timestep: torch.Tensor | None = None) -> torch.Tensor:
            return score(self.hidden(embeddings, timestep))

        return Guide(of, scale, name, noisy=self.noisy, embeddings=self.table)

    def teach(
        self,
        pipe: DiffusionLMPipeline,
        input_ids: torch.Tensor,
        targets: torch.Tensor,
        num_steps: int,
        batch_size: int,
        learning_rate: float,
    ) -> None:
        """
        Trains on texts with noise of all levels, in place.

        Args:
            pipe ([`DiffusionLMPipeline`]): Whose embeddings, which stay as they are.
            input_ids (`torch.Tensor` of shape `(num_texts, length)`): The texts.
            targets (`torch.Tensor` with `num_texts` rows): What [`~EmbeddingClassifier.loss`] takes.
            num_steps, batch_size, learning_rate: Of AdamW, with a cosine.
        """
        model = pipe.model.eval()
        self.train()
        input_ids, targets = input_ids.to(model.device), targets.to(model.device)
        optimizer = torch.optim.AdamW(self.parameters(), lr=learning_rate, weight_decay=0.01)
        # Not 0.1, by which the warm-up of ten steps would divide by zero
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, num_steps, pct_start=0.11)
        for _ in pipe.progress_bar(range(num_steps)):
            rows = torch.randint(len(input_ids), (batch_size,))
            spread = (torch.randperm(batch_size) + torch.rand(())) / batch_size
            timestep = (spread * self.num_train_timesteps).long().to(model.device)
            with torch.no_grad():
                embeddings = model.embed(input_ids[rows])
                scale, deviation = model.noise_level(timestep)
                inputs = scale * embeddings + deviation * torch.randn_like(embeddings)
                if not self.noisy:
                    inputs = model(inputs, timestep).clean
            loss = self.loss(self.hidden(inputs, timestep), targets[rows])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        self.eval().requires_grad_(False)


def masked_cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy over labels that are not −100."""
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten(), ignore_index=-100)
