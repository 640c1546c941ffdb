import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny_diffusion_lm
from tiny import make_table, seeded

from difflm_hf.control import Between
from difflm_hf.records import RecordSchema, read_table, write_table
from difflm_hf.records.identifiers import Identifier


pytest.importorskip("gradio")

import gradio as gr  # noqa: E402 (it may be missing)
from transformers.utils import logging  # noqa: E402 (after gradio)

from difflm_hf.app.columns import doubts_of, edited_schema, to_rows  # noqa: E402 (gradio may be missing)
from difflm_hf.app.common import (  # noqa: E402
    Limits,
    Models,
    Session,
    explain,
    explained,
    load_pipeline,
    run_command,
    said,
    shown_rows,
    whole_number,
)
from difflm_hf.app.conditions import names_with_conditions, read_condition, split_values  # noqa: E402
from difflm_hf.app.evaluate import framed, split_holdout  # noqa: E402
from difflm_hf.app.generate import stream_tables, write_files  # noqa: E402
from difflm_hf.app.impute import FILLED, fill_gaps, marked  # noqa: E402
from difflm_hf.app.marginals import RealColumn, bars_of, real_columns, stored_columns, to_html  # noqa: E402
from difflm_hf.app.page import build_page, serving  # noqa: E402
from difflm_hf.app.train import LossReader, draw_losses  # noqa: E402


SEMICOLONS = "age;city;paid\n" + "".join(f"{20 + k % 50};{'ABC'[k % 3]};{k % 37},5{k % 9}\n" for k in range(120))


@pytest.fixture(scope="module")
def pipe(tiny_run):
    return load_pipeline(tiny_run)


@pytest.fixture
def session(tmp_path):
    folder = tmp_path / "session"
    folder.mkdir()
    return Session(folder)


# Without a browser


@pytest.mark.slow
def test_streamed_tables_are_those_of_a_call(pipe):
    tables = list(stream_tables(pipe, 5000, 3, where="age >= 40"))
    expected = pipe(5000, generator=seeded(3), where="age >= 40", output_type="pandas").records
    assert list(map(len, tables)) == [4096, 904]
    pd.testing.assert_frame_equal(pd.concat(tables, ignore_index=True), expected)


def test_files_in_all_formats(pipe, tmp_path):
    [table] = stream_tables(pipe, 5, 0)
    paths = write_files(table, tmp_path, "synthetic")
    assert {called: path.name for called, path in paths.items()} == {
        "CSV": "synthetic.csv",
        "Parquet": "synthetic.parquet",
        "JSON lines": "synthetic.jsonl",
    }
    assert all(len(read_table(path)) == 5 for path in paths.values())


def test_conditions_of_fields(pipe):
    schema = pipe.processor.schema
    assert "note" not in names_with_conditions(schema) and "nothing" not in names_with_conditions(schema)
    color = schema["color"].categories
    values = {
        "age": [[], "30", "", []],
        "color": [[color.index("red"), len(color)], "", "", []],
        "income": [[], "1000", "", ["missing"]],
        "joined": [[], "2020-02-01", "2020-03-01", []],
        "member": [[1], "", "", []],
    }
    assert split_values([value for of in values.values() for value in of]) == list(values.values())
    found = {name: read_condition(schema[name], of) for name, of in values.items()}
    assert found == {
        "age": [Between(30, None)],
        "color": ["red", None],
        "income": [Between(1000.0, None), None],
        "joined": [Between("2020-02-01", "2020-03-01")],
        "member": [True],
    }
    [table] = stream_tables(pipe, 50, 0, conditions=found)
    assert (table["age"] >= 30).all() and set(table["color"].dropna()) <= {"red"} and table["member"].all()
    assert table["joined"].between("2020-02-01", "2020-03-01").all()
    assert read_condition(schema["age"], [[], "", " ", []]) is None
    assert read_condition(schema["color"], [[], "", "", []]) is None
    with pytest.raises(ValueError, match="column 'age': 'old' is no number; write it like 17"):
        read_condition(schema["age"], [[], "old", "", []])


