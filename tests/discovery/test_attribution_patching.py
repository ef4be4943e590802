"""Attribution patching against finite differences, true ablations and completeness."""

import warnings
from dataclasses import replace

import pytest
import reference
import tiny
import torch

import cna_lens
from cna_lens import AttributionPatching, InputError, LogitDifference, LogOdds, score_neurons
from cna_lens.discovery.rankings import gradients
from cna_lens.models.trial import trial

POSITIVE = [[5, 6, 7], [8, 9, 3, 4, 30, 31, 32], [40, 41], [50, 5, 51, 6, 52]]
NEGATIVE = [[33, 34, 35], [36, 37], [38, 39, 40, 41, 42, 43]]
OPENINGS = LogOdds(openings=("w5", "w9 w10"))
N = 2 * tiny.WIDTH
BY_GRADIENTS = [AttributionPatching(OPENINGS, steps=2), cna_lens.RelP(OPENINGS)]


def log_odds(logits):
    """Log-odds of tokens 5 and 9, by the definition."""
    p = logits.double().softmax(-1)
    return float((p[5] + p[9]).log() - (1 - p[5] - p[9]).log())


def difference(logits):
    return float(logits[11] - logits[12])


def metric_after(hf, ids, change, metric):
    with reference.changed(hf, change):
        return metric(reference.logits(hf, ids)[-1])


def at_place(place, moves):
    """Add to neurons of a layer at one place; `moves` maps a layer to a vector."""

    def change(layer, activation):
        if layer not in moves:
            return activation
        activation = activation.clone()
        activation[0, place] += moves[layer].to(activation)
        return activation

    return change


def exact(family):
    return tiny.in_double(tiny.hugging_face(family, dtype=torch.float64))


def one_neuron(flat):
    vector = torch.zeros(tiny.WIDTH, dtype=torch.float64)
    vector[flat % tiny.WIDTH] = 1
    return flat // tiny.WIDTH, vector


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize(
    ("metric", "definition", "position"),
    [
        (OPENINGS, log_odds, -1),
        pytest.param(LogitDifference(target=11, foil=12), difference, -1, marks=pytest.mark.long),
        pytest.param(OPENINGS, log_odds, -2, marks=pytest.mark.long),
    ],
    ids=["log-odds", "logit difference", "at the token before the last"],
)
def test_scores_are_finite_differences_times_the_distance_from_the_mean(
    family, metric, definition, position
):
    hf = exact(family)
    baseline = reference.activations(hf, NEGATIVE, position).mean(0)
    expected = torch.zeros(N, dtype=torch.float64)
    for ids in POSITIVE:
        activation = reference.activations(hf, [ids], position)[0]
        for flat in range(0, N, 5):
            layer, vector = one_neuron(flat)
            step = 1e-5
            up, down = (
                metric_after(hf, ids, at_place(position, {layer: s * vector}), definition)
                for s in (step, -step)
            )
            slope = (up - down) / (2 * step)
            expected[flat] += slope * (activation[flat] - baseline[flat]) / len(POSITIVE)
    model = tiny.bridge(family, dtype=torch.float64)
    found = score_neurons(
        model, POSITIVE, NEGATIVE, AttributionPatching(metric=metric), position=position
    )
    chosen = list(range(0, N, 5))
    torch.testing.assert_close(found.values[chosen], expected[chosen], rtol=1e-5, atol=1e-7)
    assert expected.abs().max() > 1e-3


def test_near_the_mean_scores_are_the_true_effects_of_ablation():
    hf = exact("llama")
    # One weak token tells the sets apart, so that every activation is near its mean.
    with torch.no_grad():
        embedding = hf.model.embed_tokens.weight
        embedding[7] = embedding[6] + 1e-3 * embedding[8]
    positive, negative = [[5, 6, 9], [30, 6, 9]], [[5, 7, 9], [30, 7, 9]]
    pairs = list(zip(positive, negative, strict=True))
    effects, scores = torch.zeros(N).double(), torch.zeros(N).double()
    model = tiny.boot(hf).to(torch.float64)
    for here, there in pairs:
        activation, baseline = reference.activations(hf, [here, there])
        before = log_odds(reference.logits(hf, here)[-1])
        for flat in range(N):
            layer, vector = one_neuron(flat)
            move = {layer: vector * (baseline[flat] - activation[flat])}
            effects[flat] += before - metric_after(hf, here, at_place(-1, move), log_odds)
        scores += score_neurons(model, [here], [there], AttributionPatching(metric=OPENINGS)).values
    torch.testing.assert_close(scores, effects, rtol=1e-2, atol=2e-3 * float(effects.abs().max()))


