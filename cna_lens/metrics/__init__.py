"""What a model answers, and what it can: refusal, repetition, MMLU and any task of lm-eval."""

from cna_lens.metrics.harness import run_lm_eval
from cna_lens.metrics.mmlu_sample import mmlu
from cna_lens.metrics.quality import ngram_quality
from cna_lens.metrics.refusal import is_refusal
from cna_lens.metrics.task_result import TaskResult

__all__ = ["TaskResult", "is_refusal", "mmlu", "ngram_quality", "run_lm_eval"]
