"""The notebooks in `examples/notebooks/`, run from their first cell to their last on a few rows."""

import ast
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient


EXAMPLES = Path(__file__).parents[1] / "examples"
DATA, TABLE = str(EXAMPLES / "data"), {"OUTPUT": "adult-model", "MAX_RECORDS": 300, "MAX_MINUTES": 0.03}
# What stands in place of the cell with the tag `parameters`
PARAMETERS = {
    "table": {"ADULT": DATA, **TABLE},
    "conditions_and_imputation": {"ADULT": DATA, **TABLE, "NUM_RECORDS": 50},
    "diffusion_lm": {
        "SENTENCES": f"{DATA}/sentences.jsonl",
        "OUTPUT": "my-diffusion-lm",
        "MAX_MINUTES": 0.05,
        "NUM_STEPS": 20,
    },
}
NOTEBOOKS = sorted((EXAMPLES / "notebooks").glob("*.ipynb"))


def read(path):
    return nbformat.read(path, as_version=4)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_stored_without_outputs(path):
    notebook = read(path)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None
    [parameters] = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]
    names = [node.targets[0].id for node in ast.parse(parameters.source).body]
    assert names == list(PARAMETERS[path.stem])


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path, tmp_path):
    notebook = read(path)
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", ()):
            cell.source = "\n".join(f"{name} = {value!r}" for name, value in PARAMETERS[path.stem].items())
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    plots = [
        output
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if "image/png" in output.get("data", {})
    ]
    assert len(plots) >= 2
