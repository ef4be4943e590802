"""What a model in memory answers to sensitive canaries, compared as an endpoint's answers are."""

from __future__ import annotations

from dataclasses import dataclass

from cna_lens.audit.identity.sensitive import SensitiveCanaries
from cna_lens.errors import InputError
from cna_lens.metrics.endpoint.replies import Missing
from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.prompts.encoding import encode
from cna_lens.models.tokens.scored_answers import AnswerSettings, ScoredAnswer, scored_answers


@dataclass(frozen=True)
class ChangedAnswers:
    """Which canaries a model answers otherwise, in the order of the canaries.

    Attributes:
        text: whether the words of the answer are other ones.
        log_probs: whether they are, or the log-probabilities are beyond tolerance.
    """

    text: tuple[bool | Missing, ...]
    log_probs: tuple[bool | Missing, ...]


def changed_answers(
    model: HookedModel, canaries: SensitiveCanaries, *, at_once: int | None = None
) -> ChangedAnswers:
    """Answer the canaries with a model in memory: what would an endpoint of it be told?

        with steer(model, circuit, 0.0):
            changed = audit.changed_answers(model, canaries)
        print(audit.judge_identity(changed.text, canaries, model="ablated"))

    Use it to see which changes of your own count as drift: quantise and fine-tune the model as
    usual, and judge the answers. The canaries stand in the order in which they were chosen, the
    most sensitive first, so shuffle the answers before they are judged if fewer than all count.

    Args:
        model: the model, within a steering context the steered one.
        canaries: the canaries of the model as it should be.
        at_once: canaries in each batch; None takes as many as the memory holds.

    Raises:
        InputError: at_once is below 1, or a canary does not fit the model's context.
        ModelError: logits are not a number or infinite.
    """
    if at_once is not None and at_once < 1:
        raise InputError(f"at_once is {at_once}, expected at least 1")
    ids = encode(model, canaries.prompts, name="canaries").ids
    settings = AnswerSettings(canaries.n_tokens, log_probs=True, k=1)
    size = at_once or len(ids)
    found: list[ScoredAnswer] = []
    for start in range(0, len(ids), size):
        batch = ids[start : start + size]
        found += scored_answers(model, batch, settings, [0] * len(batch))
    log_probs = [tuple(each.log_prob for each in answer.predictions or ()) for answer in found]
    return ChangedAnswers(
        tuple(
            canaries.is_changed(place, answer.text, is_cut=answer.is_cut)
            for place, answer in enumerate(found)
        ),
        tuple(
            canaries.is_changed(
                place, answer.text, log_probs[place], by="log-probabilities", is_cut=answer.is_cut
            )
            for place, answer in enumerate(found)
        ),
    )
