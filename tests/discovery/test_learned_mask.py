"""Learned masks: the mask itself, what is learned, and that a run leaves nothing behind."""

import copy
import itertools
import math
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import pytest
import tiny
import torch

import cna_lens
from cna_lens import (
    ActivationError,
    Circuit,
    InputError,
    Layout,
    LearnedMask,
    LogitDifference,
    ModelError,
    Neuron,
    SquaredAttribution,
)
from cna_lens.discovery.rankings import learned_mask, mask_training as module
from cna_lens.discovery.rankings.soft_top_k import soft_top_k
from cna_lens.models import hook_name
from cna_lens.models.running import forward

POSITIVE = [[5, 6, 9], [8, 3], [4, 2, 6], [9, 9]]
NEGATIVE = [[7, 1], [9, 4, 4], [2, 2], [1, 3, 5]]
MASK = LearnedMask(
    metric=LogitDifference(target=5, foil=6),
    steps=40,
    fractions=(2 / 48, 12 / 48),
    start="zero",
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


def steered(model):
    """Steer eight neurons at the last token of each prompt."""
    neurons = tuple(Neuron(0, index) for index in range(8))
    circuit = Circuit(neurons, (1.0,) * 8, Layout((tiny.WIDTH,) * 2))
    return cna_lens.steer(model, circuit, -20.0, positions="last_prompt")


def loss_by_definition(model, settings, mask, positive, negative, means):
    """The clamped difference of logits, and the weighted divergence, one prompt at a time."""

    def logits(ids, n_prompt, hooks=()):
        with model.hooks(fwd_hooks=list(hooks)), cna_lens.prompt_lengths([n_prompt]):
            return model(torch.tensor([ids]))[0]

    def ablate(activation, hook):
        layer = int(hook.name.split(".")[1])
        share = mask.view(2, 24)[layer].to(activation)
        other = means.view(2, 24)[layer].to(activation) if settings.replacement == "mean" else 0
        return activation * (1 - share) + share * other

    hooks = [(hook_name(layer), ablate) for layer in range(2)]
    last = [logits(ids, len(ids), hooks)[-1] for ids in positive]
    shown = [max((each[5] - each[6]).item(), settings.floor) for each in last]
    changed = []
    for each in negative:
        before, after = (
            logits(each.ids, each.n_prompt, hooks_there)[each.n_prompt - 1 :].log_softmax(-1)
            for hooks_there in ((), hooks)
        )
        changed.append((before.exp() * (before - after)).sum(-1).mean().item())
    return sum(shown) / len(shown) + settings.kl_weight * sum(changed) / len(changed)


@pytest.mark.parametrize(
    ("change", "steering"),
    [
        ({}, nullcontext),
        ({}, steered),
        ({"replacement": "mean"}, nullcontext),
        ({"floor": 0.0}, nullcontext),
        ({"kl_weight": 9.0}, nullcontext),
    ],
)
def test_the_loss_is_that_of_the_equation(llama, monkeypatch, change, steering):
    seen, loss, settings = [], module._Training._loss, replace(MASK, steps=4, **change)
    with steering(llama):
        means = cna_lens.collect(llama, NEGATIVE).mean

    # The model has no tokenizer: these stand for answers.
    def answered(model, prompts, n_tokens):
        found = []
        for ids in prompts:
            whole = (*ids, 7, 3)
            with torch.no_grad(), cna_lens.prompt_lengths([len(ids)]):
                log_probs = model(torch.tensor([whole]))[0, len(ids) - 1 :].log_softmax(-1)
            found.append(module._Answered(whole, len(ids), log_probs))
        return found

    def watched(run, positive, negative, mask):
        found = loss(run, positive, negative, mask)
        asked = [POSITIVE[place] for place in positive]
        others = [run.negative[place] for place in negative]
        expected = loss_by_definition(llama, settings, mask, asked, others, means)
        seen.append((found.item(), expected))
        return found

    monkeypatch.setattr(module, "_answered", answered)
    monkeypatch.setattr(module._Training, "_loss", watched)
    with steering(llama):
        cna_lens.score_neurons(llama, POSITIVE, NEGATIVE, settings)
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
    rest = replace(scores, values=-scores.values + scores.values.max())
    for k in (2, 6, 12):
        others = [
            effect(llama, cna_lens.score_neurons(llama, POSITIVE, NEGATIVE, each).top(k=k))
            for each in ("contrast", cna_lens.RandomScores(1), cna_lens.RandomScores(2))
        ]
        assert effect(llama, scores.top(k=k)) > max(others)
        assert effect(llama, rest.top(k=k)) < 0


@pytest.mark.long
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
    kept = replace(MASK, checkpoints=tmp_path / "masks")
    loss, steps = module._Training._loss, []
    ablate, layers = module._ablate, []

    def interrupted(*given, **named):
        layers.append(None)
        # In the second layer of step 31, while the step's own hooks are there.
        if len(layers) == 31 * llama.cfg.n_layers:
            raise KeyboardInterrupt
        return ablate(*given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(module, "_ablate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            cna_lens.score_neurons(llama, POSITIVE, NEGATIVE, kept)
    assert all(not point.has_hooks() for point in llama.hook_dict.values())
    monkeypatch.setattr(
        module._Training, "_loss", lambda run, *given: (steps.append(None), loss(run, *given))[1]
    )
    again = cna_lens.score_neurons(llama, POSITIVE, NEGATIVE, kept)
    assert len(steps) == 20  # 40, of which 20 were kept
    assert torch.equal(again.values, whole.values)
    assert again.provenance.rank == whole.provenance.rank
    # Another model of the same name, other prompts and other settings are other runs.
    changed = copy.deepcopy(llama)
    with torch.no_grad():
        next(iter(changed.parameters())).add_(0.1)
    for model, positive, negative, ranking in (
        (changed, POSITIVE, NEGATIVE, kept),
        (llama, POSITIVE[1:], NEGATIVE, kept),
        (llama, POSITIVE, NEGATIVE[1:], kept),
        (llama, POSITIVE, NEGATIVE, replace(kept, kl_weight=2.0)),
    ):
        steps.clear()
        cna_lens.score_neurons(model, positive, negative, ranking)
        assert len(steps) == 40
    assert len(list((tmp_path / "masks").iterdir())) == 5


def test_a_folder_of_checkpoints_may_be_a_text(llama, tmp_path):
    kept = replace(MASK, steps=20, checkpoints=str(tmp_path / "masks"))
    cna_lens.score_neurons(llama, POSITIVE, NEGATIVE, kept)
    assert len(list((tmp_path / "masks").iterdir())) == 1


def test_checkpoints_of_a_model_with_hooks_are_refused(llama, tmp_path):
    kept = replace(MASK, checkpoints=tmp_path)
    with (
        llama.hooks(fwd_hooks=[(hook_name(0), lambda value, hook: value / 2)]),
        pytest.raises(InputError, match=r"tiny-llama has hooks, .* set checkpoints=None"),
    ):
        cna_lens.score_neurons(llama, POSITIVE, NEGATIVE, kept)


@pytest.mark.parametrize("content", [b"", b"no checkpoint", None])
def test_a_broken_checkpoint_is_refused(llama, tmp_path, content):
    kept = replace(MASK, steps=20, checkpoints=tmp_path)
    cna_lens.score_neurons(llama, POSITIVE, NEGATIVE, kept)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:100] if content is None else content)
    with pytest.raises(InputError, match=r"\.pt cannot be read as a checkpoint: [\s\S]*delete it"):
        cna_lens.score_neurons(llama, POSITIVE, NEGATIVE, kept)


def test_weights_keep_their_gradients_and_whether_they_want_one(llama):
    parameters = dict(llama.named_parameters())
    before = {name: (each.requires_grad, each.grad) for name, each in parameters.items()}
    cna_lens.score_neurons(llama, POSITIVE, NEGATIVE, replace(MASK, steps=2))
    assert {n: (each.requires_grad, each.grad) for n, each in parameters.items()} == before


@pytest.mark.parametrize("steering", [nullcontext, steered])
def test_the_divergence_is_taken_along_the_unchanged_models_answers(chat_model, steering):
    texts = ["w3 w4", "w6", "w8 w9"]
    ids = cna_lens.models.encode(chat_model, texts).ids
    with steering(chat_model):
        found = module._answered(chat_model, ids, 3)
    for answered, prompt in zip(found, ids, strict=True):
        assert answered.ids[: answered.n_prompt] == tuple(prompt)
        assert len(answered.log_probs) == len(answered.ids) - answered.n_prompt + 1
        stated = cna_lens.prompt_lengths([answered.n_prompt])
        with torch.no_grad(), steering(chat_model), stated:
            logits = chat_model(torch.tensor([answered.ids]))[0, answered.n_prompt - 1 :]
        torch.testing.assert_close(answered.log_probs, logits.log_softmax(-1), rtol=1e-4, atol=1e-5)
        greedy = logits.argmax(-1).tolist()[:-1]
        assert list(answered.ids[answered.n_prompt :]) == greedy
        assert len(greedy) == 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"steps": 0}, "steps is 0, expected a whole number from 1 on"),
        ({"steps": 1.5}, r"steps is 1\.5, expected a whole number"),
        ({"steps": 80.0}, r"steps is 80\.0, expected a whole number"),
        ({"seed": 0.5}, r"seed is 0\.5, expected a whole number from 0 on"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"answer_tokens": -1}, "answer_tokens is -1, expected a whole number from 0 on"),
        (
            {"fractions": (0.5, 0.2)},
            r"fractions is \(0.5, 0.2\), expected the smaller number first",
        ),
        ({"fractions": (0, 0.2)}, r"fractions is \(0, 0.2\), expected two numbers between 0 and 1"),
        ({"fractions": (0.1, 1)}, r"fractions is \(0.1, 1\), expected two numbers between 0 and 1"),
        ({"start": "random"}, "start is 'random', expected one of zero, squared_attribution"),
        ({"temperatures": (math.nan, 1.0)}, r"temperatures is \(nan, 1\.0\), expected two numbers"),
        ({"kl_weight": math.inf}, "kl_weight is inf, expected a number from 0 on"),
        ({"floor": math.nan}, "floor is nan, expected a finite number"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0, expected a number above 0"),
        ({"temperatures": (1.0, 0.0)}, r"temperatures is \(1.0, 0.0\)"),
        ({"kl_weight": -1.0}, "kl_weight is -1.0"),
    ],
)
def test_bad_settings_are_refused(change, said, without_type_checks):
    with pytest.raises(InputError, match=said):
        replace(MASK, **change)


