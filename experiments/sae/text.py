"""The text an autoencoder is trained and checked on: packaged prompts, answered by the model."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cna_lens
from cna_lens.batching import TokenIds, shared_prefix_length
from cna_lens.prompts import encode
from cna_lens.sites import HookedModel

ANSWER_TOKENS = 32


@dataclass(frozen=True)
class Texts:
    """Texts as token ids, and what they have in common at the beginning.

    Attributes:
        ids: the texts.
        template: how many tokens all of them begin with. Nothing is learned from those: what they
            activate is the same in each text. At least 1, since models keep huge values at the
            first token, which would be most of what is reconstructed.
    """

    ids: tuple[TokenIds, ...]
    template: int

    @property
    def n_tokens(self) -> int:
        """How many tokens stand behind the template."""
        return sum(len(ids) - self.template for ids in self.ids)


def training_prompts(seed: int) -> list[str]:
    """All packaged prompts but those of the evaluation, each once, in an order drawn by seed."""
    sets = [cna_lens.prompt_set(name) for name in ("refusal", "capitals", "agreement")]
    prompts = [prompt for each in sets for prompt in (*each.positive, *each.negative)]
    evaluation = cna_lens.prompt_set("refusal_evaluation")
    kept_back = {*evaluation.positive, *evaluation.negative}
    every = dict.fromkeys([*cna_lens.diverse_prompts(), *prompts])
    prompts = [prompt for prompt in every if prompt not in kept_back]
    random.Random(seed).shuffle(prompts)
    return prompts


def answered(
    model: HookedModel, prompts: Sequence[str], *, n_tokens: int, seed: int, progress: bool
) -> Texts:
    """Prompts in the chat template with sampled answers.

    Args:
        model: it answers its own prompts.
        prompts: taken from the first again, with other answers, until there are enough tokens.
        n_tokens: how many tokens behind the template; what is too much is cut.
        seed: of the answers.
        progress: show a progress bar.
    """
    asked = encode(model, prompts).ids
    template = max(1, shared_prefix_length(asked))
    found: list[TokenIds] = []
    missing = n_tokens
    while missing > 0:
        longest = max(map(len, asked)) - template + ANSWER_TOKENS
        batch = list(range(min(len(asked), -(-missing // longest))))
        answers = cna_lens.generate(
            model,
            [prompts[place] for place in batch],
            max_new_tokens=ANSWER_TOKENS,
            temperature=1.0,
            seed=seed + len(found),
            progress=progress,
        )
        for ids in _joined(model, [asked[place] for place in batch], answers):
            if missing > 0 and len(ids) > template:
                found.append(ids[: template + missing])
                missing -= len(found[-1]) - template
        asked = (*asked[len(batch) :], *asked[: len(batch)])
        prompts = (*prompts[len(batch) :], *prompts[: len(batch)])
    return Texts(tuple(found), template)


def _joined(
    model: HookedModel, asked: Sequence[TokenIds], answers: Sequence[str]
) -> Iterator[TokenIds]:
    for ids, answer in zip(asked, answers, strict=True):
        said: list[int] = model.tokenizer(answer, add_special_tokens=False)["input_ids"]
        yield (*ids, *said)