def test_conditions_on_numbers_with_a_decimal_comma(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(SEMICOLONS)
    schema = RecordSchema.infer(path)
    assert read_condition(schema["paid"], [[], "2,5", "3.5", []]) == [Between(2.5, 3.5)]


def test_marginals_of_real_and_generated():
    table = make_table(400)
    schema = RecordSchema.infer(table)
    real = real_columns(schema, table)
    for f in schema:
        bars = bars_of(f, table[f.name], real[f.name])
        if f.type in ("text", "null"):
            assert bars is None
            continue
        # Of the same table they are alike.
        np.testing.assert_allclose(bars.generated, bars.real, atol=0.03, err_msg=f.name)
        assert bars.generated.sum() == pytest.approx(1, abs=0.01)
    page = to_html(schema, table.assign(color="<script>"), real)
    assert "<script>" not in page and page.count("<figure>") == len(schema)


def test_numbers_too_far_apart_have_no_bars():
    table = pd.DataFrame({"x": [1e308, -1e308, 0.5, 2.0] * 30})
    schema = RecordSchema.infer(table)
    page = to_html(schema, table, real_columns(schema, table))
    assert "number column: no chart" in page


def test_fields_of_whole_numbers_do_not_round(tiny_run):
    components = build_page(tiny_run).get_config_file()["components"]
    numbers = [c["props"] for c in components if c["type"] == "number"]
    assert {of["label"] for of in numbers} >= {"Records", "Seed", "Minutes"}
    assert all(of.get("precision") is None for of in numbers)


def test_marginals_that_a_model_stores(pipe):
    schema, known = pipe.processor.schema, stored_columns(pipe)
    assert set(known) == set(schema.names)
    quantiles = known["score"].quantiles
    assert (np.diff(quantiles) >= 0).all()
    assert abs(np.median(quantiles) - make_table()["score"].median()) < 0.3
    shares = make_table()["color"].value_counts(normalize=True, dropna=False)
    assert known["color"].shares.keys() == {"red", "green", "blue"}
    assert known["color"].shares["red"] == pytest.approx(shares["red"], abs=0.05)
    assert known["color"].missing == pytest.approx(make_table()["color"].isna().mean(), abs=0.05)
    # Nothing in it is a row of the data.
    assert all(column.quantiles is None or len(column.quantiles) < 100 for column in known.values())
    assert bars_of(schema["color"], make_table()["color"], RealColumn()).real is None
    # Nothing is drawn where nothing is known.
    bars = bars_of(schema["score"], make_table()["score"], known["score"])
    unknown = np.isnan(bars.real)
    assert unknown[0] and unknown[-1] and not unknown.all()
    np.testing.assert_allclose(bars.real[~unknown], bars.generated[~unknown], atol=0.06)
    page = to_html(schema, make_table(), known)
    assert "nan" not in page and page.count("<path") >= 3


def test_gaps_are_filled_and_marked(pipe, tmp_path):
    table = make_table(30)
    table.loc[:9, "price"] = np.nan
    path = tmp_path / "gaps.parquet"
    write_table(table, path)
    filled, gaps = fill_gaps(pipe, path, 0)
    assert gaps["price"].sum() == 10 and filled["price"].notna().all()
    assert (filled["age"] == table["age"]).all()
    shown = marked(filled, gaps)
    styles = shown._compute().ctx
    [price] = [k for k, name in enumerate(shown.columns) if name == "price"]
    assert dict([tuple(FILLED.split("; ")[0].split(": "))]).items() <= dict(styles[0, price]).items()
    with pytest.raises(ValueError, match="the table has no gaps"):
        fill_gaps(pipe, _written(filled.assign(nothing=0, note="a", color="red", income=1.0), tmp_path), 0)


def _written(table, folder):
    path = folder / "full.parquet"
    write_table(table, path)
    return path


def test_schema_that_is_not_edited_stays():
    table = make_table()
    schema = RecordSchema.infer(table, find_rules=True)
    assert edited_schema(schema, table, to_rows(schema, table)) == schema


def test_edited_schema():
    table = pd.DataFrame(
        {"code": [1, 2, 3] * 20, "day": ["01/02/2024", "03/04/2024", "05/06/2024"] * 20, "x": range(60)}
    )
    schema = RecordSchema.infer(table)
    assert list(doubts_of(schema, table)) == ["day"]
    rows = to_rows(schema, table).set_index("column", drop=False)
    other = {"%d/%m/%Y": "%m/%d/%Y", "%m/%d/%Y": "%d/%m/%Y"}[schema["day"].format]
    rows.loc["code", "type"], rows.loc["day", "format"], rows.loc["x", "maximum"] = "category", other, "99"
    found = edited_schema(schema, table, rows)
    assert found["code"].categories == [1, 2, 3] and found["x"].maximum == 99
    assert found["day"].format == other and found["day"].minimum != schema["day"].minimum
    rows.loc["code", "use"] = False
    assert edited_schema(schema, table, rows).names == ["day", "x"]


@pytest.mark.parametrize(
    ("column", "cell", "value", "message"),
    [
        ("color", "type", "colour", "type 'colour' is not one of integer"),
        ("color", "type", "integer", "column 'color': .*cannot be kept as an integer"),
        ("age", "minimum", "ten", "column 'age': minimum 'ten' is no integer that the column can have.* like 17"),
        ("age", "minimum", "", "column 'age': minimum '' is no integer"),
        ("age", "maximum", 2**70, "column 'age': maximum '1180591620717411303424' is no integer"),
        ("code", "maximum", "128", "column 'code': maximum '128' is no integer"),
        ("score", "maximum", "inf", "column 'score': maximum 'inf' is no number"),
        ("score", "minimum", None, "column 'score': minimum '' is no number"),
        ("joined", "maximum", "later", "column 'joined': maximum 'later' is no datetime"),
        ("joined", "maximum", "", "column 'joined': maximum '' is no datetime"),
        ("price", "decimals", "x", "column 'price': decimals 'x' are no digits"),
        ("color", "minimum", "3", "column 'color': minimum '3' says nothing of a column of type category"),
        ("color", "decimals", "3", "column 'color': decimals '3' says nothing"),
        ("color", "format", "%Y", "column 'color': format '%Y' says nothing"),
        ("age", "categories", '["a"]', "column 'age': categories .* says nothing of a column of type integer"),
        ("age", "decimals", "2", "column 'age': decimals '2' says nothing of a column of type integer"),
        ("nothing", "type", "text", "column 'nothing': it has no values"),
        ("age", "type", "text", "column 'age': the file has no texts there; take it as a category"),
        ("color", "nullable", False, "column 'color': null in row 0"),
        ("size", "categories", "[[1]]", r"column 'size': field 'size': \[1\] is no category"),
        ("size", "categories", '["S", "M", "L", null]', "column 'size': field 'size': None is no category"),
        ("size", "categories", '["S", "M", "L", NaN]', "column 'size': field 'size': nan is no category"),
        ("size", "categories", '["S", "M", "L", "S"]', "column 'size': field 'size': category 'S' stands more than"),
        ("age", "maximum", "20", "column 'age': .* is not an integer between 17 and 20"),
        ("color", "categories", "red, green", "no list; write them like"),
        ("color", "categories", '["red"]', "column 'color': '(green|blue)' in row"),
    ],
)
def test_wrong_edits_are_explained(column, cell, value, message):
    table = make_table()
    schema = RecordSchema.infer(table)
    rows = to_rows(schema, table)
    rows = rows.astype(object)
    rows.loc[rows["column"] == column, cell] = value
    with pytest.raises(ValueError, match=message):
        edited_schema(schema, table, rows)


def test_columns_can_be_nullable():
    table = make_table()
    schema = RecordSchema.infer(table)
    rows = to_rows(schema, table)
    rows.loc[rows["column"] == "age", "nullable"] = True
    found = edited_schema(schema, table, rows)
    assert found["age"].nullable and not schema["age"].nullable
    rows.loc[rows["column"] == "price", "decimals"] = ""  # those of the data
    assert edited_schema(schema, table, rows)["price"].decimals == 2


def test_numbers_of_a_file_of_texts_are_taken_as_texts(tmp_path):
    (path := tmp_path / "table.csv").write_text("code,x\n" + "".join(f"{k * 37},{k}\n" for k in range(50)))
    table = read_table(path)
    schema = RecordSchema.infer(table)
    rows = to_rows(schema, table)
    rows.loc[rows["column"] == "code", "type"] = "text"
    found = edited_schema(schema, table, rows)["code"]
    assert (found.type, found.dtype, found.max_length) == ("text", "object", 4)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda rows: rows.drop(columns="type"),
        lambda rows: rows.drop(index=2),
        lambda rows: rows.iloc[::-1],
        lambda rows: pd.DataFrame([]),
    ],
)
def test_tables_of_columns_without_a_row_or_column_are_refused(spoil):
    table = make_table()
    schema = RecordSchema.infer(table)
    with pytest.raises(ValueError, match="were added or removed; choose the file again"):
        edited_schema(schema, table, spoil(to_rows(schema, table)))


