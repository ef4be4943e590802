"""Attributions that were tried on the planted models, against slow definitions in plain torch."""

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import ClassVar

import pytest
import reference
import tiny
import torch
from torch.nn import functional

import cna_lens
from cna_lens import (
    AttributionPatching,
    Contrast,
    InputError,
    LogOdds,
    ModelError,
    RelP,
    SquaredAttribution,
    score_neurons,
)
from cna_lens.discovery import Ranking
from cna_lens.discovery.rankings import squared_attribution
from cna_lens.evidence import Cost, counted
from experiments.planted.trials import backward, dynamic_patching, figures
from experiments.planted.trials.backward import RULES, Through
from experiments.planted.trials.catalogue import CANDIDATES, REFERENCES
from experiments.planted.trials.combined import Ensemble, InLayers, On, OverTypical, Sum
from experiments.planted.trials.conductance import Conductance
from experiments.planted.trials.expected_gradients import ExpectedGradients
from experiments.planted.trials.grad_drop import GradDrop
from experiments.planted.trials.of_metric import OfMetric
from experiments.planted.trials.smoothed import Smoothed

POSITIVE = [[5, 6, 7], [8, 9, 3, 4, 30, 31, 32], [40, 41], [50, 5, 51, 6, 52]]
NEGATIVE = [[33, 34, 35], [36, 37]]
METRIC = LogOdds(openings=("w5", "w9 w10"))
CLOSE = {"rtol": 2e-4, "atol": 1e-7}


def log_odds(logits):
    p = logits.softmax(-1)
    return (p[5] + p[9]).log() - (1 - p[5] - p[9]).log()


def products(hf, ids, begin=0):
    """Each token's activations and gradients of the metric, as rows of all neurons."""
    deltas, seen = {}, {}

    def add(layer, activation):
        seen[layer] = activation.detach()
        deltas[layer] = torch.zeros_like(activation, requires_grad=True)
        return activation + deltas[layer]

    with reference.changed(hf, add), torch.enable_grad():
        total = log_odds(hf(torch.tensor([ids])).logits[0, -1])
    layers = sorted(deltas)
    gradients = torch.autograd.grad(total, [deltas[layer] for layer in layers])
    rows = torch.cat([seen[layer][0] for layer in layers], dim=-1), torch.cat(gradients, dim=-1)[0]
    return tuple(each.double()[begin:] for each in rows)


@contextmanager
def outputs_changed(changes):
    """Change what modules return; an attention returns a tuple."""
    with ExitStack() as stack:
        for module, change in changes:

            def hook(module, args, output, change=change):
                if isinstance(output, tuple):
                    return (change(output[0]), *output[1:])
                return change(output)

            stack.callback(module.register_forward_hook(hook).remove)
        yield


def scaled(share):
    return lambda value: value.detach() + share * (value - value.detach())


