"""TabularARGN of mostlyai-engine, with its defaults. It validates on rows of its own choice, of both splits."""

from __future__ import annotations

import pandas as pd
from mostlyai.engine import TabularARGN

from .harness import Data, run


def fit(data: Data) -> TabularARGN:
    table = pd.concat([data.train, data.valid], ignore_index=True)
    table[data.categorical] = table[data.categorical].astype(str)
    model = TabularARGN(verbose=0, random_state=data.seed)
    model.fit(table)
    return model


def sample(model: TabularARGN, num_rows: int) -> pd.DataFrame:
    return model.sample(n_samples=num_rows)


if __name__ == "__main__":
    run(fit, sample)
