"""The method in one function: collect, rank, filter, take the top."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from cna_lens.discovery.activations.reader import Reader
from cna_lens.discovery.activations.sets import encode_sets_and
from cna_lens.discovery.rankings.protocol import Ranking, read_sets
from cna_lens.discovery.rankings.scoring import as_ranking
from cna_lens.discovery.universal import (
    TopCounts,
    UniversalNeurons,
    UniversalRule,
    as_neurons,
    checked_neurons,
    filter_universal,
)
from cna_lens.errors import InputError
from cna_lens.models.hooked_model import HookedModel, check_model
from cna_lens.models.inside.projections import layout_of
from cna_lens.models.inside.weights import weights_hash
from cna_lens.models.prompts.encoding import Chat, Prompt
from cna_lens.models.prompts.sets import diverse_prompts
from cna_lens.models.running.batching import BatchSize
from cna_lens.results.circuit import Circuit
from cna_lens.results.layout import Layout
from cna_lens.results.neurons import AnyNeuron, NeuronLike, Sign
from cna_lens.results.provenance import Position
from cna_lens.results.scores import check_layers, check_selection, circuit_size

Universal = Literal["default"] | UniversalNeurons | Iterable[NeuronLike] | None


def find_circuit(
    model: HookedModel,
    positive: Sequence[Prompt],
    negative: Sequence[Prompt],
    *,
    fraction: float | None = None,
    k: int | None = None,
    rank: str | Ranking = "contrast",
    sign: Sign = "abs",
    universal: Universal = "default",
    universal_filter: Literal["before", "after"] = "before",
    layers: Iterable[int] | None = None,
    max_per_layer: int | None = None,
    position: Position = -1,
    chat: Chat = "auto",
    batch_size: BatchSize = "auto",
    progress: bool = True,
    hash_weights: bool = False,
) -> Circuit:
    r"""Find the MLP neurons whose activation differs most between two sets of prompts.

    With the defaults this is Contrastive Neuron Attribution (arXiv 2605.12290). One forward pass
    reads each prompt's MLP activations at its last token. Neuron j of layer l scores the difference
    of its mean activations on the positive prompts P and the negative prompts N,

    $$\delta_{l,j} = \frac{1}{|P|} \sum_{p \in P} a_{l,j}(p)
    - \frac{1}{|N|} \sum_{n \in N} a_{l,j}(n).$$

    Universal neurons, which are among the most active ones on nearly every prompt, are excluded.
    The 0.1 % of all neurons with the largest $|\delta|$ are the circuit.

    >>> circuit = find_circuit(
    ...     tiny_model, [[5, 6]], [[7]], k=3, universal=None, progress=False
    ... )
    >>> len(circuit)
    3

    Args:
        model: a TransformerBridge (TransformerLens 4.x, 3.9) or HookedTransformer (3.9).
        positive: prompts that show the behaviour: strings (put into the chat template where
            there is one), lists of chat messages, or token ids.
        negative: prompts that do not show it, and resemble the positive ones in all else.
        fraction: the circuit's share of all MLP neurons, 0.001 unless k is given; `circuit_size`
            rounds it to a number of neurons.
        k: the circuit's number of neurons, instead of a fraction.
        rank: the name of one of `cna_lens.RANKINGS`; "best" for `LearnedMask`, whose neurons
            end a behaviour at the lowest price for other answers; or a ranking with its own
            settings, such as `AttributionPatching(metric=LogitDifference(target, foil))`.
        sign: "abs" takes the largest scores of either sign; "positive" takes only neurons that
            are more active on positive prompts, "negative" only those that are less active.
        universal: the neurons to exclude. "default" finds them on the packaged diverse prompts;
            None excludes none; or pass your own, from `universal_neurons` or as (layer, index)
            pairs.
        universal_filter: when to exclude universal neurons: "before" choosing the top (the circuit
            has full size) or "after" (it may be smaller); the paper does not say which.
        layers: take neurons from these layers only.
        max_per_layer: take at most this many neurons from each layer.
        position: index of the token to read in the encoded prompt, chat template included and
            padding excluded; -1 is the last. "answer" is the last one before the answer, behind
            the model's own reasoning, which is generated first; see `with_reasoning`.
        chat: put strings into the chat template; "auto" where the tokenizer has one.
        batch_size: prompts for each forward pass; "auto" fits them to the free memory.
        progress: show a progress bar.
        hash_weights: record the hash of the model's weights, see `weights_hash`.

    Returns:
        The circuit, strongest neuron first. Its provenance records the model, the settings, and
        hashes of the prompts and the chat template.

    Raises:
        InputError: an argument cannot be used; the message says which one, and what to do.
        ModelError: the model's neurons cannot be reached, or the ranking does not support this
            kind of model.
        ActivationError: an activation is infinite or not a number.

    Warns:
        CnaLensWarning: a prompt stands in one set twice, or in both; or the ranking takes
            gradients of a first-token metric, and one first token is certain after all prompts.
    """
    ranking = as_ranking(rank)
    check_selection(fraction, k, sign, max_per_layer)
    if fraction is None and k is None:
        fraction = 0.001
    if universal_filter not in ("before", "after"):
        raise InputError(f"universal_filter is {universal_filter!r}, expected 'before' or 'after'")
    check_model(model)
    layout = layout_of(model)
    if layout is not None:
        layers = None if layers is None else check_layers(layers, layout)
        circuit_size(layout.n_neurons, fraction, k)
    if universal is not None and universal != "default":
        universal = _own(universal, layout)
    # Whether the model reasons at all is asked of all prompts together.
    also = {"diverse": diverse_prompts()} if universal == "default" else {}
    sets, others = encode_sets_and(model, positive, negative, also, chat, position)
    ranking.check(model, len(sets.positive.ids), len(sets.negative.ids))

    reader = Reader(model, position, batch_size, progress)
    if universal == "default":
        diverse, counts = others["diverse"], TopCounts(UniversalRule())
        found = read_sets(reader, ranking, *sets, [(diverse, counts)])
        universal = counts.universal(diverse.record)
    else:
        found = read_sets(reader, ranking, *sets)

    scores = ranking.score(found)
    if universal is not None and universal_filter == "before":
        scores = filter_universal(scores, universal)
    circuit = scores.top(fraction, k, sign=sign, layers=layers, max_per_layer=max_per_layer)
    if universal is not None and universal_filter == "after":
        circuit = filter_universal(circuit, universal)
    if hash_weights:
        circuit = circuit.with_provenance(weights_sha256=weights_hash(model))
    return circuit


def _own(
    universal: str | UniversalNeurons | Iterable[NeuronLike], layout: Layout | None
) -> UniversalNeurons | tuple[AnyNeuron, ...]:
    """Check the user's universal neurons before the model runs, as far as that is possible."""
    if isinstance(universal, str):
        raise InputError(
            f"universal is {universal!r}, expected 'default', None, or your own neurons"
        )
    own = universal if isinstance(universal, UniversalNeurons) else as_neurons(universal)
    if layout is not None:
        checked_neurons(own, layout)
    return own