BEGINNING = [20, 21, 22, 23, 24]


@pytest.mark.parametrize("beginning", [[], BEGINNING], ids=["", "after a common beginning"])
@pytest.mark.parametrize(
    ("family", "position"),
    [
        ("llama", -1),
        *(
            pytest.param(family, position, marks=pytest.mark.long)
            for family, position in [
                *(("gemma3", -1), ("gpt2", -1), ("llama", -2), ("gemma3", -2), ("qwen2", 1)),
            ]
        ),
    ],
)
def test_integrated_gradients_of_a_layer_sum_to_the_effect_of_setting_it_to_its_means(
    family, position, beginning
):
    hf = exact(family)
    positive, negative = ([[*beginning, *ids] for ids in side] for side in (POSITIVE, NEGATIVE))
    position += len(beginning) if position > 0 else 0
    baseline = reference.activations(hf, negative, position).mean(0).split(tiny.WIDTH)
    effects = []
    for layer in range(2):
        effect = 0.0
        for ids in positive:
            activation = reference.activations(hf, [ids], position)[0].split(tiny.WIDTH)
            move = {layer: baseline[layer] - activation[layer]}
            before = log_odds(reference.logits(hf, ids)[-1])
            effect += before - metric_after(hf, ids, at_place(position, move), log_odds)
        effects.append(effect / len(positive))
    model = tiny.bridge(family, dtype=torch.float64)

    def sums(steps):
        ranking = AttributionPatching(metric=OPENINGS, steps=steps)
        scores = score_neurons(model, positive, negative, ranking, position=position)
        return [float(layer.sum()) for layer in scores.by_layer()]

    assert sums(24) == pytest.approx(effects, rel=1e-4, abs=1e-5)
    assert sums(0) != pytest.approx(effects, rel=1e-3)


def test_integrated_gradients_compute_the_tokens_before_the_one_to_read_once(llama, monkeypatch):
    ranking, computed = AttributionPatching(OPENINGS, steps=3), []
    positive, negative = [[5, *ids] for ids in POSITIVE], NEGATIVE

    def scored():
        computed.clear()
        with llama.hooks([("blocks.1.mlp.hook_post", lambda value, hook: count(value))]):
            return score_neurons(llama, positive, negative, ranking).values

    def count(value):
        computed.append(value.shape[:2].numel())

    quickly, few = scored(), sum(computed)
    monkeypatch.setattr(gradients.GradientBatch, "from_read", lambda batch: [batch])
    whole, many = scored(), sum(computed)
    torch.testing.assert_close(quickly, whole, rtol=1e-4, atol=1e-6)
    passes = 1 + 2 * (3 + 1)
    padded = len(positive) * (max(map(len, positive)) - 1)
    assert many - few == (passes - 1) * padded