class Tempered(torch.autograd.Function):
    """A softmax with the derivative of another temperature, its 1 / T left out."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.exp(x - x.logsumexp(-1, keepdim=True))

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        p = torch.exp(x / 2 - (x / 2).logsumexp(-1, keepdim=True))
        return p * (gradient - (p * gradient).sum(-1, keepdim=True))


@contextmanager
def with_gim(hf, monkeypatch):
    """Plain Hugging Face with the rules of gradient interaction modifications, written out."""
    hf.set_attn_implementation("eager")
    changes = []
    for block in hf.model.layers:
        for module, share in (
            (block.self_attn.q_proj, 0.25),
            (block.self_attn.k_proj, 0.25),
            (block.self_attn.v_proj, 0.5),
            (block.mlp.gate_proj, 0.5),
            (block.mlp.up_proj, 0.5),
        ):
            changes.append((module, scaled(share)))

    def norm(module, x):
        variance = x.detach().float().pow(2).mean(-1, keepdim=True)
        return module.weight * x * torch.rsqrt(variance + module.variance_epsilon)

    with monkeypatch.context() as patch, outputs_changed(changes):
        patch.setattr(type(hf.model.norm), "forward", norm)
        patch.setattr(
            functional, "softmax", lambda x, dim=-1, dtype=None: Tempered.apply(x.float())
        )
        yield


def test_gim_follows_its_rules_written_out_in_plain_torch(monkeypatch):
    hf = tiny.hugging_face("llama")
    plain = torch.stack([sum_of_squares(hf, ids) for ids in POSITIVE]).sum(0).sqrt()
    model = tiny.boot(hf)
    found = score_neurons(model, POSITIVE, NEGATIVE, Through(OfMetric(METRIC), "gim")).values
    with with_gim(hf, monkeypatch):
        expected = torch.stack([sum_of_squares(hf, ids) for ids in POSITIVE]).sum(0).sqrt()
    torch.testing.assert_close(found, expected, **CLOSE)
    assert not torch.allclose(expected, plain, rtol=0.05)


def sum_of_squares(hf, ids):
    activations, gradients = products(hf, ids)
    return (activations * gradients).pow(2).sum(0)


def test_the_rules_named_relp_are_those_of_relp(llama):
    expected = score_neurons(llama, POSITIVE, NEGATIVE, RelP(METRIC)).values
    found = score_neurons(llama, POSITIVE, NEGATIVE, Through(AttributionPatching(METRIC), "relp"))
    torch.testing.assert_close(found.values, expected, rtol=1e-5, atol=1e-9)
    assert found.provenance.rank.endswith("rules='relp')")


def test_each_rule_gives_other_scores(llama):
    inner = AttributionPatching(METRIC)
    found = [score_neurons(llama, POSITIVE, NEGATIVE, inner).values]
    for rules in RULES:
        values = score_neurons(llama, POSITIVE, NEGATIVE, Through(inner, rules)).values
        assert not any(torch.allclose(values, other, rtol=1e-3) for other in found), rules
        found.append(values)


@pytest.mark.parametrize("rules", RULES)
def test_rules_change_no_value_and_leave_nothing_behind(rules, llama):
    hooks = reference.hooks(reference.settled(llama))
    ids = torch.tensor([POSITIVE[1]])
    expected = llama.forward(ids, return_type="logits")
    with llama.hooks(fwd_hooks=list(RULES[rules](llama))):
        if "norms" in rules or "relp" in rules or "gim" in rules:
            with pytest.warns(UserWarning, match="edited hook_scale"):
                found = llama.forward(ids, return_type="logits")
        else:
            found = llama.forward(ids, return_type="logits")
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    score_neurons(llama, POSITIVE, NEGATIVE, Through(OfMetric(METRIC), rules))
    assert reference.hooks(llama) == hooks


@pytest.mark.parametrize("identity", [True, False])
def test_each_factor_of_a_gate_gets_its_share(identity):
    gate = torch.tensor([-1.5, 0.0, 0.7], dtype=torch.float64, requires_grad=True)
    up = torch.tensor([0.4, -2.0, 3.0], dtype=torch.float64, requires_grad=True)
    rule = backward._Gate(0.25, 0.75, identity)
    rule.read_gate(gate, None)
    rule.read_up(up, None)
    product = functional.silu(gate) * up
    found = rule.product(product, SimpleNamespace(name="here"))
    assert torch.equal(found, product)
    to_gate, to_up = torch.autograd.grad(found.sum(), [gate, up])
    sigmoid = torch.sigmoid(gate.detach())
    slope = sigmoid if identity else sigmoid * (1 + gate.detach() * (1 - sigmoid))
    torch.testing.assert_close(to_gate, 0.25 * slope * up.detach())
    torch.testing.assert_close(to_up, 0.75 * gate.detach() * sigmoid)
    with pytest.raises(ModelError, match="here is not the product of SiLU"):
        rule.product(2 * product, SimpleNamespace(name="here"))


def test_at_its_own_temperature_the_softmax_keeps_its_gradient():
    scores = torch.tensor([[0.3, -1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    weights = torch.tensor([[1.0, 2.0, -3.0]], dtype=torch.float64)

    def gradient(temperature):
        rule = backward._Softmax(temperature)
        rule.read_scores(scores, None)
        found = rule.pattern(scores.softmax(-1), SimpleNamespace(name="here"))
        assert torch.equal(found, scores.softmax(-1))
        return torch.autograd.grad((found * weights).sum(), scores)[0]

    (plain,) = torch.autograd.grad((scores.softmax(-1) * weights).sum(), scores)
    torch.testing.assert_close(gradient(1.0), plain)
    p = (scores.detach() / 2).softmax(-1)
    torch.testing.assert_close(gradient(2.0), p * (weights - (p * weights).sum()))


def test_a_model_without_the_part_that_a_rule_needs_is_refused(models):
    with pytest.raises(ModelError, match="the rules 'relp' need blocks"):
        score_neurons(models["gpt2"], POSITIVE, NEGATIVE, Through(OfMetric(METRIC), "relp"))


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_powers_are_summed_over_tokens(llama, power):
    hf = tiny.plain("llama")
    expected = 0
    for ids in POSITIVE:
        activations, gradients = products(hf, ids)
        expected = expected + (activations * gradients).abs().pow(power).sum(0)
    found = score_neurons(llama, POSITIVE, NEGATIVE, OfMetric(METRIC, power)).values
    torch.testing.assert_close(found, expected.pow(1 / power), **CLOSE)


def through_the_neurons(hf, ids, baseline, begin, n=400):
    """Each token's gradient times the derivative of its activation along the path, integrated."""
    own = hf.model.embed_tokens.weight[torch.tensor(ids)]
    end = baseline.expand_as(own).clone()
    end[:begin] = own[:begin]

    def activations(share):
        seen = {}

        def note(layer, activation):
            seen[layer] = activation
            return activation

        with reference.changed(hf, note):
            hf(inputs_embeds=(end + share * (own - end))[None])
        return torch.cat([seen[layer][0] for layer in sorted(seen)], dim=-1)

    def gradients(share):
        embeddings = (end + share * (own - end))[None]
        deltas = {}

        def add(layer, activation):
            deltas[layer] = torch.zeros_like(activation, requires_grad=True)
            return activation + deltas[layer]

        with reference.changed(hf, add), torch.enable_grad():
            total = log_odds(hf(inputs_embeds=embeddings).logits[0, -1])
        found = torch.autograd.grad(total, [deltas[layer] for layer in sorted(deltas)])
        return torch.cat(found, dim=-1)[0]

    summed, step = 0, 1e-4
    for place in range(n):
        share = (place + 0.5) / n
        with torch.no_grad():
            slope = (activations(share + step) - activations(share - step)) / (2 * step)
        summed = summed + gradients(share) * slope / n
    return summed[begin:]