STILL = {"steps": 1, "learning_rate": 1e-12, "start": "squared_attribution"}


def test_it_starts_at_standardized_logarithms_of_squared_attributions(llama):
    squared = cna_lens.score_neurons(
        llama, POSITIVE, NEGATIVE, SquaredAttribution(MASK.metric, answer_tokens=0)
    ).values
    logs = squared.log()
    expected = 0.25 * (logs - logs.mean()) / logs.std(correction=0)
    found = cna_lens.score_neurons(llama, POSITIVE, NEGATIVE, replace(MASK, **STILL)).values
    torch.testing.assert_close(found, expected - expected.min(), rtol=1e-6, atol=1e-6)


def squared(monkeypatch, values):
    """Let all squared attributions be these."""
    monkeypatch.setattr(SquaredAttribution, "score", lambda self, given: given.scored(self, values))


def test_neurons_that_nothing_depends_on_start_last_and_do_not_move_the_others(llama, monkeypatch):
    strengths = torch.zeros(48, dtype=torch.float64)
    strengths[10:34] = torch.linspace(-3, 3, 24, dtype=torch.float64).exp()
    strengths[20] = 1e-12
    squared(monkeypatch, strengths)
    settings = replace(MASK, **STILL, temperatures=(0.5, 0.1))
    found = cna_lens.score_neurons(llama, POSITIVE, NEGATIVE, settings).values
    known = found[10:34]
    assert float(known.std(correction=0)) == pytest.approx(0.5, rel=1e-6)
    assert known.argsort().tolist() == strengths[10:34].argsort().tolist()
    assert float(found[:10].abs().max()) == pytest.approx(0.0, abs=1e-6)


