"""Audit: is a model, and the way to its answers, still what it was?"""

from cna_lens.audit.answers import AnswersAttestation, attest_answers, judge_refusals
from cna_lens.audit.attestations import Attestation, Check
from cna_lens.audit.attesting import Observation, attest, judge, observe
from cna_lens.audit.canaries import Canaries
from cna_lens.audit.fingerprinting import fingerprint
from cna_lens.audit.fingerprints import CanaryRecord, Fingerprint
from cna_lens.audit.histograms import Histograms
from cna_lens.audit.inference_path import Interception, hooks
from cna_lens.audit.signatures import check_private_key, load_signed, new_key, save_signed
from cna_lens.audit.thresholds import Thresholds
from cna_lens.audit.watching import Alarm, Watch, watch

__all__ = [
    "Alarm",
    "AnswersAttestation",
    "Attestation",
    "Canaries",
    "CanaryRecord",
    "Check",
    "Fingerprint",
    "Histograms",
    "Interception",
    "Observation",
    "Thresholds",
    "Watch",
    "attest",
    "attest_answers",
    "check_private_key",
    "fingerprint",
    "hooks",
    "judge",
    "judge_refusals",
    "load_signed",
    "new_key",
    "observe",
    "save_signed",
    "watch",
]
