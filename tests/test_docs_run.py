"""
The Python blocks of the pages in docs run: those of a page in order, as one script, on small models and data.

`<!-- not run: reason -->` in the line before a block leaves it out. Models of the Hub come from one on the loopback
interface, and the recipes are tiny: pages are run as they stand, and learn next to nothing.
"""

import json
import re
import shutil
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from huggingface_hub import HfApi
from test_docs import FENCE, ROOT
from test_training import save_pretrained_pair
from tiny import train
from tiny_diffusion_lm import RECIPE as DIFFUSION_LM_RECIPE

from difflm_hf import DiffLMPipeline
from difflm_hf.diffusion_lm.controls.classifier import EmbeddingClassifier
from difflm_hf.evaluation import evaluate_table, write_report
from difflm_hf.training import DIFFUSION_LM_RECIPES, DOCUMENT_RECIPES, PRIVATE_RECIPES, RECIPES


NOT_RUN = re.compile(r"<!-- not run: .+ -->\n\Z")
LM, ENCODER = "HuggingFaceTB/SmolLM2-135M", "google-bert/bert-base-uncased"


def code_of(page: Path) -> list:
    """The blocks of a page that are run, as code whose tracebacks name lines of the page."""
    text = page.read_text(encoding="utf-8")
    blocks = [m for m in FENCE.finditer(text) if m[1] == "python" and not NOT_RUN.search(text, 0, m.start())]
    return [compile("\n" * text.count("\n", 0, m.start(2)) + m[2], str(page), "exec") for m in blocks]


# The benchmarks show code that models wrote.
PAGES = [page for page in sorted(ROOT.glob("docs/*.md")) if page.stem != "benchmarks" and code_of(page)]


def write_lines(path: Path, records: list[dict]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def make_sentences() -> list[dict]:
    names, foods, areas = ("Cotto", "Aromi", "The Mill"), ("Japanese", "English", "French"), ("river", "city centre")
    return [
        {
            "text": f"{name} is a cheap {kind} near the {area}. It serves {food} food.",
            "attributes": {"name": name, "food": food},
        }
        for name, kind, area, food in product(names, ("pub", "restaurant"), areas, foods)
    ] * 6


def make_tools() -> list[dict]:
    """Their parameters have so many names that any name will do."""
    return [
        {
            "name": f"{verb}_{thing}",
            "description": f"{verb} the {thing}.",
            "parameters": {f"p{7 * k + i}": {"type": ["string", "boolean"][i % 2]} for i in range(1 + k % 5)},
        }
        for k, (_, verb, thing) in enumerate(product(range(10), ("get", "set"), ("user", "order", "price")))
    ]


@pytest.fixture(scope="module")
def small_recipes() -> None:
    """What pages train, they train by recipes of seconds."""
    brief = {"max_steps": 8}
    tables, documents = RECIPES["tiny"], DOCUMENT_RECIPES["tiny"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RECIPES, "small", replace(tables, min_steps=32))
        private = {"condition_size": 0, "min_steps": 8, "denoiser": {**tables.denoiser, **brief}}
        patch.setitem(PRIVATE_RECIPES, "small", replace(tables, **private))
        patch.setitem(DOCUMENT_RECIPES, "small", replace(documents, denoiser={**documents.denoiser, **brief}))
        arguments = {**DIFFUSION_LM_RECIPE.arguments, "max_steps": 40}
        config = {**DIFFUSION_LM_RECIPE.config, "max_sequence_length": 24}
        patch.setitem(DIFFUSION_LM_RECIPES, "small", replace(DIFFUSION_LM_RECIPE, arguments=arguments, config=config))
        teach = EmbeddingClassifier.teach
        patch.setattr(EmbeddingClassifier, "teach", lambda *args: teach(*args[:4], 20, *args[5:]))
        yield


@pytest.fixture(scope="module")
def shelf(tmp_path_factory, small_recipes, hub) -> Path:
    """A folder with the data and the models that pages speak of; the pretrained ones are on the Hub."""
    folder = tmp_path_factory.mktemp("shelf")
    (folder / "examples").mkdir()
    for path in ROOT.glob("examples/*.py"):
        shutil.copy(path, folder / "examples")
    (folder / "examples/data").mkdir()
    tables = {}
    for split, num_rows in {"train": 1200, "validation": 200, "test": 800}.items():
        tables[split] = pd.read_parquet(ROOT / f"examples/data/adult_{split}.parquet").head(num_rows)
        tables[split].to_parquet(folder / f"examples/data/adult_{split}.parquet")
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"age": rng.integers(18, 28, 300), "grade": rng.integers(1, 6, 300)})
    table.assign(city=rng.choice(["Ulm", "Bonn"], 300)).to_csv(folder / "table.csv", index=False)

    sentences, tools = make_sentences(), make_tools()
    write_lines(folder / "sentences.jsonl", sentences)
    write_lines(folder / "tools.jsonl", tools)
    for name, part in {"train": tools[::3], "test": tools[1::3], "synthetic": tools[2::3]}.items():
        write_lines(folder / f"{name}.jsonl", part)
    train(tables["train"], folder / "adult-model")
    train([{"text": record["text"]} for record in sentences], folder / "text-model")
    train(tools, folder / "tools-model", nested="json")
    scores = evaluate_table(tables["train"].head(300), tables["train"].tail(300), tables["test"].head(300))
    write_report(scores, folder / "report")

    save_pretrained_pair([json.dumps(record) for record in tools], folder / "pair", "llama", num_steps=4)
    for name, part in {LM: "decoder", ENCODER: "encoder"}.items():
        api = HfApi(token=hub.add_user(name.partition("/")[0]))
        api.create_repo(name)
        api.upload_folder(repo_id=name, folder_path=folder / "pair" / part)
    pipe = DiffLMPipeline.from_pretrained(folder / "adult-model")
    pipe.denoiser.push_to_hub(
        "user/adult-difflm", subfolder="denoiser", revision="more-steps", token=hub.add_user("user")
    )
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_runs(page, shelf, hub, tmp_path, monkeypatch):
    shutil.copytree(shelf, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", hub.add_user("user"))
    namespace = {"__name__": "__main__"}
    for code in code_of(page):
        exec(code, namespace)
