"""Models of random or no numbers in the Hub's layout, written without holding them in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, PretrainedConfig

SHARD = 4 * 2**30
SCALE = 0.02
"""Standard deviation of the weights, as Transformers draws them."""

DTYPE = torch.bfloat16


def write_model(
    folder: Path, config: PretrainedConfig, tokenizer: Any, dense: Callable[[str], bool]
) -> None:
    """Write a model's configuration, tokenizer and sharded weights in bfloat16.

    Norms are ones. Every other weight is random, or a hole in the file, which takes no space on the
    disk and is read as zeros.

    Args:
        folder: where to; it must be new.
        config: the model's configuration.
        tokenizer: its tokenizer, of at most as many tokens.
        dense: whether the weight of a name is random.
    """
    folder.mkdir(parents=True)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=DTYPE)
    tied = set(getattr(model, "all_tied_weights_keys", ()))
    weights = {name: each for name, each in model.state_dict().items() if name not in tied}
    shards = list(_shards(weights))
    generator = torch.Generator().manual_seed(0)
    named: dict[str, str] = {}
    with tqdm(total=_bytes(weights), unit="B", unit_scale=True, desc=folder.name) as bar:
        for number, shard in enumerate(shards, start=1):
            file = f"model-{number:05}-of-{len(shards):05}.safetensors"
            _write_shard(folder / file, shard, dense, generator, bar)
            named |= dict.fromkeys(shard, file)
    index = {"metadata": {"total_size": _bytes(weights)}, "weight_map": named}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")
    tokenizer.save_pretrained(folder)
    # Last, so that a folder with a configuration is whole.
    config.dtype = DTYPE
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)


def _bytes(weights: Mapping[str, torch.Tensor]) -> int:
    return sum(each.numel() * DTYPE.itemsize for each in weights.values())


def _shards(weights: Mapping[str, torch.Tensor]) -> Iterator[dict[str, torch.Tensor]]:
    shard: dict[str, torch.Tensor] = {}
    for name, each in weights.items():
        if shard and _bytes(shard) + _bytes({name: each}) > SHARD:
            yield shard
            shard = {}
        shard[name] = each
    yield shard


def _write_shard(
    path: Path,
    shard: Mapping[str, torch.Tensor],
    dense: Callable[[str], bool],
    generator: torch.Generator,
    bar: Any,
) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, each in shard.items():
        start, end = end, end + each.numel() * DTYPE.itemsize
        header[name] = {"dtype": "BF16", "shape": list(each.shape), "data_offsets": [start, end]}
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    with path.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for name, each in shard.items():
            if each.ndim == 1 or dense(name):
                numbers = _numbers(each, generator)
                file.write(numbers.view(torch.uint8).numpy().data)
            else:
                file.seek(each.numel() * DTYPE.itemsize, 1)
            bar.update(each.numel() * DTYPE.itemsize)
        file.truncate()


def _numbers(shape: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    if shape.ndim == 1:
        return torch.ones(shape.shape, dtype=DTYPE)
    numbers = torch.empty(shape.shape, dtype=DTYPE)
    return numbers.normal_(0, SCALE, generator=generator).view(-1)
