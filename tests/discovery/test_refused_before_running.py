"""What cannot be meant is said before a large model has run for minutes."""

import pytest
import tiny

import cna_lens


@pytest.fixture
def never_run(llama):
    """A model that fails the test when it runs."""

    def ran(activation, hook):
        pytest.fail("the model ran")

    with llama.hooks(fwd_hooks=[("hook_embed", ran)]):
        yield llama


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": [7]}, "layer 7 does not exist"),
        ({"layers": 1}, "layers is 1, expected several"),
        ({"layers": []}, "layers is empty"),
        ({"k": 1000}, "k is 1000, expected 1 to 48"),
        ({"universal": [(0, 99)]}, "neuron 99 does not exist in layer 0"),
        ({"universal": [3]}, "universal is"),
        ({"position": "last"}, "position is 'last'"),
        ({"position": 1.5}, "position is 1.5"),
        ({"batch_size": "big"}, "batch_size is 'big'"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
@pytest.mark.usefixtures("without_type_checks")
def test_settings(never_run, options, message):
    with pytest.raises(cna_lens.InputError, match=message):
        cna_lens.find_circuit(never_run, [[5]], [[6]], progress=False, **options)


@pytest.mark.parametrize("prompts", [None, 5, iter(["w5"])])
@pytest.mark.usefixtures("without_type_checks")
def test_prompts_that_are_no_list(never_run, prompts):
    with pytest.raises(cna_lens.InputError, match="pass a list"):
        cna_lens.collect(never_run, prompts)


@pytest.mark.usefixtures("without_type_checks")
def test_a_multiplier_that_is_no_number(never_run):
    circuit = cna_lens.Circuit((cna_lens.Neuron(0, 1),), (1.0,), cna_lens.Layout((24, 24)))
    with pytest.raises(cna_lens.InputError, match="multiplier is 'a'"):
        cna_lens.scale(circuit, "a")


def test_one_shot_iterables_of_layers_and_universal_neurons_count_whole(llama):
    circuit = cna_lens.find_circuit(
        llama,
        [[5, 6]],
        [[7]],
        fraction=0.5 - 2 / 48,
        layers=iter([1]),
        universal=((1, index) for index in (0, 1)),
        progress=False,
    )
    assert set(circuit) == {(1, index) for index in range(2, 24)}


def test_dropout_inside_the_wrapped_model_is_noticed():
    model = tiny.bridge("llama")
    model.original_model.train()
    with pytest.raises(cna_lens.ModelError, match="training mode"):
        cna_lens.collect(model, [[5]])
