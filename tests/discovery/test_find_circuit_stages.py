import pytest
import tiny

import cna_lens

POSITIVE = ["w5 w6 w7", "w8 w9 w3 w4 w30", "w40 w41", "w50 w5 w51 w6"]
NEGATIVE = ["w33 w34 w35", "w36 w37", "w38 w39 w40 w41 w42 w43"]
DIVERSE = ["w44", "w45 w46", "w47 w48 w49", "w50 w51"]
OFTEN = cna_lens.UniversalRule(fraction=0.2, threshold=0.5)
K = 12


def universal(kind, model):
    """The argument for find_circuit, and the neurons for the stages."""
    if kind == "none":
        return None, None
    if kind == "default":
        return "default", cna_lens.universal_neurons(model, chat=False)
    if kind == "given":
        given = cna_lens.universal_neurons(model, DIVERSE, rule=OFTEN, chat=False)
        assert len(given) > 0
        return given, given
    return [(0, 3), (1, 20)], [(0, 3), (1, 20)]


def find(model, **options):
    return cna_lens.find_circuit(
        model, POSITIVE, NEGATIVE, k=K, chat=False, progress=False, **options
    )


@pytest.mark.parametrize("kind", ["none", "default", "given", "pairs"])
@pytest.mark.parametrize("applied", ["before", "after"])
def test_the_stages_composed_by_hand_give_the_same_circuit(model, kind, applied):
    passed, neurons = universal(kind, model)
    composed = find(model, universal=passed, universal_filter=applied)

    positive = cna_lens.collect(model, POSITIVE, chat=False)
    negative = cna_lens.collect(model, NEGATIVE, chat=False)
    scores = cna_lens.rank(positive, negative)
    if neurons is None:
        by_hand = scores.top(k=K)
    elif applied == "before":
        by_hand = cna_lens.filter_universal(scores, neurons).top(k=K)
    else:
        by_hand = cna_lens.filter_universal(scores.top(k=K), neurons)

    assert composed.neurons == by_hand.neurons
    assert composed.scores == pytest.approx(by_hand.scores, rel=1e-4)
    assert composed.layout == by_hand.layout
    assert composed.provenance == by_hand.provenance


def test_universal_neurons_excluded_before_leave_the_circuit_its_size(llama):
    plain = find(llama, universal=None)
    excluded = [*plain.neurons[:2], *sorted(set(everything(llama)) - set(plain))[:1]]
    filtered = find(llama, universal=excluded)
    assert len(filtered) == K
    assert filtered.neurons[: K - 2] == plain.neurons[2:]
    assert not set(filtered) & set(excluded)
    assert filtered.provenance.universal == cna_lens.UniversalRecord(3, applied="before")


def test_universal_neurons_excluded_after_shrink_the_circuit(llama):
    plain = find(llama, universal=None)
    excluded = [*plain.neurons[:2], *sorted(set(everything(llama)) - set(plain))[:1]]
    filtered = find(llama, universal=excluded, universal_filter="after")
    assert filtered.neurons == plain.neurons[2:]
    assert filtered.provenance.universal == cna_lens.UniversalRecord(3, applied="after")


def everything(model):
    return cna_lens.find_circuit(
        model, POSITIVE, NEGATIVE, fraction=1.0, universal=None, chat=False, progress=False
    )


def test_the_default_universal_neurons_are_those_of_the_packaged_prompts(llama):
    record = find(llama).provenance.universal
    found = cna_lens.universal_neurons(llama, cna_lens.diverse_prompts(), chat=False)
    assert record.prompts == found.prompts
    assert record.n_neurons == len(found)
    assert (record.fraction, record.threshold) == (0.001, 0.8)


def test_neurons_that_fire_on_every_prompt_are_universal():
    model = tiny.bridge("llama")
    loud = {(0, 5), (1, 11)}

    def shout(activation, hook):
        activation = activation.clone()
        for layer, index in loud:
            if layer == hook.layer():
                activation[..., index] -= 1000
        return activation

    hooks = [(f"blocks.{layer}.mlp.hook_post", shout) for layer in (0, 1)]
    rule = cna_lens.UniversalRule(fraction=2 / 48)
    with model.hooks(fwd_hooks=hooks):
        found = cna_lens.universal_neurons(model, DIVERSE, rule=rule, chat=False)
        circuit = find(model, universal=found)
    assert set(found.neurons) == loud
    assert not set(circuit) & loud