def test_faults_of_the_package_are_told_and_logged(caplog):
    status, start, stop = gr.HTML(), gr.Button(), gr.Button()

    @explained(status, [start, stop])
    def handler():
        raise KeyError("x")
        yield

    logging.enable_propagation()
    *_, last = handler()
    logging.disable_propagation()
    assert "a fault of this package (KeyError)" in last[status]
    assert last[start].interactive and not last[stop].interactive
    assert "KeyError" in caplog.text


@pytest.mark.parametrize(
    "limits",
    [{"max_records": 0}, {"max_minutes": -1}, {"max_minutes": float("nan")}, {"concurrency": 0}]
    + [{"max_file_size": size} for size in ("abc", "", "0mb", "-5mb", "5", "1.5gb", 5)],
)
def test_limits_are_checked(limits):
    [name] = limits
    with pytest.raises(ValueError, match=f"^{name}="):
        Limits(**limits)


@pytest.mark.parametrize("size", ["200mb", "5KB", "7b", "1Gb", "1tb"])
def test_sizes_of_files(size):
    assert Limits(max_file_size=size).max_file_size == size


def test_the_model_is_loaded_before_anybody_visits(tmp_path):
    with pytest.raises(OSError, match="none is neither a folder nor a model"):
        build_page(tmp_path / "none")


