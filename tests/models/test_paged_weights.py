"""Weights that the memory does not hold are read ahead, once for each pass, and nothing changes."""

import copy
import mmap
import os
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from tqdm import tqdm

import cna_lens
from cna_lens import audit
from cna_lens.models.hooked_model import carries_hooks
from cna_lens.models.inside import paged_weights as module
from cna_lens.models.inside.paged_weights import (
    PagedWeights,
    Span,
    mapped_files,
    mapped_spans,
    paged_weights,
)
from cna_lens.models.trial import trial
from cna_lens.models.trial.direct import direct_pass

TEMPLATE = [30, 31, 32, 33, 34, 35]
POSITIVE = [[*TEMPLATE, 5, 6, 7], [*TEMPLATE, 5, 6, 8], [*TEMPLATE, 9]]
NEGATIVE = [[*TEMPLATE, 15, 16], [*TEMPLATE, 15, 17], [*TEMPLATE, 18, 19, 20]]
PAGE = mmap.PAGESIZE
# Of Linux from 5.14 on; other kernels that run its programs may refuse it.
MADV_POPULATE_READ = 22

on_linux = pytest.mark.skipif(not module.MAPS.exists(), reason="mappings are listed on Linux")


def saved(folder, family="llama"):
    model = tiny.hugging_face(family)
    model.save_pretrained(folder)
    tiny.tokenizer(chat=True).save_pretrained(folder)
    return folder


@pytest.fixture
def small_memory(monkeypatch):
    """A machine whose memory holds none of a tiny model's weights."""
    monkeypatch.setattr(module, "free_memory", lambda: 4 * PAGE)


@pytest.fixture(params=["llama", "gemma3", "gpt2"])
def folder(request, tmp_path):
    return saved(tmp_path / "model", request.param)


def passes_over(model, block, run):
    """How often a block computes in a run."""
    times = []
    handle = list(model.blocks)[block].register_forward_pre_hook(lambda *_: times.append(1))
    try:
        result = run()
    finally:
        handle.remove()
    return len(times), result


def unpaged(folder, monkeypatch):
    monkeypatch.setattr(module, "MAPS", Path("/nowhere"))
    return cna_lens.load_model(folder, device="cpu")


def find(model, **options):
    return cna_lens.find_circuit(
        model, POSITIVE, NEGATIVE, k=5, universal=None, **({"progress": False} | options)
    )


# --- what is advised -----------------------------------------------------------------------------


def advised(sizes, memory, order):
    """The advice for blocks of these pages, when they compute in this order."""
    given = []

    def advise(span, advice):
        given.append((span.start, advice))
        return True

    blocks = [[Span(place, pages * PAGE)] for place, pages in enumerate(sizes)]
    paged = PagedWeights(blocks, memory * PAGE, advise)
    for block in order:
        paged.before(block)
    paged._thread.shutdown(wait=True)
    return paged, given


def test_the_first_blocks_that_fit_stay_and_the_others_are_let_go_of_after_use(monkeypatch):
    monkeypatch.setattr(module, "AHEAD", PAGE)
    paged, given = advised([1, 1, 1, 1], memory=2, order=[0, 1, 2, 3, 0, 1, 2])
    assert paged.resident == {0, 1}
    assert paged.read_bytes == 2 * PAGE
    let_go = [block for block, advice in given if advice == module._LET_GO]
    assert let_go == [2, 3]
    read = [block for block, advice in given if advice == module._NOW]
    assert read == [0, 1, 2, 3, 2, 3]


def test_blocks_are_read_before_they_compute(monkeypatch):
    monkeypatch.setattr(module, "AHEAD", 3 * PAGE)
    _, given = advised([1, 1, 1, 1, 1, 1], memory=0, order=[0])
    assert [block for block, advice in given if advice == module._SOON] == [0, 1, 2, 3]


def test_a_block_that_fits_behind_one_that_does_not_is_read_too():
    paged, _ = advised([1, 5, 1], memory=3, order=[])
    assert paged.resident == {0}


