"""What an answer is: a refusal or not, fluent or repeating itself."""

from cna_lens.metrics.judge import Judgements, judge
from cna_lens.metrics.judge_rubric import Judgement, Missing
from cna_lens.metrics.judge_settings import Judge
from cna_lens.metrics.quality import ngram_quality
from cna_lens.metrics.refusal import is_refusal

__all__ = [
    "Judge",
    "Judgement",
    "Judgements",
    "Missing",
    "is_refusal",
    "judge",
    "ngram_quality",
]
