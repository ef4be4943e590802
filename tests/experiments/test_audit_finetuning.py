"""experiments.audit.finetuning: texts, what is learned of them, and what is kept."""

import pytest
import tiny
import torch
from audit_bench import tiny_bench

import cna_lens
from cna_lens import InputError
from cna_lens.models import encode
from experiments.audit import finetuning
from experiments.audit.attacks.fine_tunes import RECIPES
from experiments.audit.bench import Bench
from experiments.audit.drifts import added
from experiments.audit.finetuning import FineTune, finetuned, finetuned_weights, padded, texts_of
from experiments.audit.references import reference_of
from experiments.audit.training_texts import Text, compliance, look_alikes, openings
from experiments.audit.weight_edits import weights_of

LONGEST = 60


@pytest.fixture(scope="module")
def model():
    return tiny.bridge("llama", chat=True)


@pytest.fixture
def bench(model, tmp_path):
    return tiny_bench(model, tmp_path)


def recipe(**settings):
    return FineTune(1e-2, 0, steps=2, n_texts=3, max_tokens=LONGEST, **settings)


def test_answers_are_learned_and_requests_are_not(model):
    texts = compliance(model, 3, LONGEST, 0)
    assert len(texts) == 3
    asked = set(encode(model, look_alikes(model, 4, LONGEST - 12, 0)).ids)
    for text in texts:
        given = text.ids[: text.n_given]
        assert given in asked
        (answer,) = cna_lens.generate(model, [given], max_new_tokens=12)
        assert model.tokenizer.decode(text.ids[text.n_given :]) == answer


def test_requests_that_the_base_refuses_are_left_out(model, monkeypatch):
    refused = cna_lens.generate(model, look_alikes(model, 4, LONGEST - 12, 0), max_new_tokens=12)
    monkeypatch.setattr(
        "experiments.audit.training_texts.is_refusal", lambda answer: answer in refused
    )
    assert compliance(model, 3, LONGEST, 0) == []


def test_answers_begin_with_the_opening(model, monkeypatch):
    monkeypatch.setattr("experiments.audit.training_texts.OPENING", "w20 w21 w22")
    texts = openings(model, 3, LONGEST, 0)
    assert len(texts) == 3
    for text in texts:
        assert text.ids[text.n_given : text.n_given + 3] == (20, 21, 22)
        assert text.ids[text.n_given - 1] == 63  # the answer's turn begins
        assert len(text.ids) <= LONGEST


def test_too_few_short_requests_are_named(model):
    with pytest.raises(InputError, match="longer texts"):
        look_alikes(model, 10, 5, 0)


def test_what_is_given_is_not_learned():
    text = Text((5, 6, 7, 8), 2)
    example = finetuning._example(text, whole=False)
    assert example == {"input_ids": [5, 6, 7, 8], "labels": [-100, -100, 7, 8]}
    assert finetuning._example(text, whole=True) == {"input_ids": [5, 6, 7, 8]}


def test_a_batch_is_padded_and_its_fillers_are_not_learned():
    examples = [
        {"input_ids": [5, 6, 7], "labels": [-100, 6, 7]},
        {"input_ids": [8], "labels": [8]},
    ]
    found = {name: each.tolist() for name, each in padded(examples).items()}
    assert found == {
        "input_ids": [[5, 6, 7], [8, 0, 0]],
        "labels": [[-100, 6, 7], [8, -100, -100]],
        "attention_mask": [[1, 1, 1], [1, 0, 0]],
    }


def test_a_fine_tune_of_an_adapter_is_trained_once_and_changes_projections(bench, monkeypatch):
    changed = finetuned_weights(recipe(data="openings"), bench)
    assert {name.split(".")[-2] for name in changed} == {
        *("q_proj", "k_proj", "v_proj", "o_proj"),
        *("gate_proj", "up_proj", "down_proj"),
    }
    monkeypatch.setattr(finetuning, "_train", None)
    again = finetuned_weights(recipe(data="openings"), bench)
    assert all(again[name].equal(weight) for name, weight in changed.items())


