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


# Statements of one process, each with what neither it nor those before it load
LIGHT = ["torch", "pandas", "xgboost", "matplotlib"]
SCORES = [
    ("import difflm_hf.evaluation", LIGHT),
    ("from difflm_hf.evaluation.report.summary import summarize", LIGHT),
    ("from difflm_hf.evaluation import judge_pairs, run_code", LIGHT),
    ("from difflm_hf.evaluation import classifier_two_sample_test", ["torch", "sdmetrics", "matplotlib"]),
]
FIGURES = [
    ("from difflm_hf.evaluation import table_figures", ["xgboost", "sdmetrics", "difflm_hf.pipeline_difflm"]),
    ("from difflm_hf.evaluation import train_language_model", ["difflm_hf.training", "difflm_hf.pipeline_difflm"]),
]


@pytest.mark.slow
@pytest.mark.parametrize("statements", [SCORES, FIGURES])
def test_imports_load_what_they_need(statements):
    script = "\n".join(["import sys", *(f"{statement}\nprint(*sys.modules)" for statement, _ in statements)])
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    for (statement, libraries), loaded in zip(statements, done.stdout.splitlines(), strict=True):
        assert not {*libraries} & {*loaded.split()}, statement