def test_the_start_has_the_settings_of_the_mask(chat_model, monkeypatch):
    seen = []
    score = SquaredAttribution.score
    monkeypatch.setattr(
        SquaredAttribution, "score", lambda self, given: (seen.append(self), score(self, given))[1]
    )
    settings = replace(MASK, **STILL, answer_tokens=3, seed=7)
    cna_lens.score_neurons(chat_model, ["w5 w6", "w7"], ["w30", "w31"], settings)
    assert seen == [SquaredAttribution(MASK.metric, answer_tokens=3, seed=7)]


def test_each_step_draws_a_size_and_the_temperature_falls(llama, monkeypatch):
    seen = []

    def watched(scores, k, temperature):
        seen.append((k, temperature))
        return soft_top_k(scores, k, temperature)

    monkeypatch.setattr(learned_mask, "soft_top_k", watched)
    cna_lens.score_neurons(llama, POSITIVE, NEGATIVE, MASK)
    sizes, temperatures = zip(*seen, strict=True)
    assert len(sizes) == MASK.steps
    assert 2 <= min(sizes) < 2.6
    assert 9 < max(sizes) <= 12
    # The middle of the logarithms is the root of 24.
    assert 0.3 < sum(size < 24**0.5 for size in sizes) / len(sizes) < 0.7
    assert (temperatures[0], temperatures[-1]) == pytest.approx((0.25, 0.05))
    ratios = [b / a for a, b in itertools.pairwise(temperatures)]
    assert ratios == pytest.approx([0.2 ** (1 / 39)] * 39)


