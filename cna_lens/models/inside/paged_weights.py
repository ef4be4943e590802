"""Weights that are mapped from disk and larger than the memory: read in order and ahead.

A model that does not fit the memory still runs where its weights are mapped from files, as
Transformers maps safetensors on a processor: the system reads a page when it is needed. By itself
it reads in small pieces while the processor waits, and lets go of the weights that were used
longest ago, which are those needed next. Here a thread reads the next blocks while one computes,
and of the blocks that do not fit only those just used are let go of, so the others stay.
"""

from __future__ import annotations

import ctypes
import logging
import mmap
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, cast
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn

from cna_lens.models.free_memory import free_memory
from cna_lens.models.hooked_model import HookedModel, model_name

_log = logging.getLogger(__name__)

RESIDENT = 0.85
"""The share of the free memory that weights may fill; the rest is for activations."""

TRIAL_PASSES = 6
"""Passes over the weights when a model is loaded and tried out."""

AHEAD = 2**30
"""Bytes that are read ahead of the block that computes, at least."""

MAPS = Path("/proc/self/maps")

_SHARED = ("/dev/shm", "/memfd:", "/dev/zero", "/SYSV")

# The advice of Linux: read these pages soon; drop them before others; drop them; read them now.
_SOON, _COLD, _LET_GO, _NOW = 3, 20, 21, 22


