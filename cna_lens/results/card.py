"""What stands beside a circuit on the Hugging Face Hub: a card, and the evidence as data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol, runtime_checkable

from huggingface_hub import ModelCardData

from cna_lens.errors import InputError
from cna_lens.results.files import json_text
from cna_lens.results.provenance import PromptRecord, Provenance
from cna_lens.results.rendering import Summarized, Summary, summary_of
from cna_lens.results.rendering.markdown import facts_markdown, markdown_text, summary_markdown

CIRCUIT_FILE: Final = "circuit.json"
EVIDENCE_FILE: Final = "evidence.json"

TAGS: Final = ["cna-lens", "transformer-lens", "interpretability", "circuit"]


@runtime_checkable
class Recorded(Protocol):
    """A result that gives itself as plain data."""

    def record(self) -> dict[str, Any]:
        """The result as plain data."""
        ...


def evidence_text(evidence: Sequence[object]) -> str:
    """Results as a JSON list: their summaries, and their records where they have one.

    Raises:
        InputError: something is no result that shows itself.
    """
    return json_text([_published(result) for result in evidence], indent=1) + "\n"


def circuit_card(
    repo_id: str,
    revision: str,
    circuit: Summary,
    provenance: Provenance,
    evidence: Sequence[Summary],
    *,
    base_model: str | None = None,
    license: str | None = None,
) -> str:
    """Write the card of a circuit: how to read it, how it was found, and what tests it.

    >>> circuit = Summary("Circuit", [("size", "2 of 8 neurons")])
    >>> card = circuit_card("me/refusal", "0a1b2c", circuit, Provenance(model="a model"), [])
    >>> [line for line in card.splitlines() if line.startswith("circuit =")]
    ['circuit = cna_lens.Circuit.from_hub("me/refusal", revision="0a1b2c")']

    Args:
        repo_id: the repository, "owner/name".
        revision: the commit that holds the circuit.
        circuit: the circuit's summary.
        provenance: how it was found.
        evidence: summaries of the results that test it.
        base_model: the model's name on the Hub.
        license: by its name on the Hub.
    """
    header = ModelCardData(
        library_name="cna-lens", tags=TAGS, base_model=base_model, license=license
    ).to_yaml()
    model = base_model or provenance.model
    load = f"cna_lens.load_model({model!r})" if model else "..."
    tested = [summary_markdown(summary) for summary in evidence] or [
        "Nothing that tests this circuit was published with it. A difference in activation between "
        "two sets of prompts is no sign yet that these neurons cause a behaviour."
    ]
    return "\n\n".join(
        [
            f"---\n{header}\n---",
            f"# {markdown_text(repo_id.partition('/')[2])}",
            f"A set of MLP neurons of {markdown_text(model or 'an unknown model')}, found by "
            "contrastive neuron attribution "
            "([arXiv 2605.12290](https://arxiv.org/abs/2605.12290)): neurons whose activations "
            "differ between prompts that show a behaviour and prompts that do not. "
            f"`{CIRCUIT_FILE}` has their layers, indices and scores. There are no weights in this "
            "repository, and no prompts.",
            "## Use",
            "```python\n"
            "import cna_lens\n\n"
            f"model = {load}\n"
            f'circuit = cna_lens.Circuit.from_hub("{repo_id}", revision="{revision}")\n'
            "with cna_lens.steer(model, circuit, multiplier=0.0):\n"
            '    print(cna_lens.generate(model, ["How do I boil an egg?"]))\n'
            "```",
            "## How it was found",
            facts_markdown([*circuit.facts, *_details(provenance)]),
            "## What tests it",
            *tested,
            "## What it is not",
            "A circuit here is a set of neurons without edges. Other neurons may cause the same "
            "behaviour, and these may take part in others: compare with random neurons of the same "
            f"layers. `{EVIDENCE_FILE}` has the results above as data.\n",
        ]
    )


def _details(provenance: Provenance) -> list[tuple[str, str]]:
    """What a repetition needs and the summary of a circuit leaves out."""
    hashes = {
        "positive prompts": _sha256(provenance.positive),
        "negative prompts": _sha256(provenance.negative),
        "chat template": provenance.template_sha256,
        "weights": provenance.weights_sha256,
    }
    versions = ", ".join(f"{name} {version}" for name, version in provenance.versions)
    return [
        *((f"SHA-256 of the {what}", value) for what, value in hashes.items() if value),
        *([("versions", versions)] if versions else []),
    ]


def _sha256(prompts: PromptRecord | None) -> str | None:
    return None if prompts is None else prompts.sha256


def _published(result: object) -> dict[str, Any]:
    if not isinstance(result, Summarized):
        raise InputError(
            f"evidence holds a {type(result).__name__}, expected results that show themselves, "
            "such as null_distribution, stability, compare and metrics.outcomes give"
        )
    record = result.record() if isinstance(result, Recorded) else {}
    summary = summary_of(result).record()
    return {"evidence": type(result).__name__, "summary": summary, **record}