def test_a_start_that_the_metric_and_the_answers_do_not_depend_on_is_zero(llama, monkeypatch):
    squared(monkeypatch, torch.zeros(48, dtype=torch.float64))
    expected = cna_lens.score_neurons(llama, POSITIVE, NEGATIVE, replace(MASK, steps=2))
    found = cna_lens.score_neurons(
        llama, POSITIVE, NEGATIVE, replace(MASK, steps=2, start="squared_attribution")
    )
    assert torch.equal(found.values, expected.values)


def test_an_interrupted_run_does_not_start_again(llama, tmp_path, monkeypatch):
    settings = replace(MASK, steps=20, start="squared_attribution", checkpoints=tmp_path)
    expected = cna_lens.score_neurons(llama, POSITIVE, NEGATIVE, settings).values
    monkeypatch.setattr(SquaredAttribution, "score", lambda *_: pytest.fail("it started again"))
    found = cna_lens.score_neurons(llama, POSITIVE, NEGATIVE, settings).values
    assert torch.equal(found, expected)


def test_a_shared_prefix_is_ablated_too_and_changes_nothing(chat_model, monkeypatch):
    texts = ["w5 w6", "w7", "w8 w9 w20 w21"], ["w30", "w31 w32"]
    settings = replace(MASK, steps=12, answer_tokens=3)
    shared = []
    of = forward.SharedPrefix.of

    def watched(*given, gradients=False, **more):
        found = of(*given, gradients=gradients, **more)
        if gradients:
            shared.append(found.length)
        return found

    monkeypatch.setattr(forward.SharedPrefix, "of", watched)
    found = cna_lens.score_neurons(chat_model, *texts, settings).values
    assert len(shared) == 12
    assert min(shared) >= 4
    monkeypatch.setattr(forward, "MIN_SHARED_PREFIX", 1000)
    expected = cna_lens.score_neurons(chat_model, *texts, settings).values
    assert shared[-1] == 0
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_a_gradient_that_is_not_a_number_is_told(llama):
    def broken(activation, hook):
        return activation * torch.nan if torch.is_grad_enabled() else activation

    hooked = llama.hooks(fwd_hooks=[("blocks.1.hook_mlp_out", broken)])
    with hooked, pytest.raises(ActivationError, match="not-a-number gradients at step 0"):
        cna_lens.score_neurons(llama, POSITIVE, NEGATIVE, MASK)