@pytest.mark.filterwarnings("ignore:integrated gradients with:cna_lens.CnaLensWarning")
def test_tokens_before_the_one_to_read_are_not_steered_as_the_prompts_last(llama, monkeypatch):
    ranking = AttributionPatching(OPENINGS, steps=2)
    neurons = tuple(cna_lens.Neuron(0, index) for index in range(8))
    circuit = cna_lens.Circuit(neurons, (1.0,) * 8, cna_lens.Layout((tiny.WIDTH,) * 2))
    with cna_lens.steer(llama, circuit, -40.0, positions="last_prompt"):
        found = score_neurons(llama, POSITIVE, NEGATIVE, ranking).values
        monkeypatch.setattr(gradients.GradientBatch, "from_read", lambda batch: [batch])
        whole = score_neurons(llama, POSITIVE, NEGATIVE, ranking).values
    torch.testing.assert_close(found, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("window", [None, 6], ids=["no cache", "a short window"])
def test_a_model_without_a_cache_integrates_gradients_over_whole_prompts(monkeypatch, window):
    ranking = AttributionPatching(OPENINGS, steps=3)
    expected = score_neurons(tiny.bridge("llama"), POSITIVE, NEGATIVE, ranking).values
    model = tiny.bridge("llama")
    found = trial.tried(model)
    reason = "it forgets" if window is None else None
    monkeypatch.setattr(gradients, "tried", lambda _: replace(found, no_sharing=reason))
    monkeypatch.setattr(gradients, "sliding_window", lambda _: window)
    monkeypatch.setattr(gradients, "forward_with_cache", None)
    torch.testing.assert_close(
        score_neurons(model, POSITIVE, NEGATIVE, ranking).values, expected, rtol=1e-4, atol=1e-6
    )


def test_one_point_of_integrated_gradients_is_the_gradient_half_way():
    hf = exact("llama")
    baseline = reference.activations(hf, NEGATIVE).mean(0)
    ids = POSITIVE[1]
    activation = reference.activations(hf, [ids])[0]
    half = {0: ((baseline - activation) / 2)[: tiny.WIDTH]}
    _, vector = one_neuron(4)
    up, down = (
        metric_after(hf, ids, at_place(-1, {0: half[0] + s * vector}), log_odds)
        for s in (1e-5, -1e-5)
    )
    model = tiny.bridge("llama", dtype=torch.float64)
    found = score_neurons(
        model, [ids], NEGATIVE, AttributionPatching(metric=OPENINGS, steps=1)
    ).values[4]
    expected = (up - down) / 2e-5 * float(activation[4] - baseline[4])
    assert float(found) == pytest.approx(expected, rel=1e-5)


def steep():
    """A model that is far from linear: its MLPs write thirty times as much."""
    hf = exact("llama")
    for layer in hf.model.layers:
        layer.mlp.down_proj.weight.data *= 30
    return hf


@pytest.mark.long
def test_integrated_gradients_that_miss_the_layers_effects_are_told(caplog):
    hf = steep()
    baseline = reference.activations(hf, NEGATIVE).mean(0).split(tiny.WIDTH)
    effects = torch.zeros(len(POSITIVE), 2).double()
    for row, ids in enumerate(POSITIVE):
        activation = reference.activations(hf, [ids])[0].split(tiny.WIDTH)
        for layer in range(2):
            move = {layer: baseline[layer] - activation[layer]}
            before = log_odds(reference.logits(hf, ids)[-1])
            effects[row, layer] = before - metric_after(hf, ids, at_place(-1, move), log_odds)
    model = tiny.boot(hf).to(torch.float64)
    one_point = AttributionPatching(OPENINGS, steps=1)
    means = [
        # Each prompt alone has the baseline of all negative ones.
        layer.sum()
        for ids in POSITIVE
        for layer in quietly(score_neurons, model, [ids], NEGATIVE, one_point).by_layer()
    ]
    sums = torch.stack(means).view(len(POSITIVE), 2)
    error = float((sums - effects).abs().sum() / effects.abs().sum())
    assert error > 0.05
    for batch_size in ("auto", 1):
        with pytest.warns(cna_lens.CnaLensWarning, match="steps=1 miss the effects") as warned:
            score_neurons(model, POSITIVE, NEGATIVE, one_point, batch_size=batch_size)
        assert f"by {error:.0%};" in str(warned[0].message)
    with caplog.at_level("INFO"):
        score_neurons(model, POSITIVE, NEGATIVE, AttributionPatching(OPENINGS, steps=60))
    assert "with 60 steps miss the layers' effects by" in caplog.text


def test_what_rounding_explains_is_no_warning():
    coarse = tiny.bridge("llama", dtype=torch.bfloat16)
    score_neurons(coarse, POSITIVE, NEGATIVE, AttributionPatching(OPENINGS, steps=12))


def quietly(run, *given):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return run(*given)


@pytest.mark.parametrize("steps", [0, 3])
def test_targets_and_foils_may_differ_from_prompt_to_prompt(llama, steps):
    targets, foils = (5, 6, 7, 8), ("w9", 10, "w3", 12)

    def scored(prompts, target, foil):
        ranking = AttributionPatching(LogitDifference(target, foil), steps=steps)
        return score_neurons(llama, prompts, NEGATIVE, ranking).values

    together = scored(POSITIVE, targets, foils)
    alone = [scored([ids], t, f) for ids, t, f in zip(POSITIVE, targets, foils, strict=True)]
    torch.testing.assert_close(together, torch.stack(alone).mean(0), rtol=1e-4, atol=1e-5)


def test_a_shared_prefix_changes_nothing(chat_model):
    texts = ["w5 w6", "w7", "w8 w9 w20 w21"], ["w30", "w31 w32"]
    found = score_neurons(chat_model, *texts, BY_GRADIENTS[1]).values
    ids = [cna_lens.models.prompts.encoding.encode(chat_model, side).ids for side in texts]
    apart = torch.stack(
        [
            score_neurons(
                chat_model, [list(one)], [list(other) for other in ids[1]], BY_GRADIENTS[1]
            ).values
            for one in ids[0]
        ]
    ).mean(0)
    torch.testing.assert_close(found, apart, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "ranking", [AttributionPatching(OPENINGS, steps=2), cna_lens.RelP(OPENINGS)]
)
@pytest.mark.parametrize("frozen", [False, True])
def test_the_model_is_left_as_it_was(ranking, frozen):
    model = reference.settled(tiny.bridge("llama"))
    parameters = list(model.parameters())
    for place, parameter in enumerate(parameters):
        parameter.requires_grad_(not frozen and place % 2 == 0)
    flags = [parameter.requires_grad for parameter in parameters]
    hooks, weights = reference.hooks(model), reference.weights(model)
    with torch.no_grad():
        score_neurons(model, POSITIVE, NEGATIVE, ranking)
        assert not torch.is_grad_enabled()
    assert [parameter.requires_grad for parameter in parameters] == flags
    assert all(parameter.grad is None for parameter in parameters)
    assert reference.hooks(model) == hooks
    assert reference.same_bits(reference.weights(model), weights)
    assert not model.training


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode], ids=["no_grad", "mode"])
def test_gradients_are_taken_even_where_the_caller_switches_them_off(llama, context):
    expected = score_neurons(llama, POSITIVE, NEGATIVE, AttributionPatching(OPENINGS)).values
    with context():
        found = score_neurons(llama, POSITIVE, NEGATIVE, AttributionPatching(OPENINGS)).values
    torch.testing.assert_close(found, expected)


