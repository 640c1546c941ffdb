"""A table, a model of it, and its peers: what the benchmarks of control share."""

from __future__ import annotations

import json
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd
import torch

from difflm_hf import DiffLMPipeline
from difflm_hf.evaluation import classifier_two_sample_test

from .speed import PEER, fit_peer
from .tables import MODELS, Model, find_python


SEED_SCRIPT = """
import json, sys
import pandas as pd
from mostlyai.engine import TabularARGN

workspace, folder, categorical, seed = sys.argv[1:]
dtypes = {name: str for name in json.loads(categorical)}
model = TabularARGN(workspace_dir=workspace, verbose=0, random_state=int(seed))
model._fitted = True
for k in range(int(open(f"{folder}/count").read())):
    table = pd.read_csv(f"{folder}/given-{k}.csv", dtype=dtypes, keep_default_na=False, na_values=[""])
    model.sample(seed_data=table).to_csv(f"{folder}/{k}.csv", index=False)
"""


@dataclass
class Setting:
    name: str
    train: pd.DataFrame
    test: pd.DataFrame
    categorical: list[str]
    pipe: DiffLMPipeline
    seed: int
    data: Path
    folder: Path
    environments: Path

    @cached_property
    def workspace(self) -> Path:
        """The TabularARGN, which is fitted where the folder has none."""
        fit_peer(find_python(MODELS[PEER], self.environments), self.data, self.folder / PEER)
        return self.folder / PEER / "workspace"

    def generate(self, num_records: int | None = None, **kwargs) -> pd.DataFrame:
        return self.pipe(num_records, generator=seeded(self.seed), output_type="pandas", **kwargs).records

    def c2st(self, real: pd.DataFrame, synthetic: pd.DataFrame) -> float:
        return classifier_two_sample_test(real, synthetic[real.columns], self.categorical, seed=self.seed)

    def begin_peer(self, tables: list[pd.DataFrame]) -> list[pd.DataFrame]:
        """Of each table as many rows by TabularARGN, that begin as its rows do."""
        with tempfile.TemporaryDirectory() as folder:
            for k, table in enumerate(tables):
                table.to_csv(Path(folder, f"given-{k}.csv"), index=False)
            Path(folder, "count").write_text(str(len(tables)))
            self._run(MODELS[PEER], "-c", SEED_SCRIPT, self.workspace, folder, json.dumps(self.categorical), self.seed)
            return [self._read(Path(folder, f"{k}.csv")) for k in range(len(tables))]

    def impute_by(self, peer: str, model: Model, table: pd.DataFrame, num_draws: int) -> list[pd.DataFrame]:
        """Draws of a peer of `benchmarks/models/imputers.py`."""
        script = Path(__file__).parent / "models" / "imputers.py"
        with tempfile.TemporaryDirectory() as folder:
            train, given = Path(folder, "train.csv"), Path(folder, "given.csv")
            self.train.to_csv(train, index=False)
            table.to_csv(given, index=False)
            names = json.dumps(self.categorical)
            self._run(model, script, peer, train, given, names, folder, self.seed, num_draws, self.workspace)
            return [self._read(path) for path in sorted(Path(folder).glob("[0-9]*.csv"))]

    def _run(self, model: Model, *arguments) -> None:
        command = [find_python(model, self.environments), *arguments]
        subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def _read(self, path: Path) -> pd.DataFrame:
        """With the values of the training split: what is none of them is null."""
        rows = pd.read_csv(path, dtype=dict.fromkeys(self.categorical, "str"), keep_default_na=False, na_values=[""])
        values = {name: {str(value): value for value in self.train[name].unique()} for name in self.categorical}
        return rows.assign(**{name: rows[name].map(of) for name, of in values.items()})


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
