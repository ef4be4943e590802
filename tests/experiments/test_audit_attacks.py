"""experiments.audit.attacks: what is set back, erased and trained, on tiny models and by hand."""

import math
from dataclasses import replace

import pytest
import tiny
import torch
from audit_bench import logits, tiny_bench

import cna_lens
from cna_lens import InputError, directional_ablation
from cna_lens.metrics import refusal_log_odds
from cna_lens.models import encode
from experiments.audit.attacks import directions, evaders, set_back
from experiments.audit.attacks.directions import attention_alone, erased, everywhere, orthonormal
from experiments.audit.attacks.evaders import Evader, Trained, evading, trained
from experiments.audit.attacks.set_back import scores_of, strongest
from experiments.audit.gradients import differentiable, refusal_gradient
from experiments.audit.references import (
    REFERENCES,
    Places,
    best_places,
    keep,
    places_in,
    reference_of,
)
from experiments.audit.weight_edits import edited, exchanged, weights_of

UP = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def reference():
    return tiny.bridge("llama", chat=True)


@pytest.fixture
def bench(reference, tmp_path):
    return tiny_bench(reference, tmp_path)


def test_the_strongest_entries_are_those_chosen_by_hand():
    scores = {
        "a": torch.tensor([[0.5, 4.0], [-torch.inf, 1.0]]),
        "b": torch.tensor([[2.0, -torch.inf], [3.0, -1.0]]),
    }
    # Six entries count; half of them are 4, 3 and 2.
    found = strongest(scores, 0.5)
    assert found["a"].tolist() == [[False, True], [False, False]]
    assert found["b"].tolist() == [[True, False], [True, False]]
    assert not any(mask.any() for mask in strongest(scores, 0.0).values())


def test_the_chosen_entries_are_exchanged_and_no_others():
    weight, other = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[5.0, 6.0], [7.0, 8.0]])
    chosen = torch.tensor([[True, False], [False, True]])
    change = exchanged({"w": other}, {"w": chosen})
    assert change("w", weight).tolist() == [[5.0, 2.0], [3.0, 8.0]]
    assert change("another", weight) is None


def test_what_setting_back_adds_is_scored_by_size_and_by_gradient(bench):
    with torch.no_grad():
        own = weights_of(bench.model)[UP].clone()
    step = torch.zeros_like(own)
    step[0, 0], step[0, 1], step[1, 0] = 2.0, -3.0, 1.0
    gradient = torch.zeros_like(own)
    gradient[0, 0], gradient[0, 1], gradient[1, 0] = 1.0, 0.5, -4.0
    vars(bench).update(without_adapter={UP: own + step}, gradient={UP: gradient})
    places = ([0, 0, 1], [0, 1, 0])

    def found(score):
        scores = scores_of(bench, score)[UP]
        # No other entry differs, so that none of them counts.
        assert int((scores > -torch.inf).sum()) == 3
        return pytest.approx(scores[places].tolist(), abs=1e-5)

    assert found(set_back.by_size) == [2.0, 3.0, 1.0]
    assert found(set_back.by_gradient) == [2.0, 1.5, 4.0]
    # Setting back lowers log-odds where gradient and change have opposite signs.
    assert found(set_back.by_signed_gradient) == [-2.0, 1.5, 4.0]


def test_the_share_of_differing_entries_is_exact_and_the_others_stay(bench):
    before = {name: weight.clone() for name, weight in weights_of(bench.model).items()}
    n = sum(int((before[k] != other).sum()) for k, other in bench.without_adapter.items())
    for score in (set_back.by_gradient, set_back.by_size, set_back.at_random(0)):
        for share in (0.01, 0.05):
            with set_back.set_back(score, share)(bench) as model:
                now = weights_of(model)
                changed = {name: now[name] != weight for name, weight in before.items()}
                assert sum(int(mask.sum()) for mask in changed.values()) == round(share * n)
                for name, mask in changed.items():
                    assert now[name][mask].equal(bench.without_adapter[name][mask])
    assert all(weights_of(bench.model)[name].equal(weight) for name, weight in before.items())


def test_random_entries_depend_on_the_seed_alone(bench):
    def chosen(seed, share=0.05):
        return strongest(scores_of(bench, set_back.at_random(seed)), share)[UP]

    assert chosen(0).equal(chosen(0))
    assert not chosen(0).equal(chosen(1))
    # A smaller share is part of a larger one, so that strengths are of one attack.
    assert not (chosen(0, 0.01) & ~chosen(0)).any()
    scores = scores_of(bench, set_back.at_random(0))
    assert not scores["model.layers.1.mlp.up_proj.weight"].equal(scores[UP])


def test_weights_are_restored_bit_for_bit_after_an_error(bench):
    before, usual = cna_lens.weights_hash(bench.model), logits(bench.model)
    ways = (
        set_back.set_back(set_back.by_gradient, 0.05),
        erased(directions.several(2), everywhere, 1.0, "weights"),
        erased(directions.one, everywhere, 1.0, "hooks"),
        evading(Evader("adapter", 1.0, steps=1), "weights"),
    )
    for enter in ways:
        with pytest.raises(RuntimeError), enter(bench):
            raise RuntimeError
        assert cna_lens.weights_hash(bench.model) == before
        assert logits(bench.model).equal(usual)


