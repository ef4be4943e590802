"""Every prompt's activations, in memory and on disk."""

import pytest
import tiny
import torch

import cna_lens

PROMPTS = ["w5 w6 w7", "w9", "w8 w11 w12 w13 w14 w15", "w20 w21"]


@pytest.mark.parametrize("batch_size", ["auto", 1, 3])
@pytest.mark.parametrize("on_disk", [False, True])
def test_rows_are_the_prompts_in_their_order(llama, tmp_path, batch_size, on_disk):
    folder = tmp_path / "kept" if on_disk else None
    kept = cna_lens.collect(
        llama, PROMPTS, keep="all", folder=folder, chat=False, batch_size=batch_size
    )
    one_by_one = [cna_lens.collect(llama, [prompt], chat=False).mean for prompt in PROMPTS]
    torch.testing.assert_close(kept.matrix().double(), torch.stack(one_by_one), atol=1e-6, rtol=0)
    assert torch.equal(kept.columns(5, 30), kept.matrix()[:, 5:30])


@pytest.mark.parametrize("on_disk", [False, True])
def test_their_statistics_are_those_of_collect(llama, tmp_path, on_disk):
    folder = tmp_path if on_disk else None
    kept = cna_lens.collect(llama, PROMPTS, keep="all", folder=folder, chat=False, batch_size=3)
    plain = cna_lens.collect(llama, PROMPTS, chat=False, batch_size=3)
    assert torch.equal(kept.stats().mean, plain.mean)
    assert torch.equal(kept.stats().variance, plain.variance)
    assert kept.stats().source == plain.source


def test_activations_too_large_for_memory_need_a_folder(llama, monkeypatch):
    monkeypatch.setattr(
        "cna_lens.discovery.activations.per_prompt.IN_MEMORY_BYTES", 4 * 2 * tiny.WIDTH * 4 - 1
    )
    with pytest.raises(cna_lens.InputError, match="folder="):
        cna_lens.collect(llama, PROMPTS, keep="all", chat=False)


def test_shards_of_another_run_are_not_overwritten(llama, tmp_path):
    cna_lens.collect(llama, PROMPTS, keep="all", folder=tmp_path, chat=False)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(cna_lens.InputError, match="exists already"):
        cna_lens.collect(llama, PROMPTS[:1], keep="all", folder=tmp_path, chat=False)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_without_keeping_all_is_refused(llama, tmp_path):
    with pytest.raises(cna_lens.InputError, match="keep='all'"):
        cna_lens.collect(llama, PROMPTS, folder=tmp_path)


def test_an_unknown_keep_is_refused(llama, without_type_checks):
    with pytest.raises(cna_lens.InputError, match="'stats' or 'all'"):
        cna_lens.collect(llama, PROMPTS, keep="some")
