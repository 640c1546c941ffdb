"""The short form of `tests/soak.py`."""

import os

import pytest
from soak import soak


@pytest.mark.slow
def test_soak(tmp_path):
    counts = soak(kills=1, full_disks=1 if os.geteuid() == 0 else 0, seed=1, work=tmp_path)
    assert set(counts) == {"train", "generate"}
    for of_task in counts.values():
        assert of_task["killed"] >= 1 and of_task["whole after kills"] >= 1 and of_task["whole beside another"] == 1