@pytest.mark.long
@pytest.mark.parametrize(("baseline", "squared"), [("mean", True), ("mean", False), ("zero", True)])
def test_conductance_is_the_integral_of_gradient_times_derivative(baseline, squared):
    hf = tiny.in_double(tiny.hugging_face("llama", dtype=torch.float64)).requires_grad_(False)
    prompts = [[5, 6, 7], [5, 9, 3, 4]]
    tokens = torch.tensor([token for ids in NEGATIVE for token in ids])
    mean = hf.model.embed_tokens.weight[tokens].mean(0)
    # From 0 on the norms turn sharply, so that neither side has converged.
    at = {"mean": mean, "zero": torch.zeros_like(mean)}[baseline]
    model = tiny.bridge("llama", dtype=torch.float64)
    tiny.in_double(model.original_model)
    ranking = Conductance(METRIC, 400, baseline, squared)
    found = score_neurons(model, prompts, NEGATIVE, ranking).values
    parts = [through_the_neurons(hf, ids, at, 1) for ids in prompts]
    if squared:
        expected = sum(part.pow(2).sum(0) for part in parts).sqrt()
    else:
        expected = sum(part.sum(0) for part in parts) / 2
    scale = float(expected.abs().max())
    tolerance = 1e-3 if baseline == "mean" else 0.05
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * scale)


