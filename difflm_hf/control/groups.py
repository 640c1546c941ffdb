"""Groups of records that satisfy a condition: latents, ids and candidates of them, all drawn from one seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch.profiler import record_function

from ..seeds import generator_of
from ..utils import onload
from .conditions import Condition
from .guidance import Guidance
from .resampling import (
    GROUP_SIZE,
    MAX_CANDIDATES,
    NUM_LIMITED,
    choose_candidates,
    choose_of_each,
    redraw,
    resample,
)


if TYPE_CHECKING:
    from ..pipeline_difflm import DiffLMPipeline


class RecordGroup:
    """
    Up to 1,024 records that are drawn, weighed and chosen together.

    Args:
        pipe ([`DiffLMPipeline`]): The pipeline that writes them.
        condition ([`Condition`]): What the records satisfy; one of rows has as many as there are records.
        guidance ([`Guidance`]): That of the latents.
        seed (`int`): All random numbers of the group come from it.
        num_inference_steps, temperature, top_p, batch_size, callback_on_step_end: Those of the call.
    """

    def __init__(
        self,
        pipe: DiffLMPipeline,
        condition: Condition,
        guidance: Guidance,
        seed: int,
        num_inference_steps: int = 12,
        temperature: float = 1.0,
        top_p: float = 1.0,
        batch_size: int | None = None,
        callback_on_step_end: Callable | None = None,
    ):
        self.pipe, self.condition, self.guidance, self.seed = pipe, condition, guidance, seed
        self.num_inference_steps, self.callback_on_step_end = num_inference_steps, callback_on_step_end
        self.temperature, self.top_p = temperature, top_p
        self.batch_size = int(min(batch_size or pipe.default_batch_size, GROUP_SIZE))
        self.is_exact = temperature == top_p == 1
        is_free = not (condition.allowed.is_known.any() or condition.allowed.limits)
        self.max_candidates = MAX_CANDIDATES if self.is_exact and not is_free else 1

    def generate(self, num_records: int) -> pd.DataFrame:
        """The records; of a condition of rows those of its rows."""
        if self.condition.num_rows is not None:
            return redraw(self._draw_rows, self.condition.num_rows)
        tables: list[pd.DataFrame] = []

        def weigh(round_: int) -> np.ndarray:
            table, log_weights = self._draw(round_, np.arange(num_records), self.condition, self.guidance)
            tables.append(table)
            return log_weights

        offset = torch.rand((), generator=generator_of(self.seed), dtype=torch.float64).item()
        chosen, _ = resample(weigh, num_records, offset)
        return pd.concat(tables, ignore_index=True).iloc[chosen]

    def _draw_rows(self, round_: int, rows: np.ndarray) -> tuple[pd.DataFrame, np.ndarray]:
        """Records of some rows, and which of them are valid."""
        is_limited = self.condition.is_limited[rows]
        free, limited = rows[~is_limited], rows[is_limited]
        batches = limited // NUM_LIMITED
        parts = [(self._draw, free)] if len(free) else []
        parts += [(self._draw_limited, limited[batches == k]) for k in np.unique(batches)]
        drawn = [by(round_, part, self.condition.take(part), self.guidance.take(part)) for by, part in parts]
        order = np.concatenate([part for _, part in parts]).argsort()
        table = pd.concat([table for table, _ in drawn], ignore_index=True).iloc[order]
        return table, np.isfinite(np.concatenate([log_weights for _, log_weights in drawn]))[order]

    def _draw(
        self, round_: int, places: np.ndarray, condition: Condition, guidance: Guidance
    ) -> tuple[pd.DataFrame, np.ndarray]:
        """Records, a latent each, and the logarithms of their weights."""
        generator = generator_of(self.seed, round_)
        latents = self._draw_latents(generator, places, guidance)
        offsets = self._draw_offsets(generator, places)
        choices = _draw_numbers(generator, places, 1, dtype=torch.float64)
        ids, log_weights = choose_candidates(
            lambda: self._write(condition, latents, generator, places),
            self.max_candidates,
            choices,
            condition.num_rows is not None,
        )
        table, of_relations = self._read(condition, ids, offsets)
        return table, log_weights.cpu().numpy() + of_relations

    def _draw_limited(
        self, round_: int, rows: np.ndarray, condition: Condition, guidance: Guidance
    ) -> tuple[pd.DataFrame, np.ndarray]:
        """
        Records of which more is asked than values. Latents are told no more than these: of 16 records, each with a
        latent of its own, one is chosen in proportion to its weight.
        """
        generator = generator_of(self.seed, round_, 1 + rows[0] // NUM_LIMITED)
        own = rows % NUM_LIMITED
        places = (own + NUM_LIMITED * np.arange(MAX_CANDIDATES)[:, None]).reshape(-1)
        again = np.tile(np.arange(len(rows)), MAX_CANDIDATES)
        condition, guidance = condition.take(again), guidance.take(again)
        latents = self._draw_latents(generator, places, guidance)
        offsets = self._draw_offsets(generator, places)
        choices = _draw_numbers(generator, own, 1, dtype=torch.float64).numpy()
        ids, of_records, of_latents = self._write(condition, latents, generator, places)
        table, of_relations = self._read(condition, ids, offsets)
        log_weights = (of_records if self.is_exact else of_latents).cpu().numpy() + of_relations
        chosen = choose_of_each(log_weights.reshape(MAX_CANDIDATES, -1), choices[:, 0])
        return table.iloc[chosen], log_weights[chosen]

    def _draw_latents(self, generator: torch.Generator, places: np.ndarray, guidance: Guidance) -> torch.Tensor:
        with record_function("difflm::latents"):
            return self.pipe.generate_latents(
                GROUP_SIZE, self.num_inference_steps, generator, self.callback_on_step_end, places, guidance
            ).to(onload(self.pipe.vae).decoder.device)

    def _draw_offsets(self, generator: torch.Generator, places: np.ndarray) -> torch.Tensor:
        return _draw_numbers(generator, places, self.pipe.processor.num_offsets, dtype=torch.float64)

    def _write(
        self, condition: Condition, latents: torch.Tensor, generator: torch.Generator, places: np.ndarray
    ) -> tuple[torch.Tensor, ...]:
        """Ids, and the logarithms of weights among those of a latent, and among latents."""
        vae, step = onload(self.pipe.vae), self.batch_size
        uniforms = _draw_numbers(generator, places, vae.config.num_uniforms)
        batches = [
            vae.decoder.sample_allowed(z, u, part, self.temperature, self.top_p)
            for z, u, part in zip(latents.split(step), uniforms.split(step), condition.allowed.batches(step))
        ]
        length, pad_id = max(ids.shape[1] for ids, *_ in batches), self.pipe.processor.special_ids[2]
        ids = torch.cat([F.pad(ids, (0, length - ids.shape[1]), value=pad_id) for ids, *_ in batches])
        return ids, *(torch.cat(parts).double() for parts in zip(*(weights for _, *weights in batches)))

    def _read(self, condition: Condition, ids: torch.Tensor, offsets: torch.Tensor) -> tuple[pd.DataFrame, np.ndarray]:
        """Records, and the logarithms of weights by what holds between columns."""
        with record_function("difflm::records"):
            ids = ids.cpu().numpy()
            placed = condition.place(ids, offsets.numpy())
            return condition.complete(self.pipe.processor.decode_records(ids, placed)[0])


def _draw_numbers(generator: torch.Generator, places: np.ndarray, size: int, **kwargs: Any) -> torch.Tensor:
    """Uniform numbers of some records of a group, whichever others are drawn with them."""
    return torch.rand(GROUP_SIZE, size, generator=generator, **kwargs)[places]