def test_frozen_parameters_give_the_same_scores(llama):
    expected = score_neurons(llama, POSITIVE, NEGATIVE, AttributionPatching(OPENINGS)).values
    frozen = tiny.bridge("llama")
    for parameter in frozen.parameters():
        parameter.requires_grad_(False)
    found = score_neurons(frozen, POSITIVE, NEGATIVE, AttributionPatching(OPENINGS)).values
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    "ranking", [AttributionPatching(OPENINGS, steps=2), cna_lens.RelP(OPENINGS)]
)
def test_no_hook_stays_after_an_exception(ranking):
    model = reference.settled(tiny.bridge("llama"))
    before = reference.hooks(model)

    def fail(value, hook):
        if torch.is_grad_enabled():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), model.hooks(fwd_hooks=[("ln_final.hook_in", fail)]):
        score_neurons(model, POSITIVE, NEGATIVE, ranking)
    assert reference.hooks(model) == before


@pytest.mark.filterwarnings("ignore:a batch of:cna_lens.CnaLensWarning")
def test_a_batch_that_does_not_fit_the_memory_is_halved(llama):
    expected = score_neurons(llama, POSITIVE, NEGATIVE, AttributionPatching(OPENINGS)).values
    sizes = []

    def full(value, hook):
        if torch.is_grad_enabled():
            sizes.append(len(value))
            if len(value) > 1:
                raise torch.OutOfMemoryError

    with llama.hooks(fwd_hooks=[("ln_final.hook_in", full)]):
        found = score_neurons(llama, POSITIVE, NEGATIVE, AttributionPatching(OPENINGS)).values
    assert sizes[0] > 1
    assert sizes.count(1) == len(POSITIVE)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (LogitDifference((5, 6), 7), "2 target tokens and 4 positive prompts"),
        (LogitDifference(5, (7,)), "1 foil tokens and 4 positive prompts"),
        (LogitDifference(64, 7), "the target is token 64, expected 0 to 63"),
        (LogitDifference(5, "w6 w7"), "the foil 'w6 w7' has 2 tokens, expected 1"),
        (LogOdds(()), "openings is empty"),
        (LogOdds(("",)), "the opening '' has no tokens"),
    ],
)
def test_a_metric_that_does_not_fit_is_refused_before_the_model_runs(llama, metric, message):
    def ran(value, hook):
        pytest.fail("the model ran")

    with (
        llama.hooks(fwd_hooks=[("hook_embed", ran)]),
        pytest.raises(InputError, match=message),
    ):
        score_neurons(llama, POSITIVE, NEGATIVE, AttributionPatching(metric))


