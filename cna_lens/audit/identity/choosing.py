"""Choosing canaries by how far a small change of the weights moves their answers."""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from typing import Final

import torch
from jaxtyping import Float64
from torch import Tensor

from cna_lens.audit.identity.drift import DRIFT, DRIFTS, check_drifts
from cna_lens.audit.identity.predicted import Predicted, predicted
from cna_lens.audit.identity.sensitive import Drifted, SensitiveCanaries, hashed
from cna_lens.audit.identity.sensitivity import covering, flips, layer_sensitivity
from cna_lens.errors import InputError
from cna_lens.models.hooked_model import HookedModel, check_model, model_name
from cna_lens.models.prompts.encoding import encode
from cna_lens.models.prompts.sets import diverse_prompts, prompt_set
from cna_lens.models.running.answer_texts import AnswerTexts
from cna_lens.models.running.batching import BatchSize
from cna_lens.models.running.predictions import Text, own_answers
from cna_lens.results.provenance import library_versions

SAFETY: Final = 3.0
"""The lead of each token must be more than so many times what drift takes from it."""

TOLERANCE: Final = 3.0
"""So many times as far as drift moves them, log-probabilities may move."""

LEAST_TOLERANCE: Final = 1e-3
"""In nats; endpoints round the log-probabilities that they report."""

LEAST: Final = 10
"""The smallest number of canaries: with fewer, the test has nothing to count."""


def benign_pool() -> tuple[str, ...]:
    """The packaged pool: questions and requests of everyday life, none of which sounds harmful.

    They are public. Give prompts of your own where somebody may know them.

    >>> len(benign_pool())
    365
    """
    french = prompt_set("planted_french")
    prompts = (
        *diverse_prompts(),
        *prompt_set("refusal").negative,
        *prompt_set("refusal_reworded").negative,
        *french.positive,
        *french.negative,
    )
    return tuple(dict.fromkeys(prompts))


def sensitive_canaries(
    model: HookedModel,
    pool: Sequence[str] | None = None,
    n: int = 50,
    *,
    n_tokens: int = 8,
    drift: Sequence[str] = DRIFT,
    change: float = 0.1,
    key: bytes | None = None,
    batch_size: BatchSize = "auto",
    progress: bool = False,
) -> SensitiveCanaries:
    r"""Choose the prompts of a pool whose greedy answers a small change of the weights moves.

        canaries = audit.sensitive_canaries(model, read_prompts("requests.txt"))
        canaries.save("canaries.json")

    A prompt is left out if drift takes a third of the lead of any token of its answer, if its
    answer ends within `n_tokens`, or if its text ends within a character. Of the others, the token
    with the smallest lead is where an answer would go another way. A change of one layer's neurons
    by the relative size `change` moves it with a probability that follows, to first order, from one
    backward pass; see `cna_lens.audit.identity.sensitivity`. Canaries are chosen so that changes of
    every layer move many of them.

    Cost: a short answer to each prompt of the pool, a pass over prompts and answers for each drift,
    and one forward and backward pass. Each drift of the chosen canaries is counted by one pass
    more, in a condition by which they were not chosen.

    Args:
        model: the model as it should be, on which greedy answers agree with those of an endpoint.
        pool: prompts that nobody would find odd; by default the packaged pool, which is public.
        n: how many to choose, at least 10.
        n_tokens: tokens of each answer.
        drift: what counts as the same model: some of "batch size", "bfloat16", "int8" and "int4".
            All but the first compute in bfloat16, and the last two round the matrices before. The
            weights are restored.
        change: the relative change of the weights that canaries should show.
        key: the key of the answers' hashes, by default a random one.
        batch_size: prompts for each backward pass.
        progress: show progress bars.

    Raises:
        InputError: too few prompts have a stable answer, or the settings are invalid.
        ModelError: activations cannot be differentiated, or a drift cannot be had on this model.
    """
    check_model(model)
    drifts = tuple(dict.fromkeys(drift))
    _check(n, n_tokens, change, drifts)
    pool = tuple(dict.fromkeys(benign_pool() if pool is None else pool))
    encoded = encode(model, pool, name="the pool")
    texts = own_answers(model, encoded.ids, n_tokens)
    words = _words(model, pool, texts)
    rows = [row for row, said in enumerate(words) if _is_whole(said, n_tokens)]
    before, moved, away = _under_drift(model, [texts[row] for row in rows], drifts)
    stable = (before.margins > SAFETY * moved).all(1).nonzero().flatten().tolist()
    if len(stable) < n:
        raise InputError(
            f"{len(stable)} of {len(pool)} prompts have an answer of {n_tokens} tokens that drift "
            f"({', '.join(drifts)}) does not move, and {n} are to be chosen; give a larger pool, "
            "or choose fewer"
        )
    margins, at = before.of(stable).margins.min(1)
    open_texts = [texts[rows[place]] for place in stable]
    sensitivity = layer_sensitivity(
        model,
        [
            text.ids[: text.predicted_from + end]
            for text, end in zip(open_texts, at.tolist(), strict=True)
        ],
        [text.predicted[end] for text, end in zip(open_texts, at.tolist(), strict=True)],
        batch_size=batch_size,
        progress=progress,
    )
    best = covering(flips(margins, sensitivity, change), n)
    chosen = [stable[place] for place in best]
    recorded = before.of(chosen)
    tolerances = _tolerances(away[chosen])
    drifted = tuple(
        _drifted(model, name, [texts[rows[place]] for place in chosen], recorded, tolerances)
        for name in drifts
    )
    own_key = secrets.token_bytes(32) if key is None else key
    return SensitiveCanaries(
        model=model_name(model),
        template_sha256=encoded.template_sha256,
        n_tokens=n_tokens,
        prompts=tuple(pool[rows[place]] for place in chosen),
        answers=tuple(
            tuple(hashed(text, own_key) for text in words[rows[place]]) for place in chosen
        ),
        log_probs=tuple(map(tuple, recorded.log_probs.tolist())),
        tolerances=tuple(tolerances.tolist()),
        moves_at=tuple((margins / sensitivity.norm(dim=1))[best].tolist()),
        drifted=drifted,
        n_pool=len(pool),
        n_stable=len(stable),
        key=own_key.hex(),
        versions=library_versions(),
    )