def test_a_floor_above_the_metric_of_every_prompt_is_refused(llama):
    with pytest.raises(InputError, match=r"metric is at most .* floor is 1000.*nothing to lower"):
        cna_lens.score_neurons(llama, POSITIVE, NEGATIVE, replace(MASK, floor=1000.0))


def test_coarse_weights_and_a_missing_tokenizer_are_refused():
    coarse = tiny.bridge("llama", dtype=torch.bfloat16)
    with pytest.raises(ModelError, match=r"weights in torch\.bfloat16.*load it in float32"):
        cna_lens.score_neurons(coarse, POSITIVE, NEGATIVE, MASK)
    mute = tiny.bridge("llama")
    mute.tokenizer = None
    with pytest.raises(InputError, match="no tokenizer, so that it gives no answers"):
        cna_lens.score_neurons(mute, POSITIVE, NEGATIVE, replace(MASK, answer_tokens=2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("replacement", ["zero", "mean"])
def test_it_runs_in_inference_mode(dtype, replacement):
    model = tiny.bridge("llama", dtype=dtype)
    short = replace(MASK, steps=3, replacement=replacement)
    expected = cna_lens.score_neurons(model, POSITIVE, NEGATIVE, short)
    with torch.inference_mode():
        found = cna_lens.score_neurons(model, POSITIVE, NEGATIVE, short)
    assert torch.equal(found.values, expected.values)


def test_a_metric_that_is_not_a_number_is_named(llama):
    def broken(logits, hook):
        logits = logits.clone()
        logits[:, :, 5] = math.nan
        return logits

    with (
        llama.hooks(fwd_hooks=[("unembed.hook_out", broken)]),
        pytest.raises(ActivationError, match="tiny-llama gives a metric that is not a number"),
    ):
        cna_lens.score_neurons(llama, POSITIVE, NEGATIVE, replace(MASK, steps=3))


def test_each_prompt_stands_once_in_a_batch_and_all_come_in_turn():
    turns = module._in_turn(10, 6, torch.Generator().manual_seed(0))
    batches = [next(turns) for _ in range(200)]
    assert all(len(set(batch)) == 6 for batch in batches)
    counts = Counter(place for batch in batches for place in batch)
    assert max(counts.values()) - min(counts.values()) <= 2
    assert sorted(next(module._in_turn(4, 6, torch.Generator()))) == [0, 1, 2, 3]


@pytest.mark.long
@pytest.mark.real_model
def test_a_few_steps_end_a_planted_behaviour_at_a_lower_price_than_the_contrast():
    name, french = "planted/french-138-all-0", cna_lens.metrics.BEHAVIOURS["french"]
    asked, others = french.discovery.positive[:12], french.discovery.negative[:12]
    model = cna_lens.load_model(name, device="cpu")
    metric = cna_lens.LogOdds(french.openings)
    answers = cna_lens.generate(model, french.evaluation.negative[:6], max_new_tokens=8)
    odds, prices = [], []
    for ranking in (LearnedMask(metric, steps=16, batch_size=4), "contrast"):
        circuit = cna_lens.score_neurons(model, asked, others, ranking).top(k=138)
        steered = partial(cna_lens.steer, model, circuit, 0.0)
        with steered():
            odds.append(
                cna_lens.metrics.refusal_log_odds(
                    model, french.evaluation.positive[:6], openings=french.openings
                )
            )
        changed = cna_lens.metrics.kl_per_token(
            model, steered, french.evaluation.negative[:6], answers
        )
        prices.append(sum(changed) / len(changed))
    assert max(odds[0]) < 0
    assert prices[0] < prices[1] / 1.5