def test_conductance_reads_the_first_prompts_only(llama):
    few = Conductance(METRIC, 2, n_prompts=2)
    found = score_neurons(llama, POSITIVE, NEGATIVE, few).values
    expected = score_neurons(llama, POSITIVE[:2], NEGATIVE, Conductance(METRIC, 2)).values
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-8)


def at_last(hf, ids, layer, value):
    """The metric's gradient where one layer's activations at the last token are a value."""
    deltas = []

    def change(at, activation):
        if at != layer:
            return activation
        deltas.append(torch.zeros_like(value, requires_grad=True))
        changed = activation.detach().clone()
        changed[0, -1] = value
        addition = torch.zeros_like(changed)
        addition[0, -1] = 1.0
        return changed + addition * deltas[0]

    with reference.changed(hf, change), torch.enable_grad():
        total = log_odds(hf(torch.tensor([ids])).logits[0, -1])
    return torch.autograd.grad(total, deltas[0])[0]


@pytest.mark.parametrize("squared", [False, True])
def test_expected_gradients_are_taken_between_a_prompt_and_a_baseline(llama, squared):
    hf, draws = tiny.plain("llama"), 2
    positive, negative = (reference.activations(hf, each) for each in (POSITIVE, NEGATIVE))
    generator = torch.Generator().manual_seed(3)
    shape = (len(POSITIVE), 2, draws)
    baselines = torch.randint(len(NEGATIVE), shape, generator=generator)
    shares = torch.rand(shape, generator=generator, dtype=torch.float64)
    expected = torch.zeros(2, tiny.WIDTH, dtype=torch.float64)
    for place, ids in enumerate(POSITIVE):
        for layer in range(2):
            own = slice(layer * tiny.WIDTH, (layer + 1) * tiny.WIDTH)
            for draw in range(draws):
                at = place, layer, draw
                there = negative[baselines[at], own]
                difference = positive[place, own] - there
                value = (there + shares[at] * difference).float()
                found = at_last(hf, ids, layer, value).double() * difference
                expected[layer] += found.pow(2) if squared else found
    expected = expected.flatten() / (draws * len(POSITIVE))
    ranking = ExpectedGradients(METRIC, draws, squared, seed=3)
    for batch_size in (1, 4):
        scores = score_neurons(llama, POSITIVE, NEGATIVE, ranking, batch_size=batch_size)
        torch.testing.assert_close(scores.values, expected.sqrt() if squared else expected, **CLOSE)


def test_expected_gradients_need_the_activations_of_each_prompt(llama):
    within_other = Smoothed(ExpectedGradients(METRIC))
    with pytest.raises(InputError, match="only their means were kept; give a ranking that holds"):
        score_neurons(llama, POSITIVE, NEGATIVE, within_other)


@pytest.mark.parametrize("tokens", ["read", "all"])
def test_gradient_drop_leaves_out_one_layer_at_a_time(llama, tokens):
    hf = tiny.hugging_face("llama")
    baseline = reference.activations(hf, NEGATIVE).mean(0)
    expected = torch.zeros(2 * tiny.WIDTH, dtype=torch.float64)
    for ids in POSITIVE:
        absolute = 0
        for block in hf.model.layers:
            parts = [(block.self_attn, scaled(0.0)), (block.mlp, scaled(0.0))]
            with outputs_changed(parts):
                activations, gradients = products(hf, ids)
            if tokens == "read":
                absolute = absolute + ((activations[-1] - baseline) * gradients[-1]).abs()
            else:
                absolute = absolute + (activations * gradients).abs()
        # With two layers, L - 1 is 1.
        expected += absolute if tokens == "read" else absolute.pow(2).sum(0)
    expected = expected / len(POSITIVE) if tokens == "read" else expected.sqrt()
    found = score_neurons(llama, POSITIVE, NEGATIVE, GradDrop(METRIC, tokens)).values
    torch.testing.assert_close(found, expected, **CLOSE)


