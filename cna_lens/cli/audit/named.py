"""What options of `audit` name: canaries, keys, an endpoint, the signature of a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cna_lens import audit
from cna_lens.errors import InputError

if TYPE_CHECKING:
    from cna_lens.metrics.endpoint.settings import Endpoint

Canaries = Annotated[
    Path | None,
    typer.Option(help="Your own canaries: a .csv file with the columns harmful and benign."),
]
Key = Annotated[
    Path | None,
    typer.Option(help="A secret file that keys the hashes of the canaries; it is not stored."),
]


def canaries_of(path: Path | None) -> audit.Canaries | None:
    """Read the canaries of a file; None for the packaged ones."""
    return None if path is None else audit.Canaries.read(path)


def key_of(path: Path | None) -> bytes | None:
    """Read a secret key; InputError if there is none in the file."""
    if path is None:
        return None
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"the key {path} cannot be read: {error.strerror}") from error
    if not content:
        raise InputError(f"the key {path} is empty; 32 random bytes make a good one")
    return content


def endpoint_of(
    model: str,
    url: str | None,
    served_as: str | None,
    of_loaded: Mapping[str, object],
    of_endpoint: Mapping[str, object],
) -> Endpoint | None:
    """The endpoint to ask; InputError where an option would have no effect.

    Args:
        model: the name of the model that is asked or loaded.
        url: the URL of the endpoint, if one is asked.
        served_as: its name there, if the model is loaded too.
        of_loaded: the options of a model that is loaded, with their values.
        of_endpoint: those of an endpoint that is asked.
    """
    useless = of_loaded if served_as is None else {}
    if url is None:
        useless = {"--served-as": served_as, **of_endpoint}
    given = [name for name, value in useless.items() if value is not None]
    if given and url is None:
        raise InputError(f"{given[0]} is for an endpoint that is asked; give --endpoint too")
    if given:
        raise InputError(
            f"{given[0]} is for a model that is loaded, and --endpoint loads none; leave out one, "
            "or give --served-as to compare both"
        )
    if url is None:
        return None
    from cna_lens.metrics.endpoint.client import check_endpoint
    from cna_lens.metrics.endpoint.settings import Endpoint

    served = Endpoint(model if served_as is None else served_as, base_url=url)
    check_endpoint(served)
    return served


def model_signature_of(model: str, public: Path | None) -> audit.ModelSignature | None:
    """Verify the signature of the folder that is loaded, or look whether there is one.

    Args:
        model: a name for `load_model`.
        public: the public key (PEM); without it nothing is verified.

    Raises:
        InputError: there is a key, and what is loaded is no folder.
        FingerprintError: see `cna_lens.audit.model_signature`.
    """
    from cna_lens.models.loading.load import source_of

    source = source_of(model)
    if source == "folder":
        return audit.model_signature(model, public)
    if public is None:
        return None
    loaded = {
        "gguf": "a .gguf file is loaded from a dequantised copy, whose files are not signed; save "
        "the model as a folder in the Hub's layout, and sign that",
        "hub": "there is no such folder; download the model, and give the folder",
    }
    there = f"the folder is loaded as ./{model}" if Path(model).is_dir() else "give a folder"
    why = loaded.get(source, f"this name loads a model that comes with cna_lens; {there}")
    raise InputError(
        f"--model-key verifies the files of a folder that is loaded, and --model is {model}: {why}"
    )
