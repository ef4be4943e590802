"""What a model says of given answers: by how far each token leads, and how likely it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from cna_lens.audit.identity.drift import Condition, under
from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.running.predictions import LogProbs, Text, for_each_text


@dataclass(frozen=True, eq=False)
class Predicted:
    """The predictions along answers of equal length, of which every token is given.

    Attributes:
        margins: the logit of each token beyond the largest other one; where one is not above 0,
            a greedy answer goes another way.
        log_probs: of each token, in nats.
    """

    margins: Float64[Tensor, "answer token"]
    log_probs: Float64[Tensor, "answer token"]

    def of(self, rows: Sequence[int]) -> Predicted:
        """The predictions of these answers, in this order."""
        return Predicted(self.margins[list(rows)], self.log_probs[list(rows)])

    @property
    def kept(self) -> Tensor:
        """Whether each answer is still the greedy one."""
        return (self.margins > 0).all(1)

    def away(self, before: Predicted) -> Float64[Tensor, " answer"]:
        """The root mean square change of each answer's log-probabilities, in nats."""
        return deviation(self.log_probs, before.log_probs)


def deviation(
    now: Float64[Tensor, "*answer token"], before: Float64[Tensor, "*answer token"]
) -> Float64[Tensor, "*answer"]:
    """The root mean square difference of log-probabilities over an answer's tokens.

    >>> deviation(torch.tensor([-1.0, -5.0]).double(), torch.tensor([-4.0, -1.0]).double()).item()
    3.5355339059327378
    """
    return (now - before).square().mean(-1).sqrt()


def predicted(
    model: HookedModel, texts: Sequence[Text], condition: Condition | None = None
) -> Predicted:
    """Run given answers of equal length through the model, one pass over them.

    Args:
        model: a TransformerBridge or HookedTransformer.
        texts: prompts with their answers.
        condition: how the model is computed; None as it is.

    Raises:
        ModelError: a log-probability is not a number, or the condition cannot be had.
    """
    condition = condition or Condition()
    size = condition.at_once or len(texts)
    with under(model, condition):
        rows = [
            row
            for start in range(0, len(texts), size)
            for row in for_each_text(model, texts[start : start + size], _of_text)
        ]
    margins, log_probs = zip(*rows, strict=True)
    return Predicted(torch.stack(margins).double(), torch.stack(log_probs).double())


def _of_text(text: Text, log_probs: LogProbs) -> tuple[Tensor, Tensor]:
    tokens = torch.tensor(text.predicted, dtype=torch.long, device=log_probs.device)[:, None]
    own = log_probs.gather(1, tokens).squeeze(1)
    others = log_probs.scatter(1, tokens, float("-inf")).amax(1)
    return (own - others).cpu(), own.cpu()
