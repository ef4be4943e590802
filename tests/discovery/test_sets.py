"""Each function that contrasts two prompt sets checks them alike."""

from functools import partial

import pytest
import tiny

import cna_lens

CALLS = {
    "find_circuit": partial(cna_lens.find_circuit, universal=None, progress=False),
    "score_neurons": cna_lens.score_neurons,
    "difference_of_means": partial(cna_lens.difference_of_means, site="hook_resid_post"),
    "caa": cna_lens.caa,
    "directional_ablation": partial(cna_lens.directional_ablation, layer=1),
    "sae_features": lambda model, positive, negative: cna_lens.sae_features(
        model, tiny.autoencoder(), positive, negative, k=1
    ),
}


@pytest.fixture(params=CALLS)
def call(request):
    return CALLS[request.param]


@pytest.mark.parametrize(
    ("positive", "negative", "message"),
    [
        (["w5", "w6", "w5"], ["w7"], "1 of the 3 positive prompts are duplicates"),
        (["w7"], ["w5", "w5", "w5"], "2 of the 3 negative prompts are duplicates"),
        (["w5", "w6"], ["w7", "w6"], "1 prompts stand in both sets"),
    ],
)
def test_prompts_that_count_twice_or_cancel_out_are_warned_about(
    llama, call, positive, negative, message
):
    with pytest.warns(cna_lens.CnaLensWarning, match=message):
        call(llama, positive, negative)


def test_errors_name_the_set_of_a_prompt(llama, call):
    with pytest.raises(cna_lens.InputError, match=r"positive\[1\] holds token id 99"):
        call(llama, [[5], [99]], [[6]])
    with pytest.raises(cna_lens.InputError, match=r"negative\[0\] holds token id 99"):
        call(llama, [[5]], [[99]])
