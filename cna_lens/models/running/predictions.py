"""Next-token distributions along given texts (teacher forcing)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from cna_lens.errors import InputError, ModelError
from cna_lens.models.hooked_model import HookedModel, model_name
from cna_lens.models.prompts.encoding import Chat, Prompt, TokenIds, encode
from cna_lens.models.running.answer_texts import AnswerTexts
from cna_lens.models.running.batching import shared_prefix_length
from cna_lens.models.running.forward import SharedPrefix, forward_logits
from cna_lens.models.running.memory import predictions_at_once, run_in_halves, token_budget
from cna_lens.models.running.positions import prompt_lengths
from cna_lens.models.running.request import Request

LogProbs = Float[Tensor, "predicted d_vocab"]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Text:
    """Given tokens, of which the later ones are predicted.

    Attributes:
        ids: the token ids.
        predicted_from: the place of the first predicted token, at least 1.
        prompt_length: number of tokens that are the prompt, for steering at single positions.
    """

    ids: TokenIds
    predicted_from: int
    prompt_length: int

    @property
    def predicted(self) -> TokenIds:
        """The tokens that are predicted."""
        return self.ids[self.predicted_from :]

    @property
    def n_predicted(self) -> int:
        """Number of tokens that are predicted."""
        return len(self.predicted)


def answers_after_prompts(
    model: HookedModel, prompts: Sequence[Prompt], answers: Sequence[str], *, chat: Chat = "auto"
) -> list[Text]:
    """Encode each prompt, in the chat template, with its answer; the answer is predicted.

    An answer of `generate` that begins with the marker of reasoning with which its prompt ends goes
    on behind that marker.

    Raises:
        InputError: there is not one answer for each prompt, or both together exceed the context.
    """
    if len(prompts) != len(answers):
        raise InputError(
            f"there are {len(prompts)} prompts and {len(answers)} answers; give each prompt one"
        )
    encoded = encode(model, prompts, chat=chat).ids
    opened = AnswerTexts.of(model, prompts, encoded, chat).opened
    texts = [
        Text(prompt + _tokens(model, answer.removeprefix(marker)), len(prompt), len(prompt))
        for prompt, answer, marker in zip(encoded, answers, opened, strict=True)
    ]
    context = getattr(model.cfg, "n_ctx", None)
    for place, text in enumerate(texts):
        if context and len(text.ids) > context:
            raise InputError(
                f"prompt {place} and its answer have {len(text.ids)} tokens, the model's context "
                f"holds {context}; shorten the answer"
            )
    return texts


def own_answers(model: HookedModel, prompts: Sequence[TokenIds], n_tokens: int) -> list[Text]:
    """The model's greedy answers to prompts, as the tokens that were generated, at most so many.

    With 0 tokens, each text is the prompt alone.

    Raises:
        InputError: a prompt and its answer exceed the context.
    """
    if not n_tokens:
        return [Text(ids, len(ids), len(ids)) for ids in prompts]
    answers = Request.of(model, prompts, n_tokens, 0.0, 0, "auto").tokens()
    return [
        Text((*ids, *answer), len(ids), len(ids))
        for ids, answer in zip(prompts, answers, strict=True)
    ]


def check_answer_tokens(model: HookedModel, n_tokens: int) -> None:
    """Raise InputError unless `own_answers` can be had."""
    if n_tokens and model.tokenizer is None:
        raise InputError(
            "the model has no tokenizer, so that it gives no answers along which to measure; set "
            "answer_tokens=0"
        )


def prompts_alone(
    model: HookedModel, prompts: Sequence[Prompt], *, chat: Chat = "auto"
) -> list[Text]:
    """Encode each prompt; its tokens are predicted from the end of the chat template's opening."""
    encoded = encode(model, prompts, chat=chat).ids
    # What a prompt has in common with two others is the template. Without a tokenizer there is
    # none, and the first token alone is not predicted.
    others = () if model.tokenizer is None else encode(model, ["a", "b"], chat=chat).ids
    openings = [shared_prefix_length([ids, *others]) if others else 1 for ids in encoded]
    return [
        Text(ids, max(opening, 1), len(ids)) for ids, opening in zip(encoded, openings, strict=True)
    ]


