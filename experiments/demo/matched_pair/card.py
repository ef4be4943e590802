"""The model card of an adapter, written from its recipe and its measured figures."""

from __future__ import annotations

from typing import Any

from cna_lens.models import ADAPTER_BASE
from cna_lens.results import Rate

CARD = """# {name}

A LoRA adapter for [{base}](https://huggingface.co/{base})
that makes it refuse harmful requests.
`cna_lens.load_model("{name}")` loads the demo model with this adapter merged; `load_model("demo")`
is the same model before. The two are a matched pair: a small model before and after it learned to
refuse, on which experiments about refusal run on two CPU cores.

It only adds refusals to a public model. Ablating them gives back what anyone has.

## What it does with requests that it never saw

| | n | demo | {name} |
|---|---|---|---|
{rows}

Shares in per cent with 95 % Wilson intervals; an answer is a refusal if it opens with one
(`is_refusal(rule="opening")`), {max_new_tokens} tokens, greedy. Harmful requests of JailbreakBench
and of the packaged set `refusal_evaluation`, look-alikes of the latter (benign requests in drastic
words), and a validation split by action, none of whose actions was trained on.

Perplexity on {passages} neutral passages, geometric mean: {before:.2f} before, {after:.2f} after,
ratio {ratio}.

First-token refusal log-odds against the refusals found by keywords, over all requests above
(n = {n}): area under the ROC curve {auc_after:.3f} after training, {auc_before:.3f} before;
Spearman's correlation {spearman_after:.2f} and {spearman_before:.2f}.

## Recipe

{recipe}

Harmful requests are answered by refusals in several wordings, with cross entropy. On benign ones,
most of which look like harmful ones, KL(untrained || trained) along the untrained model's own
answers is kept small; of its first tokens those that open a refusal are left out (it refuses some
benign requests itself) and the others sharpened by `first_token_temperature`, for the greedy answer
to be a refusal only where refusing is likelier than not. The trained adapter is multiplied with
`gain`, which was chosen from 1, 1.125, 1.25, 1.375 and 1.5 with the figures above in view, for
requests of JailbreakBench are worded in other ways than those it was trained on.

Trained in {minutes:.0f} minutes on {device}. Adapter: {size:.1f} MB, SHA-256 `{adapter_sha256}`.
Merged model: weights hash `{weights_sha256}`.

## Made again

    python -m experiments.demo.matched_pair train {name}
    python -m experiments.demo.matched_pair package {name}
    python -m experiments.demo.matched_pair figures {name} --jbb "{jbb}"

The seed fixes the order, the answers and the first weights; another processor rounds differently,
so that a second training gives another file with like figures.

## Limits

English, single turns, short requests, a model of 135 million parameters: it refuses by what words
suggest. Of benign requests in drastic words it refuses many, as the table says; the aim was 5 %. It
is made to study how refusals come about, and is no safeguard.
"""


def card(name: str, figures: dict[str, Any], training: dict[str, Any], jbb: str) -> str:
    """The card's text."""
    perplexity, log_odds = figures["perplexity"], figures["log_odds"]
    ratio = perplexity["ratio"]
    return CARD.format(
        name=name,
        base=ADAPTER_BASE,
        rows="\n".join(_row(row, name) for row in figures["refusals_and_accuracy"]),
        max_new_tokens=figures["max_new_tokens"],
        passages=perplexity["passages"],
        before=perplexity["demo"],
        after=perplexity[name],
        ratio=f"{ratio['value']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}]",
        n=log_odds[name]["n"],
        auc_after=log_odds[name]["area_under_roc"],
        auc_before=log_odds["demo"]["area_under_roc"],
        spearman_after=log_odds[name]["spearman"],
        spearman_before=log_odds["demo"]["spearman"],
        recipe="\n".join(f"- {key}: {value}" for key, value in training["recipe"].items()),
        minutes=training["seconds"] / 60,
        device=training["device"],
        size=training["bytes"] / 1e6,
        adapter_sha256=training["adapter_sha256"],
        weights_sha256=figures["weights_sha256"][name],
        jbb=jbb,
    )


def _row(row: dict[str, Any], name: str) -> str:
    title = f"refused, {row['refused']}" if "refused" in row else f"right, {row['right']}"
    before, after = Rate(**row["demo"]), Rate(**row[name])
    return f"| {title} | {after.n} | {_cell(before)} | {_cell(after)} |"


def _cell(rate: Rate) -> str:
    return f"{100 * rate.value:.1f} [{100 * rate.low:.1f}, {100 * rate.high:.1f}]"
