"""Cards of the Hub: what they say, what they say is not known, and what they must not say."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from diffusers import EDMDPMSolverMultistepScheduler
from huggingface_hub import DatasetCard, EvalResult, ModelCard
from jinja2 import Environment, nodes
from markdown_it import MarkdownIt
from tiny import RECIPES

from difflm_hf import DiffLMDenoiser, DiffLMPipeline, DiffLMProcessor, Field, JSONCodec, RecordSchema
from difflm_hf.evaluation import evaluate_table, summarize, table_figures, write_report
from difflm_hf.hub import cards
from difflm_hf.hub.cards import dataset_card, model_card, plot_files
from difflm_hf.training.build import build_row_model


# In one record each, and nowhere else.
PLANTED = {
    "name": "Zacharias Quellmalz",
    "city": "Unterammerfeld",
    "salary": 987654.25,
    "born": "1907-03-02",
    "visits": 54321,
}
TRAINING = {
    "date": "2026-11-21",
    "data": {
        "source": "people.csv",
        "fingerprint": "sha256:0123abcd",
        "num_records": 12345,
        "num_validation_records": 678,
    },
    "columns": [
        {"name": "name", "type": "text", "nullable": False, "max_length": 24},
        {
            "name": "city",
            "type": "category",
            "nullable": True,
            "num_categories": 4,
            "common": ["Ulm", "Bonn"],
            "rarest": 1,
        },
        {"name": "salary", "type": "number", "nullable": False, "range": [1000.5, 5000.5]},
        {"name": "born", "type": "datetime", "nullable": False, "range": ["1960-01-01", "1990-01-01"]},
        {"name": "visits", "type": "integer", "nullable": False, "range": [2, 37]},
        {"name": "member", "type": "boolean", "nullable": False},
    ],
    "arguments": {"recipe": "small", "seed": 5, "max_minutes": None, "min_category_count": 1},
    "phases": [
        {
            "name": "autoencoder",
            "arguments": {"learning_rate": 0.00123},
            "num_steps": 1610,
            "num_epochs": 14.0,
            "seconds": 90.1,
            "metrics": {"eval_bound": 28.31},
        },
        {
            "name": "latent diffusion",
            "arguments": {"ema_decay": 0.987},
            "num_steps": 8000,
            "num_epochs": 70.5,
            "seconds": 60.0,
            "metrics": {"eval_loss": 0.4123},
        },
    ],
    "hardware": {"processor": "x86_64", "num_cpus": 2, "gpu": None},
    "energy_kwh": 0.0123,
    "versions": {"difflm_hf": "0.1.0", "torch": "2.13.0"},
}
HOSTILE = [
    "a|b`c",
    "a\\|b",
    "line\nbreak",
    "<script>alert(1)</script>",
    "---",
    "| --- |",
    "👨‍👩‍👧 family",
    "`",
    "``a``",
    "*bold* _it_ [l](//x.y)",
    "{{ name }} {% raw %}",
    "$x$ &amp; \\",
    "half \ud800",
    "x" * 300,
]
SHOWN = [("x" * 39 + "…") if len(name) > 40 else name.replace("\n", "↵").replace("\ud800", "?") for name in HOSTILE]


class Page(HTMLParser):
    """A card's body as the Hub shows it: its tags, what is in code, and the texts of the rows of its tables."""

    def __init__(self, card):
        super().__init__()
        self.tags, self.codes, self.rows, self.text, self.inside = [], [], [], "", []
        self.feed(MarkdownIt("commonmark").enable("table").render(card.text))

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.inside.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        elif tag == "code":
            self.codes.append("")

    def handle_endtag(self, tag):
        while self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data):
        self.text += data
        if "code" in self.inside:
            self.codes[-1] += data
        if "tr" in self.inside and {"td", "th"} & set(self.inside):
            self.rows[-1][-1] += data


def make_table(num_rows: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "name": [f"person {x:.6f}" for x in rng.random(num_rows)],
            "city": rng.choice(["Ulm", "Bonn", "Gera"], num_rows),
            "salary": np.round(rng.lognormal(8, 0.5, num_rows), 2),
            "born": (pd.Timestamp("1960-01-01") + pd.to_timedelta(rng.integers(0, 9999, num_rows), "D")).strftime(
                "%Y-%m-%d"
            ),
            "visits": rng.poisson(20, num_rows),
            "member": rng.random(num_rows) < 0.3,
        }
    )


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return pd.concat([make_table(120, 0), pd.DataFrame([{**PLANTED, "member": True}])], ignore_index=True)


