"""What the synthesizers of SDV share: the kinds of columns from info.json, all else by default."""

from __future__ import annotations

from functools import partial
from typing import Any

import pandas as pd
from sdv.metadata import Metadata

from .harness import Data, run


def fit(synthesizer: type, data: Data) -> Any:
    columns = {
        name: {"sdtype": "categorical" if name in data.categorical else "numerical"} for name in data.train.columns
    }
    model = synthesizer(Metadata.load_from_dict({"tables": {"table": {"columns": columns}}}))
    model.fit({"table": data.train})
    return model


def sample(model: Any, num_rows: int) -> pd.DataFrame:
    return model.sample(num_rows)["table"]


def run_synthesizer(synthesizer: type) -> None:
    run(partial(fit, synthesizer), sample)
