import base64
import json
import re
import tracemalloc
import warnings
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image
from scipy.stats.contingency import chi2_contingency, crosstab

from difflm_hf.evaluation import (
    evaluate_code,
    evaluate_json,
    evaluate_table,
    evaluate_text,
    summarize,
    table_figures,
    to_markdown,
    write_report,
)
from difflm_hf.evaluation.report.summary import METRICS, SECTIONS
from difflm_hf.evaluation.tables.plots import MAX_COLUMNS, _cramers_v


FIGURES = ["marginals", "correlations", "map", "distances"]
EVIL = "<script>alert(1)</script>"
CODES = ["region"]


def make_table(num_rows, seed):
    """Columns of every kind, and names and values that are not easy to write."""
    generator = np.random.default_rng(seed)
    hidden = generator.normal(size=num_rows)
    days = pd.to_timedelta((100 * hidden).round(), unit="D")
    table = pd.DataFrame(
        {
            EVIL: generator.choice(["a", "<b>&amp;", "#000000", "$x_1$", 'fill: "url(http://a.b/)"'], num_rows),
            "$\\frac{price_in_$": np.exp(hidden),
            "年齢": (40 + 10 * hidden).round().astype(int),
            "since": pd.Timestamp("2020-01-01") + days,
            "day": (pd.Timestamp("2020-01-01") + days).strftime("%Y-%m-%d"),
            "at": pd.Timestamp("2020-01-01 12:34:56", tz="Europe/Berlin") + days * 1.01,
            "constant": 7,
            "region": np.digitize(hidden, [-1, 0, 1]),
            "lost": generator.normal(size=num_rows),
            "never": np.nan,
            "text": [f"row {x} of {seed}" for x in generator.random(num_rows)],
            "member": hidden > 0,
        }
    )
    missing = generator.random(num_rows) < 0.1
    return table.assign(**{name: table[name].mask(missing) for name in ("年齢", "member")})


@pytest.fixture(scope="module")
def tables():
    synthetic, train, holdout = (make_table(150, seed) for seed in range(3))
    synthetic["lost"] = np.nan
    synthetic["region"] = synthetic["region"].astype(float)
    synthetic.loc[:1, EVIL] = ["<img src=x onerror=alert(1)>", "half \ud800"]
    synthetic.loc[0, "$\\frac{price_in_$"] = 1e9
    return synthetic, train, holdout


@pytest.fixture(scope="module")
def scores(tables):
    return evaluate_table(*tables, target="member", categorical=CODES, num_seeds=2, n_jobs=1)


@pytest.fixture(scope="module")
def report(tables, scores, tmp_path_factory):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures = table_figures(*tables, scores)
        return write_report(scores, tmp_path_factory.mktemp("report"), figures, title=f"Report on {EVIL}")


