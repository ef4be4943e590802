"""The text an autoencoder is trained and checked on: packaged prompts, answered by the model."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import cna_lens
from cna_lens.batching import TokenIds
from cna_lens.prompts import encode
from cna_lens.sites import HookedModel

ANSWER_TOKENS = 128


def training_prompts() -> list[str]:
    """All packaged prompts but those of the evaluation, each once."""
    sets = [cna_lens.prompt_set(name) for name in ("refusal", "capitals", "agreement")]
    prompts = [prompt for each in sets for prompt in (*each.positive, *each.negative)]
    evaluation = cna_lens.prompt_set("refusal_evaluation")
    kept_back = {*evaluation.positive, *evaluation.negative}
    every = dict.fromkeys([*cna_lens.diverse_prompts(), *prompts])
    return [prompt for prompt in every if prompt not in kept_back]


def answered(
    model: HookedModel, prompts: Sequence[str], *, n_tokens: int | None, seed: int, progress: bool
) -> list[TokenIds]:
    """Prompts in the chat template with sampled answers, as token ids.

    Args:
        model: it answers its own prompts.
        prompts: taken from the first again, with other answers, until there are enough tokens; what is too much is cut.
        n_tokens: how many tokens are wanted. None takes each prompt once.
        seed: of the answers.
        progress: show a progress bar.
    """
    texts: list[TokenIds] = []
    found = 0
    while not texts or (n_tokens is not None and found < n_tokens):
        batch = list(prompts)
        if n_tokens is not None:
            mean_length = found / len(texts) if texts else ANSWER_TOKENS
            batch = batch[: max(1, round((n_tokens - found) / mean_length))]
        answers = cna_lens.generate(
            model,
            batch,
            max_new_tokens=ANSWER_TOKENS,
            temperature=1.0,
            seed=seed + len(texts),
            progress=progress,
        )
        asked = encode(model, batch).ids
        for ids, answer in zip(asked, answers, strict=True):
            said: list[int] = model.tokenizer(answer, add_special_tokens=False)["input_ids"]
            texts.append((*ids, *said))
        found = sum(map(len, texts))
    return texts if n_tokens is None else _cut(texts, n_tokens)


def _cut(texts: Sequence[TokenIds], n_tokens: int) -> list[TokenIds]:
    begins = accumulate(map(len, texts), initial=0)
    begun = zip(texts, begins, strict=False)
    return [ids[: n_tokens - begin] for ids, begin in begun if begin < n_tokens]
