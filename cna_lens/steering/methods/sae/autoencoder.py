"""Sparse autoencoders: their interface, how to load one, and whether it fits a model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast, get_args, runtime_checkable

import torch
from safetensors import SafetensorError
from torch import Tensor

from cna_lens.errors import InputError, ModelError, VectorMismatchError
from cna_lens.models.hooked_model import HookedModel, check_model, model_name
from cna_lens.models.inside.projections import layout_of
from cna_lens.models.inside.sites import Site, site_hook_names


@runtime_checkable
class SparseAutoencoder(Protocol):
    """The interface of a sparse autoencoder, as SAELens's have it.

    `cfg.d_in` is the width of the activations, `cfg.d_sae` the number of features, and
    `cfg.metadata.hook_name` the hook point. `encode` takes activations of any precision, and
    `decode` is affine in the features.
    """

    cfg: Any

    def encode(self, x: Tensor) -> Tensor:
        """Return the features' activations."""
        ...

    def decode(self, feature_acts: Tensor) -> Tensor:
        """Return the activations that the features stand for."""
        ...


def load_sae(
    release: str | Path, sae_id: str | None = None, *, device: str | torch.device = "cpu"
) -> SparseAutoencoder:
    """Load a sparse autoencoder through SAELens, by its name or from a folder.

    For example, one of the residual stream of GPT-2 before block 8, and one of your own:

        sae = load_sae("gpt2-small-res-jb", "blocks.8.hook_resid_pre")
        sae = load_sae("out/sae")

    SAELens warns if an autoencoder needs a model that is loaded with particular options, such as
    centred weights; load your model with the same options.

    Args:
        release: a release's name in SAELens's list, or a folder that SAELens has written.
        sae_id: which of the release's autoencoders; None for a folder.
        device: the device to load it to.

    Raises:
        InputError: there is no such autoencoder, or `sae_id` is missing.
        ModelError: SAELens is not installed, or the autoencoder cannot be loaded.
    """
    try:
        # Not in every environment: it needs TransformerLens below 4.
        from sae_lens import SAE  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ModelError(
            f"SAELens cannot be imported ({error}); install it with\n"
            '    pip install "cna-lens[sae]" "transformer-lens==3.9.0"\n'
            "in an environment of its own, since it needs TransformerLens below 4"
        ) from error
    folder = Path(release)
    if sae_id is None and not folder.is_dir():
        raise InputError(
            f"{release} is no folder, so it names a release, and sae_id is missing; give both: "
            "load_sae('gpt2-small-res-jb', 'blocks.8.hook_resid_pre')"
        )
    try:
        if sae_id is None:
            found = SAE.load_from_disk(folder, device=str(device))
        else:
            found = SAE.from_pretrained(str(release), sae_id, device=str(device))
    except ValueError as error:
        raise InputError(f"SAELens has no such autoencoder: {error}") from error
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"the autoencoder {release} {sae_id or ''} could not be loaded: {error}. Expected a "
            "release that this machine can reach or has in its cache, or a folder with cfg.json "
            "and sae_weights.safetensors"
        ) from error
    return cast("SparseAutoencoder", found)


class Place(NamedTuple):
    """The hook point of an autoencoder, and its parts."""

    hook_point: str
    layer: int
    site: Site


def place_of(sae: SparseAutoencoder) -> Place:
    """Find the hook point to which an autoencoder belongs.

    Raises:
        InputError: the autoencoder does not say, or its hook point is not supported.
    """
    metadata = getattr(sae.cfg, "metadata", None)
    hook_point = getattr(metadata, "hook_name", None)
    if not isinstance(hook_point, str):
        raise InputError(
            "the autoencoder does not say where it belongs; set sae.cfg.metadata.hook_name, such "
            "as 'blocks.8.hook_resid_post'"
        )
    parts = re.fullmatch(r"blocks\.(\d+)\.(.+)", hook_point)
    if parts is None or parts[2] not in get_args(Site):
        sites = ", ".join(f"blocks.N.{site}" for site in get_args(Site))
        raise InputError(
            f"the autoencoder is of {hook_point}, expected one of {sites}; take an autoencoder of "
            "the residual stream or of an MLP"
        )
    written = getattr(metadata, "hook_name_out", None)
    if written is not None and written != hook_point:
        raise InputError(
            f"it reads {hook_point} and writes {written}, so it is a transcoder; take an "
            "autoencoder, which writes where it reads"
        )
    return Place(hook_point, int(parts[1]), cast("Site", parts[2]))


def check_fits(model: HookedModel, sae: SparseAutoencoder) -> Place:
    """Check that an autoencoder fits a model, and return its place there.

    Raises:
        InputError: the autoencoder cannot be used.
        ModelError: the model has no such hook point.
        VectorMismatchError: the autoencoder is of a model of another width.
    """
    check_model(model)
    place = place_of(sae)
    names = site_hook_names(model, place.site)
    if place.hook_point not in names:
        raise ModelError(
            f"{model_name(model)} has no hook point {place.hook_point}, to which the autoencoder "
            f"belongs; it has {len(names)} layers, take an autoencoder of this model"
        )
    width = _width(model, place)
    if width is not None and int(sae.cfg.d_in) != width:
        raise VectorMismatchError(
            f"the autoencoder is of a model with {sae.cfg.d_in} values for each token at "
            f"{place.hook_point}, {model_name(model)} has {width}; take an autoencoder of this "
            "model"
        )
    return place


def _width(model: HookedModel, place: Place) -> int | None:
    """Return the width of the activations; None where only a forward pass would tell it."""
    if place.site != "mlp.hook_post":
        return int(model.cfg.d_model)
    layout = layout_of(model)
    return None if layout is None else layout.widths[place.layer]


def features_of(sae: SparseAutoencoder, x: Tensor) -> Tensor:
    """Encode activations of any device on the autoencoder's device."""
    return sae.encode(x.to(getattr(sae, "device", x.device)))