def _words(
    model: HookedModel, prompts: Sequence[str], texts: Sequence[Text]
) -> list[tuple[str, ...]]:
    """Each answer as it is written after each of its tokens."""
    ids = [text.ids[: text.predicted_from] for text in texts]
    decoder = AnswerTexts.of(model, list(prompts), ids, "auto")
    return [
        tuple(decoder.text(row, text.predicted[: end + 1]) for end in range(text.n_predicted))
        for row, text in enumerate(texts)
    ]


def _is_whole(words: Sequence[str], n_tokens: int) -> bool:
    # An endpoint may hold back a character whose bytes are not all there.
    return len(words) == n_tokens and bool(words[-1].strip()) and "\ufffd" not in words[-1]


def _under_drift(
    model: HookedModel, texts: Sequence[Text], drifts: Sequence[str]
) -> tuple[Predicted, Float64[Tensor, "answer token"], Float64[Tensor, " answer"]]:
    """The predictions, and the largest changes of margins and of log-probabilities under drift."""
    if not texts:
        nothing = torch.zeros(0, 1, dtype=torch.float64)
        return Predicted(nothing, nothing), nothing, nothing[:, 0]
    before = predicted(model, texts)
    now = [predicted(model, texts, DRIFTS[name][0]) for name in drifts]
    moved = torch.stack([(each.margins - before.margins).abs() for each in now]).amax(0)
    return before, moved, torch.stack([each.away(before) for each in now]).amax(0)


def _tolerances(away: Float64[Tensor, " answer"]) -> Float64[Tensor, " answer"]:
    """Several times the change under drift, of this canary or of the middle one."""
    return (TOLERANCE * away.maximum(away.median())).clamp_min(LEAST_TOLERANCE)


def _drifted(
    model: HookedModel,
    name: str,
    texts: Sequence[Text],
    before: Predicted,
    tolerances: Float64[Tensor, " answer"],
) -> Drifted:
    now = predicted(model, texts, DRIFTS[name][1])
    beyond = ~now.kept | (now.away(before) > tolerances)
    return Drifted(name, int((~now.kept).sum()), int(beyond.sum()))


def _check(n: int, n_tokens: int, change: float, drifts: tuple[str, ...]) -> None:
    if n < LEAST:
        raise InputError(f"n is {n}, expected at least {LEAST} canaries")
    if n_tokens < 1:
        raise InputError(f"n_tokens is {n_tokens}, expected at least 1")
    if not 0 < change < math.inf:
        raise InputError(f"change is {change}, expected a relative change above 0")
    check_drifts(drifts)