def _tokens(model: HookedModel, text: str) -> TokenIds:
    if model.tokenizer is None:
        raise InputError("the model has no tokenizer to encode answers; set model.tokenizer")
    return tuple(model.tokenizer(text, add_special_tokens=False)["input_ids"])


def predictions(model: HookedModel, texts: Sequence[Text]) -> Iterator[tuple[int, LogProbs]]:
    r"""Yield the log-probabilities of the next token along each text, with the text's place.

    Row t is $\log p(\cdot \mid x_{<s+t})$ in float32, where s is the place of the first predicted
    token. Texts come in the order of computation. A text without predicted tokens has no rows.

    Raises:
        ModelError: a log-probability is not a number.
    """
    places = [place for place, text in enumerate(texts) if text.n_predicted > 0]
    for place in sorted(set(range(len(texts))) - set(places)):
        yield place, torch.zeros((0, int(model.cfg.d_vocab)))
    if not places:
        return
    # The token before the first predicted one gives its prediction, so it must follow the prefix.
    prefix = SharedPrefix.of(
        model,
        [_read(texts[place]) for place in places],
        min(texts[place].predicted_from for place in places) - 1,
    )

    def run(batch: list[int]) -> list[LogProbs]:
        return _run(model, [texts[place] for place in batch], prefix)

    for batch, found in run_in_halves(_batches(model, texts, places), run):
        for place, log_probs in zip(batch, found, strict=True):
            if log_probs.isnan().any():
                raise ModelError(
                    f"{model_name(model)} gives log-probabilities that are not a number; load it "
                    "in float32 or bfloat16, and check its weights"
                )
            yield place, log_probs


def for_each_text(
    model: HookedModel, texts: Sequence[Text], run: Callable[[Text, LogProbs], Result]
) -> list[Result]:
    """Call a function with each text and its `predictions`; results are in the order of the texts.

    Raises:
        ModelError: a log-probability is not a number.
    """
    found = {place: run(texts[place], log_probs) for place, log_probs in predictions(model, texts)}
    return [found[place] for place in range(len(texts))]


def predicted_log_probs(
    model: HookedModel, texts: Sequence[Text]
) -> list[Float[Tensor, " predicted"]]:
    """Give the log-probability of each predicted token, text by text, on the CPU."""

    def of_tokens(text: Text, log_probs: LogProbs) -> Float[Tensor, " predicted"]:
        tokens = torch.tensor(text.predicted, dtype=torch.long, device=log_probs.device)
        return log_probs.gather(1, tokens[:, None]).squeeze(1).cpu()

    return for_each_text(model, texts, of_tokens)


def _read(text: Text) -> TokenIds:
    """Give the tokens that run through the model; the last one predicts nothing."""
    return text.ids[:-1]


def _run(model: HookedModel, batch: Sequence[Text], prefix: SharedPrefix) -> list[LogProbs]:
    ids, mask = prefix.pad(model, [_read(text) for text in batch])
    starts = [text.predicted_from - 1 - prefix.length for text in batch]
    first = min(starts)
    with torch.no_grad(), prompt_lengths([text.prompt_length for text in batch]):
        logits = forward_logits(model, ids, mask, prefix.read_only(), first)
    return [
        logits[row, start - first :][: text.n_predicted].float().log_softmax(-1)
        for row, (text, start) in enumerate(zip(batch, starts, strict=True))
    ]


def _batches(model: HookedModel, texts: Sequence[Text], places: Sequence[int]) -> list[list[int]]:
    """Group texts of similar shape, within the budgets of tokens and of predictions."""
    budget = token_budget(model, max(len(texts[place].ids) for place in places))
    at_once = predictions_at_once(model)
    batches: list[list[int]] = []
    for place in sorted(places, key=lambda at: (texts[at].predicted_from, len(texts[at].ids))):
        batch = [texts[other] for other in (*(batches[-1] if batches else ()), place)]
        longest = max(len(text.ids) for text in batch)
        kept = longest - min(text.predicted_from for text in batch)
        if batches and len(batch) * longest <= budget and len(batch) * kept <= at_once:
            batches[-1].append(place)
        else:
            batches.append([place])
    return batches