@dataclass(frozen=True)
class Span:
    """Whole pages of memory.

    >>> Span.around(4100, 10).start % mmap.PAGESIZE, Span.around(0, 1).length == mmap.PAGESIZE
    (0, True)
    """

    start: int
    length: int

    @classmethod
    def around(cls, address: int, length: int) -> Span:
        """Cover these bytes."""
        start = address // mmap.PAGESIZE * mmap.PAGESIZE
        end = -(-(address + length) // mmap.PAGESIZE) * mmap.PAGESIZE
        return cls(start, end - start)


class PagedWeights:
    """The mapped weights of a model's blocks, and which of them stay in memory.

    Attributes:
        blocks: the pages of each block's weights.
        resident: the blocks that stay; the others are read for each pass.
        n_bytes: of all blocks.
    """

    def __init__(
        self,
        blocks: Sequence[Sequence[Span]],
        memory: int,
        advise: Callable[[Span, int], bool] | None = None,
    ) -> None:
        """Keep the first blocks that fit.

        Args:
            blocks: the pages of each block's weights.
            memory: bytes for the blocks that stay.
            advise: gives the system advice about pages, and says whether it was taken.
        """
        self.blocks = tuple(map(tuple, blocks))
        sizes = [sum(span.length for span in spans) for spans in blocks]
        self.sizes = tuple(sizes)
        self.n_bytes = sum(sizes)
        stay = blocks_that_stay(sizes, memory)
        self.resident = frozenset(range(stay))
        self.resident_bytes = sum(sizes[:stay])
        self._advise = advise or _advice()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reading weights")
        self._asked: set[int] = set()
        self._computing: int | None = None
        self._watchers: list[Callable[[int], object]] = []
        self.handles: list[Any] = []

    def still_holds(self, model: HookedModel) -> bool:
        """Whether the weights of the model's blocks are still on these pages."""
        starts = {span.start for spans in self.blocks for span in spans}
        return any(
            Span.around(weight.data_ptr(), 1).start in starts
            for weight in next(iter(cast("Any", model).blocks)).parameters()
            if _has_memory(weight)
        )

    def leave(self) -> None:
        """Stop reading ahead."""
        for handle in self.handles:
            handle.remove()

    @property
    def read_bytes(self) -> int:
        """Bytes that each pass reads from the disk, once the other blocks are in memory."""
        return self.n_bytes - self.resident_bytes

    def before(self, block: int) -> None:
        """Note that a block computes next: read those behind it, let go of the one before it."""
        last, self._computing = self._computing, block
        if last is not None and last != block and last not in self.resident:
            self._asked.discard(last)
            self._thread.submit(self._let_go, last)
        ahead = 0
        for step in range(len(self.blocks)):
            which = (block + step) % len(self.blocks)
            if which not in self._asked:
                self._asked.add(which)
                self._thread.submit(self._read, which)
            ahead += self.sizes[which] if step else 0
            if ahead >= AHEAD:
                break
        for watcher in self._watchers:
            watcher(self.sizes[block])

    @contextmanager
    def watched(self, watcher: Callable[[int], object]) -> Generator[None]:
        """Tell the bytes of each block when it computes."""
        self._watchers.append(watcher)
        try:
            yield
        finally:
            self._watchers.remove(watcher)

    @contextmanager
    def hooked(self, blocks: Iterable[nn.Module]) -> Generator[None]:
        """Follow other modules that compute with the same weights, one for each block."""
        handles = self.follow(blocks)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def follow(self, blocks: Iterable[nn.Module]) -> list[Any]:
        """Hook the blocks, so that their weights are read before they compute."""
        return [
            block.register_forward_pre_hook(_noting(self, place))
            for place, block in enumerate(blocks)
        ]

    def _read(self, block: int) -> None:
        for span in self.blocks[block]:
            self._advise(span, _SOON)
        for span in self.blocks[block]:
            self._advise(span, _NOW)

    def _let_go(self, block: int) -> None:
        for span in self.blocks[block]:
            # Only the owner of a file, or who may write to it, can drop its pages; all others can
            # say that they are the first to be dropped.
            self._advise(span, _COLD)
            self._advise(span, _LET_GO)


def blocks_that_stay(sizes: Sequence[int], memory: int) -> int:
    """Count the first blocks that fit the memory together.

    >>> blocks_that_stay([3, 3, 3], memory=7)
    2
    """
    return sum(filled <= memory for filled in accumulate(sizes))


_paged: WeakKeyDictionary[nn.Module, PagedWeights | None] = WeakKeyDictionary()


def paged_weights(model: HookedModel) -> PagedWeights | None:
    """Give the weights that do not fit the memory, and read them ahead from now on.

    None for a model that fits, or whose weights are not mapped from files, on Linux. The answer is
    found once for each model, and again when its weights have moved.
    """
    module = cast("nn.Module", model)
    paged = _paged.get(module)
    if paged is not None and not paged.still_holds(model):
        paged.leave()
        del _paged[module]
    if module not in _paged:
        _paged[module] = _found(model)
    return _paged[module]


def _found(model: HookedModel) -> PagedWeights | None:
    blocks = list(getattr(model, "blocks", ()))
    files = mapped_files()
    spans = [mapped_spans(block.parameters(), files) for block in blocks]
    everything = mapped_spans(cast("nn.Module", model).parameters(), files)
    total = sum(span.length for span in everything)
    memory = int(free_memory() * RESIDENT)
    if total <= memory or not any(spans):
        return None
    others = total - sum(span.length for each in spans for span in each)
    paged = PagedWeights(spans, memory - others)
    paged.handles = paged.follow(blocks)
    _log.info(
        "%s: its weights of %.1f GiB do not fit the memory; each pass reads %.1f GiB from the disk",
        model_name(model),
        total / 2**30,
        paged.read_bytes / 2**30,
    )
    return paged


# Functions, since a copy of a model copies its hooks, and threads cannot be copied.
_hooks: WeakSet[Callable[..., None]] = WeakSet()


def reads_weights_ahead(hook: object) -> bool:
    """Whether a hook is one that `paged_weights` adds, by identity."""
    return hook in _hooks


def _noting(paged: PagedWeights, place: int) -> Callable[[nn.Module, Any], None]:
    def note(_: nn.Module, __: Any) -> None:
        paged.before(place)

    _hooks.add(note)
    return note


def mapped_files() -> list[range]:
    """Give the addresses of this process that are mapped from files; none where not on Linux."""
    if not MAPS.exists():
        return []
    found: list[range] = []
    for line in MAPS.read_text().splitlines():
        addresses, _, _, _, inode, *path = line.split(maxsplit=5)
        # What is called a file there may be memory that processes share.
        if inode != "0" and path and not path[0].startswith(_SHARED) and "(deleted)" not in path[0]:
            start, end = (int(each, 16) for each in addresses.split("-"))
            found.append(range(start, end))
    return found


def mapped_spans(weights: Iterable[Tensor], files: Sequence[range]) -> list[Span]:
    """Give the pages of those weights that are mapped from files, each once."""
    spans: dict[int, Span] = {}
    for weight in weights:
        if not _has_memory(weight):
            continue
        first = weight.data_ptr()
        length = weight.numel() * weight.element_size()
        if any(first in file and first + length - 1 in file for file in files):
            spans[first] = Span.around(first, length)
    return list(spans.values())


def _has_memory(weight: Tensor) -> bool:
    dense = weight.device.type == "cpu" and weight.layout == torch.strided
    return dense and weight.numel() > 0 and type(weight.data) is Tensor


def _advice() -> Callable[[Span, int], bool]:
    """Find the system's call for advice about memory."""
    call = ctypes.CDLL(None).madvise
    call.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

    def advise(span: Span, advice: int) -> bool:
        return call(span.start, span.length, advice) == 0

    return advise
