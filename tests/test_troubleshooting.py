"""The page of troubleshooting: what it lists is what is told, and each of its entries is provoked here."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pandas as pd
import pytest
import tiny_diffusion_lm
from conftest import call
from tiny import make_table, train

from difflm_hf import DiffLMPipeline
from difflm_hf.control import Between
from difflm_hf.diffusion_lm import DiffusionLMPipeline
from difflm_hf.diffusion_lm.annotation import load_spacy
from difflm_hf.records import RecordSchema
from difflm_hf.training import RECIPES


PAGE = Path(__file__).parents[1] / "docs" / "troubleshooting.md"
ENTRIES = re.findall(r"^\| `(.+?)` \| .+ \| .+ \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
TABLE = make_table(60).drop(columns="nothing")


@pytest.fixture(scope="module")
def pipe(tiny_run) -> DiffLMPipeline:
    return DiffLMPipeline.from_pretrained(tiny_run)


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> tuple[Path, DiffusionLMPipeline]:
    """A Diffusion-LM, and its folder."""
    pipe, folder = tiny_diffusion_lm.make_pipeline(), tmp_path_factory.mktemp("troubles") / "texts"
    pipe.save_pretrained(folder)
    return folder, pipe


class Desk:
    """Where someone makes mistakes: a folder with a table, models, and the command."""

    def __init__(self, model: Path, pipe: DiffLMPipeline, texts: tuple, hub, patch: pytest.MonkeyPatch, capsys):
        self.model, self.pipe, (self.texts, self.writer), self.hub, self.patch = model, pipe, texts, hub, patch
        self.capsys = capsys

    def command(self, *arguments) -> str:
        """What the command tells when it fails."""
        self.capsys.readouterr()
        assert call(self.patch, *arguments) == 1
        last = self.capsys.readouterr().err.splitlines()[-1]
        assert last.startswith("error: ")
        return last.removeprefix("error: ")

    def schema(self, name: str, content: str | bytes, *options) -> str:
        Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return self.command("schema", name, *options)

    def train(self, *options, data: object = "table.csv", folder: str | Path = "new") -> str:
        return self.command("train", data, "--output-dir", folder, "--recipe", "tiny", *options)

    def train_column(self, values: list, *options) -> str:
        pd.DataFrame({"x": values, "y": range(len(values))}).to_csv("column.csv", index=False)
        return self.train(*options, data="column.csv")

    def train_schema(self, edit: Callable[[dict], None]) -> str:
        """With a schema that was edited."""
        fields = RecordSchema.infer(pd.read_csv("table.csv")).to_dict()
        edit({field["name"]: field for field in fields})
        Path("schema.json").write_text(json.dumps(fields))
        return self.train("--schema", "schema.json")

    def train_texts(self, texts: dict, *options) -> str:
        pd.DataFrame(texts).to_csv("texts.csv", index=False)
        arguments = ("--model", "diffusion-lm", "--recipe", "small", *options)
        return self.command("train", "texts.csv", "--output-dir", "new", *arguments)

    def generate(self, *options, model: str | Path | None = None, output: str = "new.csv", number: int = 5) -> str:
        return self.command("generate", model or self.model, "--num-records", number, "--output", output, *options)

    def where(self, where: str) -> str:
        return self.generate("--where", where)

    def conditions(self, **conditions) -> str:
        return self.call(self.pipe, 5, conditions=conditions)

    def impute(self, table: pd.DataFrame, output: str = "new.csv") -> str:
        table.to_csv("gaps.csv", index=False)
        return self.command("impute", self.model, "gaps.csv", "--output", output)

    def evaluate(self, synthetic: pd.DataFrame, *options) -> str:
        synthetic.to_csv("synthetic.csv", index=False)
        return self.command(
            "evaluate", "--real", "table.csv", "--synthetic", "synthetic.csv", "--output", "report", *options
        )

    def push(self, *arguments) -> str:
        return self.command("push", self.model, *arguments)

    def call(self, function: Callable, *arguments, **keywords) -> str:
        """What a function tells when it fails."""
        with pytest.raises((ValueError, TypeError, OSError, ImportError, RuntimeError)) as error:
            function(*arguments, **keywords)
        return str(error.value)

    def without(self, module: str) -> "Desk":
        """Where a module is not installed."""
        self.patch.setitem(sys.modules, module, None)
        return self

    def offline(self) -> "Desk":
        self.patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        return self

    def without_token(self) -> "Desk":
        self.patch.delenv("HF_TOKEN", raising=False)
        return self

    def losing_answers(self, repo_id: str) -> "Desk":
        for method in ("GET", "HEAD"):
            self.hub.lose_answer(method, repo_id, times=99)
        return self

    def spoilt(self, name: str, content: bytes | None) -> str:
        """A copy of the model in which a file is another one, or missing."""
        shutil.copytree(self.model, "spoilt")
        (Path("spoilt") / name).unlink()
        if content is not None:
            (Path("spoilt") / name).write_bytes(content)
        return "spoilt"

    def filled_folder(self) -> str:
        Path("filled").mkdir()
        Path("filled", "mine.txt").touch()
        return "filled"


@pytest.fixture
def desk(tiny_run, pipe, texts, hub, monkeypatch, capsys, tmp_path) -> Desk:
    monkeypatch.chdir(tmp_path)
    TABLE.to_csv("table.csv", index=False)
    return Desk(tiny_run, pipe, texts, hub, monkeypatch, capsys)


def twice_into_a_folder(desk: Desk) -> str:
    assert call(desk.patch, "generate", desk.model, "--num-records", 5, "--output", "shards") == 0
    return desk.generate("--seed", 1, output="shards")


DATES = [f"{i % 28 + 1:02}.{i % 12 + 1:02}.{1990 + i % 30}" for i in range(400)]
DOCUMENTS = [json.dumps({"id": i, "body": {"a": "x" * i, "b": [1] * i}}) for i in range(60)]
QUICK = RECIPES["quick"]
RARE = "--allow-rare-categories"

# Mistakes, by a part of the message that is in one entry alone
MISTAKES: dict[str, Callable[[Desk], str]] = {
    # Files
    ": no such file": lambda d: d.command("schema", "tabel.csv"),
    "is a folder; name a file of it": lambda d: d.command("schema", "."),
    "URLs are of databases": lambda d: d.command("schema", "https://example.org/table.csv"),
    ".json, .jsonl, .arrow, .feather, .xlsx": lambda d: d.schema("table.ods", ""),
    "the file is empty": lambda d: d.schema("empty.csv", ""),
    "has no rows (columns": lambda d: d.schema("header.csv", "age,color\n"),
    "not a list of objects": lambda d: d.schema("one.json", '{"age": 3}'),
    "as jsonl (line": lambda d: d.schema("cut.jsonl", '{"age": 3}\n{"age":\n'),
    "and the header": lambda d: d.schema("ragged.csv", "a,b\n1,2\n3,4,5\n"),
    "leaves a single column": lambda d: d.schema("semicolons.csv", "a;b\n1;2\n", "--separator", ","),
    "opens a quote": lambda d: d.schema("quote.csv", 'a,b\n1,"x\n3,4\n'),
    "that are no UTF-8": lambda d: d.schema("joined.csv", "a,b\nJörg,1\n".encode() * 20 + b"J\xf6rg,1\n"),
    "stands more than once": lambda d: d.schema("twice.csv", "a,a\n1,2\n"),
    "give query": lambda d: d.command("schema", "sqlite:///shop.db"),
    # Columns and types
    "mixed or unsupported types": lambda d: d.call(RecordSchema.infer, pd.DataFrame({"x": [1, "x", 2.5]})),
    "most values are numbers": lambda d: d.train_column([i * 7 if i % 9 else f"n{i}" for i in range(400)]),
    "most values are dates": lambda d: d.train_column([v if i % 9 else f"about {i}" for i, v in enumerate(DATES)]),
    "scipen": lambda d: d.train_column([i * 1000 if i else "1e+05" for i in range(40)], "--strict"),
    "an infinite number": lambda d: d.call(RecordSchema.infer, pd.DataFrame({"x": [1.0, np.inf]})),
    "to take as a category": lambda d: d.train("--categorical", "zone"),
    # Schemas
    "cannot be read: No such file": lambda d: d.train("--schema", "none.json"),
    ": no JSON (": lambda d: Path("schema.json").write_text("[{},]") and d.train("--schema", "schema.json"),
    "Field 'type' expected": lambda d: d.train_schema(lambda fields: fields["age"].update(type="int")),
    "; remove it)": lambda d: d.train_schema(lambda fields: fields["age"].update(kind="integer")),
    "make them agree": lambda d: d.train_schema(lambda fields: fields["age"].update(name="years")),
    "or change the schema": lambda d: d.train_schema(lambda fields: fields["color"]["categories"].remove("red")),
    # Training
    "or resume the run in it": lambda d: d.train(folder=d.filled_folder()),
    "holds a run with": lambda d: d.train("--resume", "--seed", 9, folder=shutil.copytree(d.model, "run")),
    "recipe=": lambda d: d.train("--recipe", "huge"),
    "anything to learn": lambda d: (
        pd.DataFrame({"id": range(200), "x": None}).to_csv("empty.csv", index=False),
        d.train("--find-rules", data="empty.csv"),
    )[1],
    "minutes from 0 on": lambda d: d.train("--max-minutes", -1),
    "has diverged": lambda d: d.call(
        train, TABLE, "fast", recipe=replace(QUICK, vae=QUICK.vae | {"learning_rate": 1e30})
    ),
    "in only one of data and validation": lambda d: (
        TABLE.drop(columns="age").to_csv("few.csv"),
        d.train("--validation", "few.csv"),
    )[1],
    "have categories of fewer than": lambda d: d.train("--min-category-count", 20),
    "records have numbers or dates, fewer than twice": lambda d: d.train("--min-category-count", 50),
    "and max_length is": lambda d: (
        Path("documents.jsonl").write_text("\n".join(DOCUMENTS)),
        d.train("--nested", "json", "--max-length", 20, data="documents.jsonl"),
    )[1],
    "is no base model with a tokenizer": lambda d: d.train("--base-model", "alice/mistyped"),
    "are of a base_model": lambda d: d.train("--tuning", "lora"),
    # Generation
    "with what was asked for": lambda d: d.generate(model="alice/mistyped"),
    "… offline mode is enabled. …": lambda d: d.offline().generate(model="alice/model"),
    "is out of reach": lambda d: d.losing_answers("alice/lost").generate(model="alice/lost"),
    "Repo id must be in the form": lambda d: d.generate(model="models/of/mine"),
    "holds no pipeline": lambda d: d.generate(model=d.filled_folder()),
    "is damaged": lambda d: d.generate(model=d.spoilt("vae/model.safetensors", b"cut")),
    "is missing; copy": lambda d: d.generate(model=d.spoilt("vae/model.safetensors", None)),
    "give --num-records": lambda d: d.command("generate", d.model, "--output", "new.csv"),
    "give --output": lambda d: d.command("generate", d.model, "--num-records", 5),
    "a folder has no ending": lambda d: d.generate(output="new.txt"),
    "has no manifest.json": lambda d: d.generate(output=d.filled_folder()),
    "holds records of": twice_into_a_folder,
    "seed=": lambda d: d.generate("--seed", 2**64),
    "dtype=": lambda d: d.generate("--dtype", "float16"),
    "num_records=": lambda d: d.generate(number=0),
    # Conditions
    "where=…: no column": lambda d: d.where("color == red"),
    "where=… cannot be read": lambda d: d.where("color = 'red'"),
    "to put a condition on": lambda d: d.conditions(colour="red"),
    "did you mean": lambda d: d.where("color == 'rad'"),
    "is not an integer between": lambda d: d.conditions(age="thirty"),
    "are next to it": lambda d: d.call(d.pipe, conditions=pd.DataFrame({"age": [24, 30], "color": "red"})),
    "its bounds are reversed": lambda d: d.conditions(age=Between(40, 30)),
    "widen the condition": lambda d: d.where("age > 200"),
    "which takes no conditions": lambda d: d.where("note == 'x'"),
    "the conditions are too rare": lambda d: d.call(d.pipe, 5, score=lambda records: records["age"] > 1000),
    # Imputation
    "with None where nothing is known": lambda d: d.impute(make_table(9).drop(columns="age")),
    "which the model would know": lambda d: d.impute(make_table(9).assign(zone=1)),
    "is to be filled": lambda d: d.call(d.pipe.impute, [{"age": 30}]),
    "has no ending; name a file": lambda d: d.impute(make_table(9), output="new"),
    # Evaluation
    "max_rows=": lambda d: d.evaluate(TABLE, "--holdout", "table.csv", "--max-rows", 0),
    "is none of table, json, code, text": lambda d: d.evaluate(TABLE, "--kind", "tables"),
    "a table needs --holdout": lambda d: d.evaluate(TABLE),
    "add these columns": lambda d: d.evaluate(TABLE[["age"]], "--holdout", "table.csv"),
    "there is no target": lambda d: d.evaluate(TABLE, "--holdout", "table.csv", "--target", "wealth"),
    "for figures to mean much": lambda d: d.evaluate(TABLE.head(5), "--holdout", "table.csv"),
    "name one by --column": lambda d: d.evaluate(TABLE, "--kind", "text"),
    # The Hub
    "may give people away": lambda d: d.push("alice/model"),
    "no token found": lambda d: d.without_token().push("model", RARE),
    "Cannot reach …: offline": lambda d: d.offline().push("alice/model", RARE),
    "Repo id must use": lambda d: d.push("alice/my model", RARE),
    "holds no evaluation": lambda d: d.push("alice/model", RARE, "--evaluation", d.filled_folder()),
    # Diffusion-LM
    "the data has no column": lambda d: d.train_texts({"sentence": ["a b", "a b c"]}),
    "no word of the texts occurs": lambda d: d.train_texts({"text": ["a b", "c d"]}),
    "length=": lambda d: d.generate("--length", 99, model=d.texts, output="new.jsonl"),
    "does not know the word": lambda d: d.call(d.writer, infill="the purple [mask] ."),
    "has no gap": lambda d: d.call(d.writer, infill="the red cat."),
    "a Diffusion-LM does not take it": lambda d: d.generate("--top-p", 0.5, model=d.texts, output="new.jsonl"),
    # The page
    "minutes above 0": lambda d: d.command("app", "--max-minutes", 0),
    "is no size of a file": lambda d: d.command("app", "--max-file-size", "huge"),
    # What is not installed
    "openpyxl": lambda d: d.without("openpyxl").schema("table.xlsx", b"PK"),
    "databases need SQLAlchemy": lambda d: d.without("sqlalchemy").command("schema", "sqlite:///a.db", "--query", "a"),
    "needs the driver": lambda d: d.without("MySQLdb").command("schema", "mysql://u@host/shop", "--query", "a"),
    "spaCy is needed": lambda d: d.without("spacy").call(load_spacy),
    "needs gradio": lambda d: d.without("gradio").command("app", d.model),
}


def pattern_of(entry: str) -> re.Pattern:
    return re.compile(".*".join(map(re.escape, entry.split("…"))), re.DOTALL)


def test_page_and_mistakes_are_of_each_other():
    assert len(ENTRIES) >= 30
    assert len(set(ENTRIES)) == len(ENTRIES) == PAGE.read_text(encoding="utf-8").count("\n| `")
    for part in MISTAKES:
        assert sum(part in entry for entry in ENTRIES) == 1, part
    for entry in ENTRIES:
        assert sum(part in entry for part in MISTAKES) == 1, entry


@pytest.mark.parametrize("entry", ENTRIES)
def test_message_is_as_the_page_has_it(entry, desk):
    [mistake] = [mistake for part, mistake in MISTAKES.items() if part in entry]
    message = " ".join(mistake(desk).split())
    assert pattern_of(entry).fullmatch(message), message


def test_excel_files_are_refused_before_the_work(desk):
    message = desk.without("openpyxl").generate(model="none", output="new.xlsx")
    assert message == "Excel files need openpyxl; pip install 'difflm_hf[excel]'"


def test_errors_hide_passwords(desk):
    assert "secret" not in desk.command("schema", "mysql://me:secret@host/shop")
    assert "secret" not in desk.without("MySQLdb").command("schema", "mysql://me:secret@host/shop", "--query", "a")
