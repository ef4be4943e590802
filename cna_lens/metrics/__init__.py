"""What an answer is: a refusal or not, fluent or repeating itself."""

from cna_lens.metrics.quality import ngram_quality
from cna_lens.metrics.reasoning import without_reasoning
from cna_lens.metrics.refusal import is_refusal

__all__ = ["is_refusal", "ngram_quality", "without_reasoning"]
