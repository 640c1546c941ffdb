"""How good generated records are."""

from importlib import import_module
from typing import Any


# Each name is looked for, and its module imported, when it is first used: metrics of tables take XGBoost, figures
# matplotlib, and a card of a model neither.
_NAMES = {
    "documents.code": ["evaluate_code"],
    "documents.code_execution": ["evaluate_human_eval", "evaluate_mbpp", "mbpp_prompt", "pass_at_k"],
    "documents.completions": ["extract_code", "generate_completions"],
    "documents.json_records": ["evaluate_json"],
    "documents.judge": ["TOOL_CRITERIA", "judge_pairs", "judge_records"],
    "documents.measures": ["distinct_n", "self_bleu"],
    "documents.sandbox": ["ExecutionResult", "run_code"],
    "documents.text": ["evaluate_text"],
    "documents.tools": ["evaluate_tools"],
    "language_models": ["evaluate_downstream", "perplexity", "train_language_model"],
    "latents": ["evaluate_latents"],
    "record_metric": ["module_path"],
    "report.html": ["write_report"],
    "report.markdown": ["to_markdown"],
    "report.summary": ["summarize"],
    "tables.fidelity": ["classifier_two_sample_test", "precision_recall"],
    "tables.plots": ["table_figures"],
    "tables.privacy": [
        "ClosestRecords",
        "attribute_disclosure",
        "distance_to_closest_record",
        "exact_copies",
        "membership_inference",
        "nearest_neighbor_distance_ratio",
        "privacy_alarms",
    ],
    "tables.quality": ["quality_scores"],
    "tables.table": ["evaluate_table"],
    "tables.utility": ["machine_learning_efficiency"],
    "tables.validity": ["diversity", "row_validity"],
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = getattr(import_module(f".{_MODULES[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