@pytest.fixture(scope="module")
def report(table, tmp_path_factory):
    """Of synthetic rows with copies of the planted values, and others that are out of bounds."""
    synthetic, holdout = make_table(120, 1), make_table(120, 2)
    synthetic.loc[:1, "name"] = PLANTED["name"]
    synthetic.loc[2, "salary"] = 10 * PLANTED["salary"]
    scores = evaluate_table(synthetic, table, holdout, target="member", num_seeds=1, n_jobs=1)
    assert scores["diversity"]["missed"]["city"] == [PLANTED["city"]]
    assert str(10 * PLANTED["salary"]) in str(scores["validity"]["examples"]["salary"])
    return write_report(
        scores, tmp_path_factory.mktemp("report"), table_figures(synthetic, table, holdout, scores)
    ).parent


def make_pipeline(table: pd.DataFrame, training: dict | None = None, **config) -> DiffLMPipeline:
    """A small model that is not trained."""
    processor = DiffLMProcessor.from_records(table)
    vae = build_row_model(processor, RECIPES["tiny"])
    vae.config.update(config)
    denoiser = DiffLMDenoiser(latent_size=vae.config.latent_size, **RECIPES["tiny"].denoiser_config)
    pipeline = DiffLMPipeline(vae, denoiser, EDMDPMSolverMultistepScheduler(), processor)
    pipeline.register_to_config(training=training)
    return pipeline


@pytest.fixture(scope="module")
def pipeline(table) -> DiffLMPipeline:
    return make_pipeline(table, TRAINING)


@pytest.fixture(scope="module")
def unknown(table) -> DiffLMPipeline:
    return make_pipeline(table)


def edited(report, tmp_path, **sections):
    """A copy of a report with other scores."""
    folder = shutil.copytree(report, tmp_path / "edited")
    scores = json.loads((folder / "report.json").read_text()) | sections
    (folder / "report.json").write_text(json.dumps(scores))
    return folder


def test_metadata(pipeline, report):
    card = model_card(
        pipeline, "user/people", report, license="apache-2.0", datasets=["user/rows"], language="de", tags=["people"]
    )
    again = ModelCard(str(card))
    assert str(again) == str(card)
    data = again.data.to_dict()
    assert {name: data[name] for name in ("license", "language", "datasets", "library_name", "pipeline_tag")} == {
        "license": "apache-2.0",
        "language": "de",
        "datasets": ["user/rows"],
        "library_name": "difflm_hf",
        "pipeline_tag": "other",
    }
    assert {"difflm", "tabular", "synthetic-data", "latent-diffusion", "people"} == set(data["tags"])
    assert "base_model" not in data
    scores = json.loads((report / "report.json").read_text())
    results = {result.metric_type: result for result in again.data.eval_results}
    assert all(isinstance(result, EvalResult) for result in results.values())
    assert len(results) == len(again.data.eval_results) == len(summarize(scores))
    assert results["c2st"].metric_value == pytest.approx(scores["fidelity"]["c2st"], abs=1e-6)
    assert results["auc"].metric_value == pytest.approx(scores["utility"]["synthetic"]["auc"]["mean"], abs=1e-6)
    assert (results["c2st"].dataset_type, results["c2st"].dataset_name) == ("user/rows", "people.csv")
    assert again.data.model_name == "people"


def test_what_is_recorded_is_told(pipeline):
    page = Page(model_card(pipeline, "user/people", license="mit"))
    assert "not recorded" not in page.text.replace("Collected from whom, when and how: not recorded", "")
    for expected in ("people.csv", "sha256:0123abcd", "mit", "0.00123", "ema_decay", "soft_prompt"):
        assert expected in page.codes
    for expected in ("2026-11-21", "12,345", "678", "1,610", "28.31", "0.4123", "0.0123 kWh", "x86_64; no GPU"):
        assert expected in page.text
    assert "3 minutes" in page.text and "torch 2.13.0" in page.text
    assert ["city", "category, may be missing", "4 categories: Ulm, Bonn; records of the rarest: 1"] in page.rows
    assert ["born", "datetime", "1960-01-01 to 1990-01-01"] in page.rows
    assert ["name", "text", "at most 24 characters"] in page.rows
    assert ["member", "boolean", "true or false"] in page.rows
    assert "These columns have categories in fewer than 10 records: city." in page.text
    code = page.text.split("import torch")[1].split("records\n")[0]
    assert 'from_pretrained("user/people")' in code and len(code.splitlines()) <= 5


