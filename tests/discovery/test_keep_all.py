"""Every prompt's activations, in memory and on disk."""

import pytest
import tiny
import torch

import cna_lens
from cna_lens import AttributionPatching, LogitDifference
from cna_lens.discovery.activations.reader import Reader
from cna_lens.discovery.activations.sets import encode_sets
from cna_lens.discovery.rankings.protocol import read_sets
from cna_lens.discovery.rankings.scoring import as_ranking

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


@pytest.fixture
def read(llama):
    """What a ranking is given of two sets, with every prompt's activations or without."""

    def read_two(positive, negative, ranking):
        sets = encode_sets(llama, positive, negative, False)
        return read_sets(Reader(llama), ranking, *sets)

    return read_two


@pytest.mark.parametrize("name", ["output_weighted", "standardized", "attribution_patching"])
def test_a_part_of_what_was_read_is_what_these_prompts_give(llama, read, name):
    ranking, probe = as_ranking(name), as_ranking("probe")
    if name == "attribution_patching":
        ranking = AttributionPatching(metric=LogitDifference(target=5, foil=6))
    positive, negative = PROMPTS, ["w3 w4", "w4 w3 w2", "w1 w1", "w2"]
    places = [2, 0], [3, 1]
    few = [positive[2], positive[0]], [negative[3], negative[1]]
    part = read(positive, negative, probe).part(encode_sets(llama, *few, False), *places)
    alone = read(*few, ranking)
    assert (part.positive.source, part.negative.source) == (
        alone.positive.source,
        alone.negative.source,
    )
    torch.testing.assert_close(
        ranking.score(part).values, ranking.score(alone).values, atol=1e-5, rtol=1e-5
    )


def test_statistics_have_no_parts(llama, read):
    collected = read(PROMPTS[:2], PROMPTS[2:], as_ranking("contrast"))
    with pytest.raises(cna_lens.InputError, match="were not kept"):
        collected.part(encode_sets(llama, PROMPTS[:1], PROMPTS[2:3], False), [0], [0])