def test_watchers_are_told_the_bytes_of_each_block_until_they_leave():
    seen = []
    paged, _ = advised([1, 2], memory=0, order=[])
    paged = PagedWeights(paged.blocks, 0, lambda *_: True)
    with paged.watched(seen.append):
        paged.before(0)
        paged.before(1)
    paged.before(0)
    assert seen == [PAGE, 2 * PAGE]


# --- what is mapped ------------------------------------------------------------------------------


@on_linux
def test_weights_from_safetensors_are_mapped_and_others_are_not(tmp_path):
    save_file({"a": torch.ones(64, 1024), "b": torch.ones(8, 8)}, tmp_path / "w.safetensors")
    mapped = load_file(tmp_path / "w.safetensors")
    own = torch.ones(64, 1024)
    spans = mapped_spans([mapped["a"], own, mapped["a"], mapped["a"].to("meta")], mapped_files())
    assert len(spans) == 1
    first = mapped["a"].data_ptr()
    assert spans[0].start <= first < spans[0].start + PAGE
    assert spans[0].start + spans[0].length >= first + mapped["a"].numel() * 4
    assert spans[0].length % PAGE == 0


@on_linux
def test_pages_that_are_let_go_of_leave_the_memory_and_keep_their_numbers(tmp_path):
    expected = torch.arange(4 * 2**20, dtype=torch.float32)
    path = tmp_path / "w.safetensors"
    save_file({"a": expected}, path)
    # Pages that are not yet on the disk stay in memory.
    with path.open("r+b") as file:
        os.fsync(file.fileno())
    weight = load_file(path)["a"]
    (span,) = mapped_spans([weight], mapped_files())
    advise = module._advice()
    if not advise(Span(span.start, PAGE), MADV_POPULATE_READ):
        pytest.skip("this kernel takes no advice to read pages at once")

    assert advise(span, module._NOW)
    assert resident(span) > 0.9 * span.length
    assert advise(span, module._LET_GO)
    assert resident(span) < 0.1 * span.length
    assert torch.equal(weight, expected)


