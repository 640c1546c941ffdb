"""What synthetic rows give away about the real rows that their generator was trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score
from sklearn.utils import gen_batches

from .encoding import draw, encode_tables


FAR = 1e9  # stands for a missing number: at distance 1 from all others, at distance 0 from another missing one
SAME_RANK = 0.05  # a guessed number is right within this difference of quantiles
NUM_TARGETS = 2000  # training rows, and as many held-out ones, whose membership is guessed
NUM_SECRETS = 1000  # of these, whose values are guessed
SIGNIFICANT = 0.001  # probability of a false alarm, of each kind
NOTABLE = 0.05  # alarms need that much more than chance, too
BATCH_PAIRS = 2**19  # whose distances are computed at once


@dataclass
class ClosestRecords:
    """
    Distances between synthetic rows, the training rows and an equally large hold-out.

    The distance is Gower's, as in SDMetrics: the mean over columns of the difference of two numbers as a share of
    their range in `train`, at most 1, or of 0 for equal and 1 for different categories. A missing number is equal to
    another one and different from all numbers.

    Args:
        synthetic (`pandas.DataFrame`): Generated rows.
        train (`pandas.DataFrame`): The real rows that the generator was trained on.
        holdout (`pandas.DataFrame`): Real rows that it has not seen.
        categorical (`Sequence[str]`, *optional*): Columns that are categorical whatever their dtype.
        seed (`int`, defaults to 0): Seed of the subsamples.
        max_rows (`int`, defaults to 10000):
            How many rows of each table distances are measured between at most, equally many of `train` and `holdout`.
            The time is quadratic in it. Attacks use all synthetic rows, on at most 2,000 rows of each of the others.
    """

    synthetic: pd.DataFrame
    train: pd.DataFrame
    holdout: pd.DataFrame
    categorical: Sequence[str] | None = None
    seed: int = 0
    max_rows: int = 10_000

    def __post_init__(self):
        tables = {"train": self.train, "holdout": self.holdout, "synthetic": self.synthetic}
        (train, holdout, synthetic), self.categorical = encode_tables(tables, self.categorical)
        generator = np.random.default_rng(self.seed)
        size = min(len(train), len(holdout), self.max_rows)
        self.drawn_share = size / len(train)
        self.train, self.holdout = (draw(table, size, generator) for table in (train, holdout))
        self.all_synthetic = synthetic
        self.synthetic = draw(synthetic, self.max_rows, generator)
        numbers = train.drop(columns=self.categorical)
        self._low, self._span = numbers.min(), numbers.max() - numbers.min()

    @cached_property
    def synthetic_to_train(self) -> tuple[np.ndarray, np.ndarray]:
        """Distances of synthetic rows to their two nearest training rows, and the position of the nearest."""
        return _nearest(self._scaled(self.synthetic), self._scaled(self.train))

    @cached_property
    def synthetic_to_holdout(self) -> tuple[np.ndarray, np.ndarray]:
        """The same with the hold-out in place of the training rows."""
        return _nearest(self._scaled(self.synthetic), self._scaled(self.holdout))

    @cached_property
    def holdout_to_train(self) -> tuple[np.ndarray, np.ndarray]:
        """The same with the hold-out in place of the synthetic rows: what to expect of rows that are real, but new."""
        return _nearest(self._scaled(self.holdout), self._scaled(self.train))

    def to_synthetic(self, records: pd.DataFrame) -> np.ndarray:
        """Distances of rows of `train` or `holdout` to the nearest of all synthetic rows."""
        return _nearest(self._scaled(records), self._scaled(self.all_synthetic))[0][:, 0]

    def guess(self, records: pd.DataFrame) -> np.ndarray:
        """
        Guesses each value of records, one at a time, as that of the synthetic row nearest in all other columns.

        Args:
            records (`pandas.DataFrame`): Rows of `train` or `holdout`.

        Returns:
            `np.ndarray` of shape `(num_records, num_columns)`, bool: Which guesses are right: the same category, or a
            number no more than 5 % of the training rows away.
        """
        known, synthetic = self._scaled(records), self._scaled(self.all_synthetic)
        secret, guessed = (self._ranked(table) for table in (records, self.all_synthetic))
        right = np.zeros(records.shape, bool)
        for batch in _batches(known, synthetic):
            total = sum(_differences(known[batch], synthetic))
            for column, difference in enumerate(_differences(known[batch], synthetic)):
                nearest = (total - difference).argmin(dim=1).numpy()
                distance = np.abs(guessed[nearest, column] - secret[batch, column])
                right[batch, column] = distance <= SAME_RANK
        return right

    def _scaled(self, table: pd.DataFrame) -> torch.Tensor:
        """Rows such that the sum over columns of min(|a - b|, 1) is the number of columns times the distance."""
        columns = {}
        for name, values in table.items():
            if name not in self._span:
                columns[name] = values
            elif self._span[name] == 0:
                columns[name] = (values - self._low[name]) * FAR  # whatever is not the one value of `train`
            else:
                columns[name] = (values - self._low[name]) / self._span[name]
        return torch.tensor(pd.DataFrame(columns).fillna(-FAR).to_numpy(np.float32))

    def _ranked(self, table: pd.DataFrame) -> np.ndarray:
        """Rows with each number as its quantile among the training rows."""
        ranked = table.copy()
        for name in self._span.index:
            known = np.sort(self.train[name].dropna())
            below = (np.searchsorted(known, table[name], side) for side in ("left", "right"))
            ranked[name] = np.where(table[name].isna(), FAR, sum(below) / 2 / max(len(known), 1))
        return ranked.fillna(FAR).to_numpy()


def distance_to_closest_record(neighbors: ClosestRecords) -> dict[str, Any]:
    """
    Distance to closest record (DCR): how near synthetic rows come to training rows.

    Args:
        neighbors ([`ClosestRecords`]): The tables.

    Returns:
        `dict[str, Any]`:
            - `share`: the share of synthetic rows that are nearer to a training row than to any row of an equally
              large hold-out, ties counted half. 0.5 is best; above it, the generator has memorised training rows.
            - `standard_error`: that of the share if it did not matter which real rows are in `train`. Were they dealt
              anew, each would take along the share m of synthetic rows that it is the closest one of: the variance
              is the sum of (m - mean m)² / 4.
            - `share_of_copies`: the share that pure copying yields: 0.5 + n / (2 * len(train)) where n training rows
              are drawn.
            - `synthetic`, `holdout`: quantiles of the distances of synthetic and of held-out rows to their closest
              training row. Those of the synthetic rows should not be smaller.
    """
    (to_train, closest), (to_holdout, closest_held_out) = neighbors.synthetic_to_train, neighbors.synthetic_to_holdout
    to_train, to_holdout = to_train[:, 0], to_holdout[:, 0]
    nearer = np.where(np.isclose(to_train, to_holdout, rtol=1e-5, atol=1e-6), 0.5, to_train < to_holdout)
    # How many synthetic rows each real row is the closest one of.
    won = (
        np.bincount(closest, nearer, len(neighbors.train)),
        np.bincount(closest_held_out, 1 - nearer, len(neighbors.holdout)),
    )
    won = np.concatenate(won) / len(nearer)
    return {
        "share": float(nearer.mean()),
        "standard_error": float(np.sqrt(np.square(won - won.mean()).sum()) / 2),
        "share_of_copies": 0.5 + neighbors.drawn_share / 2,
        **_summaries(synthetic=to_train, holdout=neighbors.holdout_to_train[0][:, 0]),
    }


def nearest_neighbor_distance_ratio(neighbors: ClosestRecords) -> dict[str, Any]:
    """
    Nearest-neighbour distance ratio (NNDR): the distance of a row to its closest training row, divided by that to the
    second closest. Near 0 it singles out one training row.

    Args:
        neighbors ([`ClosestRecords`]): The tables.

    Returns:
        `dict[str, Any]`: Quantiles of the ratio, for `synthetic` rows and for those of the `holdout`. Those of the
        synthetic rows should not be smaller. Where both distances are 0, the ratio is 1.
    """

    def ratio(distances: np.ndarray) -> np.ndarray:
        first, second = distances.T
        return np.divide(first, second, out=np.ones_like(first), where=second > 0)

    return _summaries(synthetic=ratio(neighbors.synthetic_to_train[0]), holdout=ratio(neighbors.holdout_to_train[0]))


def membership_inference(neighbors: ClosestRecords) -> dict[str, float]:
    """
    A membership-inference attack: who has the synthetic rows, and a record, takes it for a training row if a synthetic
    row is near (Chen et al. 2020, GAN-Leaks, [arXiv 1909.03935](https://arxiv.org/abs/1909.03935), section 4.2).

    Args:
        neighbors ([`ClosestRecords`]): The tables.

    Returns:
        `dict[str, float]`: `auc` of telling training rows from held-out ones, where 0.5 is best, and its
        `standard_error` (Hanley and McNeil 1982).
    """
    generator = np.random.default_rng(neighbors.seed)
    members, others = (
        neighbors.to_synthetic(draw(table, NUM_TARGETS, generator)) for table in (neighbors.train, neighbors.holdout)
    )
    is_member = np.repeat([1, 0], [len(members), len(others)])
    auc = float(roc_auc_score(is_member, -np.concatenate([members, others])))
    both_members, both_others = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = auc * (1 - auc) + (len(members) - 1) * (both_members + both_others - 2 * auc**2)
    return {"auc": auc, "standard_error": float(np.sqrt(variance / (len(members) * len(others))))}


def attribute_disclosure(neighbors: ClosestRecords) -> dict[str, Any]:
    """
    Attribute disclosure: who has the synthetic rows, and all of a record but one value, guesses that value as the one
    of the nearest synthetic row.

    What can be guessed of held-out records too is knowledge about the population; only the rest is a risk of those in
    the training rows: (r_train - r_holdout) / (1 - r_holdout) with rates r of right guesses (Giomi et al. 2023,
    Anonymeter, [arXiv 2211.10459](https://arxiv.org/abs/2211.10459), section 3).

    Args:
        neighbors ([`ClosestRecords`]): The tables.

    Returns:
        `dict[str, Any]`: The rates `train` and `holdout` over all columns, and the `risk`, of which 0 is best;
        `columns` has the same for each column, and the `p_value` of no risk.
    """
    generator = np.random.default_rng(neighbors.seed)
    tables = [draw(table, NUM_SECRETS, generator) for table in (neighbors.train, neighbors.holdout)]
    right = [neighbors.guess(table) for table in tables]
    columns = {
        name: _risk(train, holdout) | {"p_value": _p_value(train, holdout)}
        for name, train, holdout in zip(neighbors.train, *(guesses.T for guesses in right))
    }
    return _risk(*right) | {"columns": columns}


def exact_copies(
    synthetic: pd.DataFrame,
    train: pd.DataFrame,
    holdout: pd.DataFrame | None = None,
    categorical: Sequence[str] | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """
    Rows that equal a training row in every column.

    Args:
        synthetic (`pandas.DataFrame`): Generated rows.
        train (`pandas.DataFrame`): The real rows that the generator was trained on.
        holdout (`pandas.DataFrame`, *optional*): Real rows that it has not seen.
        categorical (`Sequence[str]`, *optional*): Columns that are categorical whatever their dtype.

        seed (`int`, defaults to 0): Seed of the subsample that makes `train` and `holdout` equally large.

    Returns:
        `dict[str, float]`: The share of `synthetic` rows that are copies. With a hold-out, also the share of `holdout`
        rows that equal a training row by chance, and a `p_value`: of the distinct synthetic rows that equal a row of
        `train` or of an equally large `holdout`, but not of both, half should be those of `train`. It is the
        probability of as many of them or more.
    """
    tables = {"train": train, "synthetic": synthetic} | ({} if holdout is None else {"holdout": holdout})
    tables, _ = encode_tables(tables, categorical)
    identity = pd.concat(tables).groupby(list(tables[0]), dropna=False, sort=False).ngroup().to_numpy()
    known, generated, *others = np.split(identity, np.cumsum([len(table) for table in tables])[:-1])
    scores = {"synthetic": float(np.isin(generated, known).mean())}
    if holdout is None:
        return scores
    (unseen,) = others
    scores["holdout"] = float(np.isin(unseen, known).mean())
    generator = np.random.default_rng(seed)
    size = min(len(known), len(unseen))
    known, unseen = (set(generator.choice(rows, size, replace=False)) for rows in (known, unseen))
    generated = set(generated)
    ours, theirs = len(generated & known - unseen), len(generated & unseen - known)
    p_value = stats.binomtest(ours, ours + theirs, alternative="greater").pvalue if ours + theirs else 1.0
    return scores | {"p_value": float(p_value)}


def privacy_alarms(scores: dict[str, Any]) -> list[str]:
    """
    What in the figures of this module speaks of memorised training rows, or of a hold-out that was none.

    Args:
        scores (`dict[str, Any]`): Results of this module's functions under their names.

    Returns:
        `list[str]`: A sentence for each finding that is statistically significant (p < 0.001) and, but for exact
        copies, notable: more than 5 percentage points beyond chance, or a third of what copying everything would
        do; of attribute disclosure, a risk above 5 %.
    """

    def found() -> Iterator[str]:
        copies = scores["exact_copies"]
        if copies["p_value"] < SIGNIFICANT:
            yield (
                f"{copies['synthetic']:.1%} of the synthetic rows are copies of training rows, against "
                f"{copies['holdout']:.1%} of real rows that were held out"
            )
        distance = scores["distance_to_closest_record"]
        share, error = distance["share"], distance["standard_error"]
        # Where few of many training rows are drawn, copies of all of them move the share by little.
        notable = min(NOTABLE, (distance["share_of_copies"] - 0.5) / 3)
        if _is_alarming(share, error, notable):
            yield f"{share:.1%} of the synthetic rows are nearer to a training row than to a held-out one"
        if _is_alarming(1 - share, error, notable):
            yield (
                f"only {share:.1%} of the synthetic rows are nearer to a training row than to a held-out one: the "
                "generator seems to have seen the hold-out"
            )
        attack = scores["membership_inference"]
        if _is_alarming(attack["auc"], attack["standard_error"], NOTABLE):
            yield f"nearness to synthetic rows tells training from held-out rows with an AUC of {attack['auc']:.3f}"
        columns = scores["attribute_disclosure"]["columns"]
        disclosed = [
            name
            for name, column in columns.items()
            if column["risk"] > NOTABLE and column["p_value"] < SIGNIFICANT / len(columns)
        ]
        if disclosed:
            worst = max(disclosed, key=lambda name: columns[name]["risk"])
            others = [repr(name) for name in disclosed if name != worst]
            yield (
                f"the rest of a record and the synthetic rows disclose {worst!r}: it is guessed of "
                f"{columns[worst]['train']:.0%} of training rows, and of {columns[worst]['holdout']:.0%} of held-out "
                f"ones{'; likewise ' if others else ''}{', '.join(others)}"
            )

    return list(found())


def _is_alarming(score: float, standard_error: float, notable: float) -> bool:
    """Whether a score of which 0.5 is best is notably and significantly larger."""
    return score - 0.5 > max(notable, stats.norm.isf(SIGNIFICANT) * standard_error)


def _p_value(left: np.ndarray, right: np.ndarray) -> float:
    """Probability, if both have the same rate of true values, of as many more in `left`."""
    counts = [[int(part.sum()), int((~part).sum())] for part in (left, right)]
    return float(stats.fisher_exact(counts, alternative="greater").pvalue)


def _risk(train: np.ndarray, holdout: np.ndarray) -> dict[str, float]:
    """Rates of right guesses, and the risk."""
    rates = float(train.mean()), float(holdout.mean())
    risk = (rates[0] - rates[1]) / (1 - rates[1]) if rates[1] < 1 else 0.0
    return {"train": rates[0], "holdout": rates[1], "risk": risk}


def _summaries(**distributions: np.ndarray) -> dict[str, Any]:
    """Quantiles of each distribution, and a histogram over the same bins."""
    edges = np.linspace(0, max(np.quantile(values, 0.995) for values in distributions.values()) or 1, 41)
    return {
        name: {
            **{f"q{percent:02d}": float(np.quantile(values, percent / 100)) for percent in (1, 5, 50)},
            "histogram": {
                "counts": np.histogram(values.clip(max=edges[-1]), edges)[0].tolist(),
                "edges": edges.tolist(),
            },
        }
        for name, values in distributions.items()
    }


def _differences(rows: torch.Tensor, others: torch.Tensor) -> Iterator[torch.Tensor]:
    """The differences of all pairs of rows, column by column, at most 1: tensors of shape `(rows, others)`."""
    for a, b in zip(rows.T, others.T):
        yield (a[:, None] - b[None, :]).abs_().clamp_(max=1)


def _batches(rows: torch.Tensor, others: torch.Tensor) -> Iterator[slice]:
    return gen_batches(len(rows), max(BATCH_PAIRS // len(others), 1))


def _nearest(rows: torch.Tensor, others: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Distances of `rows` to their two nearest `others`, of shape `(rows, 2)`, and the position of the nearest."""
    distances = torch.full((len(rows), 2), torch.inf)
    positions = torch.zeros(len(rows), dtype=torch.long)
    for batch in _batches(rows, others):
        nearest = (sum(_differences(rows[batch], others)) / rows.shape[1]).topk(min(2, len(others)), largest=False)
        distances[batch, : nearest.values.shape[1]] = nearest.values
        positions[batch] = nearest.indices[:, 0]
    return distances.numpy(), positions.numpy()
