"""What an import of the package takes, and what it makes known."""

import json
import subprocess
import sys

import pytest

import difflm_hf


def run(code: str) -> str:
    """Runs code in a new process, and returns what it prints."""
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_import_takes_no_time():
    modules = json.loads(run("import difflm_hf, json, sys; print(json.dumps(list(sys.modules)))"))
    assert not {"torch", "transformers", "diffusers", "pandas", "numpy"} & set(modules)


def test_names():
    assert {"DiffLMPipeline", "RecordSchema", "push_dataset", "register", "train"} < set(difflm_hf.__all__)
    assert set(difflm_hf.__all__) <= set(dir(difflm_hf))
    names = {}
    exec("from difflm_hf import *", names)
    assert set(difflm_hf.__all__) <= set(names)
    with pytest.raises(AttributeError, match="has no attribute 'DiffLMPipelines'"):
        difflm_hf.DiffLMPipelines  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'DiffLMPipelines'"):
        exec("from difflm_hf import DiffLMPipelines")


@pytest.mark.slow
def test_register():
    run("""
import difflm_hf, diffusers
from transformers import AutoConfig
from transformers.pipelines import PIPELINE_REGISTRY

difflm_hf.register()
difflm_hf.register()
assert "record-generation" in PIPELINE_REGISTRY.get_supported_tasks()
assert AutoConfig.for_model("difflm").model_type == "difflm"
assert diffusers.DiffLMPipeline is difflm_hf.DiffLMPipeline
""")