def test_what_is_unknown_is_said_to_be(unknown):
    card = model_card(unknown)
    page = Page(card)
    for name in ("Trained on", "Records", "Source", "Fingerprint", "Training records", "Date", "Time", "Hardware"):
        assert f"{name}: not recorded" in page.text
    assert "Versions: not recorded" in page.text
    assert "Licence of the weights: not stated" in page.text
    assert "Energy: not measured" in page.text
    assert "Privacy: not measured" in page.text
    assert "Whether rare ones were left out is not recorded." in page.text
    assert "Fidelity, utility, privacy, validity and diversity are not measured." in page.text
    assert "difflm evaluate --real" in page.text
    assert ["city", "category"] in page.rows
    assert not {"license", "model-index", "datasets", "base_model"} & set(card.data.to_dict())
    assert "None" not in card.text and "Undefined" not in card.text
    partial = {"phases": [{"name": "autoencoder"}], "columns": [{"name": "a", "type": "category"}], "hardware": {}}
    unknown.register_to_config(training=partial)
    try:
        page = Page(model_card(unknown))
    finally:
        unknown.register_to_config(training=None)
    assert ["autoencoder", *["not recorded"] * 4] in page.rows
    unseen = "category, whether any is missing: not recorded"
    assert ["a", unseen, "not recorded categories; records of the rarest: not recorded"] in page.rows


@pytest.mark.parametrize("path", sorted(Path(cards.__file__).parent.glob("*.jinja")), ids=lambda path: path.name)
def test_every_condition_has_an_else(path):
    """Without one, its value is undefined, which is written as not recorded."""
    conditions = Environment().parse(path.read_text(encoding="utf-8")).find_all(nodes.CondExpr)
    assert all(condition.expr2 is not None for condition in conditions)


def test_json_records(pipeline):
    tokenizer = pipeline.processor.tokenizer
    processor = DiffLMProcessor(tokenizer, tokenizer, JSONCodec(pipeline.processor.schema))
    parts = {**pipeline.components, "processor": processor}
    text = model_card(DiffLMPipeline(**parts)).text
    assert "Each is valid JSON" in text and "quantiles" not in text and "vocabulary learnt" not in text


@pytest.mark.parametrize("min_count, expected", [(1, "None was left out"), (12, "Those in fewer than 12 records")])
def test_rare_categories(table, min_count, expected):
    training = {**TRAINING, "arguments": {"min_category_count": min_count}}
    assert expected in model_card(make_pipeline(table, training)).text


def test_no_training_record_is_told(pipeline, unknown, report, table):
    schema = pipeline.processor.schema
    assert PLANTED["city"] in schema["city"].categories and schema["visits"].maximum == PLANTED["visits"]
    for data_plots in (False, True):
        texts = [
            model_card(pipeline, "user/people", report, include_data_plots=data_plots),
            model_card(unknown, evaluation=report, include_data_plots=data_plots),
            dataset_card(schema, 120, evaluation=report, include_data_plots=data_plots),
        ]
        for card in map(str, texts):
            for value in PLANTED.values():
                assert str(value) not in card
                assert f"{value:,}" not in card if isinstance(value, (int, float)) else True
            assert not re.search(r"person 0\.\d+", card)


