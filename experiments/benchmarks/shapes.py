"""The paper's sizes on one machine: load, find, steer, answer, fingerprint and attest.

    python -m experiments.benchmarks shapes --folder MODELS --shape Llama-3.2-1B --shape Qwen2.5-14B

Weights are random, and time depends on the shape alone. They are written once into a folder that
the user names, as sharded safetensors in the Hub's layout. Of the two largest shapes only the
embedding, the norms and the first block are written: the others are holes in sparse files, which
are read as zeros and take no disk. So these two test all but the speed of the disk. Prompts are the
packaged refusal prompts, in the tokens of the demo model. Each shape runs in a process of its own.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig, Qwen2Config

import cna_lens
from cna_lens import audit
from cna_lens.models import HookedModel, encode
from experiments.benchmarks.memory_watch import MIB, growth_mib
from experiments.shared.weight_files import DTYPE, write_model

FEW, MANY, CANARIES = 8, 100, 8
ANSWERS, NEW_TOKENS = 16, 16
NEW_TOKENS_OF_HOLES = 2
"""Each token of the two largest shapes takes a pass over all their weights."""
PLAIN_TOKENS = 768
CARDS = {24: 24.0, 48: 48.0, 80: 80.0, 141: 140.4}
"""GB in a card's name, and the GiB that its driver shows."""

LLAMA = {"vocab_size": 128_256, "max_position_embeddings": 131_072}
QWEN = {"max_position_embeddings": 32_768}


@dataclass(frozen=True)
class Shape:
    """One of the paper's models.

    Attributes:
        config: its configuration.
        holes: whether most weights are holes in sparse files.
    """

    config: PretrainedConfig
    holes: bool = False

    def is_dense(self, name: str) -> bool:
        """Whether the weight of a name is random numbers."""
        return not self.holes or "embed_tokens" in name or ".layers.0." in name


_ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}


def _llama(width: int, mlp: int, layers: int, heads: int, head: int, **more: Any) -> LlamaConfig:
    return LlamaConfig(
        hidden_size=width,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=8,
        head_dim=head,
        **LLAMA,
        **more,
    )


def _qwen(
    width: int, mlp: int, layers: int, heads: int, kv: int, vocabulary: int, **more: Any
) -> Qwen2Config:
    return Qwen2Config(
        hidden_size=width,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv,
        vocab_size=vocabulary,
        **QWEN,
        **more,
    )


SHAPES = {
    "Llama-3.2-1B": Shape(_llama(2048, 8192, 16, 32, 64, tie_word_embeddings=True)),
    "Llama-3.2-3B": Shape(_llama(3072, 8192, 28, 24, 128, tie_word_embeddings=True)),
    "Llama-3.1-8B": Shape(_llama(4096, 14336, 32, 32, 128)),
    "Llama-3.1-70B": Shape(_llama(8192, 28672, 80, 64, 128), holes=True),
    "Qwen2.5-1.5B": Shape(_qwen(1536, 8960, 28, 12, 2, 151_936, tie_word_embeddings=True)),
    "Qwen2.5-3B": Shape(_qwen(2048, 11008, 36, 16, 2, 151_936, tie_word_embeddings=True)),
    "Qwen2.5-7B": Shape(_qwen(3584, 18944, 28, 28, 4, 152_064)),
    "Qwen2.5-14B": Shape(_qwen(5120, 13824, 48, 40, 8, 152_064)),
    "Qwen2.5-72B": Shape(_qwen(8192, 29568, 80, 64, 8, 152_064), holes=True),
}


