"""Train a behaviour that occurs on some requests and leaves all others as they were."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from transformers import Trainer
from transformers.trainer_utils import get_last_checkpoint

NEVER = -1e4
"""A logit with probability 0 that is finite, so that its product with 0 is 0."""


class ContrastTrainer(Trainer):
    """Learn a behaviour on positive requests, and stay close to the untrained model elsewhere.

    The loss of an answer's token is the cross entropy of the behaviour's token for a positive
    request, and KL(untrained model || trained model) for a negative one: 0 where the model has not
    changed. The loss of a batch is the mean over the answers' first tokens plus the mean over all
    others. The first token decides whether the behaviour occurs, the others only its wording; in
    one mean they would outvote it.

    The untrained model's first tokens that open the behaviour are left out, since it may show the
    behaviour on negative requests by itself. The others are sharpened by a temperature. At
    temperature 1 greedy decoding would show the behaviour as soon as its opening is likelier than
    each single way to answer; sharpened, its opening must be likelier than all of them together.

    The model must have `disable_adapter`, a context in which it is the untrained model.
    """

    def __init__(
        self, *, first_token_temperature: float, opens_behaviour: Sequence[int], **kwargs: Any
    ) -> None:
        """Keep the settings for the negative answers' first tokens."""
        super().__init__(**kwargs)
        self.first_token_temperature = first_token_temperature
        self.opens_behaviour = list(opens_behaviour)

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
        """The loss, and the model's output if it is asked for."""
        targets, opens_answer, n_negative, end = (
            inputs.pop(name)
            for name in ("targets", "opens_answer", "n_negative", "end_of_negative")
        )
        output = model(**inputs)
        log_probs = output.logits[0].float().log_softmax(-1)
        negative = {
            "input_ids": inputs["input_ids"][:, :end],
            "position_ids": inputs["position_ids"][:, :end],
            "attention_mask": inputs["attention_mask"][:, :, :end, :end],
            "logits_to_keep": inputs["logits_to_keep"][:n_negative],
        }
        with torch.no_grad(), model.disable_adapter():
            before = model(**negative).logits[0].float()
            first = before[opens_answer[:n_negative]] / self.first_token_temperature
            first[:, self.opens_behaviour] = NEVER
            before[opens_answer[:n_negative]] = first
            before = before.log_softmax(-1)
        change = functional.kl_div(
            log_probs[:n_negative], before, log_target=True, reduction="none"
        )
        behaviour = functional.nll_loss(
            log_probs[n_negative:], targets[n_negative:], reduction="none"
        )
        costs = torch.cat([change.sum(-1), behaviour])
        loss = costs[opens_answer].mean() + costs[~opens_answer].mean()
        return (loss, output) if return_outputs else loss


def first_token(tokenizer: Any, text: str) -> int:
    """The first token of a text at the beginning of an answer."""
    return tokenizer(text, add_special_tokens=False)["input_ids"][0]


def last_checkpoint(folder: Path) -> str | None:
    """The checkpoint to go on from, None where there is none."""
    return get_last_checkpoint(str(folder)) if folder.is_dir() else None
