"""What a pipeline does with records that it is given: how likely they are, variations, and what lies between two."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..blocks import MAX_STEPS
from ..checks import check_integer, is_number, shown
from ..latents import encode_latents, to_dataset
from ..records.readers import check_columns
from ..seeds import check_generator, draw_seed, generator_of, mix
from ..utils import onload
from .generation import ConditionalGenerationMixin
from .resampling import GROUP_SIZE, redraw


MAX_LATENTS = 10_000  # of a record
MAX_BETWEEN = 100_000  # records between two


class GivenRecordsMixin(ConditionalGenerationMixin):
    """What [`DiffLMPipeline`] does with given rows of tables."""

    @torch.no_grad()
    def log_prob(
        self,
        records: Any,
        num_latents: int = 16,
        batch_size: int = 1024,
        generator: torch.Generator | None = None,
    ) -> np.ndarray:
        """
        A lower bound of log p(x) of records under the autoencoder, in nats: the logarithm of the mean of
        p(x|z) p(z) / q(z|x) over latents from q(z|x) (arXiv 1509.00519, eq. 8), which comes nearer to it the more
        there are. It is that of a record's ids, and not of where inside their steps numbers lie. Low values are
        outliers.

        Args:
            records (`pandas.DataFrame` or anything that the processor takes): The records.
            num_latents (`int`, defaults to 16): Latents of each record.
            batch_size (`int`, defaults to 1024): Records at a time.
            generator (`torch.Generator`, *optional*): For the same numbers again.

        Returns:
            `np.ndarray` of shape `(num_records,)`.

        Raises:
            `ValueError`: for records of documents, and for values that the codec has no ids for.
        """
        check_integer("num_latents", num_latents, most=MAX_LATENTS)
        check_integer("batch_size", batch_size)
        check_generator(generator)
        inputs, bounds = self.processor(self._conformed(records)), []
        num_records = len(inputs["input_ids"])
        noise = torch.randn(num_records, int(num_latents), self.vae.config.latent_size, generator=generator)
        masks = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"]))
        vae = onload(self.vae)
        for ids, mask, eps in zip(
            *(t.split(min(int(batch_size), num_records)) for t in (inputs["input_ids"], masks, noise))
        ):
            ids, mask, eps = (t.to(vae.device) for t in (ids, mask, eps))
            mean, logvar = vae.encode(ids, mask)
            terms = []
            for k in range(num_latents):
                latents = mean + (0.5 * logvar).exp() * eps[:, k]
                # log N(z; 0, 1) − log N(z; μ, σ²), in which the constants cancel
                log_ratio = 0.5 * (eps[:, k].square() + logvar - latents.square()).sum(1)
                terms.append(log_ratio - vae.decoder.negative_log_likelihood(ids, latents, mask))
            bounds.append(torch.stack(terms).double().logsumexp(0) - math.log(num_latents))
        return torch.cat(bounds).cpu().numpy()

    @torch.no_grad()
    def vary(
        self,
        records: Any,
        strength: float = 0.5,
        num_inference_steps: int = 12,
        generator: torch.Generator | None = None,
    ) -> pd.DataFrame:
        """
        Variations of records: their latents are brought to an intermediate noise level and back, as in SDEdit
        (arXiv 2108.01073).

        Args:
            records (`pandas.DataFrame` or anything that the processor takes): The records.
            strength (`float`, defaults to 0.5):
                The share of the steps that are taken back: 0 only encodes and decodes, 1 starts from noise alone.
            num_inference_steps, generator: As in the call.

        Returns:
            `pandas.DataFrame`: A variation of each record.

        Raises:
            `ValueError`: for a strength that is not between 0 and 1, for records of documents, and for values that the
                codec has no ids for.
        """
        if not is_number(strength) or not 0 <= strength <= 1:
            raise ValueError(f"strength={shown(strength)} is not between 0 and 1")
        check_integer("num_inference_steps", num_inference_steps, most=MAX_STEPS)
        seed = draw_seed(generator)
        posteriors = encode_latents(self.vae, to_dataset(self.processor, self._conformed(records)))
        num_records, tables = len(posteriors), []
        for start in range(0, num_records, GROUP_SIZE):
            part = posteriors[slice(start, start + GROUP_SIZE)]
            arguments = part["mean"], part["std"], strength, num_inference_steps, mix(seed, start)
            tables.append(redraw(partial(self._vary_group, *arguments), len(part["mean"])))
        return self._numbered(pd.concat(tables, ignore_index=True), seed)

    @torch.no_grad()
    def interpolate(
        self,
        first: Any,
        second: Any,
        num_records: int = 5,
        generator: torch.Generator | None = None,
    ) -> pd.DataFrame:
        """
        Records on the way from one to another: their latents lie on the line between those of the two, and all else is
        drawn from the same random numbers.

        Args:
            first, second (`dict`): The records.
            num_records (`int`, defaults to 5): Records to write, at equal distances, those for both ends included.
            generator (`torch.Generator`, *optional*): For the same records again.

        Returns:
            `pandas.DataFrame` of `num_records` records.

        Raises:
            `ValueError`: for fewer than two records to write, for records of documents, and for values that the codec
                has no ids for.
        """
        check_integer("num_records", num_records, least=2, most=MAX_BETWEEN)
        for name, record in (("first", first), ("second", second)):
            if not isinstance(record, Mapping | pd.Series):
                raise ValueError(f"{name}={shown(record)} is no record; give a dict")
        seed = draw_seed(generator)
        ends = self._conformed(pd.DataFrame([dict(first), dict(second)], dtype=object))
        mean = encode_latents(self.vae, to_dataset(self.processor, ends)).tensors["mean"]
        latents = torch.lerp(mean[:1], mean[1:], torch.linspace(0, 1, int(num_records))[:, None])

        def draw(round_: int, rows: np.ndarray) -> tuple[pd.DataFrame, np.ndarray]:
            return self._decode_all(latents[rows], generator_of(seed, round_), is_shared=True)

        return self._numbered(redraw(draw, num_records), seed)

    def _conformed(self, records: Any) -> pd.DataFrame:
        if not self.processor.codec.levels:
            self._compact_codec()
        table = self.processor.schema.conform(records)
        check_columns(table, "the table of records")
        return table

    def _numbered(self, table: pd.DataFrame, seed: int) -> pd.DataFrame:
        schema = self.processor.schema
        numbers = {name: rule.values(seed, 0, len(table), schema.by_name) for name, rule in schema.identifiers.items()}
        return table.assign(**numbers)

    def _vary_group(
        self,
        mean: torch.Tensor,
        std: torch.Tensor,
        strength: float,
        num_inference_steps: int,
        seed: int,
        round_: int,
        rows: np.ndarray,
    ) -> tuple[pd.DataFrame, np.ndarray]:
        generator = generator_of(seed, round_)
        noise = torch.randn(2, GROUP_SIZE, self.vae.config.latent_size, generator=generator)[:, : len(rows)]
        latents = mean[rows] + std[rows] * noise[0]
        latents = self.renoise_latents(latents, noise[1], strength, num_inference_steps, generator)
        return self._decode_all(latents, generator)

    def _decode_all(
        self, latents: torch.Tensor, generator: torch.Generator, is_shared: bool = False
    ) -> tuple[pd.DataFrame, np.ndarray]:
        """A record of each latent, and which are valid. All may share the random numbers of one."""
        num = 1 if is_shared else max(GROUP_SIZE, len(latents))
        uniforms = torch.rand(num, self.vae.config.num_uniforms, generator=generator)
        offsets = torch.rand(num, self.processor.num_offsets, generator=generator, dtype=torch.float64)
        uniforms, offsets = (
            t.expand(len(latents), -1) if is_shared else t[: len(latents)] for t in (uniforms, offsets)
        )
        decoder = onload(self.vae).decoder
        ids = decoder.sample_records(latents.to(decoder.device), uniforms)
        table = self.processor.schema.derive(self.processor.decode_records(ids.cpu().numpy(), offsets.numpy())[0])
        return table, self.processor.schema.holds(table)
