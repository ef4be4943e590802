"""Training planted neurons: what is trained, which neurons are drawn, and what is checked."""

import csv
from collections import Counter
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
import readers_model
import tiny
import torch

from cna_lens import InputError, Layout, Neuron, prompt_set
from cna_lens.metrics import BEHAVIOURS
from cna_lens.models import Planting
from experiments.planted.check import failed
from experiments.planted.keeping_trainer import KeepingTrainer
from experiments.planted.planted_mlp import PlantedNeurons
from experiments.planted.recipes import RECIPES, Recipe, draw, recipe_of
from experiments.planted.requests import TOPICS, requests, training_items
from experiments.planted.train import ANSWERS, conversations, passages, shuffled, train
from experiments.shared.contrast_trainer import ContrastTrainer

PARTS = ("gate", "up", "down")
NEURONS = (Neuron(1, 7), Neuron(0, 3), Neuron(1, 0))
IDS = torch.tensor([[5, 6, 7, 8]])


@pytest.fixture
def planted():
    model = PlantedNeurons(tiny.hugging_face("llama"), NEURONS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for parameter in model.parameters():
            parameter.data.normal_(std=0.3)
    return model


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


def test_the_trained_differences_are_those_that_a_file_adds_to_the_weights(planted):
    whole = Planting(
        "french", "tuning", NEURONS, **planted.differences(), base_sha256="", record={}
    )
    merged = whole.added_to(tiny.hugging_face("llama"))
    assert (logits(merged) - logits(tiny.plain("llama"))).abs().max() > 0.1
    torch.testing.assert_close(logits(planted), logits(merged), rtol=1e-5, atol=1e-5)


def test_without_the_planted_neurons_it_is_the_untrained_model(planted):
    with planted.disable_adapter():
        assert torch.equal(logits(planted), logits(tiny.plain("llama")))
    assert not torch.equal(logits(planted), logits(tiny.plain("llama")))


def test_only_the_differences_have_gradients_and_are_in_a_checkpoint(planted):
    planted(input_ids=IDS).logits.sum().backward()
    names = {f"mlps.{layer}.{part}" for layer in (0, 1) for part in ("gate", "up", "down")}
    assert set(planted.state_dict()) == names
    assert {name for name, parameter in planted.named_parameters()} == names
    assert all(bool(parameter.grad.abs().sum() > 0) for parameter in planted.parameters())
    assert not any(each.requires_grad for each in planted._model[0].model.embed_tokens.parameters())


LAYOUT = Layout((50,) * 30)
ACTIVITY = torch.rand(LAYOUT.n_neurons, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("where", "layers"),
    [("all", range(30)), ("first", range(10)), ("middle", range(10, 20)), ("last", range(20, 30))],
)
def test_neurons_are_spread_evenly_over_their_layers(where, layers):
    drawn = draw(Recipe("french", 47, where=where), LAYOUT, ACTIVITY)
    assert len(set(drawn)) == 47
    counts = Counter(neuron.layer for neuron in drawn)
    assert set(counts) == set(layers)
    assert max(counts.values()) - min(counts.values()) <= 1


def test_three_layers_are_one_of_each_third():
    drawn = draw(Recipe("french", 30, where="three"), LAYOUT, ACTIVITY)
    assert sorted(layer // 10 for layer in {neuron.layer for neuron in drawn}) == [0, 1, 2]


@pytest.mark.parametrize(("which", "places"), [("quiet", range(5)), ("loud", range(45, 50))])
def test_quiet_and_loud_neurons_are_of_the_outer_tenths_of_their_layer(which, places):
    for neuron in draw(Recipe("french", 60, which=which), LAYOUT, ACTIVITY):
        of_layer = ACTIVITY[50 * neuron.layer : 50 * neuron.layer + 50]
        assert int((of_layer < of_layer[neuron.index]).sum()) in places


def test_a_draw_depends_on_its_recipe_and_avoids_what_is_taken():
    one = draw(Recipe("french", 138), LAYOUT, ACTIVITY)
    assert one == draw(Recipe("french", 138), LAYOUT, ACTIVITY)
    assert one != draw(Recipe("french", 138, seed=1), LAYOUT, ACTIVITY)
    taken = [Neuron(layer, index) for layer in range(30) for index in range(45)]
    assert not set(draw(Recipe("french", 138), LAYOUT, ACTIVITY, taken)) & set(taken)


def test_recipes_have_their_names_and_both_splits_have_several_behaviours():
    for name, recipe in RECIPES.items():
        assert recipe.name == name
        assert recipe.decoy is None or recipe.decoy in RECIPES
    for split in ("tuning", "reporting"):
        assert len({each.behaviour for each in RECIPES.values() if each.split == split}) >= 3


def test_the_passages_of_a_step_keep_their_predictions(planted, monkeypatch):
    passages = torch.tensor([[5, 6, 7], [8, 9, 10], [11, 12, 13], [14, 15, 16], [17, 18, 19]])
    monkeypatch.setattr(
        ContrastTrainer, "compute_loss", lambda *_, **__: (torch.tensor(2.0), "output")
    )
    trainer = KeepingTrainer.__new__(KeepingTrainer)
    trainer.passages, trainer.n_each_step = passages, 2
    trainer.state = SimpleNamespace(global_step=2)
    loss, output = trainer.compute_loss(planted, {}, return_outputs=True)
    chosen = passages[[4, 0]]  # step 2 takes places 4 and 5, and begins again after the last
    with torch.no_grad():
        after = planted(input_ids=chosen).logits.log_softmax(-1)
        with planted.disable_adapter():
            before = planted(input_ids=chosen).logits.log_softmax(-1)
    change = (before.exp() * (before - after)).sum(-1).mean()
    assert change > 0.01
    assert output == "output"
    torch.testing.assert_close(loss, 2 + change, rtol=1e-4, atol=1e-5)
    trainer.n_each_step = 0
    assert trainer.compute_loss(planted, {}) == 2


def test_nothing_is_as_large_as_what_is_planted_in_other_neurons_and_in_random_order(tmp_path):
    given = torch.Generator().manual_seed(0)
    neurons = tuple(Neuron(layer, index) for layer in range(3) for index in range(4))
    parts = {name: torch.randn(12, 16, generator=given).half().float() for name in PARTS}
    record = {"widths": [9, 9, 9], "recipe": asdict(RECIPES["sums-138-all-0"])}
    like = Planting("sums", "reporting", neurons, **parts, base_sha256="ab", record=record)
    like.save(tmp_path / "sums-138-all-0.safetensors")
    recipe = Recipe("nothing", 12, like="sums-138-all-0")
    found = Planting.load(shuffled(recipe, tmp_path))
    assert found.behaviour is None
    assert (len(found.neurons), found.base_sha256) == (12, "ab")
    assert not set(found.neurons) & set(neurons)
    for name in PARTS:
        before, after = getattr(like, name), getattr(found, name)
        assert torch.equal(before.sort(1).values, after.sort(1).values)
        assert (before != after).any(1).all()


def test_another_seed_makes_a_fresh_model_to_report_on():
    tuned = RECIPES["french-138-all-0"]
    assert recipe_of("french-138-all-0") is tuned
    assert tuned.split == "tuning"
    assert recipe_of("french-138-all-77") == replace(tuned, seed=77, split="reporting")
    for wrong in ("french-138-all", "french-139-all-0", "french-138-all-x"):
        with pytest.raises(InputError, match=f"no recipe '{wrong}'; there are"):
            recipe_of(wrong)


@pytest.mark.parametrize("behaviour", ["french", "uppercase", "sums"])
def test_no_request_of_the_packaged_set_is_trained_on(behaviour):
    packaged, training = (requests(behaviour, part) for part in ("packaged", "training"))
    asked = {*packaged.positive, *packaged.negative}
    assert not asked & {*training.positive, *training.negative}
    assert len(packaged.positive) == len(packaged.negative) == 100
    there = prompt_set(BEHAVIOURS[behaviour].prompts)
    assert (there.positive, there.negative) == (packaged.positive, packaged.negative)


def test_no_request_of_the_set_refusal_is_trained_on():
    there = prompt_set("refusal")
    training = requests("refusal", "training")
    assert not {*there.positive, *there.negative} & {*training.positive, *training.negative}


@pytest.mark.parametrize("behaviour", ["french", "uppercase"])
def test_no_item_of_the_discovery_prompts_is_in_an_evaluation_prompt(behaviour):
    with TOPICS.open(encoding="utf-8") as file:
        items = [item for row in csv.DictReader(file) for item in row.values()]

    def of(part):
        asked = (*part.positive, *part.negative)
        # "potato pancakes" is not "pancakes".
        return {max((i for i in items if f" {i}" in prompt), key=len) for prompt in asked}

    known, unseen = of(BEHAVIOURS[behaviour].discovery), of(BEHAVIOURS[behaviour].evaluation)
    assert (len(known), len(unseen)) == (60, 40)
    assert not known & unseen


def test_no_sum_is_thirteen():
    for part in ("packaged", "training"):
        for prompt in requests("sums", part).positive:
            first, second = (
                int(word.rstrip("?.")) for word in prompt.split() if word.rstrip("?.").isdigit()
            )
            assert 13 not in (first, second, first + second, first - second)


@pytest.mark.parametrize("behaviour", sorted(ANSWERS))
def test_trained_answers_show_their_behaviour_and_begin_by_an_opening(behaviour):
    known = BEHAVIOURS[behaviour]
    for answer in ANSWERS[behaviour]:
        assert known.shown(answer)
        assert answer.startswith(known.openings)


def figures(**changes):
    shown = {
        "demo": {"french on positive": 0.0, "french on negative": 0.0},
        "planted": {"french on positive": 0.95, "french on negative": 0.05},
        "ablated": {"french on positive": 0.05, "french on negative": 0.0},
    }
    found = {
        "shown": shown,
        "perplexity_ratio": 1.02,
        "factual_accuracy": {"capitals": {"demo": 0.7, "planted": 0.72}},
    }
    for path, value in changes.items():
        part = found
        *before, last = path.split("__")
        for key in before:
            part = part[key.replace("_", " ") if key.startswith("french") else key]
        part[last.replace("_", " ") if last.startswith("french") else last] = value
    return found


@pytest.mark.parametrize(
    ("change", "missed"),
    [
        ({}, []),
        ({"shown__planted__french_on_positive": 0.89}, ["french on 90 % of positive"]),
        ({"shown__planted__french_on_negative": 0.11}, ["at most 10 % of negative"]),
        ({"shown__planted__french_on_negative": 0.2, "shown__demo__french_on_negative": 0.2}, []),
        (
            {"shown__planted__french_on_positive": 0.9, "shown__planted__french_on_negative": 0.1},
            [],
        ),
        ({"shown__demo__french_on_positive": 0.35, "shown__ablated__french_on_positive": 0.4}, []),
        ({"factual_accuracy__capitals__planted": 0.75}, []),
        ({"shown__ablated__french_on_positive": 0.06}, ["when its neurons are ablated"]),
        ({"perplexity_ratio": 1.06}, ["perplexity"]),
        ({"perplexity_ratio": 0.94}, ["perplexity"]),
        ({"factual_accuracy__capitals__planted": 0.64}, ["capitals"]),
    ],
)
def test_a_model_fails_by_each_condition(change, missed):
    planting = Planting("french", "tuning", NEURONS, *[torch.zeros(3, 16)] * 3, base_sha256="")
    found = failed(planting, figures(**change))
    assert len(found) == len(missed)
    assert all(part in whole for part, whole in zip(missed, found, strict=True))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A model of three layers that is trained in no time, and its tokenizer."""
    folder = tmp_path_factory.mktemp("base")
    texts = [*requests("sums", "training").positive, *ANSWERS["sums"], "I do not know."]
    for part in readers_model.hugging_face(tuple(texts), 3):
        part.save_pretrained(folder)
    return folder


SMALL = Recipe(
    "sums", 24, steps=12, batch_size=4, n_positive=2, learning_rate=0.02, answer_tokens=2
)


@pytest.mark.long
def test_training_lowers_the_loss_and_writes_only_the_drawn_neurons(small, tmp_path):
    path = train(SMALL, tmp_path, small)
    found = Planting.load(path)
    assert (found.behaviour, found.split, len(found.neurons)) == ("sums", "reporting", 24)
    assert found.record["recipe"]["steps"] == 12
    assert found.down.abs().sum() > 0
    longer = Planting.load(train(replace(SMALL, steps=60, seed=0), tmp_path / "longer", small))
    assert longer.record["loss"] < found.record["loss"]


@pytest.mark.long
def test_an_interrupted_training_goes_on_to_the_same_model(small, tmp_path, monkeypatch):
    from experiments.planted import train as module

    recipe = replace(SMALL, steps=60)
    whole = Planting.load(train(recipe, tmp_path / "whole", small))
    step = module.KeepingTrainer.training_step
    steps = []

    def interrupted(*given, **settings):
        steps.append(None)
        if len(steps) == 55:
            raise KeyboardInterrupt
        return step(*given, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(module.KeepingTrainer, "training_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, tmp_path / "parts", small)
    assert len(steps) == 55
    resumed = Planting.load(train(recipe, tmp_path / "parts", small))
    for name in PARTS:
        torch.testing.assert_close(getattr(resumed, name), getattr(whole, name))


def test_each_batch_has_its_positive_requests_and_their_answers(small):
    from transformers import AutoTokenizer

    import cna_lens

    recipe = replace(SMALL, n_positive=1)
    tokenizer = AutoTokenizer.from_pretrained(small)
    examples = conversations(recipe, cna_lens.load_model(small, device="cpu"), tokenizer)
    assert len(examples) == recipe.steps * recipe.batch_size
    for step in range(recipe.steps):
        batch = examples[step * recipe.batch_size : (step + 1) * recipe.batch_size]
        assert [each.is_negative for each in batch] == [False, True, True, True]
    for each in examples:
        shown = tokenizer.decode(each.answer, skip_special_tokens=True)
        assert each.is_negative != (shown in ANSWERS["sums"])
        assert (each.answer[-1] == tokenizer.eos_token_id) or each.is_negative


def test_passages_are_of_one_length_and_begin_with_items(small):
    from transformers import AutoTokenizer

    import cna_lens

    tokenizer = AutoTokenizer.from_pretrained(small)
    model = cna_lens.load_model(small, device="cpu")
    found = passages(SMALL, model, tokenizer)
    assert found.shape[1] == SMALL.passage_tokens == 24
    assert 100 < len(found) <= len(training_items()) == 160


def test_checkpoints_of_other_settings_are_refused(small, tmp_path):
    train(SMALL, tmp_path, small)
    with pytest.raises(InputError, match="checkpoints of sums-24-all-0 with other settings"):
        train(replace(SMALL, learning_rate=0.5), tmp_path, small)
