"""Parts of a model that were left in training mode, whose dropout makes two runs differ."""

import pytest
import tiny
import torch
from transformers import AutoModelForCausalLM

import cna_lens
from cna_lens import Circuit, Layout, Neuron

CIRCUIT = Circuit((Neuron(1, 3),), (1.0,), Layout((tiny.WIDTH,) * 2))
PROMPTS, OTHERS = [[5, 6, 7], [8, 9, 10]], [[20, 21], [22]]


def steered(model):
    with cna_lens.steer(model, CIRCUIT, 0.0):
        pass


USES = {
    "collect": lambda model: cna_lens.collect(model, PROMPTS),
    "find_circuit": lambda model: cna_lens.find_circuit(model, PROMPTS, OTHERS, universal=None),
    "score_neurons": lambda model: cna_lens.score_neurons(model, PROMPTS, OTHERS),
    "generate": lambda model: cna_lens.generate(model, PROMPTS, max_new_tokens=2),
    "stream": lambda model: cna_lens.stream(model, PROMPTS[0]),
    "steer": steered,
    "promoted_tokens": lambda model: cna_lens.promoted_tokens(model, (1, 3)),
}


def llama_with_attention_dropout():
    config = tiny.hugging_face("llama").config
    config.attention_dropout = 0.5
    return tiny.boot(AutoModelForCausalLM.from_config(config).eval())


@pytest.mark.parametrize("use", USES.values(), ids=USES)
@pytest.mark.parametrize("tried", [True, False], ids=["used before", "new"])
def test_a_dropout_left_in_training_mode_is_named(use, tried):
    model = tiny.bridge("gpt2") if tried else tiny.untried_bridge("gpt2")
    hf = model.original_model
    name, dropout = next(
        (name, part) for name, part in hf.named_modules() if isinstance(part, torch.nn.Dropout)
    )
    dropout.train()
    with pytest.raises(
        cna_lens.ModelError, match=rf"{name.split('.')[-1]} \(Dropout\) is in train"
    ):
        use(model)
    model.eval()
    use(model)


@pytest.mark.parametrize("whole", [True, False], ids=["attention", "the model inside"])
def test_an_attention_with_a_rate_of_its_own_is_named(whole):
    model = llama_with_attention_dropout()
    cna_lens.collect(model, PROMPTS)
    attention = model.blocks[1].attn
    (attention if whole else attention.original_component).training = True
    with pytest.raises(cna_lens.ModelError, match=r"Attention.* is in training mode"):
        cna_lens.collect(model, PROMPTS)


def test_a_batch_norm_in_training_mode_is_named(fresh):
    fresh.original_model.lm_head.norm = torch.nn.BatchNorm1d(4)
    with pytest.raises(cna_lens.ModelError, match=r"norm \(BatchNorm1d\)"):
        cna_lens.collect(fresh, PROMPTS)


@pytest.fixture
def fresh():
    return tiny.bridge("gpt2")


def test_parts_in_training_mode_that_compute_the_same_are_accepted(fresh):
    expected = cna_lens.collect(fresh, PROMPTS).mean
    for part in fresh.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
            part.train()
        if not any(True for _ in part.children()) and "Attention" not in type(part).__name__:
            part.training = True
    assert torch.equal(cna_lens.collect(fresh, PROMPTS).mean, expected)


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_a_model_in_training_mode_is_refused_everywhere(fresh, use):
    fresh.train()
    with pytest.raises(cna_lens.ModelError, match=r"model is in training mode.*model.eval\(\)"):
        use(fresh)