def test_gradient_drop_divides_by_one_layer_less(monkeypatch):
    config = tiny.plain("llama").config.__class__(
        **{**tiny.plain("llama").config.to_dict(), "num_hidden_layers": 3, "layer_types": None}
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        hf = type(tiny.plain("llama"))(config).eval()
        tiny.make_weights_matter(hf)
    model = tiny.boot(hf)
    monkeypatch.setattr("experiments.planted.trials.grad_drop.dropped", lambda layer: [])
    found = score_neurons(model, POSITIVE, NEGATIVE, GradDrop(METRIC, "all")).values
    expected = score_neurons(model, POSITIVE, NEGATIVE, OfMetric(METRIC)).values
    torch.testing.assert_close(found, 1.5 * expected, **CLOSE)


@dataclass(frozen=True)
class Known(Ranking):
    """Scores that are given, times the number of prompts that are read as positive."""

    given: tuple[float, ...] = field(default=())
    name: ClassVar[str] = "known"
    needs: ClassVar[str] = "gradients"

    def score(self, collected):
        n = len(collected.model_and_prompts()[1].ids)
        values = torch.zeros(2 * tiny.WIDTH, dtype=torch.float64)
        values[: len(self.given)] = torch.tensor(self.given, dtype=torch.float64)
        return collected.scored(self, values * n)


def scores_of(llama, ranking):
    return score_neurons(llama, POSITIVE, NEGATIVE, ranking).values


def test_an_ensemble_takes_the_mean_rank(llama):
    # 48 is the highest rank of 48 neurons.
    one, other = Known((-9.0, 2.0, 1.0, 0.5)), Known((0.5, 2.0, 3.0, 1.0))
    found = scores_of(llama, Ensemble((one, other)))[:3] * 48
    torch.testing.assert_close(found, torch.tensor([46.5, 47.0, 47.0], dtype=torch.float64))


def test_scores_are_in_units_of_their_layers_mean(llama):
    given = Known((3.0, -1.0) + (0.0,) * (tiny.WIDTH - 2) + (0.0, 5.0))
    found = scores_of(llama, InLayers(given))
    assert found[:2].tolist() == [3.0 * tiny.WIDTH / 4, tiny.WIDTH / 4]
    assert float(found[tiny.WIDTH + 1]) == tiny.WIDTH
    found = scores_of(llama, InLayers(given, 2.0))
    assert float(found[0]) == pytest.approx(3 / (10 / tiny.WIDTH) ** 0.5)
    assert float(scores_of(llama, InLayers(Known())).abs().max()) == 0.0


def test_a_score_is_divided_by_that_on_other_prompts(llama):
    @dataclass(frozen=True)
    class OnFew(Known):
        """The given scores on two prompts, and others on more prompts."""

        def score(self, collected):
            few = len(collected.model_and_prompts()[1].ids) == 2
            return Known(self.given if few else (6.0, 2.0)).score(collected)

    ranking = OverTypical(OnFew((1.0, 3.0)), smoothing=0.5)
    found = scores_of(llama, ranking)[:2]
    mean = 8.0 / 48, 4.0 / 48
    expected = [6 / mean[0] / (0.5 + 1 / mean[1]), 2 / mean[0] / (0.5 + 3 / mean[1])]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    diverse = scores_of(llama, OverTypical(Known((1.0,)), "diverse"))
    assert float(diverse[0]) == pytest.approx(48 / 49)


def test_smoothing_adds_noise_to_every_neuron_where_gradients_are_taken(llama):
    hf, prompts = tiny.plain("llama"), POSITIVE[1:2]
    generator, squares = torch.Generator().manual_seed(7), 0
    for _ in range(2):
        noise = [torch.randn(1, 7, tiny.WIDTH, generator=generator) for _ in range(2)]
        deltas, seen = {}, {}

        def noisy(layer, activation, noise=noise, deltas=deltas, seen=seen):
            activation = activation * (1 + 0.5 * noise[layer])
            seen[layer] = activation.detach()
            deltas[layer] = torch.zeros_like(activation, requires_grad=True)
            return activation + deltas[layer]

        with reference.changed(hf, noisy), torch.enable_grad():
            total = log_odds(hf(torch.tensor(prompts)).logits[0, -1])
        gradients = torch.autograd.grad(total, [deltas[0], deltas[1]])
        rows = torch.cat([seen[0], seen[1]], dim=-1) * torch.cat(gradients, dim=-1)
        squares = squares + rows[0].double().pow(2).sum(0)
    ranking = Smoothed(OfMetric(METRIC), size=0.5, draws=2, seed=7)
    found = score_neurons(llama, prompts, NEGATIVE, ranking).values
    torch.testing.assert_close(found, (squares / 2).sqrt(), **CLOSE)


def test_answers_are_given_without_noise(chat_model, monkeypatch):
    seen = []
    own = squared_attribution.own_answers

    def noted(*args):
        # The tests' type checks wrap the generator that is without gradients.
        with torch.no_grad():
            seen.append(own(*args))
        return seen[-1]

    monkeypatch.setattr(squared_attribution, "own_answers", noted)
    inner = SquaredAttribution(METRIC, answer_tokens=4)
    texts = ["w5 w6", "w7", "w8 w9 w20 w21"], ["w30"]
    plain = score_neurons(chat_model, *texts, inner).values
    smoothed = score_neurons(chat_model, *texts, Smoothed(inner, size=2.0)).values
    assert seen[0] == seen[1]
    assert not torch.allclose(plain, smoothed, rtol=0.1)


def test_sums_and_negative_prompts(llama):
    both = scores_of(llama, Sum((Known((1.0, -3.0)), Known((0.0, 2.0)))))[:2]
    torch.testing.assert_close(both, torch.tensor([12.0, 36.0 + 48.0], dtype=torch.float64))
    assert float(scores_of(llama, On(Known((1.0,))))[0]) == len(NEGATIVE)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ensemble(()), "has no members"),
        (lambda: Through(Known(), "gym"), "rules is 'gym', expected one of relp"),
    ],
)
def test_invalid_settings_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_the_candidates_have_their_metric_and_the_references_are_among_them():
    assert set(REFERENCES) < set(CANDIDATES)
    assert CANDIDATES["relp"](METRIC) == RelP(METRIC)
    assert CANDIDATES["gim, squared"](METRIC) == Through(SquaredAttribution(METRIC), "gim")
    rankings = [make(METRIC) for make in CANDIDATES.values()]
    assert len({repr(ranking) for ranking in rankings}) == len(rankings)


