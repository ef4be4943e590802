"""Models with weights that are not in memory between passes, as Accelerate offloads them."""

from dataclasses import replace

import accelerate
import pytest
import reference
import tiny
import torch

import cna_lens
from cna_lens import Circuit, Layout, Neuron, PromptSet
from cna_lens.audit.measuring.weights import tensor_records

CIRCUIT = Circuit((Neuron(1, 3), Neuron(0, 2)), (2.0, 1.0), Layout((tiny.WIDTH,) * 2))
PROMPTS = [[5, 6, 7], [8, 9, 10], [11, 12]]
SETS = PromptSet("words", "a test", ("w5 w6", "w7 w8"), ("w9", "w10 w11"))
PARTS = {"one layer": ["model.layers.1"], "an MLP": ["model.layers.0.mlp"], "all": [""]}


def offloaded(parts, tmp_path=None):
    hf = tiny.hugging_face("llama")
    for part in parts:
        module, device = hf.get_submodule(part), torch.device("cpu")
        if tmp_path is None:
            accelerate.cpu_offload(module, execution_device=device)
        else:
            accelerate.disk_offload(module, tmp_path, execution_device=device)
    return tiny.boot(hf)


@pytest.fixture(params=PARTS.values(), ids=PARTS)
def model(request):
    return offloaded(request.param)


@pytest.fixture
def elsewhere():
    """A model whose projection is loaded by a hook of its own for each pass, and then dropped."""
    hf = tiny.hugging_face("llama")
    projection = tiny.down_projections(hf)[1]
    numbers = projection.weight.detach().clone()

    def put(weight):
        projection.weight = torch.nn.Parameter(weight, requires_grad=False)

    put(numbers.to("meta"))
    projection.register_forward_pre_hook(lambda *_: put(numbers))
    projection.register_forward_hook(lambda *_: put(numbers.to("meta")), always_call=True)
    return tiny.boot(hf)


@pytest.mark.parametrize("via", ["auto", "hooks"])
def test_hooks_steer_weights_that_are_not_there(model, via):
    whole = tiny.bridge("llama")
    with cna_lens.steer(whole, CIRCUIT, 0.3, via="hooks"):
        expected = cna_lens.collect(whole, PROMPTS).mean
        answers = cna_lens.generate(whole, PROMPTS, max_new_tokens=4)
    with cna_lens.steer(model, CIRCUIT, 0.3, via=via) as steering:
        assert torch.equal(cna_lens.collect(model, PROMPTS).mean, expected)
        assert cna_lens.generate(model, PROMPTS, max_new_tokens=4) == answers
    assert steering.via == "hooks"


def test_weights_that_are_not_there_are_not_scaled(model, elsewhere):
    for each in (model, elsewhere):
        with (
            pytest.raises(cna_lens.ModelError, match="is offloaded; use via='hooks'"),
            cna_lens.steer(each, CIRCUIT, 0.3, via="weights"),
        ):
            pass


def test_the_hash_of_offloaded_weights_is_that_of_the_whole_model(model):
    before = reference.weights(model)
    assert cna_lens.weights_hash(model) == cna_lens.weights_hash(tiny.bridge("llama"))
    after = reference.weights(model)
    assert {k: v.device for k, v in before.items()} == {k: v.device for k, v in after.items()}


def test_weights_offloaded_to_disk_have_the_same_hash(tmp_path):
    model = offloaded(["model.layers.1"], tmp_path)
    assert cna_lens.weights_hash(model) == cna_lens.weights_hash(tiny.bridge("llama"))


def test_methods_are_compared_on_an_offloaded_model_as_on_a_whole_one(model):
    def compare(each):
        return cna_lens.compare(
            each,
            [cna_lens.ablation(CIRCUIT, via="hooks")],
            SETS,
            (0.0, 1.0),
            shows_behaviour=lambda answer: "w5" in answer,
            max_new_tokens=4,
            progress=False,
        )

    whole, found = compare(tiny.bridge("llama")), compare(model)
    for one, other in zip(found.outcomes, whole.outcomes, strict=True):
        assert one.kl_per_token == pytest.approx(other.kl_per_token)
        assert one.metrics == {
            name: pytest.approx(values) for name, values in other.metrics.items()
        }
        same = {"kl_per_token": (), "metrics": {}, "seconds": 0.0}
        assert replace(one, **same) == replace(other, **same)
    assert whole.outcomes[0].answers_sha256 != whole.outcomes[-1].answers_sha256


def test_a_record_of_each_offloaded_tensor_is_that_of_the_whole_model(model):
    assert tensor_records(model) == tensor_records(tiny.bridge("llama"))


def test_what_nobody_can_load_is_named(elsewhere):
    with pytest.raises(cna_lens.ModelError, match=r"layers\.1\.mlp\.down_proj\.weight is offload"):
        cna_lens.weights_hash(elsewhere)


def test_a_circuit_with_a_hash_steers_weights_that_cannot_be_compared(elsewhere):
    recorded = CIRCUIT.with_provenance(
        model="tiny-llama", weights_sha256=cna_lens.weights_hash(tiny.bridge("llama"))
    )
    with (
        pytest.warns(cna_lens.CnaLensWarning, match="cannot be compared with those of the circuit"),
        cna_lens.steer(elsewhere, recorded, 0.3) as steering,
    ):
        elsewhere(torch.tensor([[5, 6]]))
    assert steering.via == "hooks"


def test_the_tokens_that_a_neuron_promotes_need_its_weights(elsewhere):
    with pytest.raises(cna_lens.ModelError, match="is offloaded"):
        cna_lens.promoted_tokens(elsewhere, (1, 3))


def test_the_tokens_that_a_neuron_promotes_pass_an_offloaded_unembedding():
    found = cna_lens.promoted_tokens(offloaded(["lm_head"]), (1, 3))
    assert found == cna_lens.promoted_tokens(tiny.bridge("llama"), (1, 3))
