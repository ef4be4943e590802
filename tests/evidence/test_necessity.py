"""Ablating circuits and their complements, against hooks written out in plain Hugging Face."""

from statistics import fmean

import pytest
import reference
import tiny
import torch

import cna_lens
from cna_lens import ActivationStats, InputError, Layout, NeuronScores, Selection, necessity
from cna_lens.metrics import refusal_log_odds

LAYOUT = Layout((tiny.WIDTH, tiny.WIDTH))
N = LAYOUT.n_neurons
PROMPTS = [[5, 6, 7, 8], [9, 10], [20, 21, 22]]
MEANS = torch.arange(N, dtype=torch.float64) / N - 0.4
STATS = ActivationStats.of(MEANS[None], LAYOUT)
TOKEN = 30


def scores(seed=0):
    values = torch.randn(N, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return NeuronScores(values, LAYOUT, "made up")


def logit(model, prompts):
    return [float(model(torch.tensor([ids]))[0, -1, TOKEN]) for ids in prompts]


def by_hand(model, ablated, position):
    """The logits of a plain copy with neurons set to their means at one or at all positions."""
    hf = tiny.plain(model.cfg.model_name.removeprefix("tiny-"))

    def put(layer, activation):
        activation = activation.clone()
        for flat in ablated:
            if flat // tiny.WIDTH == layer:
                activation[:, position, flat % tiny.WIDTH] = float(MEANS[flat])
        return activation

    with reference.changed(hf, put):
        return [float(hf(torch.tensor([ids])).logits[0, -1, TOKEN]) for ids in PROMPTS]


@pytest.mark.parametrize(
    ("positions", "position"), [("last_prompt", -1), ("all", slice(None))], ids=["last", "all"]
)
def test_ablations_are_those_of_hooks_written_out(model, positions, position):
    found = necessity(
        model,
        PROMPTS,
        {"one": scores(0), "other": scores(1)},
        logit,
        STATS,
        sizes=[0, 5, 20, N],
        positions=positions,
        n_resamples=50,
        progress=False,
    )
    whole, nothing = (by_hand(model, range(n), position) for n in (0, N))
    assert found.whole == pytest.approx(whole, abs=1e-4)
    assert found.nothing == pytest.approx(nothing, abs=1e-4)
    assert [(point.ranking, point.k) for point in found.points] == [
        (name, k) for name in ("one", "other") for k in (0, 5, 20, N)
    ]
    for point, seed in zip(found.points, [0] * 4 + [1] * 4, strict=True):
        order = scores(seed).values.abs().argsort(descending=True).tolist()
        circuit, rest = order[: point.k], order[point.k :]
        without, alone = (by_hand(model, ablated, position) for ablated in (circuit, rest))
        assert point.without == pytest.approx(without, abs=1e-4)
        assert point.alone == pytest.approx(alone, abs=1e-4)
        span = fmean(whole) - fmean(nothing)
        assert point.drop.value == pytest.approx(fmean(whole) - fmean(without), abs=1e-4)
        close = pytest.approx((fmean(alone) - fmean(nothing)) / span, abs=1e-3)
        assert point.faithfulness.value == close
        close = pytest.approx((fmean(without) - fmean(nothing)) / span, abs=1e-3)
        assert point.completeness.value == close
        assert point.drop.low <= point.drop.value <= point.drop.high
        assert point.faithfulness.low <= point.faithfulness.value <= point.faithfulness.high


def test_ablating_no_neuron_and_all_neurons_gives_the_known_extremes(llama):
    before = reference.hooks(reference.settled(llama))
    found = necessity(llama, PROMPTS, {"any": scores()}, logit, STATS, sizes=[0, N], progress=False)
    none, everything = found.points
    assert none.without == everything.alone == found.whole
    assert none.alone == everything.without == found.nothing
    assert (none.drop.value, none.faithfulness.value, none.completeness.value) == (0, 0, 1)
    assert (everything.faithfulness.value, everything.completeness.value) == (1, 0)
    assert none.faithfulness.low == none.faithfulness.high == 0
    assert everything.faithfulness.low == everything.faithfulness.high == 1
    assert reference.hooks(llama) == before


def test_the_selection_says_which_neurons_a_circuit_takes(llama):
    ranking = scores(2)
    circuits = []

    def noting(model, prompts):
        circuits.append(None)
        return logit(model, prompts)

    selection = Selection(k=40, sign="positive", layers=[1], universal=[(1, 0)])
    found = necessity(
        llama,
        PROMPTS,
        {"any": ranking},
        noting,
        STATS,
        sizes=[3],
        selection=selection,
        progress=False,
    )
    assert len(circuits) == 4
    allowed = [flat for flat in range(tiny.WIDTH + 1, N) if float(ranking.values[flat]) > 0]
    chosen = sorted(allowed, key=lambda flat: -float(ranking.values[flat]))[:3]
    assert found.points[0].without == pytest.approx(by_hand(llama, chosen, -1), abs=1e-4)
    rest = [flat for flat in range(N) if flat not in chosen]
    assert found.points[0].alone == pytest.approx(by_hand(llama, rest, -1), abs=1e-4)


def test_log_odds_of_refusal_serve_as_a_metric(chat_model):
    def metric(model, prompts):
        return refusal_log_odds(model, prompts, openings=["w5"])

    prompts = ["w3 w4", "w6 w7 w8"]
    found = necessity(
        chat_model, prompts, {"any": scores()}, metric, STATS, sizes=[N], progress=False
    )
    assert found.whole == pytest.approx(metric(chat_model, prompts))
    everything = cna_lens.Circuit(
        tuple(LAYOUT.neuron(flat) for flat in range(N)), (1.0,) * N, LAYOUT
    )
    with cna_lens.steer(chat_model, everything, values=STATS, positions="last_prompt"):
        assert found.nothing == pytest.approx(metric(chat_model, prompts))


def test_one_prompt_has_no_interval(llama):
    found = necessity(
        llama, PROMPTS[:1], {"any": scores()}, logit, STATS, sizes=[5], progress=False
    )
    assert found.points[0].faithfulness.low is None
    assert found.points[0].drop.low is None


def test_the_frame_and_the_record_hold_every_point(llama, tmp_path):
    found = necessity(
        llama, PROMPTS, {"any": scores()}, logit, STATS, sizes=[2, 4], seed=7, progress=False
    )
    frame = found.to_frame()
    assert list(frame["k"]) == [2, 4]
    assert list(frame["faithfulness"]) == [p.faithfulness.value for p in found.points]
    assert list(frame["completeness_low"]) == [p.completeness.low for p in found.points]
    record = found.record()
    assert (record["n_prompts"], record["seed"], record["positions"]) == (3, 7, "last_prompt")
    found.save(tmp_path / "necessity.json")
    assert '"ranking": "any"' in (tmp_path / "necessity.json").read_text()


@pytest.mark.parametrize(
    ("metric", "telling"),
    [
        (lambda model, prompts: [1.0], r"the metric gave \(1.0,\) for 3 prompts"),
        (lambda model, prompts: [1.0, 2.0, float("nan")], "one finite number for each"),
        (lambda model, prompts: [1.0, 2.0, 3.0], "leaves the metric as it is"),
    ],
)
def test_an_unusable_metric_is_refused_and_no_hook_stays(llama, metric, telling):
    before = reference.hooks(reference.settled(llama))
    with pytest.raises(InputError, match=telling):
        necessity(llama, PROMPTS, {"any": scores()}, metric, STATS, sizes=[5], progress=False)
    assert reference.hooks(llama) == before


def test_an_exception_of_the_metric_leaves_no_hook(llama):
    before = reference.hooks(reference.settled(llama))
    calls = []

    def breaks(model, prompts):
        calls.append(None)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return logit(model, prompts)

    with pytest.raises(KeyboardInterrupt):
        necessity(llama, PROMPTS, {"any": scores()}, breaks, STATS, sizes=[5], progress=False)
    assert reference.hooks(llama) == before


def test_rankings_that_do_not_fit_are_refused(llama):
    other = NeuronScores(torch.ones(3, dtype=torch.float64), Layout((3,)), "other")
    with pytest.raises(InputError, match="'other' is of a model with 3 neurons"):
        necessity(llama, PROMPTS, {"other": other}, logit, STATS, sizes=[1], progress=False)
    with pytest.raises(InputError, match="at least one ranking"):
        necessity(llama, PROMPTS, {}, logit, STATS, sizes=[1], progress=False)
    with pytest.raises(InputError, match="at least one ranking and one size"):
        necessity(llama, PROMPTS, {"any": scores()}, logit, STATS, sizes=[], progress=False)


@pytest.mark.long
@pytest.mark.real_model
def test_on_a_real_model_the_circuit_of_all_prompts_is_that_of_find_circuit(demo):
    prompts = cna_lens.prompt_set("refusal_small")
    sides = [
        cna_lens.collect(demo, side[:4], keep="all")
        for side in (prompts.positive, prompts.negative)
    ]
    found = cna_lens.stability(*sides, n_resamples=2, sizes=[2])
    expected = cna_lens.find_circuit(
        demo, prompts.positive[:4], prompts.negative[:4], universal=None, progress=False
    )
    assert set(found.circuit) == set(expected)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_resamples": 0}, "n_resamples is 0, expected a whole number from 1 on"),
        ({"n_resamples": 2000.5}, r"n_resamples is 2000\.5, expected a whole number"),
        ({"positions": "last"}, "positions is 'last'"),
        ({"sizes": 5}, "sizes is 5, expected a list"),
        ({"ends": ((1.0,), (0.0,))}, "ends has values of 1 prompts, and there are 3"),
    ],
)
def test_invalid_settings_are_refused_before_the_metric_runs(llama, settings, message):
    def ran(model, prompts):
        pytest.fail("the metric ran")

    with pytest.raises(InputError, match=message):
        necessity(
            llama,
            PROMPTS,
            {"made up": scores()},
            ran,
            STATS,
            **{"sizes": [5], "progress": False, **settings},
        )