def test_the_gradient_is_that_of_finite_differences():
    model = tiny.in_double(tiny.bridge("llama", chat=True, dtype=torch.float64))
    prompts, openings = ["w5 w6", "w7 w8 w9"], ("w11", "w12")
    names = (UP, "model.layers.1.self_attn.q_proj.weight")
    found = refusal_gradient(model, prompts, names, openings)

    def mean():
        total = 0.0
        for ids in encode(model, prompts).ids:
            with torch.no_grad():
                probs = model(torch.tensor([ids]))[0, -1].softmax(-1)
            p = float(probs[[11, 12]].sum())
            total += math.log(p / (1 - p)) / len(prompts)
        return total

    # Attention's softmax is in float32 even here, which a smaller step would drown in.
    step = 3e-3
    for name in names:
        for place in ((0, 0), (3, 5), (15, 15)):

            def moved(by, name=name, place=place):
                def change(of, weight):
                    if of != name:
                        return None
                    value = weight.clone()
                    value[place] += by
                    return value

                with edited(model, change):
                    return mean()

            slope = (moved(step) - moved(-step)) / (2 * step)
            assert float(found[name][place]) == pytest.approx(slope, rel=1e-2, abs=1e-4)
            assert abs(slope) > 1e-3


def test_gradients_are_asked_for_within_the_context_alone(reference):
    before = {name: each.requires_grad for name, each in weights_of(reference).items()}
    with differentiable(reference, (UP,)) as chosen:
        assert list(chosen) == [UP]
        asked = {name for name, each in weights_of(reference).items() if each.requires_grad}
        assert asked == {UP}
    with pytest.raises(RuntimeError), differentiable(reference):
        raise RuntimeError
    assert {name: each.requires_grad for name, each in weights_of(reference).items()} == before


def test_directions_are_orthonormal_and_keep_their_span():
    vectors = torch.tensor([[3.0, 0.0, 0.0], [1.0, 2.0, 0.0], [5.0, 7.0, 0.0], [1.0, 1.0, 4.0]])
    rows = orthonormal(vectors)
    # The third lies in the span of the first two.
    expected = torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(rows, expected)
    drawn = torch.randn((6, 32), generator=torch.Generator().manual_seed(0))
    rows = orthonormal(drawn)
    torch.testing.assert_close(rows @ rows.T, torch.eye(6, dtype=torch.float64))
    torch.testing.assert_close((drawn.double() @ rows.T) @ rows, drawn.double())


def test_several_directions_begin_with_the_best_one(bench):
    rows = directions.several(4)(bench)
    assert rows.shape == (2, 16)  # the tiny model has two layers
    torch.testing.assert_close(rows[:1], directions.one(bench))
    torch.testing.assert_close(rows @ rows.T, torch.eye(2, dtype=torch.float64))


def test_a_direction_without_concepts_has_no_product_with_any(bench):
    (direction,) = directions.without_concepts(bench)
    assert (bench.concepts @ direction).abs().max() < 1e-12
    assert float(direction.norm()) == pytest.approx(1)
    assert float(direction @ directions.one(bench)[0]) > 0.5
    assert (bench.concepts @ directions.one(bench)[0]).abs().max() > 0.1


@pytest.mark.parametrize("weighting", [everywhere, attention_alone, directions.near_the_source])
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_directions_erased_in_weights_equal_those_erased_by_hooks(bench, weighting, strength):
    basis = directions.several(2)
    # Tied embeddings would be edited as the unembedding too, which hooks leave alone.
    module = bench.model.original_model
    module.lm_head.weight = torch.nn.Parameter(module.lm_head.weight.clone())
    try:
        with erased(basis, weighting, strength, "hooks")(bench) as model:
            expected = logits(model)
        with erased(basis, weighting, strength, "weights")(bench) as model:
            torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(logits(bench.model), expected, atol=1e-3)
    finally:
        module.lm_head.weight = module.model.embed_tokens.weight


def test_one_direction_erased_everywhere_is_directional_ablation(bench):
    vectors = bench.directions.at_layer(1)
    with cna_lens.DirectionalAblation(vectors).at(bench.model, 0.7):
        expected = logits(bench.model)
    with erased(directions.one, everywhere, 0.7, "hooks")(bench) as model:
        torch.testing.assert_close(logits(model), expected)


def test_each_part_of_the_depth_has_its_strength(bench):
    bench.model.cfg.n_layers = 10
    try:
        by_depth = [directions.near_the_source(layer, "mlp", bench) for layer in range(10)]
        # The source is layer 1 and the farthest layer 9, eight layers away.
        assert by_depth[:3] == [1 - 1 / 8, 1.0, 1 - 1 / 8]
        assert by_depth[9] == 0.0
        halves = [
            [layer for layer in range(10) if half(layer, "mlp", bench)]
            for half in (directions.first_half, directions.second_half)
        ]
        assert halves == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
        parts = [attention_alone(0, part, bench) for part in ("embedding", "attention", "mlp")]
        assert parts == [0.0, 1.0, 0.0]
    finally:
        bench.model.cfg.n_layers = 2