def sizes() -> str:
    """The memory and the cards of each shape, from its configuration, as a table in Markdown."""
    lines = [
        "| shape | parameters | weights | to find a circuit | to generate | "
        + " | ".join(f"{card} GB" for card in CARDS)
        + " |",
        "|---|---|---|---|---|" + "---|" * len(CARDS),
    ]
    for name, shape in SHAPES.items():
        with tempfile.TemporaryDirectory() as folder:
            shape.config.architectures = [_ARCHITECTURES[shape.config.model_type]]
            shape.config.save_pretrained(folder)
            config = Path(folder) / "config.json"
            needs = cna_lens.requirements(name, config=config, dtype=DTYPE, prompts=200)
        memory = (needs.weights, needs.discovery, needs.generation)
        cards = (needs.cards(int(gib * 2**30)) for gib in CARDS.values())
        cells = [
            name,
            f"{needs.n_parameters / 1e9:.2f} billion",
            *(f"{each / 2**30:.1f} GiB" for each in memory),
            *("a block does not fit" if each is None else str(each) for each in cards),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def rows(names: Sequence[str], folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the row of each shape when it is measured, each in a process of its own."""
    for name in names:
        path = folder / name
        if not path.exists():
            tokenizer = cna_lens.load_model("demo", device="cpu").tokenizer
            part = folder / f".{name}.part"
            shutil.rmtree(part, ignore_errors=True)
            write_model(part, SHAPES[name].config, tokenizer, SHAPES[name].is_dense)
            part.rename(path)
        with get_context("spawn").Pool(1) as process:
            yield process.apply(measured, (name, path))


def measured(name: str, path: Path) -> dict[str, Any]:
    """The row of one shape: seconds, MiB beyond the loaded model, and GiB read, of each step.

    Steps that keep a graph, or take many passes, are left out where weights are read from the disk.
    """
    needs = cna_lens.requirements(path, dtype=DTYPE, device="cpu", prompts=2 * MANY)
    row: dict[str, Any] = {
        "shape": name,
        "holes": SHAPES[name].holes,
        "n_parameters": needs.n_parameters,
        "weights_gib": needs.weights / 2**30,
        "estimate_mib": {
            "discovery": (needs.discovery - needs.weights) / MIB,
            "read in each pass": needs.read_in_each_pass(psutil.virtual_memory().available) / MIB,
        },
        "steps": {},
    }

    def step(what: str, run: Callable[[], Any]) -> Any:
        result: list[Any] = []
        started, read = time.perf_counter(), _read_bytes()
        grown = growth_mib(lambda: result.append(run()), mapped=False)
        row["steps"][what] = {
            "seconds": time.perf_counter() - started,
            "mib": grown,
            "read_gib": (_read_bytes() - read) / 2**30,
        }
        return result[0]

    model = step("load", lambda: cna_lens.load_model(path, device="cpu", dtype=DTYPE))
    row["from_disk"] = row["estimate_mib"]["read in each pass"] > 0

    prompts = cna_lens.prompt_set("refusal")

    def find(n: int, rank: str = "contrast") -> cna_lens.Circuit:
        positive, negative = prompts.positive[:n], prompts.negative[:n]
        return cna_lens.find_circuit(
            model, positive, negative, rank=rank, universal=None, progress=False
        )

    def plain(n: int) -> None:
        texts = [*prompts.positive[:n], *prompts.negative[:n]]
        _plain(path, encode(model, texts).ids)

    circuit = step(f"find, {FEW} + {FEW}", lambda: find(FEW))
    step(f"plain, {FEW} + {FEW}", lambda: plain(FEW))
    if not SHAPES[name].holes:
        step(f"find, {MANY} + {MANY}", lambda: find(MANY))
    if not row["from_disk"]:
        step(f"plain, {MANY} + {MANY}", lambda: plain(MANY))
    if needs.weights < 2**32:
        step(f"attribution patching, {FEW} + {FEW}", lambda: find(FEW, "attribution_patching"))
    tokens = NEW_TOKENS_OF_HOLES if SHAPES[name].holes else NEW_TOKENS
    _steer_and_answer(step, model, circuit, tokens)
    if not row["from_disk"]:
        _audit(step, model, circuit)
    return row


Step = Callable[[str, Callable[[], Any]], Any]


def _steer_and_answer(
    step: Step, model: HookedModel, circuit: cna_lens.Circuit, tokens: int
) -> None:
    prompts = cna_lens.prompt_set("refusal").positive[:ANSWERS]

    def answer() -> None:
        cna_lens.generate(model, prompts, max_new_tokens=tokens)

    def steered() -> None:
        with cna_lens.steer(model, circuit, 0.0):
            answer()

    what = f"{ANSWERS} answers of {tokens} tokens"
    step(what, answer)
    step(f"{what}, steered", steered)


def _audit(step: Step, model: HookedModel, circuit: cna_lens.Circuit) -> None:
    packaged = audit.Canaries.packaged()
    canaries = audit.Canaries("a few", packaged.harmful[:CANARIES], packaged.benign[:CANARIES])

    def taken() -> audit.Fingerprint:
        return audit.fingerprint(model, circuit, canaries, rankings=("contrast",), progress=False)

    what = f"{CANARIES} + {CANARIES} canaries"
    found = step(f"fingerprint, {what}", taken)
    step(f"attest, {what}", lambda: audit.attest(model, found, canaries))


def _plain(path: Path, prompts: Sequence[Sequence[int]]) -> None:
    """One batched pass of Hugging Face over the same tokens: SDPA, no LM head, no hooks."""
    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=DTYPE).eval()
    longest = max(map(len, prompts))
    size = max(1, PLAIN_TOKENS // longest)
    ordered = sorted(prompts, key=len)
    with torch.no_grad():
        for start in range(0, len(ordered), size):
            batch = ordered[start : start + size]
            length = max(map(len, batch))
            ids = torch.tensor([[*each, *[0] * (length - len(each))] for each in batch])
            mask = torch.tensor([[1] * len(each) + [0] * (length - len(each)) for each in batch])
            model.model(ids, attention_mask=mask, use_cache=False)


def _read_bytes() -> int:
    """Bytes that this process has read from disks so far."""
    for line in Path(f"/proc/{os.getpid()}/io").read_text().splitlines():
        if line.startswith("read_bytes"):
            return int(line.split()[1])
    return 0


_COLUMNS = {
    "load": "load",
    f"find, {FEW} + {FEW}": f"find, {FEW} + {FEW}",
    f"find, {MANY} + {MANY}": f"find, {MANY} + {MANY}",
    f"plain, {FEW} + {FEW}": f"plain pass, {FEW} + {FEW}",
    f"plain, {MANY} + {MANY}": f"plain pass, {MANY} + {MANY}",
}


def table(record: dict[str, Any]) -> str:
    """The rows of a record in seconds, and their memory, as a table in Markdown."""
    shapes = record["shapes"]
    lines = [
        "| | " + " | ".join(row["shape"] for row in shapes) + " |",
        "|---|" + "---|" * len(shapes),
        _line("weights, GiB", [f"{row['weights_gib']:.1f}" for row in shapes]),
        _line(
            "read from the disk in each pass, GiB",
            [f"{row['estimate_mib']['read in each pass'] / 1024:.1f}" for row in shapes],
        ),
    ]
    for step, label in _COLUMNS.items():
        lines.append(_line(f"{label}, s", [_seconds(row, step) for row in shapes]))
    for label, step in (
        ("a token of 16 answers", "tokens"),
        ("the same, steered", "tokens, steered"),
    ):
        lines.append(_line(f"{label}, s", [_seconds_of_token(row, step) for row in shapes]))
    for step in ("fingerprint", "attest"):
        name = f"{step}, {CANARIES} + {CANARIES} canaries"
        lines.append(_line(f"{name}, s", [_seconds(row, name) for row in shapes]))
    lines.append(
        _line("memory to find beside the weights, MiB", [f"{_to_find(row):,.0f}" for row in shapes])
    )
    return "\n".join(lines)


def _to_find(row: dict[str, Any]) -> float:
    return max(each["mib"] for step, each in row["steps"].items() if step.startswith("find"))


def _line(label: str, cells: Sequence[str]) -> str:
    return f"| {label} | {' | '.join(cells)} |"


def _seconds(row: dict[str, Any], step: str) -> str:
    found = row["steps"].get(step)
    return "" if found is None else f"{found['seconds']:,.0f}"


def _seconds_of_token(row: dict[str, Any], end: str) -> str:
    step = next(step for step in row["steps"] if "answers" in step and step.endswith(end))
    tokens = int(step.split(" of ")[1].split()[0])
    return f"{row['steps'][step]['seconds'] / tokens:.1f}"