def test_hostile_names(table, report, tmp_path):
    training = json.loads(json.dumps(TRAINING))
    training["columns"] = [
        {"name": name, "type": "category", "nullable": True, "num_categories": 2, "common": HOSTILE, "rarest": 3}
        for name in HOSTILE
    ]
    training["data"]["source"] = "x|`\n---\nlicense: mit\n<script>.csv"
    alarm = f"the rest of a record and the synthetic rows disclose {HOSTILE[3]!r}; likewise {HOSTILE[0]!r}, '---'"
    scores = json.loads((report / "report.json").read_text())
    privacy = {**scores["privacy"], "alarms": [alarm, "<img src=x> *"]}
    folder = edited(report, tmp_path, privacy=privacy, settings={"target": HOSTILE[0], "log_target": False})
    card = model_card(make_pipeline(table, training), "user/m__x__", folder)
    page = Page(card)
    rows = page.rows[1 : len(HOSTILE) + 1]
    assert [row[0] for row in rows] == SHOWN
    assert {*map(tuple, (row[1:] for row in rows))} == {
        ("category, may be missing", f"2 categories: {', '.join(SHOWN)}; records of the rarest: 3")
    }
    assert "x|`↵---↵license: mit↵<script>.csv" in page.codes
    assert not {"script", "em", "hr"} & set(page.tags) and page.tags.count("img") == 2
    assert page.tags.count("h1") == 1 and "m__x__" in page.text
    assert "license" not in card.data.to_dict()
    assert card.data.eval_results[0].dataset_name == "x|`↵---↵license: mit↵<script>.csv"
    assert f"disclose {SHOWN[3]}; likewise {SHOWN[0]}, ---" in page.text and "<img src=x> *" in page.text

    names = [name for name in HOSTILE if "\ud800" not in name]  # which no file of a dataset can hold
    page = Page(dataset_card(RecordSchema([Field(name, "integer", dtype="int64") for name in names]), 5))
    assert [row[0] for row in page.rows[1 : len(names) + 1]] == [name for name in SHOWN if name != "half ?"]


def test_evaluation_figures_and_plots(pipeline, report):
    card = model_card(pipeline, "user/people", report)
    page = Page(card)
    scores = json.loads((report / "report.json").read_text())
    for row in summarize(scores):
        assert [row.name, row.value, row.reference or "–", row.good] in page.rows
        assert row.meaning in page.text
    assert "120 synthetic records were compared with 121 training records and 120 real ones" in page.text
    paths = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", card.text)
    assert paths == ["plots/correlations.png", "plots/distances.png"] == list(plot_files(report))
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in plot_files(report).values())
    # Plots of single records and of all categories need permission.
    everything = model_card(pipeline, "user/people", report, include_data_plots=True)
    paths = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", everything.text)
    assert paths == [f"plots/{name}.png" for name in ("marginals", "correlations", "map", "distances")]
    assert list(plot_files(report, include_data_plots=True)) == paths


def test_alarms_come_first(pipeline, report, tmp_path):
    scores = json.loads((report / "report.json").read_text())
    folder = edited(report, tmp_path, privacy={**scores["privacy"], "alarms": ["12.0% of the rows are copies"]})
    for card in (model_card(pipeline, "a/b", folder), dataset_card(pipeline.processor.schema, 5, evaluation=folder)):
        assert "**Privacy:** **1 alarm**" in card.text
        assert card.text.index("> - 12.0% of the rows are copies") < card.text.index("## Use")
    quiet = edited(report, tmp_path / "quiet", privacy={**scores["privacy"], "alarms": []})
    text = model_card(pipeline, "a/b", quiet).text
    assert "no alarm in the evaluation below; that is no proof" in text and "Privacy alarms" not in text


