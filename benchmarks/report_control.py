"""The page's passage on control."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from .control import NUM_CONDITIONS, NUM_FOR_ALL, NUM_RECORDS, NUM_ROWS
from .imputation import IMPUTERS, KINDS, MISSING, NUM_DRAWS, NUM_FILLED, NUM_PEER_DRAWS
from .markdown import mean_interval, to_table
from .results import load_result
from .speed import PEER
from .tables import MODELS


PLOT = "docs/images/guidance.png"
PEER_TITLE = MODELS[PEER].title


def _runs(figures: dict[str, Any]) -> list[Any]:
    return [run for seed, run in figures.items()]


def control_section() -> str:
    """What `benchmarks.control` and `benchmarks.control_documents` measured."""
    results, passages = load_result("control"), []
    if "satisfied" in results:
        passages.append(_satisfied(results["satisfied"]))
    if "four" in results:
        passages.append(_four(results["four"]["adult"]))
    passages += [
        _many(results[part], text)
        for part, text in (("single", "Every class and every quartile"), ("several", "Two and three fields at once"))
        if part in results
    ]
    if "speed" in results:
        ratios = [run["conditioned"] / run["free"] for run in _runs(results["speed"]["adult"])]
        passages.append(
            f"With income known, {np.mean(ratios):.2f} times as many rows a second are generated as without."
        )
    if "imputation" in results:
        passages.append(_imputation(results["imputation"]))
    if "prediction" in results:
        runs = _runs(results["prediction"]["adult"])
        ours, trees = ([run[name] for run in runs] for name in ("ours", "XGBoost"))
        passages.append(
            f"`pipe.predict` of income has an AUC of {mean_interval(ours)}, XGBoost trained on the training split "
            f"{mean_interval(trees)}."
        )
    if "guidance" in results:
        passages.append(_guidance(results["guidance"]["adult"], results["posterior"]["adult"]))
    if "rules" in results:
        passages.append(_rules(results["rules"]))
    passages.append(_documents(load_result("control_documents")))
    return "\n\n".join(passages)


def _satisfied(figures: dict[str, Any]) -> str:
    rows = []
    for name, runs in figures.items():
        run = next(iter(runs.values()))
        shares = [f"{100 * run[key]:.2f} %" for key in ("satisfied", "satisfied_for_all", "rows_satisfied")]
        rate = f"{run['records_per_second']:,.0f}"
        rows.append([name, f"{run['num_conditions']:,}", shares[0], rate, shares[1], str(run["too_rare"]), shares[2]])
    head = ["table", "conditions", "satisfied", "records/s", f"by {NUM_RECORDS} records", "too rare", "rows with gaps"]
    return (
        f"{NUM_CONDITIONS:,} random conditions on one to three fields (values, several of them, all but one, ranges), "
        f"each of one record in one call; then {NUM_RECORDS} records of each of the first {NUM_FOR_ALL}, some of "
        "which are refused as too rare; then "
        f"{NUM_ROWS:,} rows with random gaps. Shares of records that satisfy all that was asked:\n\n"
        + to_table(head, rows)
    )


def _four(figures: dict[str, Any]) -> str:
    runs = _runs(figures)
    rows = [[text, *(mean_interval([run[text][k] for run in runs]) for k in (0, 1))] for text in runs[0]]
    rows.append(
        ["**mean**", *(mean_interval([np.mean([v[k] for v in run.values()]) for run in runs]) for k in (0, 1))]
    )
    return "C2ST of conditioned records against the test rows that satisfy the condition, on adult:\n\n" + to_table(
        ["condition", "difflm_hf", PEER_TITLE], rows
    )


def _many(figures: dict[str, Any], text: str) -> str:
    rows = []
    for name, runs in figures.items():
        scores = np.array([run for seeds in _runs(runs) for run in seeds.values()])
        ours, peers = scores[:, 0], scores[:, 1]
        rows.append(
            [name, str(len(scores)), f"{ours.mean():.3f}", f"{peers.mean():.3f}", f"{(ours < peers).mean():.0%}"]
        )
    return f"{text}: mean C2ST, and how often ours is the lower.\n\n" + to_table(
        ["table", "conditions", "difflm_hf", PEER_TITLE, "lower"], rows
    )


def _imputation(figures: dict[str, Any]) -> str:
    rows = []
    for name, seeds in figures.items():
        for kind in KINDS:
            for model in ("ours", *(peer.title for peer in IMPUTERS.values())):
                runs = [run[kind][model] for run in _runs(seeds)]
                keys = ("accuracy", "nrmse", "c2st", "coverage")
                cells = [mean_interval([r[key] for r in runs]) if key in runs[0] else "–" for key in keys]
                rows.append([name, kind, "difflm_hf" if model == "ours" else model, *cells])
    head = ["table", "missing", "model", "accuracy", "error", "C2ST", "coverage"]
    return (
        f"Gaps in {NUM_FILLED:,} test rows (shoppers, magic: in half of them), of models that know the training "
        f"split: {MISSING:.0%} of the cells at random; 30 % of them, the larger ones more often; one column of each "
        "row. "
        "Accuracy of categories and error of numbers, in deviations, are of modes and means over all draws, "
        f"{NUM_DRAWS} of this package, {NUM_PEER_DRAWS} of peers, MissForest but one; C2ST is of one completed table "
        "against other test rows; coverage that of 90 % intervals. MissForest and miceforest are trained on the rows "
        "with gaps, too.\n\n" + to_table(head, rows)
    )


def _guidance(figures: dict[str, Any], posterior: dict[str, float]) -> str:
    runs = _runs(figures)
    names = [name for name in runs[0] if name.startswith("scale")]
    points = {name: np.mean([run[name] for run in runs], axis=0) for name in runs[0]}
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axis, scales = figure.subplots(), [float(name.split()[1]) for name in names]
    axis.plot(scales, [points[name][0] for name in names], marker="o", label="share of the class")
    axis.plot(scales, [points[name][1] for name in names], marker="s", label="shapes of the other fields, given it")
    axis.set_xscale("symlog", linthresh=0.5)
    axis.set_xlabel("scale of the guide")
    axis.legend()
    figure.savefig(PLOT, dpi=120)
    rows = [
        [name, f"{share:.1%}", f"{shapes:.3f}", f"{seconds:.1f} s"]
        for name, (share, shapes, seconds) in points.items()
    ]
    return (
        "A classifier of latents guides records of adult to an income above 50K; as a score, it chooses among records "
        "by k log p(class|z):\n\n"
        + to_table(["guide", "share of the class", "shapes of its other fields", "8,192 records"], rows)
        + "\n\n![Share of the class and shapes by scale](images/guidance.png)\n\n"
        f"Latents of real rows of the class give it a probability of {mean_interval(_runs(posterior))} on average. "
        "That is the share that a guide of scale 1 should come to, and about what it does. A larger share takes "
        "latents that are surer of the class than those of real rows, which costs shapes: a value that has to be sure "
        "is for a condition."
    )


def _rules(figures: dict[str, Any]) -> str:
    rows = []
    for name, seeds in figures.items():
        runs = _runs(seeds)
        if not runs[0]["rules"]:
            rows.append([name, "none", *["–"] * 4])
            continue
        shares = [f"{100 * np.mean([run[key] for run in runs]):.2f} %" for key in ("broken_without", "broken")]
        scores = [mean_interval([run[key] for run in runs]) for key in ("c2st_without", "c2st")]
        rows.append([name, "<br>".join(f"`{rule}`" for rule in runs[0]["rules"]), *shares, *scores])
    head = ["table", "rules", "records that break them", "with rules", "C2ST without", "C2ST with rules"]
    return "Rules that are found in the training split (of beijing: given), by the same models:\n\n" + to_table(
        head, rows
    )


def _documents(figures: dict[str, Any]) -> str:
    rows = []
    for name, case in figures.items():
        if name != "versions":
            runs = list(case["seeds"].values())
            seconds = np.mean([run["seconds_per_record"] for run in runs])
            rows.append([name, f"{np.mean([run['satisfied'] for run in runs]):.0%}", f"{seconds:.2f} s"])
    return "Documents, 100 records of two seeds:\n\n" + to_table(["what is asked", "satisfied", "a record"], rows)