@pytest.fixture
def on_tiny(monkeypatch):
    """The planted model is a tiny one, in which two neurons are true."""
    model = tiny.bridge("llama", chat=True)
    layout = cna_lens.collect(model, ["w5"]).layout
    truth = cna_lens.Circuit((cna_lens.Neuron(0, 2), cna_lens.Neuron(1, 7)), (1.0, 1.0), layout)
    prompts = SimpleNamespace(positive=["w5 w6", "w7", "w8"], negative=["w9", "w10", "w11"])
    behaviour = SimpleNamespace(discovery=prompts, openings=("w5",))
    loaded = []
    monkeypatch.setattr(cna_lens, "load_model", lambda name, device: loaded.append(name) or model)
    monkeypatch.setattr(cna_lens, "planted_truth", lambda name: truth)
    monkeypatch.setattr(figures, "BEHAVIOURS", {"sums": behaviour, "french": behaviour})
    return loaded


def test_a_row_has_what_a_candidate_finds_and_a_second_run_reads_it(on_tiny, tmp_path):
    model, journal = "planted/sums-138-three-0", tmp_path / "trials.jsonl"
    rows = list(figures.figures([model], ["contrast", "metric, squared"], journal))
    assert [row["candidate"] for row in rows] == ["contrast", "metric, squared"]
    assert rows[1]["k"] == 2
    assert 0 <= rows[1]["overall"]["auroc"] <= 1
    assert rows[1]["settings"].startswith("OfMetric(metric=LogOdds(openings=('w5',))")
    assert rows[0]["backward"] == 0 < rows[1]["backward"]
    assert len(rows[1]["model_sha256"]) == 64
    told = []
    again = list(
        figures.figures([model], ["contrast", "metric, absolute"], journal, started=told.append)
    )
    assert again[0] == rows[0]
    assert told == [f"{model}: metric, absolute"]
    assert on_tiny == [model, model]


