"""Audit: is a model, and the way to its answers, still what it was?"""

from cna_lens.audit.inference_path import Interception, hooks

__all__ = ["Interception", "hooks"]
