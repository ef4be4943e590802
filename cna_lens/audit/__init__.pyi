from .attestations.answers import (
    AnswersAttestation as AnswersAttestation,
    judge_refusals as judge_refusals,
)
from .attestations.asking import attest_answers as attest_answers
from .attestations.attestation import (
    Attestation as Attestation,
    Check as Check,
    Kinship as Kinship,
)
from .attestations.attesting import (
    Observation as Observation,
    attest as attest,
    judge as judge,
    observe as observe,
)
from .attestations.gate_files import junit as junit, sarif as sarif
from .attestations.sampled import (
    SampledAttestation as SampledAttestation,
    attest_sampled_answers as attest_sampled_answers,
    judge_sampled_answers as judge_sampled_answers,
)
from .attestations.served import (
    ServedAttestation as ServedAttestation,
    judge_served as judge_served,
)
from .checks.thresholds import Thresholds as Thresholds
from .fingerprints.fingerprint import CanaryRecord as CanaryRecord, Fingerprint as Fingerprint
from .fingerprints.signatures import load_signed as load_signed, save_signed as save_signed
from .fingerprints.taking import fingerprint as fingerprint
from .identity.asking import attest_identity as attest_identity
from .identity.choosing import sensitive_canaries as sensitive_canaries
from .identity.drift import DRIFT as DRIFT
from .identity.identity import (
    IdentityAttestation as IdentityAttestation,
    judge_identity as judge_identity,
)
from .identity.own_model import (
    ChangedAnswers as ChangedAnswers,
    changed_answers as changed_answers,
)
from .identity.sensitive import Drifted as Drifted, SensitiveCanaries as SensitiveCanaries
from .inference_path import Interception as Interception, hooks as hooks
from .measuring.canaries import Canaries as Canaries
from .measuring.sampled_refusals import (
    ANSWER_TOKENS as ANSWER_TOKENS,
    SampledRefusals as SampledRefusals,
)
from .signing.keys import check_private_key as check_private_key, new_key as new_key
from .signing.model_files import (
    ModelSignature as ModelSignature,
    model_signature as model_signature,
    sign_model as sign_model,
)
from .watching.exported import WatchCollector as WatchCollector, serve_metrics as serve_metrics
from .watching.histograms import Histograms as Histograms
from .watching.watching import Alarm as Alarm, Watch as Watch, watch as watch

__all__ = [
    "ANSWER_TOKENS",
    "DRIFT",
    "Alarm",
    "AnswersAttestation",
    "Attestation",
    "Canaries",
    "CanaryRecord",
    "ChangedAnswers",
    "Check",
    "Drifted",
    "Fingerprint",
    "Histograms",
    "IdentityAttestation",
    "Interception",
    "Kinship",
    "ModelSignature",
    "Observation",
    "SampledAttestation",
    "SampledRefusals",
    "SensitiveCanaries",
    "ServedAttestation",
    "Thresholds",
    "Watch",
    "WatchCollector",
    "attest",
    "attest_answers",
    "attest_identity",
    "attest_sampled_answers",
    "changed_answers",
    "check_private_key",
    "fingerprint",
    "hooks",
    "judge",
    "judge_identity",
    "judge_refusals",
    "judge_sampled_answers",
    "judge_served",
    "junit",
    "load_signed",
    "model_signature",
    "new_key",
    "observe",
    "sarif",
    "save_signed",
    "sensitive_canaries",
    "serve_metrics",
    "sign_model",
    "watch",
]
