"""Learned masks: the mask itself, what is learned, and that a run leaves nothing behind."""

from dataclasses import replace
from functools import partial

import pytest
import torch

import cna_lens
from cna_lens import ActivationError, InputError, LearnedMask, LogitDifference, Neuron
from cna_lens.discovery.rankings import learned_mask as module
from cna_lens.discovery.rankings.learned_mask import soft_top_k
from cna_lens.models import hook_name

POSITIVE = [[5, 6, 9], [8, 3], [4, 2, 6], [9, 9]]
NEGATIVE = [[7, 1], [9, 4, 4], [2, 2], [1, 3, 5]]
MASK = LearnedMask(
    metric=LogitDifference(target=5, foil=6),
    steps=40,
    sizes=(2, 12),
    batch_size=3,
    answer_tokens=0,
    floor=-1e9,
)


@pytest.mark.parametrize("temperature", [0.05, 0.25, 2.0])
@pytest.mark.parametrize("k", [0.5, 3.0, 39.9])
def test_a_mask_sums_to_k_and_is_ordered_like_the_scores(k, temperature):
    scores = torch.randn(40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mask = soft_top_k(3 * scores, k, temperature)
    assert mask.sum().item() == pytest.approx(k, abs=1e-6)
    assert bool((mask[scores.argsort()].diff() >= 0).all())


def test_equal_scores_share_k_evenly():
    assert torch.allclose(
        soft_top_k(torch.zeros(8, dtype=torch.float64), 2.0, 0.1), torch.tensor(0.25).double()
    )


def test_the_gradient_of_a_mask_takes_in_that_its_threshold_moves():
    scores = torch.randn(12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert torch.autograd.gradcheck(
        partial(soft_top_k, k=3.3, temperature=0.4), scores.requires_grad_()
    )


def loss_by_definition(model, mask, positive, negative):
    """The mean difference of logits, and four times the divergence, one prompt at a time."""

    def last(ids, hooks=()):
        with model.hooks(fwd_hooks=list(hooks)):
            return model(torch.tensor([ids]))[0, -1]

    def ablate(activation, hook):
        layer = int(hook.name.split(".")[1])
        return activation * (1 - mask.view(2, 24)[layer].to(activation))

    hooks = [(hook_name(layer), ablate) for layer in range(2)]
    shown = [last(ids, hooks)[5] - last(ids, hooks)[6] for ids in positive]
    changed = []
    for ids in negative:
        before, after = last(ids).log_softmax(-1), last(ids, hooks).log_softmax(-1)
        changed.append((before.exp() * (before - after)).sum())
    return torch.stack(shown).mean() + 4 * torch.stack(changed).mean()


def test_the_loss_is_that_of_the_equation(llama, monkeypatch):
    seen = []
    loss = module._Run._loss

    def watched(run, positive, negative, mask):
        found = loss(run, positive, negative, mask)
        asked, others = ([s[i] for i in p] for s, p in ((POSITIVE, positive), (NEGATIVE, negative)))
        seen.append((found.item(), loss_by_definition(llama, mask, asked, others).item()))
        return found

    monkeypatch.setattr(module._Run, "_loss", watched)
    cna_lens.score_neurons(llama, POSITIVE, NEGATIVE, replace(MASK, steps=4))
    assert len(seen) == 4
    for found, expected in seen:
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)


def effect(model, circuit):
    def difference():
        with torch.no_grad():
            last = torch.stack([model(torch.tensor([ids]))[0, -1] for ids in POSITIVE])
        return (last[:, 5] - last[:, 6]).mean().item()

    before = difference()
    with cna_lens.steer(model, circuit, 0.0):
        return before - difference()


def test_the_neurons_it_puts_first_lower_the_metric_most_together(llama):
    scores = cna_lens.score_neurons(llama, POSITIVE, NEGATIVE, replace(MASK, kl_weight=0.0))
    layout = scores.layout
    rest = replace(scores, values=-scores.values + scores.values.max())
    for k in (2, 6, 12):
        others = [
            effect(llama, cna_lens.score_neurons(llama, POSITIVE, NEGATIVE, each).top(k=k))
            for each in ("contrast", cna_lens.RandomScores(1), cna_lens.RandomScores(2))
        ]
        assert effect(llama, scores.top(k=k)) > max(others)
        assert effect(llama, rest.top(k=k)) < 0
    assert layout.n_neurons == 48


def test_a_heavy_divergence_chooses_neurons_that_change_other_prompts_less(llama):
    def changed(weight):
        mask = replace(MASK, kl_weight=weight)
        circuit = cna_lens.score_neurons(llama, POSITIVE, NEGATIVE, mask).top(k=6)
        found = []
        with torch.no_grad():
            before = [model_last(llama, ids) for ids in NEGATIVE]
            with cna_lens.steer(llama, circuit, 0.0):
                after = [model_last(llama, ids) for ids in NEGATIVE]
        for b, a in zip(before, after, strict=True):
            found.append((b.exp() * (b - a)).sum().item())
        return sum(found)

    assert changed(1000.0) < 0.5 * changed(0.0)


def model_last(model, ids):
    return model(torch.tensor([ids]))[0, -1].log_softmax(-1)


def test_scores_follow_from_the_seed(llama):
    first, same, other = (
        cna_lens.score_neurons(llama, POSITIVE, NEGATIVE, replace(MASK, steps=6, seed=seed)).values
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_means_replace_activations_where_asked(llama):
    zero, mean = (
        cna_lens.score_neurons(llama, POSITIVE, NEGATIVE, replace(MASK, steps=6, replacement=each))
        for each in ("zero", "mean")
    )
    assert not torch.equal(zero.values, mean.values)
    assert "replacement='mean'" in mean.provenance.rank


def test_an_interrupted_run_goes_on_to_the_same_scores(llama, tmp_path, monkeypatch):
    whole = cna_lens.score_neurons(llama, POSITIVE, NEGATIVE, MASK)
    kept = replace(MASK, checkpoint=tmp_path / "mask.pt")
    loss, steps = module._Run._loss, []

    def interrupted(run, *given):
        steps.append(None)
        if len(steps) == 31:
            raise KeyboardInterrupt
        return loss(run, *given)

    with monkeypatch.context() as patch:
        patch.setattr(module._Run, "_loss", interrupted)
        with pytest.raises(KeyboardInterrupt):
            cna_lens.score_neurons(llama, POSITIVE, NEGATIVE, kept)
    assert all(not point.has_hooks() for point in llama.hook_dict.values())
    steps.clear()
    monkeypatch.setattr(
        module._Run, "_loss", lambda run, *given: (steps.append(None), loss(run, *given))[1]
    )
    again = cna_lens.score_neurons(llama, POSITIVE, NEGATIVE, kept)
    assert len(steps) == 20  # 40, of which 20 were kept
    assert torch.equal(again.values, whole.values)
    assert again.provenance.rank == whole.provenance.rank
    with pytest.raises(InputError, match=r"is a checkpoint of .*steps=40.*not of .*steps=60"):
        cna_lens.score_neurons(llama, POSITIVE, NEGATIVE, replace(kept, steps=60))


def test_weights_keep_their_gradients_and_whether_they_want_one(llama):
    parameters = dict(llama.named_parameters())
    before = {name: (each.requires_grad, each.grad) for name, each in parameters.items()}
    cna_lens.score_neurons(llama, POSITIVE, NEGATIVE, replace(MASK, steps=2))
    assert {n: (each.requires_grad, each.grad) for n, each in parameters.items()} == before


def test_the_divergence_is_taken_along_the_unchanged_models_answers(chat_model):
    texts = ["w3 w4", "w6", "w8 w9"]
    ids = cna_lens.models.encode(chat_model, texts).ids
    for answered, prompt in zip(module._answered(chat_model, ids, 3), ids, strict=True):
        assert answered.ids[: answered.n_prompt] == tuple(prompt)
        assert len(answered.log_probs) == len(answered.ids) - answered.n_prompt + 1
        with torch.no_grad():
            logits = chat_model(torch.tensor([answered.ids]))[0, answered.n_prompt - 1 :]
        torch.testing.assert_close(answered.log_probs, logits.log_softmax(-1), rtol=1e-4, atol=1e-5)
        greedy = logits.argmax(-1).tolist()[:-1]
        assert list(answered.ids[answered.n_prompt :]) == greedy


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"steps": 0}, "steps is 0, expected at least 1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"sizes": (5, 2)}, r"sizes is \(5, 2\), expected two numbers of neurons"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0, expected a number above 0"),
        ({"temperatures": (1.0, 0.0)}, r"temperatures is \(1.0, 0.0\)"),
        ({"kl_weight": -1.0}, "kl_weight is -1.0"),
    ],
)
def test_bad_settings_are_refused(change, said):
    with pytest.raises(InputError, match=said):
        replace(MASK, **change)


def test_more_neurons_than_the_model_has_are_refused(llama):
    with pytest.raises(InputError, match=r"sizes is \(46, 1000\), and the model has 48 neurons"):
        cna_lens.score_neurons(llama, POSITIVE, NEGATIVE, replace(MASK, sizes=(46, 1000)))


def test_activations_that_are_not_numbers_are_told(llama):
    down = llama.blocks[1].mlp
    assert down is not None

    def broken(activation, hook):
        return activation * torch.nan

    with (
        llama.hooks(fwd_hooks=[("blocks.1.hook_mlp_out", broken)]),
        pytest.raises(ActivationError),
    ):
        cna_lens.score_neurons(llama, POSITIVE, NEGATIVE, MASK)
    assert Neuron(0, 0) in cna_lens.score_neurons(llama, POSITIVE, NEGATIVE).layout.neurons()
