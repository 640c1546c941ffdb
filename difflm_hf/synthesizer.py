"""scikit-learn's face of the package: fit, sample, impute."""

from __future__ import annotations

import os
from collections.abc import Sequence
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.sparse import issparse
from sklearn.base import BaseEstimator
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from .control.conditions import Conditions
from .pipeline_difflm import DiffLMPipeline
from .records import RecordSchema
from .records.readers import check_columns
from .training import DataArguments, ModelArguments, PrivacyArguments, Recipe, train


class DiffLMSynthesizer(BaseEstimator):
    """
    A generator of records as scikit-learn has estimators: a thin class over [`train`] and [`DiffLMPipeline`].

    Args:
        recipe (`str` or [`Recipe`], defaults to `"small"`): Sizes and hyper-parameters, as of [`train`].
        max_minutes (`float`, *optional*): Time that training may take.
        schema ([`RecordSchema`], *optional*): Inferred when not given.
        data_args ([`DataArguments`], *optional*): How to take the records.
        model_args ([`ModelArguments`], *optional*): What to train: from scratch, or on which pretrained LM.
        privacy_args ([`PrivacyArguments`], *optional*): How little it may tell of a single record; takes a `schema`.
        random_state (`int` or `numpy.random.RandomState`, *optional*):
            The seed of `fit`, `sample` and `impute`. An integer gives the same records in each call, `None` others
            each time.

    Attributes:
        pipeline_ ([`DiffLMPipeline`]): The trained pipeline.
        n_features_in_ (`int`), feature_names_in_ (`numpy.ndarray`):
            The columns of `fit`, names where it got some; after [`DiffLMSynthesizer.load`] those of the pipeline. Of
            documents there are none.

    Example:

    ```python
    >>> from difflm_hf import DiffLMSynthesizer

    >>> synthesizer = DiffLMSynthesizer(max_minutes=5, random_state=0).fit(table)
    >>> records = synthesizer.sample(1000, conditions={"income": ">50K"})
    >>> synthesizer.save("my-model")
    ```
    """

    def __init__(
        self,
        recipe: str | Recipe = "small",
        *,
        max_minutes: float | None = None,
        schema: RecordSchema | None = None,
        data_args: DataArguments | None = None,
        model_args: ModelArguments | None = None,
        privacy_args: PrivacyArguments | None = None,
        random_state: int | np.random.RandomState | None = None,
    ):
        self.recipe = recipe
        self.max_minutes = max_minutes
        self.schema = schema
        self.data_args = data_args
        self.model_args = model_args
        self.privacy_args = privacy_args
        self.random_state = random_state

    def fit(self, X: Any, y: None = None) -> DiffLMSynthesizer:
        """
        Trains on records.

        Args:
            X (`pandas.DataFrame`, array of shape `(num_records, num_columns)`, or whatever [`train`] takes):
                The records; columns of arrays are named `x0`, `x1` and so on.
            y (*optional*): Not looked at.

        Returns:
            The synthesizer itself.

        Raises:
            `ValueError`: as of [`train`].
        """
        data = self._to_records(X, reset=True)
        with TemporaryDirectory() as folder:
            self.pipeline_ = train(
                data,
                folder,
                schema=self.schema,
                recipe=self.recipe,
                data_args=self.data_args,
                model_args=self.model_args,
                privacy_args=self.privacy_args,
                max_minutes=self.max_minutes,
                seed=self._draw_seed(),
            )
        # The folder is gone. What `fit` got is for [`DiffLMSynthesizer.load`].
        training = {**self.pipeline_.config.training, "of_array": self._of_array}
        self.pipeline_.register_to_config(_name_or_path="", training=training)
        return self

    def sample(
        self, n_samples: int | None = None, conditions: Conditions | None = None, **kwargs
    ) -> pd.DataFrame | np.ndarray:
        """
        Generates records.

        Args:
            n_samples (`int`, *optional*): How many; 1 when not given, or one for each row of conditions.
            conditions (`dict`, list of `dict`, or `pandas.DataFrame`, *optional*): What they satisfy, by column.
            kwargs (*optional*):
                Those of the call of [`DiffLMPipeline`]: `where`, `temperature`, `balance`, a `generator` in place of
                that of `random_state`, and so on; but for `output_type` and `return_dict`, as records are a table.

        Returns:
            `pandas.DataFrame`, or an array of shape `(n_samples, num_columns)` where `fit` got one.

        Raises:
            `ValueError`, `RuntimeError`: as of the call of [`DiffLMPipeline`].
            `TypeError`: for an argument that is none of its.
        """
        check_is_fitted(self)
        if given := [name for name in ("output_type", "return_dict") if name in kwargs]:
            raise TypeError(f"leave out {given[0]}: records come as fit got them; pipeline_ gives others")
        kwargs.setdefault("generator", self._generator())
        return self._like_fit(self.pipeline_(n_samples, conditions=conditions, output_type="pandas", **kwargs).records)

    def impute(
        self, X: pd.DataFrame | np.ndarray, **kwargs
    ) -> pd.DataFrame | np.ndarray | list[pd.DataFrame] | list[np.ndarray]:
        """
        Fills what is missing.

        Args:
            X (`pandas.DataFrame`, or an array where `fit` got one): Records with all columns; nulls are missing.
            kwargs (*optional*):
                Those of [`DiffLMPipeline.impute`]: `num_imputations`, `aggregate`, a `generator` in place of that of
                `random_state`, and so on.

        Returns:
            The same records without gaps; of several draws that are not aggregated a list of such.

        Raises:
            `ValueError`: as of [`DiffLMPipeline.impute`].
        """
        check_is_fitted(self)
        table = self._to_records(X, reset=False)
        kwargs.setdefault("generator", self._generator())
        filled = self.pipeline_.impute(table, **kwargs)
        return [self._like_fit(of) for of in filled] if isinstance(filled, list) else self._like_fit(filled)

    def save(self, folder: str | os.PathLike) -> None:
        """Saves the pipeline, for [`DiffLMSynthesizer.load`] and [`DiffLMPipeline.from_pretrained`]."""
        check_is_fitted(self)
        if os.path.isfile(folder):
            raise NotADirectoryError(f"{os.fspath(folder)} is a file; name a folder")
        self.pipeline_.save_pretrained(folder)

    @classmethod
    def load(cls, folder: str | os.PathLike, **kwargs) -> DiffLMSynthesizer:
        """
        A synthesizer that needs no `fit`, of any pipeline that was saved.

        Args:
            folder (`str` or `Path`): A folder, or a Hub id.
            kwargs (*optional*): Those of [`DiffLMSynthesizer`], such as `random_state`.

        Raises:
            `OSError`: when there is no such pipeline, or a file of it is missing or damaged.
        """
        synthesizer = cls(**kwargs)
        synthesizer.pipeline_ = DiffLMPipeline.from_pretrained(folder)
        synthesizer._of_array = (synthesizer.pipeline_.config.training or {}).get("of_array", False)
        schema = synthesizer.pipeline_.processor.schema
        if not schema.is_of_documents:
            synthesizer.n_features_in_ = len(schema)
        if not schema.is_of_documents and not synthesizer._of_array:
            synthesizer.feature_names_in_ = np.array(schema.names, dtype=object)
        return synthesizer

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.categorical = tags.input_tags.string = tags.input_tags.allow_nan = True
        return tags

    def _to_records(self, X: Any, reset: bool) -> Any:
        """What `train` and `impute` take. Sets the columns that are known of `fit` by `reset`, or compares them."""
        is_rows = _is_list(X) and any(_is_list(row) for row in X)
        is_array = is_rows or hasattr(X, "__array__") or issparse(X)  # sparse ones, to be refused by scikit-learn
        if isinstance(X, pd.DataFrame) or not is_array:
            if reset:
                self._of_array = False
            if isinstance(X, pd.DataFrame):
                check_columns(X, "the table")
                names = getattr(self, "feature_names_in_", ())
                is_moved = not reset and set(names) == set(X)  # the order says nothing of a table
                validate_data(self, X[list(names)] if is_moved else X, reset=reset, skip_check_array=True)
            return X
        array = validate_data(self, X, reset=reset, dtype=None, ensure_all_finite="allow-nan", ensure_min_samples=2)
        if reset:
            self._of_array = True
        return pd.DataFrame(array, columns=[f"x{k}" for k in range(array.shape[1])])

    def _like_fit(self, table: pd.DataFrame) -> pd.DataFrame | np.ndarray:
        return table.to_numpy() if self._of_array else table

    def _draw_seed(self) -> int:
        return int(check_random_state(self.random_state).randint(2**31))

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self._draw_seed())


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)
