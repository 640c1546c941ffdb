"""The metrics of this package as modules of the `evaluate` library."""

from __future__ import annotations

import inspect
import json
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

import evaluate
import numpy as np
import pandas as pd
from datasets import Dataset, Features, Value

from ..records.field import isoformat
from ..records.readers import check_columns
from .tables.encoding import encode_tables
from .tables.plain_columns import plain_table
from .tables.preparation import prepare_tables


MODULES = Path(__file__).with_name("modules")
# What any of the modules takes beside predictions and references; in a combination, each picks out its own.
OPTIONS = frozenset(
    "categorical classifier holdout key log_target max_order max_rows n n_jobs num_seeds schema seed target".split()
)
DATETIME = "$datetime"  # the key of a datetime in JSON


def module_path(name: str) -> str:
    """
    The folder of a metric of this package, for `evaluate.load` and `evaluate.combine`.

    Args:
        name (`str`): The metric, such as `"c2st"`.

    Raises:
        `ValueError`: when there is no such metric. The message names the choices.

    Example:

    ```python
    >>> import evaluate
    >>> metric = evaluate.load(module_path("column_shapes"))
    >>> metric.compute(predictions=[{"x": 1}, {"x": 2}], references=[{"x": 1}, {"x": 3}])
    {'column_shapes': 0.5}
    ```
    """
    choices = sorted(path.stem for path in MODULES.glob("*/*.py") if path.stem == path.parent.name)
    if name not in choices:
        raise ValueError(f"there is no metric {name!r}; choose from {', '.join(choices)}")
    return str(MODULES / name)


class RecordMetric(evaluate.Metric, ABC):
    """
    A metric of synthetic records, its `predictions`, and real ones, its `references`. Each may be a DataFrame, a
    Dataset, or a list of dicts or texts, and there need not be equally many.

    Subclasses have the description of the metric as their docstring, the description of its inputs as that of their
    `_score`, and its `CITATION`. Records are stored as JSON, the shorter side filled up with nulls.

    Args:
        config_name (`str`, *optional*): The configuration, for metrics that have some.
        seed (`int`, defaults to 0): The `seed` of `compute`, where it is given none.
        **kwargs: Arguments of `evaluate.Metric`, and defaults of all that `compute` takes beside the records.
    """

    CITATION: str

    def __init__(self, config_name: str | None = None, *, seed: int = 0, **kwargs):
        settings = inspect.signature(evaluate.Metric.__init__).parameters
        options = {name: kwargs.pop(name) for name in list(kwargs) if name not in settings}
        super().__init__(config_name, seed=seed, **kwargs)
        self._options = self._check_options(options | {"seed": seed})

    @abstractmethod
    def _score(self, predictions: Any, references: Any) -> dict[str, float]:
        """
        The scores under their names.

        Args:
            predictions, references (`list[dict | str]`): The records.
            **options: Those of `OPTIONS` that the metric takes. It needs the ones without a default.
        """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=inspect.getdoc(self),
            citation=inspect.cleandoc(self.CITATION),
            inputs_description="\n\n" + inspect.getdoc(self._score),
            features=Features({"predictions": Value("string"), "references": Value("string")}),
        )

    def _compute(self, *, predictions: Iterable[str], references: Iterable[str], **options) -> dict[str, float]:
        scores = self._score(**self._prepare(_decode(predictions), _decode(references), **options))
        return {name: float(score) for name, score in scores.items()}

    def _prepare(self, predictions: list[dict | str], references: list[dict | str], **options) -> dict[str, Any]:
        """The arguments of `_score`."""
        return {"predictions": predictions, "references": references, **options}

    def _encode(self, name: str, records: Any) -> list[str]:
        """Records as JSON."""
        texts = []
        for index, record in enumerate(_iterate(name, records)):
            if not isinstance(record, (str, Mapping)):
                raise TypeError(f"`{name}[{index}]` is of type {type(record).__name__}; records are dicts or texts")
            try:
                texts.append(json.dumps(record if isinstance(record, str) else dict(record), default=_to_json))
            except TypeError as error:
                raise TypeError(f"`{name}[{index}]` holds what JSON cannot: {error}") from error
        return texts

    def _check_options(self, options: dict[str, Any]) -> dict[str, Any]:
        """The options that are given; a `TypeError` for one that no metric of this package has."""
        if unknown := sorted(options.keys() - OPTIONS):
            raise TypeError(
                f"no metric has an option {unknown[0]!r}; those of {self.name} are {[*self._parameters()]}"
            )
        return {name: value for name, value in options.items() if value is not None}

    def _parameters(self) -> dict[str, inspect.Parameter]:
        """The options of this metric."""
        parameters = inspect.signature(self._score).parameters
        return {name: parameters[name] for name in parameters if name not in self._feature_names()}

    def compute(self, *, predictions: Any = None, references: Any = None, **kwargs) -> dict[str, float] | None:
        """Compares records, together with those that were added before."""
        given = self._options | self._check_options(kwargs)
        for name, parameter in self._parameters().items():
            if parameter.default is parameter.empty and name not in given:
                raise ValueError(f"{self.name} needs `{name}`; pass it to compute, or to evaluate.load")
        options = {name: given[name] for name in self._parameters() if name in given}
        return super().compute(predictions=predictions, references=references, **options)

    def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs) -> None:
        """Adds records to those that `compute` is going to compare: synthetic ones, real ones or both."""
        given = {"predictions": predictions, "references": references}
        columns = {name: [] if records is None else self._encode(name, records) for name, records in given.items()}
        size = max(map(len, columns.values()))
        padded = {name: column + ["null"] * (size - len(column)) for name, column in columns.items()}
        super().add_batch(**padded, **kwargs)

    def add(self, *, prediction: Any = None, reference: Any = None, **kwargs) -> None:
        """Adds a record to those that `compute` is going to compare: a synthetic one, a real one or one of both."""
        # A combination of metrics passes the records under the names of their columns.
        given = {"predictions": prediction, "references": reference, **kwargs}
        for name in self._feature_names():
            given[name] = "null" if given[name] is None else self._encode(name, [given[name]])[0]
        super().add(**given)


