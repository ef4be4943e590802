"""The vectors that CAA and directional ablation steer with: a difference of two means."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cna_lens.collection import Reader
from cna_lens.errors import VectorMismatchError
from cna_lens.models.hooked_model import HookedModel, model_name
from cna_lens.models.prompts.encoding import Chat, Prompt, encode, warn_about_duplicates
from cna_lens.models.running.batching import BatchSize
from cna_lens.moments import ActivationStats, RunningMoments
from cna_lens.vectors import ControlVectors, VectorSite


def difference_of_means(
    model: HookedModel,
    positive: Sequence[Prompt],
    negative: Sequence[Prompt],
    *,
    site: VectorSite,
    position: int = -1,
    chat: Chat = "auto",
    batch_size: BatchSize = "auto",
    progress: bool = False,
) -> ControlVectors:
    r"""How a layer's vector differs between two sets of prompts, for every layer.

    $$v_l = \frac{1}{n} \sum_{i=1}^{n} x_l(p_i) - \frac{1}{m} \sum_{j=1}^{m} x_l(q_j)$$

    with $x_l(p)$ the vector at the site of layer l and at one token of the prompt p; sums are kept
    in float64, whatever the model's precision. One forward pass a prompt, as for `collect`.

    >>> difference_of_means(tiny_model, ["w5 w6"], ["w7"], site="hook_resid_post", chat=False)
    ControlVectors(hook_resid_post, 2 of 2 layers, norm ... to ..., d_model 16, model tiny-llama)

    Args:
        model: a TransformerBridge or HookedTransformer.
        positive: prompts that show the behaviour: strings, lists of chat messages, or token ids.
        negative: prompts that do not.
        site: "hook_mlp_out", what each MLP adds to the residual stream; "hook_resid_pre" or
            "hook_resid_post", the stream before or after each block.
        position: the token to read, counted in each prompt's own tokens; -1 is the last.
        chat: put strings into the chat template; "auto" where the tokenizer has one.
        batch_size: prompts for each forward pass; "auto" fits them to the free memory.
        progress: show a progress bar.

    Raises:
        InputError: bad prompts, or a position outside one of them.
        ModelError: the model has no such hook points.
        ActivationError: an activation is infinite or not a number.
    """
    reader = Reader(model, position, batch_size, progress, site=site)
    plus, minus = stats_of_both(reader, positive, negative, chat, RunningMoments)
    layers = tuple(layer for layer, width in enumerate(plus.layout.widths) if width)
    return ControlVectors(
        site=site,
        layers=layers,
        vectors=(plus.mean - minus.mean).reshape(len(layers), -1),
        n_layers=plus.layout.n_layers,
        model=model_name(model),
        positive=plus.source,
        negative=minus.source,
    )


def stats_of_both(
    reader: Reader,
    positive: Sequence[Prompt],
    negative: Sequence[Prompt],
    chat: Chat,
    new_moments: Callable[[], RunningMoments],
) -> tuple[ActivationStats, ActivationStats]:
    """The statistics of two sets of prompts, read as one stream."""
    with_behaviour = encode(reader.model, positive, chat=chat, name="positive")
    without = encode(reader.model, negative, chat=chat, name="negative")
    warn_about_duplicates(with_behaviour, without)
    plus, minus = new_moments(), new_moments()
    reader.read([(with_behaviour, plus), (without, minus)])
    return plus.stats(reader.source(with_behaviour)), minus.stats(reader.source(without))


def check_vectors(
    model: HookedModel, vectors: ControlVectors, *, allow_other_model: bool = False
) -> None:
    """Make sure that vectors belong to a model.

    Raises:
        VectorMismatchError: another number of layers, another width, or another name.
    """
    name = model_name(model)
    for what, given, there in (
        ("layers", vectors.n_layers, int(model.cfg.n_layers)),
        ("values for each token (d_model)", vectors.d_model, int(model.cfg.d_model)),
    ):
        if given != there:
            raise VectorMismatchError(
                f"the vectors are of a model with {given} {what}, {name} has {there}; "
                "find them on this model"
            )
    if vectors.model is not None and vectors.model != name and not allow_other_model:
        raise VectorMismatchError(
            f"the vectors were found on {vectors.model}, this model is {name}; find them on this "
            "model, or set allow_other_model=True if that is what you mean"
        )
