"""The trial of models on TransformerLens 3: HookedTransformer, and families with a wrong bridge."""

import families
import pytest

import cna_lens
from cna_lens import CnaLensWarning, ModelError
from cna_lens.models.trial.trial import tried
from experiments.families.families import FAMILIES
from experiments.families.tiny_models import tiny_model


@pytest.fixture
def hooked(hooked_transformer):
    return hooked_transformer(gated_mlp=False, act_fn="gelu", normalization_type="LN")


@pytest.mark.filterwarnings("error::cna_lens.CnaLensWarning")
def test_a_hooked_transformer_is_warned_about_once(hooked):
    with pytest.warns(CnaLensWarning) as said:
        cna_lens.collect(hooked, [[1, 5, 6], [1, 5, 7]])
    cna_lens.generate(hooked, [[1, 5, 6]], max_new_tokens=2)
    (message,) = [str(each.message) for each in said]
    assert message.startswith("tiny-hooked: a HookedTransformer takes no Hugging Face cache")
    assert message.endswith("load it as a TransformerBridge")


def test_a_hook_point_that_w_out_does_not_read_is_refused(hooked):
    forward = hooked.blocks[1].mlp.forward
    hooked.blocks[1].mlp.forward = lambda x: 2 * forward(x)
    with pytest.raises(ModelError, match=r"blocks\.1\.mlp\.hook_post of .* is not the input"):
        cna_lens.collect(hooked, [[1, 5, 6], [1, 5, 7]])


@pytest.mark.parametrize("name", ["Cohere", "Cohere 2"])
def test_a_family_with_a_wrong_bridge_is_refused(name):
    family = next(family for family in FAMILIES if family.name == name)
    assert family not in families.RUNNABLE
    with pytest.raises(ModelError, match=r"does not compute what .* differs from layer 0 on"):
        tried(tiny_model(family).model)
