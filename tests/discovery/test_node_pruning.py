"""Node pruning: the gates and their price by definition, and what is learned."""

from dataclasses import replace

import pytest
import torch

import cna_lens
from cna_lens import InputError, LogitDifference, NodePruning, Selection
from cna_lens.discovery.rankings import mask_training, node_pruning

POSITIVE = [[5, 6, 9], [8, 3], [4, 2, 6], [9, 9]]
NEGATIVE = [[7, 1], [9, 4, 4], [2, 2], [1, 3, 5]]
PRUNING = NodePruning(
    metric=LogitDifference(target=5, foil=6),
    steps=40,
    fraction=0.2,
    start="zero",
    batch_size=3,
    answer_tokens=0,
    floor=-1e9,
    price=0.0,
)


def test_shares_are_drawn_as_the_price_expects():
    scores = torch.tensor([-2.0, -0.5, 0.0, 1.0], dtype=torch.float64)
    many = scores.repeat_interleave(40_000)
    shares, _ = PRUNING.mask(many, 3, 0.4)
    by_score = shares.reshape(4, -1)
    # The distribution by its definition, in numbers: beta 2/3, stretched to [-.1, 1.1] and cut.
    u = torch.linspace(0, 1, 40_002, dtype=torch.float64)[1:-1]
    for row, score in zip(by_score, scores, strict=True):
        inner = 1 / (1 + torch.exp(-(u.log() - (1 - u).log() + score) * 3 / 2))
        expected = (1.2 * inner - 0.1).clamp(0, 1)
        for share in ((0, 0), (1, 1)):
            low, high = share
            within = [((low <= each) & (each <= high)).double().mean() for each in (row, expected)]
            assert within[0].item() == pytest.approx(within[1].item(), abs=0.01)
        assert row.mean().item() == pytest.approx(expected.mean().item(), abs=0.01)
    above = (by_score > 0).double().mean(1)
    torch.testing.assert_close(node_pruning.ablated(scores), above, atol=0.01, rtol=0)


def test_the_price_is_for_the_expected_share():
    scores = torch.zeros(10, dtype=torch.float64)
    _, cost = replace(PRUNING, price=7.0).mask(scores, 0, 0.5)
    assert cost.item() == pytest.approx(7 * (1 / (1 + (0.1 / 1.1) ** (2 / 3))))


def test_each_step_draws_anew_and_the_same_again():
    scores = torch.zeros(100, dtype=torch.float64)
    once, again, later, other = (
        PRUNING.mask(scores, step, drawn)[0]
        for step, drawn in ((0, 0.3), (0, 0.3), (1, 0.3), (0, 0.4))
    )
    assert torch.equal(once, again)
    assert not torch.equal(once, later)
    assert not torch.equal(once, other)


@pytest.mark.parametrize("fraction", [0.01, 0.2, 0.9])
def test_it_starts_with_the_expected_share_in_the_given_order(fraction):
    order = torch.randn(500, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    begun = replace(PRUNING, fraction=fraction).begun_at(order)
    assert node_pruning.ablated(begun).mean().item() == pytest.approx(fraction, abs=1e-9)
    torch.testing.assert_close(begun - begun[0], order - order[0])


def metric_without(model, circuit):
    with cna_lens.steer(model, circuit, 0.0):
        last = torch.stack([model(torch.tensor([ids]))[0, -1] for ids in POSITIVE])
    return (last[:, 5] - last[:, 6]).mean().item()


def test_its_first_neurons_lower_the_metric_more_than_those_of_a_contrast(llama):
    settings = replace(PRUNING, kl_weight=0.0, steps=120)
    scores = cna_lens.score_neurons(llama, POSITIVE, NEGATIVE, settings)
    contrast = cna_lens.score_neurons(llama, POSITIVE, NEGATIVE)
    found, plain = (Selection(k=6).circuit(each) for each in (scores, contrast))
    assert metric_without(llama, found) < metric_without(llama, plain)


def test_a_price_leaves_fewer_neurons(llama, monkeypatch):
    shares, mask = [], NodePruning.mask

    def watched(self, scores, step, drawn):
        shares.append(node_pruning.ablated(scores).mean().item())
        return mask(self, scores, step, drawn)

    monkeypatch.setattr(NodePruning, "mask", watched)
    for price in (0.0, 500.0):
        settings = replace(PRUNING, kl_weight=0.0, steps=60, learning_rate=0.2, price=price)
        cna_lens.score_neurons(llama, POSITIVE, NEGATIVE, settings)
    assert shares[0] == shares[60] == pytest.approx(0.2)
    assert shares[119] < 0.25 * shares[59]


def test_an_interrupted_run_goes_on_to_the_same_scores(llama, tmp_path, monkeypatch):
    monkeypatch.setattr(mask_training, "STEPS_BETWEEN_CHECKPOINTS", 5)
    whole = cna_lens.score_neurons(llama, POSITIVE, NEGATIVE, PRUNING).values
    kept = replace(PRUNING, checkpoints=tmp_path)
    loss, taken = mask_training._Training._loss, []

    def interrupted(run, *given):
        taken.append(run.step)
        if len(taken) == 18:
            raise KeyboardInterrupt
        return loss(run, *given)

    monkeypatch.setattr(mask_training._Training, "_loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cna_lens.score_neurons(llama, POSITIVE, NEGATIVE, kept)
    found = cna_lens.score_neurons(llama, POSITIVE, NEGATIVE, kept).values
    assert taken[18] == 15
    assert torch.equal(found, whole)
    assert not any(parameter.grad is not None for parameter in llama.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fraction": 0.0}, "fraction is 0.0, expected a number between 0 and 1"),
        ({"price": -1.0}, "price is -1.0, expected a number from 0 on"),
        ({"steps": 0}, "steps is 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        replace(PRUNING, **change)