def test_incomplete_evaluations(pipeline, report, tmp_path):
    scores = json.loads((report / "report.json").read_text())
    folder = edited(report, tmp_path, utility={}, fidelity={**scores["fidelity"], "c2st": None})
    card = model_card(pipeline, "a/b", folder)
    page = Page(card)
    assert "Not measured. difflm evaluate measures it of tables, with --target COLUMN." in page.text
    assert any(row[:2] == ["C2ST", "–"] for row in page.rows)
    assert not {"c2st", "auc"} & {result.metric_type for result in card.data.eval_results}
    shutil.rmtree(folder)
    write_report({"documents": {"parse_rate": 0.75}}, tmp_path / "documents")
    page = Page(model_card(pipeline, "a/b", tmp_path / "documents"))
    assert ["Parsed", "75.0%", "–", "100% is best"] in page.rows
    assert page.text.count("Not measured.") == 5


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"[]",
        b"{}",
        b'"text"',
        b"\xff\xfe",
        b'{"fidelity": {"c2st": "high"}}',
        b'{"privacy": {"alarms": "none"}}',
    ],
)
def test_damaged_reports(pipeline, tmp_path, content):
    (tmp_path / "report.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"report\.json (is damaged|holds no figures)"):
        model_card(pipeline, evaluation=tmp_path)


def test_missing_reports_and_damaged_plots(pipeline, report, tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no evaluation"):
        model_card(pipeline, evaluation=tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no evaluation"):
        dataset_card(pipeline.processor.schema, 5, evaluation=tmp_path / "nowhere")
    folder = edited(report, tmp_path)
    (folder / "distances.png").write_bytes((report / "distances.png").read_bytes()[:500])
    for act in (lambda: model_card(pipeline, evaluation=folder), lambda: plot_files(folder)):
        with pytest.raises(OSError, match=r"distances\.png is damaged"):
            act()


def test_base_model(table, tmp_path):
    card = model_card(
        make_pipeline(table, TRAINING, base_model="user/lm", base_revision="0123abc", freeze_decoder=True)
    )
    assert card.data.base_model == "user/lm"
    assert "pretrained and left as it is: [user/lm](https://huggingface.co/user/lm) at commit `0123abc`" in card.text
    card = model_card(make_pipeline(table, TRAINING, base_model=str(tmp_path), freeze_decoder=True))
    assert card.data.base_model is None and str(tmp_path) not in str(card)
    assert "its name on the Hub is not recorded" in card.text
    trained_whole = {**TRAINING, "arguments": {**TRAINING["arguments"], "base_model": "user/lm", "tuning": "full"}}
    card = model_card(make_pipeline(table, trained_whole))
    assert card.data.base_model == "user/lm"
    assert "pretrained: [user/lm](https://huggingface.co/user/lm) |" in card.text


def test_ids_are_checked(pipeline):
    for arguments in ({"repo_id": 'x"); import os'}, {"datasets": ["a b"]}):
        with pytest.raises(ValueError, match="Repo id"):
            model_card(pipeline, **arguments)
    with pytest.raises(ValueError, match="Repo id"):
        dataset_card(pipeline.processor.schema, 5, "x\n---")


def test_dataset_card(pipeline, report):
    card = dataset_card(
        pipeline.processor.schema,
        20_000,
        "user/rows",
        model="user/people",
        model_revision="0123abc",
        seed=7,
        sampling={"num_inference_steps": 12, "temperature": 0.9, "top_p": 1.0},
        versions={"difflm_hf": "0.1.0"},
        date="2026-11-21",
        evaluation=report,
        license="cc-by-4.0",
        task_categories=["tabular-classification"],
    )
    again = DatasetCard(str(card))
    assert str(again) == str(card)
    data = again.data.to_dict()
    assert data["annotations_creators"] == data["language_creators"] == ["machine-generated"]
    assert data["size_categories"] == ["10K<n<100K"] and data["task_categories"] == ["tabular-classification"]
    assert "synthetic" in data["tags"] and data["license"] == "cc-by-4.0"
    files = [{"split": "train", "path": "data/*.parquet"}]
    assert data["configs"] == [{"config_name": "default", "data_files": files}]
    page = Page(card)
    assert "not recorded" not in page.text
    assert "https://huggingface.co/user/people/tree/0123abc" in card.text
    assert 'load_dataset("user/rows", split="train")' in page.text
    for row in (["seed", "7"], ["temperature", "0.9"], ["versions", "difflm_hf 0.1.0"], ["date", "2026-11-21"]):
        assert row in page.rows
    assert ["city", "category", "string"] in page.rows
    assert ["Unique rows", "100.0%"] in [row[:2] for row in page.rows]


def test_dataset_card_of_unknown_origin(pipeline, tmp_path):
    for model in (None, str(tmp_path)):
        page = Page(dataset_card(pipeline.processor.schema, 5, model=model))
        assert "Generated by: a model that is not on the Hub" in page.text
        for name in ("commit of the model", "seed", "sampling settings", "versions", "date"):
            assert [name, "not recorded"] in page.rows
        assert str(tmp_path) not in page.text


@pytest.mark.parametrize(
    "num_records, category",
    [(1, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (10**6, "1M<n<10M"), (10**12, "n>1T"), (10**15, "n>1T")],
)
def test_size_categories(pipeline, num_records, category):
    assert dataset_card(pipeline.processor.schema, num_records).data.size_categories == [category]
