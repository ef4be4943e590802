"""Text to train and check an autoencoder on: packaged prompts with the model's answers."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice

from tqdm.auto import tqdm

import cna_lens
from cna_lens.models import HookedModel, TokenIds, encode, shared_prefix_length

ANSWER_TOKENS = 32
AT_ONCE = 64


@dataclass(frozen=True)
class Texts:
    """Texts as token ids, with the length of their common beginning.

    Attributes:
        ids: the texts.
        template: number of tokens that all texts begin with. They are not trained on, since their
            activations are the same in each text. At least 1, since models have huge activations at
            the first token, which would dominate the reconstruction.
    """

    ids: tuple[TokenIds, ...]
    template: int

    @property
    def n_tokens(self) -> int:
        """Number of tokens after the template."""
        return sum(len(ids) - self.template for ids in self.ids)


def training_prompts(seed: int) -> list[str]:
    """The packaged prompts without those of the evaluation, each once, shuffled by seed."""
    sets = [cna_lens.prompt_set(name) for name in ("refusal", "capitals", "agreement")]
    prompts = [prompt for each in sets for prompt in (*each.positive, *each.negative)]
    evaluation = cna_lens.prompt_set("refusal_evaluation")
    kept_back = {*evaluation.positive, *evaluation.negative}
    distinct = dict.fromkeys([*cna_lens.diverse_prompts(), *prompts])
    chosen = [prompt for prompt in distinct if prompt not in kept_back]
    random.Random(seed).shuffle(chosen)
    return chosen


def answered(model: HookedModel, prompts: Sequence[str], n_tokens: int, seed: int) -> Texts:
    """Prompts in the chat template with sampled answers.

    Args:
        model: gives the answers.
        prompts: used again from the first, with other answers, until there are enough tokens.
        n_tokens: number of tokens after the template.
        seed: of the answers.
    """
    template = max(1, shared_prefix_length(encode(model, prompts).ids))
    queue = cycle(prompts)
    texts: list[TokenIds] = []
    with tqdm(total=n_tokens, desc="answering", unit="token") as bar:
        while bar.n < n_tokens:
            asked = list(islice(queue, AT_ONCE))
            answers = cna_lens.generate(
                model, asked, max_new_tokens=ANSWER_TOKENS, temperature=1.0, seed=seed + len(texts)
            )
            for ids, answer in zip(encode(model, asked).ids, answers, strict=True):
                said = model.tokenizer(answer, add_special_tokens=False)["input_ids"]
                missing = n_tokens - int(bar.n)
                text = (*ids, *said)[: template + missing]
                if missing:
                    texts.append(text)
                    bar.update(len(text) - template)
    return Texts(tuple(texts), template)
