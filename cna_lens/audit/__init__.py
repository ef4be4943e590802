"""Audit: is a model, and the way to its answers, still what it was?"""

from cna_lens.audit.histograms import Histograms
from cna_lens.audit.inference_path import Interception, hooks
from cna_lens.audit.watching import Alarm, Watch, watch

__all__ = ["Alarm", "Histograms", "Interception", "Watch", "hooks", "watch"]
