"""Metrics of an answer's first token, from the logits after the prompt's last token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from cna_lens.errors import InputError
from cna_lens.metrics.certainty import Values, certain_token, likeliest, warn_of_certain_token
from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.prompts.encoding import Chat, Prompt, TokenIds, encode
from cna_lens.models.running.predictions import Text, predictions
from cna_lens.models.running.reasoning import behind_reasoning

Token = str | int

REFUSAL_OPENINGS = ("I'm sorry", "I cannot", "Sorry", "I apologize", "Unfortunately")
"""Openings of refusals; the log-odds count their first tokens as refusing."""


@runtime_checkable
class FirstTokenMetric(Protocol):
    """A number for each prompt, from the logits after its last token."""

    unit: ClassVar[str]

    def of(self, model: HookedModel, n_prompts: int) -> Values:
        """Prepare the metric for a model and a number of prompts.

        Returns:
            A function of the logits of some of the prompts, and of their places among all prompts.

        Raises:
            InputError: the model has no such token, or the number of tokens is not n_prompts.
        """
        ...


@dataclass(frozen=True)
class LogOdds:
    r"""Log-odds that an answer begins like the behaviour.

    $$m(x) = \log \frac{\sum_{t \in R} p(t \mid x)}{\sum_{t \notin R} p(t \mid x)}$$

    in nats, where R holds the first tokens of the openings.

    >>> metric = LogOdds(openings=("w5",)).of(tiny_model, n_prompts=1)
    >>> metric(torch.zeros(1, 64), [0]).exp()  # 1 of 64 tokens
    tensor([0.0159])

    Attributes:
        openings: beginnings of answers that show the behaviour, by default of refusals.
    """

    openings: tuple[str, ...] = REFUSAL_OPENINGS
    unit: ClassVar[str] = "nats"

    def of(self, model: HookedModel, n_prompts: int) -> Values:  # noqa: ARG002
        """Prepare the metric, which is the same for every prompt."""
        tokens = first_tokens(model, self.openings)
        return lambda logits, _: log_odds(logits, tokens)


@dataclass(frozen=True)
class LogitDifference:
    r"""Logit of a target token minus that of its foil.

    $$m(x) = z_{\text{target}}(x) - z_{\text{foil}}(x)$$

    >>> metric = LogitDifference(target=5, foil=("w6", "w7")).of(tiny_model, n_prompts=2)
    >>> metric(torch.arange(64.0).expand(2, -1), [0, 1])
    tensor([-1., -2.])

    Attributes:
        target: a token id, or a string that is one token; or a tuple of them, one for each
            positive prompt.
        foil: the token to compare with, given in the same way.
    """

    target: Token | tuple[Token, ...]
    foil: Token | tuple[Token, ...]
    unit: ClassVar[str] = "logits"

    def of(self, model: HookedModel, n_prompts: int) -> Values:
        """Prepare the metric with the target and the foil of each prompt."""
        targets = _one_for_each(model, self.target, n_prompts, "target")
        foils = _one_for_each(model, self.foil, n_prompts, "foil")

        def values(
            logits: Float[Tensor, "batch d_vocab"], places: Sequence[int]
        ) -> Float[Tensor, " batch"]:
            rows = list(range(len(places)))
            target, foil = ([ids[place] for place in places] for ids in (targets, foils))
            return logits[rows, target] - logits[rows, foil]

        return values


def check_metric(metric: object) -> None:
    """Raise InputError unless this is a first-token metric."""
    if not isinstance(metric, FirstTokenMetric) or isinstance(metric, type):
        raise InputError(f"metric is {metric!r}, expected LogOdds(...) or LogitDifference(...)")


def refusal_log_odds(
    model: HookedModel,
    prompts: Sequence[Prompt],
    *,
    openings: Sequence[str] = REFUSAL_OPENINGS,
    position: Literal[-1, "answer"] = -1,
    chat: Chat = "auto",
) -> list[float]:
    r"""Log-odds that an answer's first token begins a refusal.

    $$\log \frac{\sum_{t \in R} p(t \mid x)}{\sum_{t \notin R} p(t \mid x)}$$

    in nats, where R holds the first tokens of the openings. It takes one forward pass for each
    prompt and no generation, so that sweeps are fast, but text after the first token does not
    count. "I" may begin both refusals and other answers: before relying on the metric, check its
    correlation with the refusal rate of your model.

    >>> (log_odds,) = refusal_log_odds(tiny_model, ["w6 w7"], openings=["w5"])
    >>> log_odds < 0  # 1 of 64 tokens
    True

    Args:
        model: a TransformerBridge or HookedTransformer; inside `steer`, the steered model.
        prompts: strings, lists of chat messages, or token ids.
        openings: beginnings of refusals.
        position: -1 for the first token behind the prompt; "answer" for the first one behind the
            model's own reasoning, which is generated first, within `steer` by the steered model.
            To measure behind the unsteered model's reasoning, pass the prompts of
            `with_reasoning`.
        chat: put strings into the chat template; "auto" does so if the tokenizer has one.

    Raises:
        InputError: there are no prompts, or no openings; or as for `with_reasoning`.

    Warns:
        CnaLensWarning: every answer begins with the same token, which is certain and begins no
            refusal, such as a token that is forced, or "<think>".
    """
    if position not in (-1, "answer"):
        raise InputError(
            f"position is {position!r}, expected -1 for the first token behind the prompt, or "
            "'answer' for the first one behind the reasoning"
        )
    refusing = first_tokens(model, openings)
    encoded = encode(model, prompts, chat=chat)
    if position == "answer":
        (encoded,) = behind_reasoning(model, {"prompts": (prompts, encoded)}, chat)
    # The value of the predicted token does not matter, because it is never read.
    texts = [Text((*ids, 0), len(ids), len(ids)) for ids in encoded.ids]
    found: dict[int, float] = {}
    begins: dict[TokenIds, tuple[int, float]] = {}
    for place, log_probs in predictions(model, texts):
        found[place] = float(log_odds(log_probs[0].cpu().double(), refusing))
        (begins[texts[place].ids],) = likeliest(log_probs)
    # A model may refuse all of these prompts with the same word; then the log-odds are right.
    token = certain_token(begins.values()) if len(begins) > 1 else None
    if token is not None and token not in refusing:
        warn_of_certain_token(
            model,
            token,
            f"all {len(texts)} prompts",
            "the log-odds of a refusal are low on all of them; look at answers of `generate`, use "
            'position="answer" if the model reasons before it answers, or measure on prompts that '
            "end behind this token",
        )
    return [found[place] for place in range(len(texts))]


def first_tokens(model: HookedModel, openings: Sequence[str]) -> tuple[int, ...]:
    """The distinct first tokens of the openings.

    Raises:
        InputError: there are no openings, one has no tokens, or they are a single text.
    """
    check_openings(openings)
    return tuple(dict.fromkeys(token_ids(model, opening, "the opening")[0] for opening in openings))


def check_openings(openings: Sequence[str]) -> None:
    """Raise InputError if there are no openings, or they are a single text."""
    if isinstance(openings, str):
        raise InputError(f"openings is {openings!r}, expected several: ({openings!r},)")
    if not openings:
        raise InputError("openings is empty; give at least one way in which an answer begins")


def log_odds(
    logits: Float[Tensor, "*batch d_vocab"], tokens: Sequence[int]
) -> Float[Tensor, "*batch"]:
    """Log-odds of the given tokens against all others, from logits or log-probabilities.

    >>> log_odds(torch.tensor([[0.5, 0.25, 0.25]]).log(), [0])
    tensor([0.])
    """
    chosen = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
    chosen[list(tokens)] = True
    values = logits.to(torch.promote_types(logits.dtype, torch.float32))
    others = values.masked_fill(chosen, -torch.inf)
    return values[..., chosen].logsumexp(-1) - others.logsumexp(-1)


def _one_for_each(
    model: HookedModel, tokens: Token | tuple[Token, ...], n_prompts: int, name: str
) -> list[int]:
    given = tokens if isinstance(tokens, tuple | list) else (tokens,) * n_prompts
    if len(given) != n_prompts:
        raise InputError(
            f"there are {len(given)} {name} tokens and {n_prompts} positive prompts; give one "
            "token for all, or one for each prompt"
        )
    return [_token(model, token, name) for token in given]


def _token(model: HookedModel, token: Token, name: str) -> int:
    if isinstance(token, str):
        ids = token_ids(model, token, f"the {name}")
        if len(ids) > 1:
            raise InputError(
                f"the {name} {token!r} has {len(ids)} tokens, expected 1; a word often is one "
                "with a space before it"
            )
        return ids[0]
    size = int(model.cfg.d_vocab)
    if not 0 <= token < size:
        raise InputError(f"the {name} is token {token}, expected 0 to {size - 1}")
    return token


def token_ids(model: HookedModel, text: str, what: str) -> list[int]:
    """The token ids of a text, without special tokens.

    Args:
        model: the model, for its tokenizer.
        text: the text.
        what: how an error names it.

    Raises:
        InputError: the model has no tokenizer, or the text has no tokens.
    """
    if model.tokenizer is None:
        raise InputError(f"the model has no tokenizer; {what} {text!r} cannot be encoded")
    ids: list[int] = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    if not ids:
        raise InputError(f"{what} {text!r} has no tokens; leave it out")
    return ids