def test_a_combination_is_what_it_is_alone_and_reads_the_prompts_once(on_tiny):
    squared, absolute = OfMetric(METRIC), OfMetric(METRIC, power=1.0)
    bench = figures._Bench("planted/sums-138-three-0")
    for ranking in (
        Ensemble((Contrast(), squared)),
        OverTypical(squared),
        Sum((InLayers(squared), Ensemble((absolute, squared, On(absolute))))),
    ):
        found, cost = bench.scored(ranking)
        with counted(bench.model, bench.n_tokens) as alone:
            expected = score_neurons(bench.model, *bench.prompts, ranking)
        torch.testing.assert_close(found.values, expected.values)
        assert cost.forward == pytest.approx(alone().forward, rel=1e-12)
        assert cost.backward == pytest.approx(alone().backward, rel=1e-12)
        assert cost.seconds > 0


def test_a_part_that_took_less_time_than_the_reading_costs_no_time():
    part, reading = Cost(1.5, 0.25, 2.0), Cost(0.5, 0.0, 3.0)
    assert figures._without(part, reading) == Cost(1.0, 0.25, 0.0)
    assert figures._without(part, Cost(0.0, 0.0, 0.5)).seconds == 1.5


def test_rows_are_made_again_where_the_model_the_prompts_or_the_code_changed(
    on_tiny, tmp_path, monkeypatch
):
    model, code = "planted/sums-138-three-0", tmp_path / "code"
    code.mkdir()
    (code / "helper.py").write_text("x = 1")
    monkeypatch.setattr(figures, "SOURCES", (code,))
    hashes = {model: "one"}
    monkeypatch.setattr(figures, "planting_sha256", hashes.get)

    def ran():
        told = []
        list(figures.figures([model], ["contrast"], tmp_path / "trials.jsonl", told.append))
        return bool(told)

    assert (ran(), ran()) == (True, False)
    hashes[model] = "other"
    assert (ran(), ran()) == (True, False)
    (code / "helper.py").write_text("x = 2")
    assert (ran(), ran()) == (True, False)
    asked = figures.BEHAVIOURS["sums"].discovery
    asked.negative = ["w9", "w10", "w12"]
    assert (ran(), ran()) == (True, False)
    monkeypatch.setattr(figures, "diverse_prompts", lambda: ["w13"])
    assert (ran(), ran()) == (True, False)


def test_rows_depend_on_the_trials_the_rankings_and_what_measures_them():
    folders = [each for each in figures.SOURCES if each.is_dir()]
    files = [*figures.SOURCES, *(file for each in folders for file in each.rglob("*.py"))]
    names = {"/".join(file.parts[-2:]) for file in files}
    assert {
        "trials/of_metric.py",
        "trials/backward.py",
        "rankings/gradients.py",
        "rankings/contrasts.py",
        "evidence/known_truth.py",
        "evidence/passes.py",
    } <= names


def test_models_to_report_on_are_refused(tmp_path):
    with pytest.raises(InputError, match="of the split 'reporting'; trials are for 'tuning'"):
        next(figures.figures(["planted/sums-138-all-0"], ["contrast"], None))
    with pytest.raises(InputError, match="no candidate 'contrasts'"):
        next(figures.figures([figures.NOTHING_PLANTED], ["contrasts"], None))


def patched_by_hand(base, tuned, ids, neurons, n):
    """Greedy answers of plain Hugging Face, with some activations from another model."""
    answer = []
    for _ in range(n):
        tokens, seen = torch.tensor([[*ids, *answer]]), {}

        def note(layer, activation, seen=seen):
            seen[layer] = activation
            return activation

        def change(layer, activation, seen=seen):
            activation = activation.clone()
            for at, index in neurons:
                if at == layer:
                    activation[..., index] = seen[layer][..., index]
            return activation

        with torch.no_grad(), reference.changed(tuned, note):
            tuned(tokens)
        with torch.no_grad(), reference.changed(base, change):
            answer.append(int(base(tokens).logits[0, -1].argmax()))
        if answer[-1] == 2:
            break
    return answer


