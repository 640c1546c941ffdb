"""What a model gives away: attacks, canaries, what files name, the verdict, the page and the card."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import call
from tiny import make_table, train

from difflm_hf import DiffLMPipeline
from difflm_hf.evaluation import (
    attack_scores,
    audit_figures,
    audit_model,
    chance_exposure,
    exposure,
    named_values,
    plant_canaries,
    summarize,
    write_report,
)
from difflm_hf.evaluation.audit.audit import is_encodable
from difflm_hf.evaluation.audit.membership import marginal_log_prob
from difflm_hf.evaluation.audit.verdict import AWAY, LOOK, NOTHING, reasons, verdict
from difflm_hf.evaluation.report.summary import METRICS
from difflm_hf.hub.cards import model_card
from difflm_hf.records import RecordSchema
from difflm_hf.records.top_coding import top_code
from difflm_hf.training import RECIPES


NUM_LEARNT = 60


def noise(num_records: int, seed: int) -> pd.DataFrame:
    """Columns that say nothing of each other, so that all that is known of a record is remembered."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame({f"c{k}": rng.choice(list("abcde"), num_records) for k in range(8)})


@pytest.fixture(scope="module")
def learnt() -> pd.DataFrame:
    return noise(NUM_LEARNT, 0)


@pytest.fixture(scope="module")
def overfit(learnt, tmp_path_factory) -> DiffLMPipeline:
    """A model that learns few records by heart: it is selected by those."""
    vae = {**RECIPES["tiny"].vae, "per_device_train_batch_size": NUM_LEARNT}
    recipe = replace(RECIPES["tiny"], min_steps=250, latent_size=8, vae=vae)
    return train(learnt, tmp_path_factory.mktemp("overfit"), validation=learnt, recipe=recipe)


@pytest.fixture(scope="module")
def caught(overfit, learnt):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return audit_model(overfit, learnt, noise(200, 1), ["c0"], max_rows=200)


# Attacks


def test_attacks_by_chance_and_by_sight():
    rng = np.random.default_rng(0)
    blind = attack_scores(rng.normal(size=500), rng.normal(size=600))
    assert blind["auc"]["low"] < 0.5 < blind["auc"]["high"] and blind["tpr"]["low"] < 0.02
    sharp = attack_scores(rng.normal(size=500) + 5, rng.normal(size=600))
    assert sharp["auc"]["low"] > 0.99 and sharp["tpr"]["low"] > 0.9
    assert attack_scores(np.zeros(40), np.zeros(50))["auc"]["mean"] == 0.5  # ties


def test_marginals_tell_no_record_from_those_they_are_of():
    rng = np.random.default_rng(0)
    ranges = [(4, 204), (204, 404)]
    ids = rng.geometric(0.03, (2, 1000, 2)).clip(max=200) - 1 + np.array([4, 204])
    members, others = ids
    own = marginal_log_prob(members, others, ranges), marginal_log_prob(others, others, ranges, True)
    auc = attack_scores(*own)["auc"]
    assert auc["low"] < 0.5 < auc["high"]
    # Those that count themselves look more common than others.
    assert attack_scores(own[0], marginal_log_prob(others, others, ranges))["auc"]["high"] < 0.5
    frequent = (members[:, 0] == 4).nonzero()[0][0]
    assert marginal_log_prob(members[[frequent]], others, ranges[:1])[0] == pytest.approx(
        np.log(((others[:, 0] == 4).sum() + 1) / 1200)
    )


def test_records_that_cannot_be_written(overfit, learnt):
    table = noise(20, 3)
    table.loc[4, "c3"] = "z"
    table.loc[9, "c0"] = None
    assert (~is_encodable(overfit.processor, table)).nonzero()[0].tolist() == [4, 9]


# An audit


def test_overfit_is_caught(caught):
    audit = caught["audit"]
    assert audit["verdict"] == AWAY
    assert audit["membership"]["likelihood"]["auc"]["low"] > 0.5
    assert audit["membership"]["calibrated"]["auc"]["low"] > 0.5
    assert audit["membership"]["files"]["auc"]["mean"] == 0.5  # which allow all records
    column = audit["attributes"]["columns"]["c0"]
    assert column["advantage"]["mean"] == pytest.approx(column["train"] - column["holdout"])
    assert "likelihood" in audit["reasons"][0]["reason"] and audit["reasons"][0]["verdict"] == AWAY
    assert json.loads(json.dumps(caught))["audit"]["rows"] == {
        "train": {"given": NUM_LEARNT, "drawn": NUM_LEARNT, "writable": NUM_LEARNT},
        "holdout": {"given": 200, "drawn": 200, "writable": 200},
    }


@pytest.mark.slow
def test_records_that_were_not_learnt_are_not_caught(overfit):
    audit = audit_model(overfit, noise(200, 5), noise(200, 1), ["c0"], max_rows=200)["audit"]
    for attack in ("likelihood", "calibrated", "distance"):
        assert audit["membership"][attack]["auc"]["low"] < 0.55
    assert audit["verdict"] != AWAY