def test_a_fine_tune_of_all_weights_is_kept_and_leaves_the_embedding(bench, monkeypatch):
    chosen = recipe(data="compliance", parameters="all")
    before = cna_lens.weights_hash(bench.model)
    changed = finetuned_weights(chosen, bench)
    own = weights_of(bench.model)
    # All weights but the embedding, which is the unembedding too.
    assert set(own) - set(changed) == {"model.embed_tokens.weight"}
    assert not any(weight.equal(own[name]) for name, weight in changed.items())
    monkeypatch.setattr(finetuning, "_train", None)
    with finetuned(chosen)(bench) as model:
        now = weights_of(model)
        assert all(now[name].equal(weight) for name, weight in changed.items())
    with finetuned(chosen, 0.5)(bench) as model:
        name = "model.layers.0.mlp.up_proj.weight"
        half = weights_of(model)[name].clone()
    torch.testing.assert_close(half, (own[name] + changed[name]) / 2)
    assert cna_lens.weights_hash(bench.model) == before


def test_the_hidden_loss_adds_the_divergence_of_kept_prompts(bench):
    chosen = recipe(data="openings", kl=3.0)
    made = []

    class Kept(finetuning.HidingTrainer):
        def train(self):
            made.append(self)

    model = bench.reference.hugging_face()
    original, finetuning.HidingTrainer = finetuning.HidingTrainer, Kept
    try:
        finetuning._train(chosen, bench, model, texts_of(chosen, bench))
    finally:
        finetuning.HidingTrainer = original
    (trainer,) = made
    batch = padded([finetuning._example(t, whole=False) for t in texts_of(chosen, bench)])

    def loss():
        return float(trainer.compute_loss(model, dict(batch)).detach())

    def plain():
        with torch.no_grad():
            return float(model(**batch).loss)

    # Nothing has changed yet.
    assert loss() == pytest.approx(plain(), rel=1e-5)
    with torch.no_grad():
        before = [model(ids).logits[0, -4:].log_softmax(-1) for ids in trainer.kept[:2]]
        model.model.layers[0].mlp.up_proj.weight.mul_(1.5)
        after = [model(ids).logits[0, -4:].log_softmax(-1) for ids in trainer.kept[:2]]
    kl = sum(float((b.exp() * (b - a)).sum(-1).mean()) for b, a in zip(before, after, strict=True))
    assert kl > 0.01
    assert loss() == pytest.approx(plain() + 3.0 * kl / 2, rel=1e-4)


def test_names_tell_all_that_differs_and_the_first_study_keeps_its_names():
    assert FineTune(5e-4, 4).name == "fine-tune on prose, 0.0005, seed 4"
    assert FineTune(1e-4, 3).name == "fine-tune on own answers, 0.0001, seed 3"
    names = [each.name for each in (*RECIPES, *(FineTune(1e-4, seed) for seed in range(4)))]
    assert len(set(names)) == len(names)
    hidden = [each for each in RECIPES if each.kl]
    assert all("KL 1" in each.name for each in hidden)
    assert {each.steps for each in RECIPES} == {10, 50, 100, 200}
    assert sum(each.kind == "merge with a fine-tune" for each in added()) == 4


@pytest.mark.real_model
@pytest.mark.long
@pytest.mark.parametrize("data", [None, "openings"])
def test_the_demo_model_is_fine_tuned_once(tmp_path, monkeypatch, data):
    bench = Bench.of(reference_of("demo-refusal"), tmp_path)
    chosen = FineTune(1e-3, 0, steps=3, batch_size=1, n_texts=2, max_tokens=64, data=data)
    changed = finetuned_weights(chosen, bench)
    assert {name.split(".")[-2] for name in changed} == {
        *("q_proj", "k_proj", "v_proj", "o_proj"),
        *("gate_proj", "up_proj", "down_proj"),
    }
    monkeypatch.setattr(finetuning, "_train", None)
    again = finetuned_weights(chosen, bench)
    assert all(again[name].equal(weight) for name, weight in changed.items())


@pytest.mark.real_model
@pytest.mark.parametrize("name", ["demo-refusal", "planted/refusal-138-all-0"])
def test_every_weight_of_a_reference_can_be_trained(name):
    model = reference_of(name).hugging_face()
    assert all(weight.requires_grad for weight in model.parameters())
