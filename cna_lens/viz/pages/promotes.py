"""The tokens that a neuron promotes and suppresses, as two tables."""

from __future__ import annotations

from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.tokens.promoted_tokens import PromotedTokens, TokenLogit, promoted_tokens
from cna_lens.results.neurons import Neuron
from cna_lens.results.rendering import Cell, Table, escaped, styled, text_html
from cna_lens.results.rendering.html import table_html
from cna_lens.results.rendering.visible import visible
from cna_lens.viz.pages.pages import Page


def promotes(model: HookedModel, neuron: Neuron | tuple[int, int], k: int = 10) -> Page:
    """Show the tokens that a neuron makes likelier and less likely, by `promoted_tokens`.

    >>> promotes(tiny_model, (1, 3), k=3)
    Page('What layer 1, neuron 3 of tiny-llama writes', 1 view)

    Args:
        model: a TransformerBridge or HookedTransformer.
        neuron: (layer, index).
        k: the number of tokens on each side.

    Raises:
        InputError: the model has no such neuron, or k is out of range.
        ModelError: the down projection is not found, or is 0 for this neuron.
    """
    return show_promoted(promoted_tokens(model, neuron, k))


def show_promoted(found: PromotedTokens) -> Page:
    """Show the two tables of `promoted_tokens`; quotation marks make a token's spaces visible."""
    title = f"What layer {found.neuron.layer}, neuron {found.neuron.index} of {found.model} writes"
    tables = "".join(
        f"<div>{table_html(_table(caption, side))}</div>"
        for caption, side in (("Written up", found.up), ("Written down", found.down))
    )
    note = (
        "Logits of the neuron's output row through the final norm and the unembedding, up to one "
        "factor; a negative activation reverses their signs."
    )
    body = (
        f'<p class="cna-title">{escaped(title)}</p>{text_html("cna-note", note)}'
        f'<div class="cna-tables">{tables}</div>'
    )
    return Page([styled(body)], title, scripts=False)


def _table(caption: str, tokens: tuple[TokenLogit, ...]) -> Table:
    return Table(
        caption,
        ("token", "id", "logit"),
        tuple(
            (
                Cell.of(f"“{visible(each.token)}”"),
                Cell.of(each.token_id),
                Cell.of(each.logit, "+.3f"),
            )
            for each in tokens
        ),
    )
