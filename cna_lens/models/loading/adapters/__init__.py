"""The packaged adapters, which teach the demo model to refuse: a matched pair with it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, cast

from cna_lens.errors import ModelError
from cna_lens.results.files import file_sha256

ADAPTER_FOLDER = Path(__file__).parent
ADAPTER_BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
ADAPTER_SHA256 = {
    "demo-refusal": "dc016a89faf40ce4f21b96ee6ab3d18d7a1b0f94ab4a215420db1d242eda4396",
    "demo-refusal-late": "160a27037dcf69b3ce59b4a9ae4bc077859e5c2e84e7888f6e433ad204935171",
}
"""The hash of each adapter's weights file, by the adapter's name."""


def merge_adapter(model: Any, name: str) -> Any:
    """Merge an adapter's weights into the Hugging Face model.

    Args:
        model: the demo model in float32, in which the adapter was trained.
        name: a key of `ADAPTER_SHA256`.

    Raises:
        ModelError: the adapter's file is missing or altered.
    """
    from peft import PeftModel

    weights = ADAPTER_FOLDER / name / "adapter_model.safetensors"
    if not weights.is_file() or file_sha256(weights) != ADAPTER_SHA256[name]:
        raise ModelError(f"{weights} is missing or altered; reinstall cna_lens")
    with warnings.catch_warnings():
        # peft reads an attribute that Transformers has deprecated; a caller cannot change that.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        adapted = cast("Any", PeftModel.from_pretrained(model, str(weights.parent)))
    return adapted.merge_and_unload()
