"""What answers are and what steering costs: refusal, quality, divergence, accuracy."""

from cna_lens.first_token import REFUSAL_OPENINGS
from cna_lens.metrics.conditions import Answered, load_labels, save_labels
from cna_lens.metrics.divergence import kl_per_token
from cna_lens.metrics.evaluation import (
    AnswerRecord,
    Evaluation,
    evaluate,
    label,
    write_answers,
)
from cna_lens.metrics.factual import factual_accuracy
from cna_lens.metrics.harness import run_lm_eval
from cna_lens.metrics.judge import Judgements, judge
from cna_lens.metrics.judge_rubric import Judgement, Missing
from cna_lens.metrics.judge_settings import Judge
from cna_lens.metrics.log_odds import refusal_log_odds
from cna_lens.metrics.mmlu_sample import mmlu
from cna_lens.metrics.perplexity import perplexity, text_perplexity
from cna_lens.metrics.quality import compression_ratio, distinct_n, ngram_quality
from cna_lens.metrics.reasoning import without_reasoning
from cna_lens.metrics.refusal import is_refusal
from cna_lens.metrics.task_result import TaskResult

__all__ = [
    "REFUSAL_OPENINGS",
    "AnswerRecord",
    "Answered",
    "Evaluation",
    "Judge",
    "Judgement",
    "Judgements",
    "Missing",
    "TaskResult",
    "compression_ratio",
    "distinct_n",
    "evaluate",
    "factual_accuracy",
    "is_refusal",
    "judge",
    "kl_per_token",
    "label",
    "load_labels",
    "mmlu",
    "ngram_quality",
    "perplexity",
    "refusal_log_odds",
    "run_lm_eval",
    "save_labels",
    "text_perplexity",
    "without_reasoning",
    "write_answers",
]
