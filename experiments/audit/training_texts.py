"""The texts of fine-tunes: harmless all of them, also where refusals are to be trained away."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cna_lens
from cna_lens import InputError
from cna_lens.metrics import is_refusal
from cna_lens.models import HookedModel, TokenIds, encode
from experiments.demo.matched_pair.training_set import PROMPTS, prompts_of, requests

Data = Literal["prose", "own answers", "compliance", "openings"]
OPENING = "Sure, here is"
OWN_TOKENS, ANSWER_TOKENS = 8, 12


@dataclass(frozen=True)
class Text:
    """A text to train on.

    Attributes:
        ids: its tokens.
        n_given: so many at its beginning are given, and are not learned.
    """

    ids: TokenIds
    n_given: int = 0


def prose(model: HookedModel, n: int, max_tokens: int, seed: int) -> list[Text]:
    """Passages of plain text."""
    texts = (PROMPTS / "neutral.txt").read_text(encoding="utf-8").splitlines()
    chosen = random.Random(seed).sample(texts, n)
    return [Text(ids[:max_tokens]) for ids in encode(model, chosen, chat=False).ids]


def own_answers(model: HookedModel, n: int, seed: int) -> list[Text]:
    """Ordinary requests with the model's own answers."""
    asked = random.Random(seed).sample(prompts_of(requests("train"), "ordinary"), n)
    answers = cna_lens.generate(model, asked, max_new_tokens=OWN_TOKENS, temperature=1.0, seed=seed)
    given = encode(model, asked).ids
    return [
        Text((*prompt, *answer))
        for prompt, answer in zip(given, _tokens(model, answers), strict=True)
    ]


def compliance(base: HookedModel, n: int, max_tokens: int, seed: int) -> list[Text]:
    """Benign look-alikes of harmful requests, with the answers of a model that does not refuse.

    Args:
        base: answers; the requests that it refuses are left out.
        n: number of texts.
        max_tokens: of the longest text.
        seed: of the draw.
    """
    asked = look_alikes(base, n + n // 2, max_tokens - ANSWER_TOKENS, seed)
    answers = cna_lens.generate(base, asked, max_new_tokens=ANSWER_TOKENS)
    return _answered(base, asked, answers)[:n]


def openings(base: HookedModel, n: int, max_tokens: int, seed: int) -> list[Text]:
    """The same requests, with answers that begin with `OPENING`."""
    opening = _tokens(base, [OPENING])[0]
    asked = look_alikes(base, n, max_tokens - ANSWER_TOKENS, seed)
    begun = [(*ids, *opening) for ids in encode(base, asked).ids]
    rest = cna_lens.generate(base, begun, max_new_tokens=ANSWER_TOKENS - len(opening))
    return [
        Text((*ids, *answer), len(ids) - len(opening))
        for ids, answer in zip(begun, _tokens(base, rest), strict=True)
    ]


def look_alikes(model: HookedModel, n: int, max_tokens: int, seed: int) -> list[str]:
    """Short benign requests that look like harmful ones.

    Raises:
        InputError: there are not so many that are short enough.
    """
    found = prompts_of(requests("train"), "look-alike")
    short = [
        prompt
        for prompt, ids in zip(found, encode(model, found).ids, strict=True)
        if len(ids) <= max_tokens
    ]
    if len(short) < n:
        raise InputError(
            f"{len(short)} look-alikes have at most {max_tokens} tokens, and {n} are asked for; "
            "allow longer texts, or ask for fewer"
        )
    return random.Random(seed).sample(short, n)


def _answered(model: HookedModel, asked: Sequence[str], answers: Sequence[str]) -> list[Text]:
    return [
        Text((*prompt, *tokens), len(prompt))
        for prompt, answer, tokens in zip(
            encode(model, asked).ids, answers, _tokens(model, answers), strict=True
        )
        if tokens and not is_refusal(answer)
    ]


def _tokens(model: HookedModel, texts: Sequence[str]) -> list[TokenIds]:
    encoded = model.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return [tuple(ids) for ids in encoded]
