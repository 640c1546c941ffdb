"""How good generated records are."""

from .documents.code import evaluate_code
from .documents.code_execution import evaluate_human_eval, evaluate_mbpp, mbpp_prompt, pass_at_k
from .documents.completions import extract_code, generate_completions
from .documents.json_records import evaluate_json
from .documents.judge import TOOL_CRITERIA, judge_pairs, judge_records
from .documents.measures import distinct_n, self_bleu
from .documents.sandbox import ExecutionResult, run_code
from .documents.text import evaluate_text
from .documents.tools import evaluate_tools
from .language_models import evaluate_downstream, perplexity, train_language_model
from .latents import evaluate_latents
from .record_metric import module_path
from .report.html import write_report
from .report.markdown import to_markdown
from .report.summary import summarize
from .tables.fidelity import classifier_two_sample_test, precision_recall, quality_scores
from .tables.plots import table_figures
from .tables.privacy import (
    ClosestRecords,
    attribute_disclosure,
    distance_to_closest_record,
    exact_copies,
    membership_inference,
    nearest_neighbor_distance_ratio,
    privacy_alarms,
)
from .tables.table import evaluate_table
from .tables.utility import machine_learning_efficiency
from .tables.validity import diversity, row_validity


__all__ = [
    "ClosestRecords",
    "ExecutionResult",
    "TOOL_CRITERIA",
    "attribute_disclosure",
    "classifier_two_sample_test",
    "distance_to_closest_record",
    "distinct_n",
    "diversity",
    "evaluate_code",
    "evaluate_downstream",
    "evaluate_human_eval",
    "evaluate_json",
    "evaluate_latents",
    "evaluate_mbpp",
    "evaluate_table",
    "evaluate_text",
    "evaluate_tools",
    "exact_copies",
    "extract_code",
    "generate_completions",
    "judge_pairs",
    "judge_records",
    "machine_learning_efficiency",
    "mbpp_prompt",
    "membership_inference",
    "module_path",
    "nearest_neighbor_distance_ratio",
    "pass_at_k",
    "perplexity",
    "precision_recall",
    "privacy_alarms",
    "quality_scores",
    "row_validity",
    "run_code",
    "self_bleu",
    "summarize",
    "to_markdown",
    "table_figures",
    "train_language_model",
    "write_report",
]