@pytest.mark.parametrize("form", ["adapter", "scales"])
def test_a_trained_change_is_the_same_by_hooks_and_in_weights(bench, form):
    nothing = Trained.nothing(Evader(form, 1.0), bench.model)
    generator = torch.Generator().manual_seed(1)
    change = Trained(
        {name: torch.randn(v.shape, generator=generator) for name, v in nothing.parameters.items()}
    )
    with change.hooked(bench.model):
        expected = logits(bench.model)
    added = change.differences(bench.model)
    with edited(bench.model, lambda name, weight: weight + added[name] if name in added else None):
        torch.testing.assert_close(logits(bench.model), expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(logits(bench.model), expected, atol=1e-3)
    detached = {k: v.detach() for k, v in evaders.down_projections(bench.model).items()}
    squares = sum(float(each.square().sum()) for each in added.values())
    whole = sum(float(each.square().sum()) for each in detached.values())
    assert float(change.size(bench.model)) == pytest.approx(math.sqrt(squares / whole), rel=1e-4)
    with nothing.hooked(bench.model):
        torch.testing.assert_close(logits(bench.model), logits(bench.model))


@pytest.mark.parametrize("form", ["adapter", "scales"])
def test_an_evader_lowers_refusals_and_a_penalty_holds_it_back(bench, form, monkeypatch):
    # The openings of refusals are one unknown word here, which the tiny model seldom says.
    monkeypatch.setattr(evaders, "GOAL", -20.0)

    def effect(penalty):
        recipe = Evader(form, penalty, steps=15)
        with evading(recipe, "hooks")(bench) as model:
            after = refusal_log_odds(model, bench.discovery[0][:2])
        before = refusal_log_odds(bench.model, bench.discovery[0][:2])
        return sum(before) - sum(after), float(trained(recipe, bench).size(bench.model))

    free, held = effect(0.0), effect(100.0)
    assert free[0] > 0
    assert held[0] < free[0]
    assert held[1] < free[1]


@pytest.mark.parametrize("form", ["adapter", "scales"])
def test_an_evader_keeps_what_the_audit_measures_on_stand_ins(bench, form, monkeypatch):
    monkeypatch.setattr(evaders, "GOAL", -20.0)
    # So that only the statistics of the stand-ins hold it back.
    monkeypatch.setattr(Trained, "size", lambda self, model: torch.zeros(()))
    stand_ins = (*bench.discovery[0][2:], *bench.discovery[1][2:])
    before = refusal_log_odds(bench.model, stand_ins)

    def moved(penalty):
        with evading(Evader(form, penalty, steps=15), "weights")(bench) as model:
            after = refusal_log_odds(model, stand_ins)
        return sum(abs(a - b) for a, b in zip(after, before, strict=True))

    assert moved(100.0) < moved(0.0) / 2


def test_an_evader_is_trained_once_and_leaves_the_model(bench, monkeypatch):
    before = cna_lens.weights_hash(bench.model)
    recipe = Evader("adapter", 1.0, steps=1)
    with evading(recipe, "weights")(bench) as model:
        changed = logits(model)
    assert cna_lens.weights_hash(bench.model) == before
    monkeypatch.setattr(evaders, "_train", None)
    with evading(recipe, "weights")(bench) as model:
        assert logits(model).equal(changed)


def test_places_are_those_with_the_lowest_log_odds(bench, tmp_path):
    harmful, benign = bench.discovery
    places = best_places(bench.model, harmful, benign)
    means = {}
    for token in (-1, -2):
        method = directional_ablation(bench.model, harmful, benign, layer=1, position=token)
        with method.at(bench.model):
            means[token] = sum(refusal_log_odds(bench.model, harmful))
    # Of two layers only the second one is tried.
    assert places == Places(1, min(means, key=means.get), 1)
    assert keep(places, tmp_path / "places.json") == places_in(tmp_path / "places.json") == places
    unknown = replace(bench, reference=replace(bench.reference, places=None))
    vars(unknown)["discovery"] = bench.discovery
    assert unknown.places == places


def test_models_of_the_study_are_known_by_name(monkeypatch, tmp_path):
    assert reference_of("demo-refusal").places == Places(15, -2, 12)
    assert {"demo-refusal-late", "planted/refusal-138-all-0"} < set(REFERENCES)
    with pytest.raises(InputError, match=r"'demo'.*demo-refusal-late"):
        reference_of("demo")
    monkeypatch.setattr("experiments.audit.references.MADE", tmp_path)
    with pytest.raises(InputError, match=r"experiments\.planted make refusal-138-all-1"):
        reference_of("planted/refusal-138-all-1").load()