def resident(span):
    """Bytes of a span's mapping that are in memory."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    for line in lines:
        start, _, rest = line.partition("-")
        end = rest.partition(" ")[0]
        if rest and int(start, 16) <= span.start < int(end, 16):
            return next(int(each.split()[1]) * 1024 for each in lines if each.startswith("Rss:"))
    raise AssertionError("the span is not mapped")


@on_linux
def test_memory_that_processes_share_is_no_file():
    shared = torch.ones(4 * PAGE).share_memory_()
    assert mapped_spans([shared], mapped_files()) == []
    assert mapped_spans([torch.eye(8).to_sparse()], mapped_files()) == []


# --- models --------------------------------------------------------------------------------------


@on_linux
def test_a_model_that_fits_the_memory_is_left_alone(folder):
    model = cna_lens.load_model(folder, device="cpu")
    assert paged_weights(model) is None


@on_linux
def test_a_model_in_memory_is_left_alone_though_it_does_not_fit(small_memory, folder):
    model = cna_lens.load_model(folder, device="cpu")
    before = paged_weights(model)
    assert before is not None
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    assert paged_weights(model) is None
    seen = []
    with before.watched(seen.append), torch.no_grad():
        model(torch.tensor([POSITIVE[0]]))
    assert seen == []


def test_where_mappings_are_not_listed_nothing_is_read_ahead(small_memory, folder, monkeypatch):
    monkeypatch.setattr(module, "MAPS", Path("/nowhere"))
    assert paged_weights(cna_lens.load_model(folder, device="cpu")) is None


@on_linux
def test_discovery_passes_over_the_weights_once_and_finds_the_same(
    folder, small_memory, monkeypatch
):
    model = cna_lens.load_model(folder, device="cpu")
    assert paged_weights(model) is not None
    times, found = passes_over(model, 0, lambda: find(model))
    usual = unpaged(folder, monkeypatch)
    more_times, expected = passes_over(usual, 0, lambda: find(usual))
    assert found.neurons == expected.neurons
    torch.testing.assert_close(
        torch.tensor(found.scores), torch.tensor(expected.scores), rtol=1e-4, atol=1e-6
    )
    assert times == 1 <= more_times


@on_linux
def test_a_model_that_cannot_pack_shares_its_prefix_as_usual(small_memory, tmp_path):
    model = cna_lens.load_model(saved(tmp_path / "model", "llama"), device="cpu")
    tiny.refuse_tree_masks(model)
    del trial._trials[model]
    assert "refuses a tree mask: ValueError: no such mask" in trial.tried(model).no_packing
    times, _ = passes_over(model, 0, lambda: find(model))
    assert times == 2


@on_linux
def test_the_bar_counts_the_weights_that_are_read(folder, small_memory, capsys):
    model = cna_lens.load_model(folder, device="cpu")
    capsys.readouterr()
    find(model, progress=True)
    shown = capsys.readouterr().err
    assert "prompt" not in shown
    n_bytes = paged_weights(model).n_bytes
    assert f"/{tqdm.format_sizeof(n_bytes, divisor=1024)} [" in shown
    assert "100%" in shown


@on_linux
def test_steering_leaves_the_pages_as_they_are(folder, small_memory, monkeypatch):
    model = cna_lens.load_model(folder, device="cpu")
    circuit = find(model)
    with cna_lens.steer(model, circuit, 0.0) as steering:
        assert steering.via == "hooks"
        steered = cna_lens.generate(model, POSITIVE, max_new_tokens=4)
    with (
        pytest.raises(cna_lens.CnaLensError, match="read from disk"),
        cna_lens.steer(model, circuit, 0.0, via="weights"),
    ):
        pass
    usual = unpaged(folder, monkeypatch)
    with cna_lens.steer(usual, circuit, 0.0, via="weights"):
        assert cna_lens.generate(usual, POSITIVE, max_new_tokens=4) == steered


@on_linux
def test_its_hooks_belong_to_the_model(folder, small_memory):
    model = cna_lens.load_model(folder, device="cpu")
    assert not carries_hooks(model)
    assert audit.hooks(model) == ()

    def stranger(_, __):
        return None

    model.blocks[0].register_forward_pre_hook(stranger)
    assert [found.kind for found in audit.hooks(model)] == ["forward pre-hook"]


@on_linux
def test_a_copy_of_the_model_computes_the_same(folder, small_memory):
    model = cna_lens.load_model(folder, device="cpu")
    ids = torch.tensor([POSITIVE[0]])
    with torch.no_grad():
        expected = model(ids)
        torch.testing.assert_close(copy.deepcopy(model)(ids), expected)


@on_linux
def test_weights_outside_of_the_blocks_take_their_part_of_the_memory(tmp_path, monkeypatch):
    folder = saved(tmp_path / "model")
    model = cna_lens.load_model(folder, device="cpu")
    files = mapped_files()
    everything = sum(span.length for span in mapped_spans(model.parameters(), files))
    block = sum(span.length for span in mapped_spans(model.blocks[0].parameters(), files))
    others = everything - 2 * block

    def stay(memory):
        monkeypatch.setattr(module, "free_memory", lambda: memory / module.RESIDENT)
        paged = paged_weights(cna_lens.load_model(folder, device="cpu"))
        return None if paged is None else len(paged.resident)

    assert stay(others + block - 100) == 0
    assert stay(others + block + 100) == 1
    assert stay(everything + 100) is None


@on_linux
def test_answers_are_computed_by_the_blocks_that_ask_for_weights(folder, small_memory):
    model = cna_lens.load_model(folder, device="cpu")
    assert direct_pass(model) is None
    seen = []
    with paged_weights(model).watched(seen.append):
        cna_lens.generate(
            model, [POSITIVE[0], [5] * 200], max_new_tokens=2, chat=False, batch_size=2
        )
    assert len(seen) == 2 * len(list(model.blocks))
