"""How good generated records are."""

from ..lazy import lazy_names


# Each name is looked for, and its module imported, when it is first used: metrics of tables take XGBoost, figures
# matplotlib, and a card of a model neither.
_NAMES = {
    "audit.attributes": ["attribute_inference"],
    "audit.audit": ["audit_model"],
    "audit.figures": ["audit_figures"],
    "audit.membership": ["attack_scores"],
    "audit.named_values": ["named_values"],
    "canaries": ["Canaries", "chance_exposure", "exposure", "plant_canaries"],
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
    "nested": ["categorical_columns", "flatten_records", "nested_scores"],
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
__all__, __getattr__, __dir__ = lazy_names(__name__, _NAMES)
