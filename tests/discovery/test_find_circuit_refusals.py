from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import tiny
import tiny_moe

import cna_lens

pytestmark = pytest.mark.usefixtures("without_type_checks")

GOOD = ["w5 w6", "w7"]


def find(model, positive=GOOD, negative=("w8", "w9 w3"), **options):
    options = {"universal": None, "progress": False} | options
    return cna_lens.find_circuit(model, positive, negative, **options)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([], "positive is empty"),
        ("w5 w6", r"positive is one string; pass a list of prompts: \['w5 w6'\]"),
        (["w5", 7], r"positive\[1\] is a int"),
        (["w5", None], r"positive\[1\] is a NoneType"),
        (["w5", ["w5", "w6"]], r"positive\[1\] is a list"),
        (["w5", [5.0]], r"positive\[1\] is a list"),
        (["w5", [True, False]], r"positive\[1\] is a list"),
        (["w5", []], r"positive\[1\] has no tokens"),
        (["w5", [5, 64]], r"positive\[1\] holds token id 64, expected 0 to 63"),
        (["w5", [-1]], r"positive\[1\] holds token id -1, expected 0 to 63"),
        (["w5", [5] * 257], r"positive\[1\] has 257 tokens, the model's context holds 256"),
        (["w5 " * 256], r"positive\[0\] has 257 tokens, the model's context holds 256"),
        ([[{"role": "user", "content": "w5"}]], "has no chat template"),
    ],
)
def test_invalid_prompts_are_named(llama, prompts, message):
    with pytest.raises(cna_lens.InputError, match=message):
        find(llama, prompts, k=1)


def test_a_prompt_as_long_as_the_context_can_be_read(llama):
    assert len(find(llama, [[5] * 256], k=1)) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": "t-test"}, "rank is 't-test', expected one of: .*contrast"),
        ({"fraction": 0}, "fraction is 0"),
        ({"fraction": 2}, "fraction is 2"),
        ({"fraction": -0.5}, "fraction is -0.5"),
        ({"fraction": float("nan")}, "fraction is nan"),
        ({"fraction": 0.5, "k": 3}, "either fraction or k, not both"),
        ({"k": 0}, "k is 0"),
        ({"k": 3.0}, r"k is 3\.0, expected at least 1 neuron, and a whole number"),
        ({"k": 49}, "k is 49, expected 1 to 48"),
        ({"sign": "both"}, "sign is 'both', expected one of abs, positive, negative"),
        ({"layers": [0, 2]}, "layer 2 does not exist: the model has layers 0 to 1"),
        ({"layers": [-1]}, "layer -1 does not exist"),
        ({"layers": 1}, "layers is 1, expected several"),
        ({"layers": []}, "layers is empty"),
        ({"position": 2}, "position 2 is out of range"),
        ({"position": -3}, "position -3 is out of range"),
        ({"position": "last"}, "position is 'last'"),
        ({"position": 1.5}, "position is 1.5"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": "big"}, "batch_size is 'big'"),
        ({"universal_filter": "during"}, "universal_filter is 'during'"),
        ({"universal": "defualt"}, "defualt"),
        ({"universal": [(0, 24)]}, "neuron 24 does not exist in layer 0"),
        ({"universal": [3]}, "universal is"),
        ({"chat": True}, "chat=True needs a chat template"),
        ({"chat": "always"}, "chat is 'always'"),
    ],
)
def test_invalid_arguments_are_refused_by_name_before_the_model_runs(llama, options, message):
    def run(activation, hook):
        raise AssertionError("the model ran")

    with llama.hooks(fwd_hooks=[("hook_embed", run)]):
        with pytest.raises(AssertionError, match="the model ran"):
            find(llama)
        with pytest.raises(cna_lens.InputError, match=message):
            find(llama, **options)


def test_more_neurons_than_can_be_chosen_are_refused(llama):
    with pytest.raises(cna_lens.InputError, match="24 of 48 can be chosen"):
        find(llama, k=25, layers=[0])


@pytest.mark.parametrize("prompts", [None, 5, iter(["w5"])])
def test_prompts_that_are_no_list_are_refused(llama, prompts):
    with pytest.raises(cna_lens.InputError, match="pass a list"):
        cna_lens.collect(llama, prompts)


def test_one_shot_iterables_of_layers_and_universal_neurons_are_read_whole(llama):
    circuit = find(
        llama,
        fraction=0.5 - 2 / 48,
        layers=iter([1]),
        universal=((1, index) for index in (0, 1)),
    )
    assert set(circuit) == {(1, index) for index in range(2, 24)}


def refused(model, message):
    for call in (
        lambda: find(model, k=1),
        lambda: cna_lens.collect(model, GOOD),
        lambda: cna_lens.universal_neurons(model, GOOD),
    ):
        with pytest.raises(cna_lens.ModelError, match=message):
            call()


def test_a_plain_hugging_face_model_is_told_how_to_become_one():
    refused(
        tiny.hugging_face("llama"), "LlamaForCausalLM is not a TransformerLens model.*boot_trans"
    )


def test_a_model_that_runs_elsewhere_is_refused(llama):
    class Remote:
        cfg = SimpleNamespace(n_layers=2, n_ctx=256, d_vocab=64, model_name="far-away")
        tokenizer = llama.tokenizer
        hook_dict = llama.hook_dict

        def hooks(self, *_, **__):
            return nullcontext()

        def forward(self, *_, **__):
            raise AssertionError("a remote model must not be run")

        def to_tokens(self, text):
            return llama.to_tokens(text)

    refused(Remote(), "Remote runs in another process")


def test_a_model_in_training_mode_is_refused():
    model = tiny.bridge("llama")
    model.train()
    refused(model, r"training mode.*model.eval\(\)")
    model.eval()
    assert len(find(model, k=1)) == 1
    model.original_model.train()
    refused(model, "training mode")


def test_a_sparse_mixture_whose_experts_cannot_be_reached_is_refused():
    refused(
        tiny_moe.bridge("llama4_text"),
        "layer 1 of tiny-llama4_text is a sparse mixture of experts whose neurons cannot be "
        "reached: its Llama4TextExperts is not run through Transformers' registry",
    )