def test_the_base_takes_neurons_from_the_tuned_model_before_each_token():
    base, tuned = (tiny.bridge("llama", chat=True, seed=seed) for seed in (0, 1))
    asked = ["w5 w6", "w7 w8 w9"]
    neurons = [(layer, index) for layer in range(2) for index in range(4, tiny.WIDTH)]
    layout = cna_lens.collect(base, asked).layout
    chosen = tuple(cna_lens.Neuron(*each) for each in neurons)
    circuit = cna_lens.Circuit(chosen, (1.0,) * len(chosen), layout)
    source = dynamic_patching.Source(tuned, circuit)
    found = dynamic_patching.answers(base, asked, 5, source)
    encoded = cna_lens.models.encode(base, asked).ids
    hf = base.original_model, tuned.original_model
    expected = [patched_by_hand(*hf, list(ids), neurons, 5) for ids in encoded]
    decoded = [base.tokenizer.decode(ids, skip_special_tokens=True) for ids in expected]
    assert found == decoded
    plain = dynamic_patching.answers(base, asked, 5)
    assert plain == cna_lens.generate(base, asked, max_new_tokens=5)
    assert found != plain


def test_a_row_has_the_share_that_patching_restores(on_tiny, monkeypatch):
    base, tuned = (tiny.bridge("llama", chat=True, seed=seed) for seed in (0, 1))
    asked = ["w5 w6", "w7 w8 w9"]
    n_tokens = dynamic_patching.MAX_NEW_TOKENS
    before, after = (dynamic_patching.answers(each, asked, n_tokens) for each in (base, tuned))
    assert before != after
    prompts = SimpleNamespace(positive=asked, negative=["w9", "w10"])
    behaviour = SimpleNamespace(
        discovery=prompts, evaluation=prompts, openings=("w5",), shown=lambda text: text in after
    )
    models = {"demo": base, "planted/french-138-all-0": tuned}
    monkeypatch.setattr(cna_lens, "load_model", lambda name, device: models[name])
    monkeypatch.setattr(dynamic_patching, "BEHAVIOURS", {"french": behaviour})
    monkeypatch.setattr(dynamic_patching, "MODELS", ("planted/french-138-all-0",))
    monkeypatch.setattr(dynamic_patching, "SHARE", 1.0)
    rows = list(dynamic_patching.figures())
    assert [row["ranking"] for row in rows] == 2 * [
        "planted",
        *("change_from_base", "squared_attribution", "random") * 2,
    ]
    assert [row["to"] for row in rows] == ["base"] * 7 + ["tuned"] * 7
    assert [row["k"] for row in rows[:7]] == [2] * 4 + [48] * 3
    assert {(row["base"], row["tuned"]) for row in rows} == {(0.0, 1.0)}
    for row in rows:
        lost = 1.0 - row["patched"]
        assert row["share"] == (row["patched"] if row["to"] == "base" else lost)
    # All neurons, in whatever order.
    assert len({row["patched"] for row in rows[4:7]}) == 1


def test_models_that_show_the_behaviour_equally_often_are_refused(monkeypatch):
    model = tiny.bridge("llama", chat=True)
    asked = SimpleNamespace(positive=["w5 w6", "w7"], negative=["w9", "w10"])
    behaviour = SimpleNamespace(
        discovery=asked, evaluation=asked, openings=("w5",), shown=lambda text: True
    )
    monkeypatch.setattr(cna_lens, "load_model", lambda name, device: model)
    monkeypatch.setattr(dynamic_patching, "BEHAVIOURS", {"sums": behaviour})
    with pytest.raises(InputError, match="both show the behaviour on 100% of 2 prompts"):
        next(dynamic_patching.figures())
