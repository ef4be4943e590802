import pytest
import tiny
import torch

import cna_lens
import cna_lens.discovery.collection
from cna_lens.discovery.activations.experts import ExpertReadout
from cna_lens.discovery.activations.reader import Readout

PROMPTS = [[5, 6, 7], [8, 9, 3], [40, 41, 42], [50, 5, 51], [33, 34, 35], [6, 6, 6], [7, 8, 9]]


def memory_for(rows, error, monkeypatch):
    """Raise the error for larger batches; return the list of sizes that were tried."""
    tried = []
    trunk = cna_lens.models.running.packing.forward_trunk

    def limited(model, ids, *args):
        tried.append(len(ids))
        if len(ids) > rows:
            raise error
        return trunk(model, ids, *args)

    monkeypatch.setattr(cna_lens.models.running.packing, "forward_trunk", limited)
    return tried


OUT_OF_MEMORY = (
    torch.OutOfMemoryError("CUDA out of memory"),
    MemoryError(),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
)


@pytest.mark.filterwarnings("ignore:a batch of:cna_lens.CnaLensWarning")
@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_a_batch_that_does_not_fit_is_halved_until_it_does(llama, rows, error, monkeypatch):
    expected = cna_lens.collect(llama, PROMPTS)
    memory_for(rows, error, monkeypatch)
    found = cna_lens.collect(llama, PROMPTS, batch_size=7)
    assert found.count == len(PROMPTS)
    torch.testing.assert_close(found.mean, expected.mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.variance, expected.variance, rtol=1e-5, atol=1e-6)


def test_batches_after_one_that_did_not_fit_are_halved_too(llama, monkeypatch):
    tried = memory_for(2, OUT_OF_MEMORY[0], monkeypatch)
    with pytest.warns(cna_lens.CnaLensWarning, match=r"a batch of 4 .* batch_size=2 spares you"):
        cna_lens.collect(llama, [*PROMPTS, *PROMPTS[:5]], batch_size=4)
    assert tried == [4, 2, 2, 2, 2, 2, 2]


@pytest.mark.filterwarnings("ignore:a batch of:cna_lens.CnaLensWarning")
def test_a_single_prompt_that_does_not_fit_raises(llama, monkeypatch):
    memory_for(0, OUT_OF_MEMORY[0], monkeypatch)
    with pytest.raises(torch.OutOfMemoryError):
        cna_lens.collect(llama, PROMPTS)


def test_any_other_error_is_raised_at_once(llama, monkeypatch):
    tried = memory_for(1, RuntimeError("a shape is wrong"), monkeypatch)
    with pytest.raises(RuntimeError, match="a shape is wrong"):
        cna_lens.collect(llama, PROMPTS)
    assert len(tried) == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("where", "broken"),
    [
        ("layers.0.mlp.up_proj", "layer 0, 1;"),
        ("layers.0.mlp.down_proj", "layer 1;"),
        ("layers.1.mlp.up_proj", "layer 1;"),
    ],
)
def test_weights_that_are_not_finite_are_reported_with_their_layer(value, where, broken):
    hf = tiny.hugging_face("llama")
    with torch.no_grad():
        hf.get_submodule(f"model.{where}").weight.fill_(value)
    model = tiny.boot(hf)
    with pytest.raises(cna_lens.ActivationError, match=broken):
        cna_lens.collect(model, PROMPTS)


def test_one_prompt_that_is_not_finite_is_enough(llama):
    def spoil(activation, hook):
        activation = activation.clone()
        activation[0, -1, 0] = float("nan")
        return activation

    with (
        llama.hooks(fwd_hooks=[("blocks.1.mlp.hook_post", spoil)]),
        pytest.raises(cna_lens.ActivationError, match="layer 1;"),
    ):
        cna_lens.collect(llama, PROMPTS)


def readout(*names):
    """Read the second token of a batch of one row of two."""
    one = torch.tensor([0]), torch.tensor([1])
    return Readout(names, *one, (1, 2), ExpertReadout((), torch.tensor([1])))


def test_a_hook_point_that_fires_twice_is_named():
    reading = readout("first", "second")
    hook = dict(reading.fwd_hooks())["first"]
    hook(torch.zeros(1, 2, 3), hook=None)
    with pytest.raises(cna_lens.ModelError, match=r"^first fired twice in one forward pass"):
        hook(torch.zeros(1, 2, 3), hook=None)


@pytest.mark.parametrize("shape", [(2, 3), (2, 1, 3), (1, 2)])
def test_a_hook_point_with_another_shape_is_named(shape):
    hook = dict(readout("first", "second").fwd_hooks())["first"]
    with pytest.raises(cna_lens.ModelError, match=r"first holds a tensor .*pos \(1, 2\)"):
        hook(torch.zeros(shape), hook=None)


def test_hook_points_that_never_fire_are_named():
    reading = readout("first", None, "second", "third")
    dict(reading.fwd_hooks())["second"](torch.zeros(1, 2, 3), hook=None)
    with pytest.raises(cna_lens.ModelError, match=r"never fired: first, third$"):
        reading.reading()


@pytest.mark.parametrize("position", [3, -4, 100])
def test_a_position_outside_a_prompt_names_the_prompt_and_the_range(llama, position):
    with pytest.raises(cna_lens.InputError, match=r"prompt 1 has 3 tokens, expected -3 to 2"):
        cna_lens.collect(llama, [[5] * 101, [5, 6, 7]], position=position)


def test_a_batch_holds_at_least_one_prompt(llama):
    with pytest.raises(cna_lens.InputError, match="batch_size is 0"):
        cna_lens.collect(llama, PROMPTS, batch_size=0)
