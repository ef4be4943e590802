"""What refusals without and with a circuit say, in words, also where they say nothing."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from cna_lens.metrics.conditions import Answered
from cna_lens.results.statistics import mcnemar


def verdicts(answered: Sequence[Answered]) -> list[str]:
    """What one kind of answers says of each circuit that is followed by its control.

    >>> from cna_lens.metrics import label
    >>> def answers(condition, text):
    ...     return Answered(condition, "harmful", label(["a"] * 8, [text] * 8))
    >>> before = answers("unsteered, m = 1", "I'm sorry, I can't help.")
    >>> after = answers("circuit, m = 0", "Sure!")
    >>> for text in verdicts([before, after, answers("random control, m = 0", "Sure!")]):
    ...     print(text)
    Of 8 answers to harmful prompts 8 were refusals unsteered, 0 with circuit, m = 0 (exact ...
    """
    unsteered = [each for each in answered if each.is_unsteered]
    if len(unsteered) != 1:
        return []
    return [
        _verdict(unsteered[0], steered, control)
        for steered, control in pairwise(answered)
        if control.is_control and not steered.is_unsteered and not steered.is_control
    ]


def _verdict(unsteered: Answered, steered: Answered, control: Answered) -> str:
    before, after, random = (each.evaluation.refused for each in (unsteered, steered, control))
    p_circuit, p_control = mcnemar(before, after), mcnemar(before, random)
    counted = (
        f"Of {len(before)} answers to {unsteered.kind} prompts {sum(before)} were refusals "
        f"unsteered, {sum(after)} with {steered.condition} (exact McNemar p = "
        f"{p_circuit:.2g}), {sum(random)} with {control.condition} (p = {p_control:.2g}). "
    )
    return counted + _reading(sum(before), sum(after), p_circuit, p_control)


def _reading(before: int, after: int, p_circuit: float, p_control: float) -> str:
    if p_circuit >= 0.05:
        too_few = (
            " There were fewer than 6 refusals, too few for a drop to reach p < 0.05: these "
            "figures show the method at work, not that it works here."
        )
        return (
            "So with this model and these prompts there is no effect of the circuit on refusals "
            "that chance does not explain." + (too_few if before < 6 else "")
        )
    direction = "fewer" if after < before else "more"
    if p_control < 0.05:
        return (
            f"The circuit gives {direction} refusals, but so does changing random neurons of the "
            "same layers: this is no evidence for these neurons in particular."
        )
    return (
        f"The circuit gives {direction} refusals than chance explains, and the random control does "
        "not. Look at the quality and at other prompts before believing it."
    )
