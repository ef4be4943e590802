"""Compare: every steering method at every strength under one protocol, in one table."""

from cna_lens.comparison.run import compare
from cna_lens.comparison.table import Comparison, Outcome, Row

__all__ = ["Comparison", "Outcome", "Row", "compare"]
