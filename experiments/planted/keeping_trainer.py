"""Train a behaviour, and keep the predictions of plain text."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor
from torch.nn import functional

from experiments.shared.contrast_trainer import ContrastTrainer


class KeepingTrainer(ContrastTrainer):
    """Learn a behaviour as `ContrastTrainer` does, and keep the model's prediction of passages.

    The loss of a step is that of `ContrastTrainer` plus the mean over the tokens of a few passages
    of KL(untrained model || trained model). Without it, the perplexity of plain text
    rose by a sixth in one planted model, and fell by a fourteenth in another.
    """

    def __init__(
        self, *, passages: Int64[Tensor, "n token"], n_each_step: int, **kwargs: Any
    ) -> None:
        """Keep the passages, of which each step takes the next ones."""
        super().__init__(**kwargs)
        self.passages = passages
        self.n_each_step = n_each_step

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
        """The loss, and the model's output if it is asked for."""
        loss, output = super().compute_loss(model, inputs, return_outputs=True)
        if not self.n_each_step:
            return (loss, output) if return_outputs else loss
        first = self.state.global_step * self.n_each_step
        places = torch.arange(first, first + self.n_each_step) % len(self.passages)
        passages = self.passages[places].to(loss.device)
        after = model(input_ids=passages).logits.log_softmax(-1)
        with torch.no_grad(), model.disable_adapter():
            before = model(input_ids=passages).logits.log_softmax(-1)
        change = functional.kl_div(after, before, log_target=True, reduction="none").sum(-1)
        loss = loss + change.mean()
        return (loss, output) if return_outputs else loss
