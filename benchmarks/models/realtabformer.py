"""REaLTabFormer with its defaults, but for as few steps of training as minutes on two cores allow."""

from __future__ import annotations

import pandas as pd
from realtabformer import REaLTabFormer

from .harness import Data, run


MAX_STEPS = 100  # of 32 rows each


def fit(data: Data) -> REaLTabFormer:
    folders = {f"{name}_dir": str(data.work_dir / name) for name in ("checkpoints", "samples_save", "full_save")}
    model = REaLTabFormer(
        model_type="tabular", random_state=data.seed, max_steps=MAX_STEPS, save_strategy="no", **folders
    )
    # Without its critic, which samples between epochs, and would take hours.
    model.fit(data.train, device="cpu", n_critic=0)
    return model


def sample(model: REaLTabFormer, num_rows: int) -> pd.DataFrame:
    return model.sample(n_samples=num_rows, device="cpu")


if __name__ == "__main__":
    run(fit, sample)