class Page(HTMLParser):
    """Tags, attributes, and text of a page."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.attributes, self.texts = [], [], []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        self.text = " ".join("".join(self.texts).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attributes]

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def images(self):
        prefix = "data:image/svg+xml;base64,"
        sources = [value for tag, name, value in self.attributes if (tag, name) == ("img", "src")]
        assert all(source.startswith(prefix) for source in sources)
        return [base64.b64decode(source.removeprefix(prefix)).decode() for source in sources]


def test_files(report, scores):
    assert sorted(path.name for path in report.parent.iterdir()) == sorted(
        ["report.html", "report.json", *(f"{name}.png" for name in FIGURES)]
    )
    for name in FIGURES:
        with Image.open(report.parent / f"{name}.png") as image:
            assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
            assert image.width > 500

    def fail(constant):
        raise AssertionError(constant)

    saved = json.loads((report.parent / "report.json").read_text(), parse_constant=fail)
    assert list(saved) == list(scores)
    assert saved["fidelity"]["c2st"] == scores["fidelity"]["c2st"]
    assert np.isnan(scores["fidelity"]["columns"]["lost"])
    assert saved["fidelity"]["columns"]["lost"] is None


def test_page_needs_no_other_resource(report):
    page = Page(report)
    assert not {"script", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    for tag, name, value in page.attributes:
        if name in ("src", "href", "srcset", "action", "data", "poster"):
            assert value.startswith("data:"), (tag, name)
        assert not name.startswith("on")
    css = report.read_text(encoding="utf-8").split("<style>")[1].split("</style>")[0]
    assert not re.search(r"@import|url\(|//", css)
    assert len(page.images) == len(FIGURES)
    for svg in page.images:
        assert svg.startswith("<svg")
        for element in ElementTree.fromstring(svg).iter():
            for name, value in element.attrib.items():
                if name.split("}")[-1] in ("href", "src"):
                    assert value.startswith(("#", "data:image/png;base64,"))
                assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)", value))
            if element.tag.endswith("style"):
                assert not re.search(r"@import|url\(|//", element.text)


def test_names_and_values_are_text(report):
    page = Page(report)
    assert f"Report on {EVIL}" in page.text
    assert page.text.count(EVIL) > 3
    assert "<img src=x onerror=alert(1)>" in page.text
    assert "half ?" in page.text
    texts = [element.text for element in ElementTree.fromstring(page.images[0]).iter() if element.tag.endswith("text")]
    assert {"$\\frac{price_in_$", "年齢", "$x_1$", "#000000", "<b>&amp;"} <= set(texts)
    assert "missing: 0.0% real, 100.0% synthetic" in texts


def test_figures_follow_the_scheme(report):
    for svg in Page(report).images:
        assert "prefers-color-scheme:dark" in svg
        assert "stroke: currentColor" in svg
        assert not re.search("(fill|stroke): #(000000|ffffff)", svg)


@pytest.mark.slow
def test_reports_are_the_same_each_time(report, tables, scores, tmp_path):
    again = write_report(scores, tmp_path, table_figures(*tables, scores), title=f"Report on {EVIL}")
    assert again.read_text(encoding="utf-8") == report.read_text(encoding="utf-8")


def test_page_tells_everything(report, scores):
    text = Page(report).text
    assert "150 synthetic rows, compared with 150 training rows and 150 real rows" in text
    assert "Utility: predicting member" in text
    for row in summarize(scores):
        assert f"{row.name} {row.meaning}" in text
    assert "column 'never' has no value in the training table, and is left out" in text
    assert scores["validity"]["examples"]["$\\frac{price_in_$"] == ["1000000000.0"]
    assert "1000000000.0" in text
    assert "sdmetrics" in text and "xgboost" in text and "difflm_hf" in text


def test_alarms(tables, scores, tmp_path):
    calm = scores | {"privacy": scores["privacy"] | {"alarms": []}}
    text = Page(write_report(calm, tmp_path)).text
    assert "No privacy alarm" in text and "no guarantee" in text
    alarmed = scores | {"privacy": scores["privacy"] | {"alarms": [f"synthetic rows disclose '{EVIL}'", "more"]}}
    page = Page(write_report(alarmed, tmp_path))
    assert "2 privacy alarms" in page.text and f"disclose '{EVIL}'" in page.text
    assert "script" not in page.tags


def test_summary(scores):
    rows = {row.name: row for row in summarize(scores)}
    assert set(row.section for row in rows.values()) == set(SECTIONS.values()) - {"Documents", "Audit of the model"}
    fidelity, copies = scores["fidelity"], scores["privacy"]["exact_copies"]
    assert (
        rows["C2ST"].value == f"{fidelity['c2st']:.3f}"
        and rows["C2ST"].reference == f"{fidelity['c2st_holdout']:.3f} (training rows)"
    )
    assert rows["β-recall"].reference == f"{fidelity['beta_recall_holdout']:.3f} (hold-out)"
    assert rows["Exact copies"].reference == f"{copies['holdout']:.2%} (hold-out)"
    auc = scores["utility"]["synthetic"]["auc"]
    assert rows["AUC"].value == f"{auc['mean']:.3f} [{auc['low']:.3f}, {auc['high']:.3f}]"
    assert rows["AUC"].reference.endswith("] (real rows)")
    attack = scores["privacy"]["membership_inference"]
    assert rows["Membership inference"].value == f"{attack['auc']:.3f} ± {attack['standard_error']:.3f}"
    assert "RMSE" not in rows


def test_summary_as_markdown(scores):
    header, rule, *lines = to_markdown(scores).splitlines()
    assert all(line.count("|") == 6 for line in (header, rule, *lines))
    rows = summarize(scores)
    assert len(lines) == len(rows)
    assert lines[0] == f"| fidelity | {rows[0].name} | {rows[0].value} | {rows[0].reference} | {rows[0].good} |"
    assert lines[1].startswith("|  | ")


def test_summary_of_missing_values():
    scores = {"fidelity": {"column_shapes": 0.5, "pair_trends": float("nan")}}
    assert [(row.name, row.value) for row in summarize(scores)] == [
        ("Column Shapes", "0.500"),
        ("Column Pair Trends", "–"),
    ]


def test_every_figure_is_in_the_summary(scores):
    """Nothing that the evaluation computes is forgotten, and no path leads nowhere."""
    documents = evaluate_json(["{}", "{}"], ['{"a": 1}'] * 2, schema={}) | evaluate_code(["x"] * 2, ["y"] * 2)
    scores = scores | {"documents": documents | evaluate_text(["a b"] * 2, ["c d"] * 2)}
    rows, metrics = summarize(scores), [metric for metric in METRICS if metric.path[0] != "audit"]
    assert len(rows) == len(metrics) - 2  # RMSE and R² are of regressions
    told = {path[:3] for metric in metrics for path in (metric.path, metric.reference) if path}
    for section in ("fidelity", "validity", "diversity", "documents"):
        numbers = {(section, name) for name, value in scores[section].items() if isinstance(value, float)}
        assert numbers <= told


@pytest.mark.parametrize("evaluate", [evaluate_code, evaluate_text])
def test_documents(evaluate, tmp_path):
    scores = {"documents": evaluate(["x = 1", "y ="], ["x = 1", "z = 2"])}
    text = Page(write_report(scores, tmp_path)).text
    assert all(f"{row.name} {row.meaning}{row.value}" in text for row in summarize(scores))
    assert "privacy alarm" not in text.lower()
    assert json.loads((tmp_path / "report.json").read_text()) == scores


@pytest.mark.slow
def test_regression_of_many_columns(tmp_path):
    generator = np.random.default_rng(0)
    tables = [pd.DataFrame(generator.normal(size=(60, 26)), columns=[f"c{i:02d}" for i in range(26)]) for _ in "012"]
    tables[0]["c25"] += 5
    scores = evaluate_table(*tables, target="c00", num_seeds=1, n_jobs=1)
    figures = table_figures(*tables, scores)
    shown = [ax.get_title(loc="left") for ax in figures["marginals"].axes]
    assert len(shown) == MAX_COLUMNS and shown == sorted(shown) and "c25" in shown
    assert all(f"The {MAX_COLUMNS} columns" in figures[name].get_label() for name in ("marginals", "correlations"))
    text = Page(write_report(scores, tmp_path, figures)).text
    assert "RMSE" in text and "R²" in text and "Accuracy" not in text


@pytest.mark.slow
def test_no_target_and_a_single_column(tables, tmp_path):
    tables = [table[["年齢"]] for table in tables]
    scores = evaluate_table(*tables, n_jobs=1)
    assert "Utility" not in {row.section for row in summarize(scores)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path = write_report(scores, tmp_path, table_figures(*tables, scores))
    assert "Utility" not in Page(path).text


def test_latents_on_the_map(tables, scores):
    generator = np.random.default_rng(0)
    latents = generator.normal(size=(150, 8)).astype(np.float32), generator.normal(size=(50, 8)).astype(np.float32)
    figure = table_figures(*tables, scores, latents=latents)["map"]
    assert "150 real (training) and 50 synthetic rows" in figure.get_label()
    assert "latents" in figure.get_label()
    assert "latents" not in table_figures(*tables, scores)["map"].get_label()


@pytest.mark.slow
def test_associations():
    generator = np.random.default_rng(0)
    hidden = generator.normal(size=400)
    table = pd.DataFrame(
        {
            "x": hidden,
            "y": -(hidden**3),
            "sign": np.where(hidden > np.median(hidden), "+", "-"),
            "other": generator.choice(["a", "b", "c"], 400),
            "one": "constant",
        }
    )
    scores = evaluate_table(table, table, table, n_jobs=1)
    real, synthetic, difference = (
        np.ma.filled(ax.images[0].get_array(), np.nan)
        for ax in table_figures(table, table, table, scores)["correlations"].axes[:3]
    )
    assert real[0, 1] == pytest.approx(-1)
    # Cramér's V of 1, of 10 quantiles with 2 categories in 400 rows, corrected for its bias.
    assert real[0, 2] == pytest.approx(np.sqrt((1 - 9 / 399) / (1 - 1 / 399)))
    assert real[2, 3] < 0.15
    assert np.isnan(real[4, :4]).all()
    assert np.array_equal(real, synthetic, equal_nan=True)
    assert np.nanmax(np.abs(difference)) == 0


@pytest.mark.parametrize("num_categories", [2, 7, 60])
def test_cramers_v_is_that_of_scipy(num_categories):
    generator = np.random.default_rng(num_categories)
    left = generator.integers(0, num_categories, 900)
    right = np.where(generator.random(900) < 0.5, left, generator.integers(0, 5, 900))
    counts = crosstab(left, right).count
    rows, columns = counts.shape
    phi = chi2_contingency(counts, correction=False).statistic / 900 - (rows - 1) * (columns - 1) / 899
    size = min(n - (n - 1) ** 2 / 899 for n in (rows, columns)) - 1
    assert _cramers_v(left, right) == pytest.approx(np.sqrt(max(phi, 0) / size))


def test_associations_of_many_categories_take_little_memory():
    left, right = np.random.default_rng(0).integers(0, 12_600, (2, 13_000))
    tracemalloc.start()
    try:
        _cramers_v(left, right)
        assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    finally:
        tracemalloc.stop()


def test_other_figures(tmp_path):
    figure = Figure()
    figure.subplots().plot([1, 2])
    figure.set_label("A line.")
    page = Page(write_report({}, tmp_path, {"line": figure}))
    assert "A line." in page.text and (tmp_path / "line.png").is_file()
    assert "stroke: currentColor" in page.images[0]


def test_a_failure_leaves_no_page(tmp_path):
    with pytest.raises(TypeError):
        write_report({"fidelity": {"column_shapes": {1, 2}}}, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_page_in_a_browser(report, browser):
    problems = []
    for width in (1280, 390):
        for scheme in ("light", "dark"):
            page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            page.on("console", lambda m: problems.append(m.text) if m.type in ("error", "warning") else None)
            page.on("pageerror", lambda error: problems.append(str(error)))
            requested = []
            page.on("request", lambda request, requested=requested: requested.append(request.url))
            page.goto(report.as_uri())
            assert all(url.startswith(("file:", "data:")) for url in requested)
            widths = page.evaluate("[...document.images].map(i => i.complete ? i.naturalWidth : 0)")
            assert len(widths) == len(FIGURES) and all(widths)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            page.close()
    assert problems == []