class TableMetric(RecordMetric):
    """
    A metric of tables. Records, and those of `holdout`, are dicts or JSON texts of one.

    Columns are told apart as by [`evaluate_table`], by the real rows. Columns of dtype `category` are categorical.
    """

    ENCODED = True  # whether `_score` gets tables of numbers, as [`encode_tables`] makes them

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._categories: set[str] = set()  # columns of which JSON does not tell that they are

    def _encode(self, name: str, records: Any) -> list[str]:
        if isinstance(records, pd.DataFrame):
            records = plain_table(records, name)
            if name == "references":
                self._categories.update(records.select_dtypes("category"))
        return super()._encode(name, records)

    def _prepare(
        self,
        predictions: list[dict | str],
        references: list[dict | str],
        holdout: Any = None,
        categorical: Iterable[str] | None = None,
        **options,
    ) -> dict[str, Any]:
        tables = {"train": _to_table("references", references)}
        if holdout is not None:
            tables["holdout"] = _to_table("holdout", _decode(self._encode("holdout", holdout)))
        tables["synthetic"] = _to_table("predictions", predictions)
        categorical = sorted({*(categorical or ()), *self._categories})
        self._categories.clear()
        if self.ENCODED:
            tables, categorical, notes = prepare_tables(tables, categorical)
            for note in notes:
                warnings.warn(note, stacklevel=2)
            encoded, categorical = encode_tables(tables, categorical)
            tables = dict(zip(tables, encoded))
        names = {"train": "references", "holdout": "holdout", "synthetic": "predictions"}
        return {names[name]: table for name, table in tables.items()} | {"categorical": categorical} | options


def _iterate(name: str, records: Any) -> Iterable[Any]:
    if isinstance(records, pd.DataFrame):
        check_columns(records, f"`{name}`")
        return records.astype(object).where(records.notna(), None).to_dict("records")
    if isinstance(records, Dataset):
        return records.to_list()
    if isinstance(records, (str, Mapping)) or not isinstance(records, Iterable):
        raise TypeError(
            f"`{name}` is of type {type(records).__name__}; pass a DataFrame, a Dataset, or a list of dicts or texts"
        )
    return records


def _to_json(value: Any) -> Any:
    """What JSON has no type for; datetimes under a key, so that they come back as such."""
    if value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, (datetime, np.datetime64)):
        moment = pd.Timestamp(value)
        return {DATETIME: isoformat(moment if moment.tz is None else moment.tz_convert("UTC"))}
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a value of type {type(value).__name__}, {value!r}")


def _from_json(value: dict) -> Any:
    return pd.Timestamp(value[DATETIME]) if value.keys() == {DATETIME} else value


def _decode(texts: Iterable[str]) -> list[dict | str]:
    """The records, without the nulls that filled them up."""
    records = (json.loads(text, object_hook=_from_json) for text in texts)
    return [record for record in records if record is not None]


def _to_table(name: str, records: list[dict | str]) -> pd.DataFrame:
    rows = []
    for index, record in enumerate(records):
        try:
            rows.append(json.loads(record) if isinstance(record, str) else record)
        except ValueError as error:
            raise ValueError(f"`{name}[{index}]` does not parse as JSON ({error}): {record[:80]!r}") from error
        if not isinstance(rows[-1], dict):
            raise ValueError(f"`{name}[{index}]` is no JSON object: {record[:80]!r}")
    return pd.DataFrame(rows)
