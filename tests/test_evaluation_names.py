"""What can be imported from the evaluation, and what an import loads."""

import subprocess
import sys

import pytest

import difflm_hf.evaluation


@pytest.mark.parametrize("name", difflm_hf.evaluation.__all__)
def test_names_are_there(name):
    assert getattr(difflm_hf.evaluation, name) is not None
    assert name in dir(difflm_hf.evaluation)


def test_other_names_are_not():
    with pytest.raises(AttributeError, match="'difflm_hf.evaluation' has no attribute 'evaluate_music'"):
        difflm_hf.evaluation.evaluate_music  # noqa: B018
    assert "difflm_hf" not in dir(difflm_hf.evaluation)


@pytest.mark.parametrize(
    ("statement", "libraries"),
    [
        ("import difflm_hf.evaluation", ["torch", "pandas", "xgboost", "matplotlib"]),
        ("from difflm_hf.evaluation.report.summary import summarize", ["torch", "pandas", "xgboost", "matplotlib"]),
        ("from difflm_hf.evaluation import judge_pairs, run_code", ["torch", "pandas", "xgboost", "matplotlib"]),
        ("from difflm_hf.evaluation import classifier_two_sample_test", ["torch", "sdmetrics", "matplotlib"]),
        ("from difflm_hf.evaluation import table_figures", ["xgboost", "sdmetrics", "difflm_hf.pipeline_difflm"]),
        ("from difflm_hf.evaluation import train_language_model", ["difflm_hf.training", "difflm_hf.pipeline_difflm"]),
    ],
)
def test_imports_load_what_they_need(statement, libraries):
    script = f"import sys\n{statement}\nprint(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not set(libraries) & set(result.stdout.split())