@pytest.mark.slow
def test_same_seed_same_figures(overfit, learnt, caught):
    again = audit_model(overfit, learnt, noise(200, 1), ["c0"], max_rows=200)
    assert again == caught


def test_holdout_that_cannot_be_written_is_told_by_the_files(overfit, learnt):
    other = noise(100, 1).assign(c7="z")
    audit = audit_model(overfit, learnt, other, max_rows=100)["audit"]
    assert audit["membership"]["files"]["auc"]["mean"] == 1
    assert "likelihood" not in audit["membership"] and audit["attributes"] == {"columns": {}}
    assert audit["verdict"] == AWAY
    assert "0 are too few" in audit["notes"][0]


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (lambda table: table.drop(columns="c3"), {}, "`train` lacks column 'c3'"),
        (lambda table: table, {"sensitive": ["c9"]}, "'c9' is no column of categories or booleans"),
        (lambda table: table.assign(c0="other"), {}, "is it a model of this table"),
        (lambda table: table, {"max_rows": 5}, "max_rows=5"),
    ],
)
def test_what_cannot_be_audited(overfit, learnt, change, arguments, message):
    with pytest.raises(ValueError, match=message):
        audit_model(overfit, change(learnt), noise(50, 1), **arguments)


# Files


@pytest.fixture(scope="module")
def tiny_pipe(tiny_run) -> DiffLMPipeline:
    return DiffLMPipeline.from_pretrained(tiny_run)


def test_values_that_files_name(tiny_pipe):
    table = make_table()
    found = named_values(tiny_pipe, table)
    counts = table["age"].value_counts()
    assert found["age"]["numbers"] == (counts < 10).sum()  # few ages, each with a token
    assert found["score"]["extremes"] == 2 and found["score"]["quantiles"] > 0
    assert "color" not in found and "member" not in found  # of 10 records or more
    table = table.assign(color=table["color"].where(table["color"] != "blue", "red"))
    assert named_values(tiny_pipe, table)["color"] == {"categories": 1}  # blue, of none


@pytest.mark.slow
def test_row_with_texts_and_dates(tiny_pipe):
    audit = audit_model(tiny_pipe, make_table(), make_table(120, 1), ["member"], max_rows=60)["audit"]
    assert audit["num_rare"] > 0 and audit["num_extremes"] > 0
    assert audit["verdict"] != NOTHING


# The verdict


def figures(low: float = 0.45, tpr: float = 0.0, advantage: float = -0.01, **files) -> dict:
    attack = {"auc": {"mean": 0.5, "low": low, "high": 0.9}, "tpr": {"mean": 0.01, "low": tpr, "high": 0.9}}
    column = {"train": 0.5, "holdout": 0.5, "advantage": {"mean": 0.0, "low": advantage, "high": 0.9}}
    return {"membership": {"likelihood": attack}, "attributes": {"columns": {"a": column}}, "files": files}


@pytest.mark.parametrize(
    ("audit", "expected", "words"),
    [
        (figures(), NOTHING, None),
        (figures(low=0.51), LOOK, "AUC of"),
        (figures(low=0.56), AWAY, "AUC of"),
        (figures(tpr=0.03), LOOK, "while it takes 1 %"),
        (figures(tpr=0.06), AWAY, "while it takes 1 %"),
        (figures(advantage=0.01), LOOK, "predicts 'a'"),
        (figures(advantage=0.06), AWAY, "predicts 'a'"),
        (figures(a={"categories": 2}), LOOK, "min_category_count=10"),
        (figures(a={"extremes": 2}), LOOK, "smallest or largest numbers"),
        (figures(a={"quantiles": 9}), NOTHING, None),
    ],
)
def test_verdict_is_by_the_lower_ends_of_intervals(audit, expected, words):
    found = reasons(audit)
    assert verdict(found) == expected
    assert len(found) == (words is not None) and all(words in reason["reason"] for reason in found)


def test_gravest_reason_comes_first():
    found = reasons(figures(low=0.51, advantage=0.06))
    assert [reason["verdict"] for reason in found] == [AWAY, LOOK]


# Canaries


def test_canaries_are_new_and_valid():
    table = make_table()
    canaries = plant_canaries(table, 12, repeats=3)
    assert len(canaries.planted) == len(canaries.others) == 12
    assert len(canaries.table) == len(table) + 36
    assert (canaries.table.dtypes == table.dtypes).all()
    assert canaries.table.tail(12).reset_index(drop=True).equals(canaries.planted)
    both = pd.concat([canaries.planted, canaries.others])
    assert not both.astype(str).duplicated().any()
    assert not both.astype(str).merge(table.astype(str), how="inner").size
    for name in table:
        assert set(both[name].dropna()) <= set(table[name].dropna())
    assert plant_canaries(table, 12, repeats=3).planted.equals(canaries.planted)


