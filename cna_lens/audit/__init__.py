"""Audit: is a model, and the way to its answers, still what it was?"""

from cna_lens.audit.attestations import Access, Attestation, Check, Verdict
from cna_lens.audit.attesting import attest
from cna_lens.audit.canaries import Canaries
from cna_lens.audit.fingerprinting import fingerprint
from cna_lens.audit.fingerprints import CanaryRecord, Fingerprint
from cna_lens.audit.inference_path import Interception, hooks
from cna_lens.audit.thresholds import Thresholds

__all__ = [
    "Access",
    "Attestation",
    "Canaries",
    "CanaryRecord",
    "Check",
    "Fingerprint",
    "Interception",
    "Thresholds",
    "Verdict",
    "attest",
    "fingerprint",
    "hooks",
]
