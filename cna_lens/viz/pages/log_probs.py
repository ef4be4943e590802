"""An answer's tokens without and with steering, side by side."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

from cna_lens.errors import InputError
from cna_lens.models.tokens.answer_log_probs import AnswerLogProbs, TokenPrediction
from cna_lens.results.rendering import embedded_json, escaped, styled, text_html
from cna_lens.viz.pages.coloured import (
    Values,
    coloured_tokens,
    rounded,
    shown_token,
    shown_tokens,
    token_label,
)
from cna_lens.viz.pages.pages import Page

LEAST = -9999.0


def log_probs(found: Sequence[AnswerLogProbs]) -> Page:
    """Show the log-probability of each token of an answer without and with steering.

    Redder tokens are likelier. Under the pointer, a token shows its rank and the likeliest tokens
    in its place. Below the two sides is the change of each log-probability by steering.

    >>> from cna_lens import answer_log_probs
    >>> from contextlib import nullcontext
    >>> log_probs(answer_log_probs(tiny_model, nullcontext, ["w5"], ["w6 w7"]))
    Page('Answers without and with steering', 1 view)

    Args:
        found: from `answer_log_probs`.

    Raises:
        InputError: there is no answer.
    """
    if not found:
        raise InputError("there is no answer to show")
    title = "Answers without and with steering"
    note = text_html("cna-note", "Redder tokens are likelier; white is below -5 nats.")
    answers = "".join(_answer(place, answer) for place, answer in enumerate(found))
    return Page(
        [styled(f'<p class="cna-title">{escaped(title)}</p>{note}{answers}')], title, scripts=True
    )


def _answer(place: int, answer: AnswerLogProbs) -> str:
    sides = "".join(
        f'<div><p class="cna-note">answer {place}, {name}: {_mean(predicted):.3g} nats per token'
        f"</p>{_side(answer.tokens, predicted)}</div>"
        for name, predicted in (
            ("without steering", answer.unsteered),
            ("with steering", answer.steered),
        )
    )
    heading = f"answer {place}, change by steering"
    change = coloured_tokens(
        [heading], [answer.tokens], [Values("change", [answer.change])], "nats"
    )
    return f'<div class="cna-view"><div class="cna-columns">{sides}</div>{change}</div>'


def _mean(predicted: Sequence[TokenPrediction]) -> float:
    return math.fsum(each.log_prob for each in predicted) / len(predicted)


def _side(tokens: Sequence[str], predicted: Sequence[TokenPrediction]) -> str:
    props = {
        # The component hides the first token, from which it takes the others to be predicted.
        "prompt": ["…", *map(token_label, shown_tokens(tokens))],
        "topKLogProbs": [[_drawn(each) for _, each in at.likeliest] for at in predicted],
        "topKTokens": [
            [token_label(shown_token(token)) for token, _ in at.likeliest] for at in predicted
        ],
        "correctTokenRank": [at.rank for at in predicted],
        "correctTokenLogProb": [_drawn(at.log_prob) for at in predicted],
    }
    spans = "".join(
        f'<span title="{at.log_prob:.3g}">{html.escape(text)}</span>'
        for text, at in zip(shown_tokens(tokens), predicted, strict=True)
    )
    return (
        f'<div class="cna-tokens cna-log-probs" dir="auto" data-circuitsvis="TokenLogProbs" '
        f'data-props="{embedded_json(props)}" data-choices="[{{}}]">{spans}</div>'
    )


def _drawn(log_prob: float) -> float:
    # CircuitsVis draws no token at minus infinity; all tokens below -5 are white.
    return rounded(max(LEAST, log_prob))