def test_models_of_another_kind(tmp_path):
    tiny_diffusion_lm.make_pipeline().save_pretrained(tmp_path / "texts")
    with pytest.raises(ValueError, match="texts is a Diffusion-LM, and the page is of DiffLM models"):
        load_pipeline(tmp_path / "texts")


def test_visitors_do_not_see_where_the_model_lies(tiny_run):
    page = build_page(tiny_run)
    assert str(tiny_run) not in str(page.get_config_file()) and str(tiny_run.parent) not in str(page.get_config_file())
    models = Models(str(tiny_run))
    assert models.name == tiny_run.name and models.get(tiny_run.name).config._name_or_path == str(tiny_run)
    with pytest.raises(ValueError, match=f"this page serves {tiny_run.name}, and not x"):
        models.get("x")


def test_names_of_served_folders(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    assert Models(".").name == "mine" and Models("alice/model").name == "alice/model" and Models().name is None


def test_rules_can_be_left_out():
    table = pd.DataFrame({"id": range(1, 201), "x": [0.5, 1.5] * 100})
    schema = RecordSchema.infer(table, find_rules=True)
    [place] = [k for k, rule in enumerate(schema.rules) if isinstance(rule, Identifier)]
    rows = to_rows(schema, table)
    assert edited_schema(schema, table, rows, [place]).rules == [schema.rules[place]]
    without = edited_schema(schema, table, rows, [])
    assert without.rules == [] and without["id"].maximum == 200


def test_models_are_loaded_once(tiny_run, tmp_path):
    models = Models()
    assert models.get(str(tiny_run)) is models.get(str(tiny_run))
    with pytest.raises(ValueError, match="no model is chosen"):
        models.get("")
    with pytest.raises(OSError):
        models.get(str(tmp_path / "none"))
    with pytest.raises(ValueError, match="this page serves mine, and not /etc"):
        Models("mine").get("/etc")


def test_losses_of_a_run(tiny_run, tmp_path):
    losses = LossReader(tiny_run).read("vae")
    assert set(losses["curve"]) == {"training", "validation"} and losses["loss"].notna().all()
    assert LossReader(tmp_path).read("vae").empty
    chart = draw_losses("Autoencoder", losses)
    assert chart.count("<polyline") == 2 and "nan" not in chart
    latest = losses[losses["curve"] == "validation"]["loss"].iloc[-1]
    assert f"validation {latest:.3f}" in chart
    assert "nan" not in draw_losses("Autoencoder", losses[:1])


def test_hold_out_of_the_real_rows(tmp_path):
    table = make_table(100)
    write_table(table, path := tmp_path / "real.parquet")
    parts = [read_table(part) for part in split_holdout(path, tmp_path / "parts")]
    assert list(map(len, parts)) == [80, 20]
    assert sorted(pd.concat(parts)["score"]) == sorted(table["score"])


def test_reports_run_no_script(tmp_path):
    (page := tmp_path / "report.html").write_text('<p title="a">&lt;</p><script>alert(1)</script>')
    frame = framed(page)
    assert 'sandbox=""' in frame and "<script>" not in frame and "&quot;a&quot;" in frame


@pytest.mark.slow
def test_a_command_that_fails_says_why(session):
    with pytest.raises(ValueError, match="nowhere.csv: no such file"):
        list(run_command(session, "train", "train", "nowhere.csv", "--output-dir", session.folder / "model"))
    assert session.processes == []


def test_a_command_is_stopped(session):
    running = run_command(session, "train", "--help")
    next(running)
    [process] = session.processes
    session.stopping.add("train")
    list(running)
    assert process.poll() is not None and session.processes == []


def test_a_command_that_nobody_asks_for_is_ended(session):
    running = run_command(session, "train", "--help")
    next(running)
    [process] = session.processes
    running.close()
    assert process.poll() is not None


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A folder of uploads, with one in it as gradio puts it there."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "served"))
    (path := tmp_path / "served" / "0af3" / "table.csv").parent.mkdir(parents=True)
    path.write_text("a\n1\n")
    return path


def test_sessions_leave_nothing_and_keep_what_is_not_theirs(served):
    one, other = Session(), Session()
    own = one.upload(str(served), "the table")
    assert own == one.upload(str(served), "the table")
    assert own.read_text() == "a\n1\n" and own.name == "table.csv" and own.is_relative_to(one.folder)
    others = other.upload(str(served), "the table")
    first, second = one.new_folder("generate"), one.new_folder("generate")
    assert not first.exists() and second.is_dir()
    one.close()
    assert not one.folder.exists() and served.exists() and others.exists()
    served.unlink()  # gradio cleans up
    assert others.read_text() == "a\n1\n"


def test_only_uploads_are_taken(served, session):
    (elsewhere := served.parents[2] / "secret.csv").touch()
    root = served.parents[1]
    for path in (root / "nosuch.csv", root, elsewhere, f"{root}/../secret.csv"):
        with pytest.raises(ValueError, match="the table is no longer there; choose the file again"):
            session.upload(str(path), "the table")
    with pytest.raises(ValueError, match="the table is missing; choose a file"):
        session.upload(None, "the table")
    session.close()
    assert root.exists() and elsewhere.exists()


def test_messages(monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", "/tmp/served")
    assert explain(ValueError("/tmp/served/0af/table.csv:\n bad")) == "table.csv: bad"
    assert "&lt;b&gt;" in said("<b>") and 'role="alert"' in said("no", kind="error")
    for value in (None, 0.5, 1.5, 0, 11, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="Records is .*; give a whole number from 1 to 10"):
            whole_number("Records", value, 1, 10)
    assert shown_rows(pd.DataFrame({"x": [1.5, None]})).to_dict("list") == {"x": ["1.5", ""]}


@pytest.mark.slow
def test_the_command_serves_the_page_and_leaves_nothing(tiny_run, tmp_path):
    command = [sys.executable, "-m", "difflm_hf", "app", tiny_run]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        [url] = re.findall(r"http://\S+?(?=;)", process.stderr.readline())
        assert "difflm" in urllib.request.urlopen(url).read().decode()
        [folder] = tmp_path.glob("difflm-*")
        process.terminate()
        process.communicate()
    assert process.returncode == 0 and not folder.exists()


# In a browser


@pytest.fixture(scope="module")
def url(tiny_run):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", "")  # which serving sets
        with serving(tiny_run, limits=Limits(max_records=3000, max_minutes=1)) as url:
            folder = _temporary_folder()
            yield url
        assert not folder.exists()  # nothing of the visitors is left


def _temporary_folder():
    from gradio.utils import get_upload_folder

    return Path(get_upload_folder())


@pytest.fixture
def visit(browser, url):
    """`visit()`: the page, once its model is there. No error and no request to another host may come of it."""
    problems, requested, pages = [], [], []

    def visit(width=1280, scheme="light"):
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: requested.append(request.url))
        page.goto(url)
        page.get_by_text("12 columns, trained on").wait_for()
        pages.append(page)
        return page

    yield visit
    for page in pages:
        page.close()
    assert problems == []
    assert [asked for asked in requested if not asked.startswith((url, "data:", "blob:"))] == []


def press(page, name):
    page.get_by_role("button", name=name, exact=True).click()


def choose(page, label, *options):
    page.get_by_role("combobox", name=label).click()
    for option in options:
        page.get_by_role("option", name=option, exact=True).click()
    page.keyboard.press("Escape")


def upload(page, name, path):
    field = page.locator(f"#{name}-file input[type=file]")
    field.set_input_files(path)
    field.wait_for(state="detached")  # the file's name takes its place


def save(page, name):
    with page.expect_download() as download:
        page.get_by_role("link", name=name, exact=True).click()
    return download


def downloaded(page, name):
    download = save(page, name)
    folder = Path(download.value.path()).parent
    path = folder / f"{time.monotonic_ns()}-{download.value.suggested_filename}"
    download.value.save_as(path)
    return read_table(path)


def test_generation_in_a_browser(visit):
    page = visit()
    choose(page, "Conditions on", "age", "color")
    page.get_by_label("age from").fill("40")
    choose(page, re.compile("^color$"), "red")
    page.get_by_label("Records").fill("150")
    press(page, "Generate")
    page.get_by_text("150 records of seed 0.").wait_for()
    table = downloaded(page, "CSV")
    assert len(table) == 150 and (table["age"] >= 40).all() and set(table["color"]) == {"red"}
    assert page.locator(".marginals figure").count() == 12
    # What is wrong is told in place.
    page.get_by_label("Expression").fill("<b>agee</b> > 3")
    press(page, "Generate")
    error = page.get_by_role("alert")
    error.wait_for()
    assert "agee" in error.inner_text() and error.locator("b").count() == 0
    page.get_by_label("Expression").fill("")
    page.get_by_label("Records").fill("3001")
    press(page, "Generate")
    page.get_by_text("Records is 3,001; give a whole number from 1 to 3,000").wait_for()


def test_records_are_there_whatever_becomes_of_the_charts(visit, monkeypatch):
    monkeypatch.setattr("difflm_hf.app.generate.to_html", lambda *_: 1 / 0)
    page = visit()
    page.get_by_label("Records").fill("70")
    press(page, "Generate")
    page.get_by_text("a fault of this package (ZeroDivisionError)").wait_for()
    assert len(downloaded(page, "CSV")) == 70
    page.get_by_label("Records").fill("1.5")
    press(page, "Generate")
    page.get_by_text("Records is 1.5; give a whole number").wait_for()


@pytest.mark.slow
def test_columns_of_the_schema_cannot_be_deleted(visit, tmp_path):
    (path := tmp_path / "shop.csv").write_text(SEMICOLONS)
    page = visit()
    page.get_by_role("tab", name="Train").click()
    upload(page, "train", path)
    page.get_by_text("120 rows, 3 columns").wait_for()
    page.locator("#columns [data-testid=cell-0-2]").click(button="right")
    page.get_by_text("Delete row").wait_for()
    assert page.get_by_text("Delete column").count() == 0
    page.get_by_text("Delete row").click()
    press(page, "Train")
    page.get_by_text("were added or removed; choose the file again").wait_for()


@pytest.mark.slow
def test_training_in_a_browser(visit, tmp_path):
    (path := tmp_path / "shop.csv").write_text(SEMICOLONS)
    (wrong := tmp_path / "wrong.csv").write_text("a,a\n1,2\n")
    page = visit()
    page.get_by_role("tab", name="Train").click()
    upload(page, "train", wrong)
    page.get_by_role("alert").wait_for()
    assert "'a' stands more than once" in page.get_by_role("alert").inner_text()
    page.get_by_label("Remove").or_(page.get_by_label("Clear")).first.click()
    upload(page, "train", path)
    page.get_by_text("120 rows, 3 columns").wait_for()
    page.locator("#columns [data-testid=cell-0-2]").dblclick()  # the type of the age
    page.keyboard.press("Control+A")
    page.keyboard.type("category")
    page.keyboard.press("Enter")
    page.get_by_label("Minutes").fill("0.2")
    press(page, "Train")
    page.get_by_text("of 0.2 minutes").wait_for()
    page.get_by_text("The model is in use now").wait_for(timeout=120_000)
    assert page.locator(".curves polyline").count() == 4
    page.get_by_text("3 columns, trained on").wait_for()
    press(page, "Generate with this model")
    choose(page, "Conditions on", "age")
    choose(page, re.compile("^age$"), "33")
    page.get_by_label("Records").fill("20")
    press(page, "Generate")
    page.get_by_text("20 records of seed 0.").wait_for()
    assert page.locator(".marginals i.real").count()  # what is known of the table that was uploaded
    download = save(page, "CSV")
    lines = Path(download.value.path()).read_text().splitlines()
    assert lines[0] == "age;city;paid" and re.fullmatch(r"33;[ABC];\d+,\d+", lines[1])


@pytest.mark.slow
def test_training_is_stopped_in_a_browser(visit, tmp_path):
    (path := tmp_path / "shop.csv").write_text(SEMICOLONS)
    page = visit()
    page.get_by_role("tab", name="Train").click()
    upload(page, "train", path)
    page.get_by_text("120 rows, 3 columns").wait_for()
    press(page, "Train")
    page.get_by_text("of 1 minutes").wait_for()
    page.locator("#stop-train").click()
    page.get_by_text("Nothing is kept of this training").wait_for()


@pytest.mark.slow
def test_imputation_in_a_browser(visit, tmp_path):
    table = make_table(40)
    table.loc[:4, "price"] = np.nan
    write_table(table, path := tmp_path / "gaps.parquet")
    page = visit()
    page.get_by_role("tab", name="Impute").click()
    press(page, "Fill gaps")
    page.get_by_text("the table is missing").wait_for()
    upload(page, "impute", path)
    press(page, "Fill gaps")
    page.get_by_text("gaps filled in").wait_for()
    assert downloaded(page, "Parquet")["price"].notna().all()
    filled = page.locator("[style*='--filled']")
    assert filled.count() >= 5
    assert filled.first.evaluate("e => getComputedStyle(e).backgroundColor") == "rgb(255, 227, 194)"


@pytest.mark.slow
def test_evaluation_in_a_browser(visit, tmp_path):
    paths = [tmp_path / "real.csv", tmp_path / "synthetic.csv"]
    for seed, path in enumerate(paths):
        write_table(make_table(200, seed)[["age", "price", "color", "member"]], path)
    page = visit()
    page.get_by_role("tab", name="Evaluate").click()
    upload(page, "real", paths[0])
    page.get_by_text("Choose the other tables").wait_for()
    press(page, "Evaluate")
    page.get_by_text("the synthetic table is missing").wait_for()
    upload(page, "synthetic", paths[1])
    choose(page, "Target", "member")
    press(page, "Evaluate")
    page.locator("iframe.report").wait_for(timeout=120_000)
    assert page.get_by_text("a fifth of the real rows stands in for it").is_visible()
    report = page.frame_locator("iframe.report")
    assert "Column Shapes" in report.locator("body").inner_text()
    download = save(page, "Save the report (HTML)")
    assert "Column Shapes" in Path(download.value.path()).read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_keyboard_is_enough(visit):
    page = visit()

    def tab_to(predicate):
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate(f"(e => {predicate})(document.activeElement)"):
                return
        raise AssertionError(f"no way to {predicate}")

    tab_to("e.getAttribute('aria-label') === 'Records'")
    page.keyboard.press("Control+A")
    page.keyboard.type("7")
    tab_to("e.getAttribute('aria-label') === 'Conditions on'")
    page.keyboard.type("colo")
    page.keyboard.press("Enter")
    page.get_by_role("combobox", name=re.compile("^color$")).wait_for()
    tab_to("e.getAttribute('aria-label') === 'color'")
    page.keyboard.type("gree")
    page.keyboard.press("Enter")
    tab_to("e.id === 'generate'")
    page.keyboard.press("Enter")
    page.get_by_text("7 records of seed 0.").wait_for()
    tab_to("e.textContent.trim() === 'JSON lines'")
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    download.value.save_as(path := Path(download.value.path()).with_suffix(".jsonl"))
    assert read_table(path)["color"].tolist() == ["green"] * 7
    page.keyboard.press("Home")
    page.get_by_role("tab", name="Generate").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.get_by_text("Train a model on a table of your own").wait_for()


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_sizes_and_colour_schemes(visit, width, scheme):
    page = visit(width, scheme)
    press(page, "Generate")
    page.get_by_text("1,000 records of seed 0.").wait_for()
    for name in ("Generate", "Train", "Evaluate", "Impute"):
        tab = page.get_by_role("tab", name=name)
        tab.click()
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
    background, text = page.evaluate(
        "(s => [s.backgroundColor, s.color].map(c => c.match(/[\\d.]+/g).slice(0, 3).map(Number)))"
        "(getComputedStyle(document.body))"
    )
    assert (sum(background) > sum(text)) == (scheme == "light")


@pytest.mark.slow
def test_visitors_do_not_disturb_each_other(visit):
    one, other = visit(), visit()
    for page, seed in ((one, "1"), (other, "2")):
        page.get_by_label("Records").fill("2000")
        page.get_by_label("Seed").first.fill(seed)
    for page in (one, other):
        press(page, "Generate")
    tables = []
    for page, seed in ((one, "1"), (other, "2")):
        page.get_by_text(f"2,000 records of seed {seed}.").wait_for()
        tables.append(downloaded(page, "Parquet"))
    assert not tables[0].equals(tables[1])
    other.get_by_label("Seed").first.fill("1")
    press(other, "Generate")
    other.get_by_text("2,000 records of seed 1.").wait_for()
    pd.testing.assert_frame_equal(downloaded(other, "Parquet"), tables[0])


def test_no_other_file_is_served(visit, url, tiny_run):
    page = visit()
    for path in ("/etc/passwd", tiny_run / "model_index.json", Path(__file__)):
        assert page.request.get(f"{url}gradio_api/file={path}").status == 403