@pytest.mark.usefixtures("without_type_checks")
def test_one_text_is_not_several_openings_and_a_list_of_tokens_is_several(llama):
    with pytest.raises(InputError, match=r"openings is 'w5', expected several: \('w5',\)"):
        score_neurons(llama, POSITIVE, NEGATIVE, AttributionPatching(LogOdds("w5")))
    with pytest.raises(InputError, match="2 target tokens and 4 positive prompts"):
        score_neurons(llama, POSITIVE, NEGATIVE, AttributionPatching(LogitDifference([5, 6], 7)))


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": -1}, "steps is -1"),
        ({"steps": 1.5}, r"steps is 1\.5"),
        ({"steps": 3.0}, r"steps is 3\.0, expected a whole number"),
        ({"metric": "log_odds"}, "metric is 'log_odds', expected LogOdds"),
    ],
)
def test_invalid_settings_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        AttributionPatching(**options)


def test_a_gradient_that_is_no_number_is_refused(llama):
    def spoil(value, hook):
        return value * torch.where(value > -1e9, torch.sqrt(value * 0), 1.0) + value

    with (
        llama.hooks(fwd_hooks=[("ln_final.hook_in", spoil)]),
        pytest.raises(cna_lens.ActivationError, match="gradients"),
    ):
        score_neurons(llama, POSITIVE, NEGATIVE, AttributionPatching(OPENINGS))


@pytest.mark.long
@pytest.mark.real_model
def test_on_a_real_model_scores_are_the_effects_of_ablating_single_neurons(demo):
    prompts = cna_lens.prompt_set("refusal_small")
    here, there = prompts.positive[:3], prompts.negative[:3]
    scores = score_neurons(demo, here, there, "attribution_patching")
    means = cna_lens.collect(demo, there)
    before = cna_lens.metrics.refusal_log_odds(demo, here)
    for neuron, score in zip(*_spread(scores), strict=True):
        circuit = cna_lens.Circuit((neuron,), (score,), scores.layout)
        with cna_lens.steer(demo, circuit, values=means, positions="last_prompt"):
            after = cna_lens.metrics.refusal_log_odds(demo, here)
        effect = sum(b - a for b, a in zip(before, after, strict=True)) / len(here)
        assert score == pytest.approx(effect, rel=0.15)


def _spread(scores):
    """Choose a strong neuron of an early, a middle and a late layer, still in the linear range."""
    circuits = [scores.top(k=20, layers=[layer]) for layer in (2, 14, 28)]
    return [c.neurons[-1] for c in circuits], [c.scores[-1] for c in circuits]
