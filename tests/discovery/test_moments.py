import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from cna_lens import ActivationStats, InputError, Layout, PromptRecord, Source
from cna_lens.discovery.activations.means import RunningMoments

SOURCE = Source("model", -1, PromptRecord(1, "some"))


@st.composite
def matrices(draw):
    rows, columns = draw(st.integers(1, 12)), draw(st.integers(1, 4))
    cell = st.floats(-1e4, 1e4, width=32)
    row = st.lists(cell, min_size=columns, max_size=columns)
    return np.array(draw(st.lists(row, min_size=rows, max_size=rows)), dtype=np.float32)


def split(draw, matrix):
    """Cut a matrix into batches of one row or more."""
    inner = range(1, len(matrix))
    cuts = sorted(draw(st.sets(st.sampled_from(inner)))) if inner else []
    return np.split(matrix, cuts)


def assert_moments(stats, matrix, rtol=1e-9):
    exact = matrix.astype(np.float64)
    scale = np.abs(exact).max() + 1e-30
    assert stats.count == len(exact)
    np.testing.assert_allclose(stats.mean, exact.mean(0), rtol=rtol, atol=rtol * scale)
    if len(exact) > 1:
        np.testing.assert_allclose(
            stats.variance, exact.var(0, ddof=1), rtol=rtol, atol=rtol * scale**2
        )


@given(st.data(), matrices())
@settings(deadline=None)
def test_any_split_into_batches_gives_the_moments_of_the_whole(data, matrix):
    layout = Layout((matrix.shape[1],))
    running = RunningMoments(SOURCE)
    for batch in split(data.draw, matrix):
        running.update(range(len(batch)), torch.from_numpy(batch), layout)
    stats = running.stats()
    assert_moments(stats, matrix)
    assert (stats.layout, stats.source) == (layout, SOURCE)


@given(st.data(), matrices())
@settings(deadline=None)
def test_merging_is_collecting_together_in_any_grouping(data, matrix):
    layout = Layout((matrix.shape[1],))
    parts = [ActivationStats.of(torch.from_numpy(b), layout) for b in split(data.draw, matrix)]
    while len(parts) > 1:
        first = data.draw(st.integers(0, len(parts) - 2))
        parts[first : first + 2] = [parts[first].merge(parts[first + 1])]
    assert_moments(parts[0], matrix)


def test_batches_of_different_sizes_weigh_by_their_prompts():
    running = RunningMoments(SOURCE)
    running.update([0], torch.tensor([[12.0]]), Layout((1,)))
    running.update([1, 2, 3], torch.tensor([[0.0], [0.0], [4.0]]), Layout((1,)))
    stats = running.stats()
    assert stats.mean.tolist() == [4.0]
    assert stats.squared_deviations.tolist() == [64 + 16 + 16 + 0]
    assert stats.variance.tolist() == [32.0]


@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_a_large_common_offset_costs_no_precision(batch):
    noise = torch.randn(1000, 3, generator=torch.Generator().manual_seed(0))
    # The expected values are computed from the sums as float32 rounds them.
    shifted = noise + 1e6
    running = RunningMoments(SOURCE)
    for part in shifted.split(batch):
        running.update(range(len(part)), part, Layout((3,)))
    stats = running.stats()
    exact = shifted.to(torch.float64) - 1e6
    torch.testing.assert_close(stats.variance, exact.var(0), rtol=1e-9, atol=0)
    torch.testing.assert_close(stats.mean - 1e6, exact.mean(0), rtol=0, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_sums_are_kept_in_float64_whatever_the_activations(dtype):
    # 2049 ones and a thousandth: float16 cannot count that far, bfloat16 stops at 256.
    values = torch.ones(2049, 1, dtype=dtype)
    stats = ActivationStats.of(values, Layout((1,)))
    assert stats.mean.dtype == stats.squared_deviations.dtype == torch.float64
    assert (stats.mean.item(), stats.variance.item()) == (1.0, 0.0)


def test_activations_in_float64_keep_their_precision():
    step = 2.0**-40
    stats = ActivationStats.of(torch.tensor([[1.0], [1 + step]], dtype=torch.float64), Layout((1,)))
    assert stats.mean.item() == 1 + step / 2
    assert stats.squared_deviations.item() == step**2 / 2


def test_activations_are_left_as_they_were():
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    before = values.clone()
    running = RunningMoments(SOURCE)
    running.update([0, 1], values, Layout((2,)))
    running.update([0, 1], values, Layout((2,)))
    assert torch.equal(values, before)


def test_statistics_do_not_change_when_more_prompts_follow():
    running = RunningMoments(SOURCE)
    running.update([0], torch.tensor([[1.0]]), Layout((1,)))
    early = running.stats()
    running.update([1], torch.tensor([[5.0]]), Layout((1,)))
    assert (early.count, early.mean.tolist()) == (1, [1.0])


def test_no_prompts_have_no_statistics():
    with pytest.raises(InputError, match="at least one prompt, there was none"):
        RunningMoments(SOURCE).stats()


def test_a_matrix_without_rows_has_no_statistics():
    with pytest.raises(InputError, match="at least one prompt"):
        ActivationStats.of(torch.zeros(0, 2), Layout((2,)))


def test_one_prompt_has_no_variance():
    stats = ActivationStats.of(torch.tensor([[1.0, 2.0]]), Layout((2,)))
    with pytest.raises(InputError, match="at least 2 prompts, there is 1"):
        stats.variance  # noqa: B018


def test_a_mean_that_does_not_fit_the_layout_is_refused():
    with pytest.raises(InputError, match=r"shape \(3,\), the layout has 2 neurons"):
        ActivationStats.of(torch.zeros(2, 3), Layout((2,)))


def test_sets_of_different_shapes_cannot_be_merged():
    narrow = ActivationStats.of(torch.zeros(2, 4), Layout((4,)))
    with pytest.raises(InputError):
        narrow.merge(ActivationStats.of(torch.zeros(2, 4), Layout((2, 2))))


def test_a_merged_set_does_not_pass_for_one_of_its_parts():
    one, other = (
        ActivationStats.of(torch.zeros(1, 2), Layout((2,)), SOURCE),
        ActivationStats.of(
            torch.ones(1, 2), Layout((2,)), Source("model", -1, PromptRecord(1, "others"))
        ),
    )
    merged = one.merge(other)
    assert merged.source is None or merged.source.prompts not in (
        one.source.prompts,
        other.source.prompts,
    )
