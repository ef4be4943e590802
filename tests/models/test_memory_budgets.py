"""How much runs at once: the numbers of a tiny model that fit half of the free memory, by hand."""

from types import SimpleNamespace

import pytest
import tiny
import torch

from cna_lens.models.running import memory

LONGEST = 10
# In float32: 8 hidden states of 16 and 4 of the MLP's 24 for each token, and 3 attention scores
# of each of 2 heads for each of the tokens that it sees.
HELD = 4 * (8 * 16 + 4 * 24)
SCORES = 4 * 3 * 2 * LONGEST
# Keys and values of one head of 8, in 2 layers.
CACHED = 4 * 2 * 2 * 1 * 8
WORDS = 64


@pytest.fixture
def free(monkeypatch):
    def bytes_free(n):
        monkeypatch.setattr(memory, "free_memory", lambda: n)

    return bytes_free


def budgets(model):
    return {
        "tokens": memory.token_budget(model, LONGEST),
        "passes": memory.cost_of_passes(model, LONGEST),
        "with gradients": memory.gradient_token_budget(model, LONGEST),
        "answers": memory.answers_at_once(model, LONGEST),
        "predictions": memory.predictions_at_once(model),
    }


def by_hand(half):
    return {
        "tokens": half // (HELD + SCORES),
        "passes": (16, half // (HELD + SCORES)),
        "with gradients": half // (2 * (2 * HELD + SCORES)),
        "answers": half // (2 * CACHED * LONGEST),
        "predictions": half // (2 * 4 * 3 * WORDS),
    }


def test_a_batch_fits_half_of_the_free_memory(llama, free):
    free(227_200)
    assert budgets(llama) == by_hand(113_600)
    assert by_hand(113_600)["tokens"] == 100
    assert by_hand(113_600)["with gradients"] == 27


def test_half_precision_takes_half_of_all_but_the_scores():
    half = tiny.untried_bridge("llama", dtype=torch.bfloat16)
    assert memory.bytes_per_token(half, LONGEST) == HELD / 2 + SCORES
    assert memory.cache_bytes_per_token(half) == CACHED / 2


def test_one_prompt_or_answer_runs_where_nothing_is_free(llama, free):
    free(0)
    assert budgets(llama) == {
        "tokens": LONGEST,
        "passes": (16, LONGEST),
        "with gradients": LONGEST,
        "answers": 1,
        "predictions": 1,
    }


MOST_ON_CPU = {
    "tokens": 768,
    "passes": (16, 768),
    "with gradients": 768,
    "answers": 64,
    "predictions": 1024,
}
MOST_ON_GPU = {
    "tokens": 32_768,
    "passes": (1024, 32_768),
    "with gradients": 32_768,
    "answers": 256,
    "predictions": 16_384,
}


def test_more_memory_makes_batches_no_larger_than_what_runs_fast(llama, free, monkeypatch):
    free(2**40)
    assert budgets(llama) == MOST_ON_CPU
    free(0)
    monkeypatch.setattr(memory, "input_device", lambda model: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**40, 2**41))
    assert budgets(llama) == MOST_ON_GPU
    # What is on a GPU takes none of the memory in which weights from the disk stay.
    monkeypatch.setattr(memory, "paged_weights", lambda _: SimpleNamespace(resident_bytes=2**40))
    assert budgets(llama) == MOST_ON_GPU


def test_weights_that_are_read_from_the_disk_are_read_for_as_many_as_on_a_gpu(
    llama, free, monkeypatch
):
    monkeypatch.setattr(memory, "paged_weights", lambda _: SimpleNamespace(resident_bytes=5000))
    free(2**40)
    assert budgets(llama) == MOST_ON_GPU | {"passes": (16, 32_768)}
    free(227_200 + 5000)
    assert budgets(llama) == by_hand(113_600)
    free(4000)
    assert budgets(llama)["answers"] == 1
