"""The change from a base model, against plain Hugging Face on both models."""

import copy

import pytest
import reference
import tiny
import torch
from transformers import AutoModelForCausalLM

import cna_lens
from cna_lens import ChangeFromBase, Circuit, InputError, Layout, ModelError, Neuron, score_neurons
from cna_lens.models import hook_name
from cna_lens.models.prompts.encoding import encode

POSITIVE = [[5, 6, 7], [8, 9, 3, 4, 30], [40, 41]]
NEGATIVE = [[33, 34, 35], [36, 37]]


def tuned(hf):
    """The model with a few neurons of either layer changed."""
    other = copy.deepcopy(hf)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer, rows in ((0, [2, 5]), (1, [7])):
            weight = other.model.layers[layer].mlp.gate_proj.weight
            weight[rows] += torch.randn(weight[rows].shape, generator=draw).to(weight)
    return other


def by_definition(hf, base, prompts, answers):
    squares, n = 0.0, 0
    for ids, answer in zip(prompts, answers, strict=True):
        whole = [*ids, *answer]
        for place in range(len(ids) - 1, len(whole)):
            here, there = (reference.activations(model, [whole], place)[0] for model in (hf, base))
            squares = squares + (here - there).pow(2)
            n += 1
    return (squares / n).sqrt()


def test_scores_are_root_mean_square_changes_along_the_models_own_answers(chat_model):
    base = copy.deepcopy(chat_model.original_model)
    hf = tuned(base)
    model = tiny.boot(hf)
    model.tokenizer = chat_model.tokenizer
    texts = ["w5 w6", "w7", "w8 w9 w20 w21"], ["w30", "w31 w32"]
    ids = [list(each) for each in encode(model, texts[0]).ids]
    answers = [reference.greedy(hf, each, 3) for each in ids]
    assert any(answers)
    # The base reads the tuned model's answers, and not its own.
    assert answers != [reference.greedy(base, each, 3) for each in ids]
    expected = by_definition(hf, base, ids, answers)
    ranking = ChangeFromBase(tiny.boot(base), answer_tokens=3)
    found = score_neurons(model, *texts, ranking)
    torch.testing.assert_close(found.values, expected, rtol=1e-4, atol=1e-6)
    alone = score_neurons(model, *texts, ChangeFromBase(tiny.boot(base), answer_tokens=0))
    torch.testing.assert_close(
        alone.values, by_definition(hf, base, ids, [[]] * 3), rtol=1e-4, atol=1e-6
    )
    assert not torch.allclose(alone.values, expected, rtol=1e-2)


def test_steering_is_at_the_prompts_last_token_and_not_at_the_answers(chat_model):
    model = tiny.boot(tuned(chat_model.original_model))
    model.tokenizer = chat_model.tokenizer
    ids = list(encode(model, ["w5 w6"]).ids[0])
    ranking = ChangeFromBase(tiny.boot(copy.deepcopy(chat_model.original_model)), answer_tokens=3)

    def at_last(activation, hook):
        activation = activation.clone()
        activation[:, len(ids) - 1 : len(ids), :8] *= -20.0
        return activation

    def scored():
        return score_neurons(model, [ids], NEGATIVE, ranking).values

    with model.hooks(fwd_hooks=[(hook_name(0), at_last)]):
        expected = scored()
    circuit = Circuit(tuple(Neuron(0, i) for i in range(8)), (1.0,) * 8, Layout((tiny.WIDTH,) * 2))
    with cna_lens.steer(model, circuit, -20.0, positions="last_prompt"):
        torch.testing.assert_close(scored(), expected, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(scored(), expected, rtol=1e-2)


def test_neurons_of_the_first_layer_that_did_not_change_score_zero():
    base = tiny.hugging_face("llama")
    model = tiny.boot(tuned(base))
    ranking = ChangeFromBase(tiny.boot(base), answer_tokens=0)
    first, second = score_neurons(model, POSITIVE, NEGATIVE, ranking).by_layer()
    assert first.nonzero().flatten().tolist() == [2, 5]
    # Those of the second layer read what the first one writes.
    assert bool((second > 0).all())


def test_circuits_record_the_bases_hash_and_no_hook_stays():
    base = reference.settled(tiny.bridge("llama"))
    model = reference.settled(tiny.boot(tuned(tiny.hugging_face("llama"))))
    hooks = [reference.hooks(each) for each in (base, model)]
    ranking = ChangeFromBase(base, answer_tokens=0)
    scores = score_neurons(model, POSITIVE, NEGATIVE, ranking)
    said = f"change_from_base(answer_tokens=0, base_sha256={cna_lens.weights_hash(base)!r})"
    assert scores.provenance.rank == said
    assert [reference.hooks(each) for each in (base, model)] == hooks


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("answer_tokens", [-1, 1.5])
def test_invalid_settings_are_refused(llama, answer_tokens):
    with pytest.raises(InputError, match=f"answer_tokens is {answer_tokens}"):
        ChangeFromBase(llama, answer_tokens=answer_tokens)


@pytest.mark.usefixtures("without_type_checks")
def test_a_base_that_is_no_model_is_refused():
    with pytest.raises(ModelError):
        ChangeFromBase("demo")


def test_a_base_with_other_neurons_is_refused(llama):
    narrow = tiny.boot(tiny.hugging_face("llama", d_mlp=8))
    with pytest.raises(
        InputError, match=r"have \[24, 24\] neurons, those of its base .* have \[8, 8\]"
    ):
        score_neurons(llama, POSITIVE, NEGATIVE, ChangeFromBase(narrow, answer_tokens=0))
    config = copy.deepcopy(tiny.hugging_face("llama").config)
    config.num_hidden_layers = 3
    config.layer_types = None
    deep = tiny.boot(AutoModelForCausalLM.from_config(config).eval())
    with pytest.raises(InputError, match="differ in their layers with neurons"):
        score_neurons(llama, POSITIVE, NEGATIVE, ChangeFromBase(deep, answer_tokens=0))
    talkative = tiny.bridge("llama")
    talkative.cfg.d_vocab = 70
    with pytest.raises(InputError, match="differ in their vocabulary"):
        score_neurons(llama, POSITIVE, NEGATIVE, ChangeFromBase(talkative, answer_tokens=0))


def test_a_base_that_was_tuned_itself_is_refused():
    model = tiny.bridge("llama")
    ranking = ChangeFromBase(model, answer_tokens=0)
    with torch.no_grad():
        model.original_model.model.layers[0].mlp.gate_proj.weight[3].neg_()
    with pytest.raises(InputError, match="weights of the base tiny-llama have changed since"):
        score_neurons(model, POSITIVE, NEGATIVE, ranking)


def test_a_base_that_went_into_training_mode_is_refused(llama):
    base = tiny.bridge("llama", seed=1)
    ranking = ChangeFromBase(base, answer_tokens=0)
    base.train()
    with pytest.raises(ModelError, match="training mode"):
        score_neurons(llama, POSITIVE, NEGATIVE, ranking)


def test_a_base_with_the_same_weights_is_refused(llama):
    with pytest.raises(InputError, match="has the weights of its base, so that nothing changed"):
        score_neurons(llama, POSITIVE, NEGATIVE, ChangeFromBase(llama, answer_tokens=0))
