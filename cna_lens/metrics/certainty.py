"""Warn of a first token that is the same whatever the prompt says: no metric of it counts."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from cna_lens.errors import CnaLensWarning
from cna_lens.models.hooked_model import HookedModel, model_name
from cna_lens.models.prompts.encoding import TokenIds
from cna_lens.models.running.predictions import Text, predictions
from cna_lens.models.tokens.token_texts import lone_token_texts

Values = Callable[[Float[Tensor, "batch d_vocab"], Sequence[int]], Float[Tensor, " batch"]]
"""A first-token metric prepared for a model: of the logits of prompts, and their places."""

CERTAIN = 0.999
"""A token that is likelier than this is written whatever the prompt says, if it always is."""


def likeliest(
    logits: Float[Tensor, "batch d_vocab"],
) -> list[tuple[int, float]]:
    """The likeliest token of each row and its probability, from logits or log-probabilities.

    >>> likeliest(torch.tensor([[0.0, 200.0, 0.0]]))
    [(1, 1.0)]
    """
    values = logits.detach().float()
    top = values.max(-1)
    shares = (top.values - values.logsumexp(-1)).exp()
    return list(zip(top.indices.tolist(), shares.tolist(), strict=True))


def certain_token(found: Iterable[tuple[int, float]]) -> int | None:
    """The token that is the likeliest one of all, and certain each time; None if there is none.

    >>> certain_token([(7, 0.9995), (7, 1.0)]), certain_token([(7, 1.0), (7, 0.9)])
    (7, None)
    >>> certain_token([(7, 1.0), (8, 1.0)])
    """
    pairs = list(found)
    tokens = {token for token, _ in pairs}
    return tokens.pop() if len(tokens) == 1 and min(p for _, p in pairs) > CERTAIN else None


@dataclass(frozen=True)
class WatchedMetric:
    """A first-token metric that notes the likeliest token of each prompt when it is first asked.

    Attributes:
        values: the metric, prepared for a model.
        found: the likeliest token of each prompt and its probability, by the prompt's place.
    """

    values: Values
    found: dict[int, tuple[int, float]] = field(default_factory=dict[int, tuple[int, float]])

    def __call__(
        self, logits: Float[Tensor, "batch d_vocab"], places: Sequence[int]
    ) -> Float[Tensor, " batch"]:
        """The metric of some of the prompts."""
        # Later, a ranking asks about changed activations.
        if not self.found.keys() >= set(places):
            for place, pair in zip(places, likeliest(logits), strict=True):
                self.found.setdefault(place, pair)
        return self.values(logits, places)

    def warn(self, model: HookedModel, negative: Sequence[TokenIds] | None) -> None:
        """Warn if one token is certain after every positive prompt, and after every negative one.

        The negative prompts run only if it is after every positive one.

        Args:
            model: the model that ran the positive prompts.
            negative: the negative prompts; without them nothing is known.

        Warns:
            CnaLensWarning: names the token, and says what to do.
        """
        token = certain_token(self.found.values()) if self.found else None
        if token is None or not negative:
            return
        # The value of the predicted token does not matter, because it is never read.
        texts = [Text((*ids, 0), len(ids), len(ids)) for ids in negative]
        for _, log_probs in predictions(model, texts):
            if certain_token([(token, 1.0), *likeliest(log_probs)]) is None:
                return
        warn_of_certain_token(
            model,
            token,
            f"all {len(self.found)} positive and {len(negative)} negative prompts",
            "its gradients are rounding; take a ranking without a first-token metric, or prompts "
            "that end behind this token",
        )


def warn_of_certain_token(model: HookedModel, token: int, where: str, what_to_do: str) -> None:
    """Say that the first token does not depend on the prompt.

    Warns:
        CnaLensWarning: always.
    """
    (text,) = lone_token_texts(model, [token])
    warnings.warn(
        f"{model_name(model)} begins its answers to {where} with {text!r} (token {token}), each "
        f"time with a probability above {CERTAIN}: a metric of the first token says nothing of the "
        f"answers, and {what_to_do}",
        CnaLensWarning,
        stacklevel=3,
    )