def test_canaries_of_common_values():
    table = pd.concat([make_table(), make_table(1).assign(color="rare")], ignore_index=True)
    common = plant_canaries(table, 60, min_count=10)
    assert set(common.planted["color"]) == {"red", "green", "blue"}
    assert "rare" in set(plant_canaries(table, 60).planted["color"])


def test_canaries_are_within_what_extremes_are_moved_to():
    table = make_table()
    columns = ["score", "joined"]
    schema, _ = top_code(RecordSchema.infer(table[columns]), table[columns], 10)
    canaries = plant_canaries(table[columns], 20, min_count=10)
    for part in (canaries.planted, canaries.others):
        schema.conform(part)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"num": 0}, "num=0"), ({"num": 3, "repeats": 0}, "repeats=0"), ({"num": 60}, "too few values for 120")],
)
def test_canaries_that_cannot_be_planted(arguments, message):
    with pytest.raises(ValueError, match=message):
        plant_canaries(pd.DataFrame({"a": [1, 2, 3], "b": list("xyz")}), **arguments)


def test_exposure(overfit, learnt):
    canaries, others = learnt.head(20), noise(20, 9)
    bits = exposure(overfit, canaries, others)
    assert bits.shape == (20,) and (bits >= 0).all() and (bits <= np.log2(21)).all()
    assert bits.mean() > chance_exposure(20) + 1
    strangers = exposure(overfit, noise(20, 8), others)
    assert strangers.mean() < chance_exposure(20) + 1
    assert chance_exposure(1) == 0.5 and chance_exposure(10**5) == pytest.approx(1 / np.log(2), abs=1e-3)


# Page, card and command


def test_page(caught, tmp_path):
    page = write_report(caught, tmp_path, audit_figures(caught), "Audit of a model", "audit")
    assert page.name == "audit.html" and (tmp_path / "attacks.png").is_file()
    text = page.read_text(encoding="utf-8")
    for words in ("Verdict: gives records away", "What this cannot see", "Membership by likelihood", "no proof"):
        assert words in text
    assert json.loads((tmp_path / "audit.json").read_text())["audit"]["verdict"] == AWAY
    assert {row.section for row in summarize(caught)} == {"Audit of the model"}
    assert len(summarize(caught)) == sum(metric.path[0] == "audit" for metric in METRICS)


def test_card_has_the_figures(overfit, caught, tmp_path):
    write_report(caught, tmp_path, audit_figures(caught), name="audit")
    card = model_card(overfit, "user/model", evaluation=tmp_path)
    assert "the audit of the model says: **gives records away**" in card.text
    assert "Membership by calibrated likelihood" in card.text and "plots/attacks.png" in card.text
    assert "Synthetic documents were compared" not in card.text
    aucs = [
        result.metric_value for result in card.data.eval_results if result.metric_type == "membership_likelihood_auc"
    ]
    assert aucs == [round(caught["audit"]["membership"]["likelihood"]["auc"]["mean"], 6)]


@pytest.mark.slow
def test_command(overfit, learnt, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    overfit.save_pretrained("model")
    learnt.to_csv("train.csv", index=False)
    noise(100, 1).to_csv("test.csv", index=False)
    options = ["model", "--real", "train.csv", "--holdout", "test.csv", "--sensitive", "c0", "--max-rows", 100]
    assert call(monkeypatch, "audit", *options, "--output", "out", "--json") == 0
    captured = capsys.readouterr()
    told = json.loads(captured.out)
    assert told["verdict"] == AWAY and told["report"] == "out/audit.html"
    assert told["scores"] == json.loads((tmp_path / "out" / "audit.json").read_text())
    assert "gives records away:" in captured.err and "verdict: gives records away" in captured.err


def test_command_that_cannot_begin(error_of, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    options = ["no-model", "--real", "none.csv", "--holdout", "none.csv"]
    assert "none.csv" in error_of("audit", *options)
    (tmp_path / "file").touch()
    assert "--output file is a file" in error_of("audit", *options, "--output", "file")


# The default recipe


@pytest.mark.slow
def test_default_recipe_is_near_chance_or_told(tmp_path):
    data = "examples/data/adult_{}.parquet"
    table = pd.read_parquet(data.format("train")).sample(3000, random_state=0)
    pipe = train(table, tmp_path / "model", max_minutes=1)
    audit = audit_model(pipe, table, pd.read_parquet(data.format("test")), ["income"], max_rows=1000)["audit"]
    told = " ".join(reason["reason"] for reason in audit["reasons"])
    for attack in ("likelihood", "calibrated", "distance"):
        auc = audit["membership"][attack]["auc"]
        assert auc["low"] <= 0.5 or f"AUC of {auc['mean']:.3f}" in told
        assert auc["mean"] < 0.65
