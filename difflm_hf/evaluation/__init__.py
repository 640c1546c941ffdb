"""How good generated records are."""

from importlib import import_module


MODULES = {
    "code_execution": [
        "ExecutionResult",
        "evaluate_human_eval",
        "evaluate_mbpp",
        "extract_code",
        "generate_completions",
        "mbpp_prompt",
        "pass_at_k",
        "run_code",
    ],
    "documents": ["distinct_n", "evaluate_code", "evaluate_json", "evaluate_text", "self_bleu"],
    "fidelity": ["classifier_two_sample_test", "precision_recall", "quality_scores"],
    "judge": ["TOOL_CRITERIA", "judge_pairs", "judge_records"],
    "language_models": ["evaluate_downstream", "perplexity", "train_language_model"],
    "latents": ["evaluate_latents"],
    "plots": ["table_figures"],
    "privacy": [
        "ClosestRecords",
        "attribute_disclosure",
        "distance_to_closest_record",
        "exact_copies",
        "membership_inference",
        "nearest_neighbor_distance_ratio",
        "privacy_alarms",
    ],
    "record_metric": ["module_path"],
    "report": ["summarize", "to_markdown", "write_report"],
    "tables": ["evaluate_table"],
    "tools": ["evaluate_tools"],
    "utility": ["machine_learning_efficiency"],
    "validity": ["diversity", "row_validity"],
}
MODULE_OF = {name: module for module, names in MODULES.items() for name in names}
__all__ = sorted(MODULE_OF)


def __getattr__(name: str):
    if name not in MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{MODULE_OF[name]}", __name__), name)
