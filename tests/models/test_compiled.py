"""Compiled programs: they compute what they say, and name the neurons that compute it."""

import json
import random
from dataclasses import replace

import pytest
import torch

import cna_lens
from cna_lens import AttributionPatching, Circuit, InputError, LogitDifference, ModelError, Neuron
from cna_lens.evidence import recovery
from cna_lens.models import CompiledProgram, hook_name
from cna_lens.models.loading import compiled as compiled_package

# A native bridge takes no cache; these programs are read and never continued.
pytestmark = pytest.mark.filterwarnings("ignore:.*takes no cache")

PAIRS = {"ab", "bc", "ca"}


def pair(text):
    return text[-2:] in PAIRS


def count(text):
    return text.count(text[-1]) >= 3


def chain(text):
    return len(text) > 1 and text[-2] in "ae" and text[-1] in "12"


MEANINGS = {"compiled/pair": pair, "compiled/count": count, "compiled/chain": chain}

# Directions that the causes are computed from.
SERVING = {"compiled/pair": (), "compiled/chain": (), "compiled/count": ("count:",)}


@pytest.fixture(params=sorted(MEANINGS))
def name(request):
    return request.param


@pytest.fixture
def model(name):
    return cna_lens.load_model(name, device="cpu")


def outputs(model, program, ids):
    """The program's output after each token but the first, which begins a prompt."""
    with torch.no_grad():
        logits = model(torch.tensor([ids]))[0, 1:]
    return [program.outputs[place] == "1" for place in logits.argmax(-1).tolist()]


def text_of(program, ids):
    begin, *rest = (program.tokens[each] for each in ids)
    assert begin == "begin"
    return "".join(rest)


def test_the_names_are_those_of_the_programs(name):
    assert set(cna_lens.compiled_programs()) == set(MEANINGS)
    assert cna_lens.compiled_truth(name).provenance.model == name


def test_a_program_computes_what_it_says_at_every_token(name, model):
    program, meaning = cna_lens.compiled_program(name), MEANINGS[name]
    letters = [each for each, token in enumerate(program.tokens) if len(token) == 1]
    begin = program.tokens.index("begin")
    rng = random.Random(1)
    seen = set()
    for _ in range(60):
        ids = [begin, *rng.choices(letters, k=rng.randint(1, 10))]
        text = text_of(program, ids)
        expected = [meaning(text[: end + 1]) for end in range(len(text))]
        assert outputs(model, program, ids) == expected, text
        seen |= set(expected)
    assert seen == {True, False}


def test_prompts_differ_in_one_token_and_in_their_last_output(name, model):
    program = cna_lens.compiled_program(name)
    assert len({*program.positive, *program.negative}) == 64
    for positive, negative in zip(program.positive, program.negative, strict=True):
        assert sum(a != b for a, b in zip(positive, negative, strict=True)) == 1
        assert outputs(model, program, positive)[-1]
        assert not outputs(model, program, negative)[-1]


def test_without_the_neurons_of_any_cause_no_output_is_one(name, model):
    program, truth = cna_lens.compiled_program(name), cna_lens.compiled_truth(name)
    writers = [set(program.writers(cause)) for cause in program.causes]
    assert set(truth) == set.union(*writers)
    for neurons in writers:
        part = Circuit(tuple(neurons), (1.0,) * len(neurons), program.layout)
        with cna_lens.steer(model, part, 0.0):
            assert not any(outputs(model, program, ids)[-1] for ids in program.positive)
    others = tuple(
        set(program.layout.neurons()) - set(truth) - set(program.writers(*SERVING[name]))
    )
    rest = Circuit(others, (1.0,) * len(others), program.layout)
    with cna_lens.steer(model, rest, 0.0):
        assert all(outputs(model, program, ids)[-1] for ids in program.positive)


def test_each_neuron_of_pair_is_active_after_its_two_tokens_alone():
    name = "compiled/pair"
    program, model = cna_lens.compiled_program(name), cna_lens.load_model(name, device="cpu")
    truth = cna_lens.compiled_truth(name)
    seen = {}

    def keep(activation, hook):
        seen["active"] = activation[0, -1] > 0.5

    for ids in (*program.positive, *program.negative):
        with model.hooks(fwd_hooks=[(hook_name(0), keep)]):
            model(torch.tensor([ids]))
        (active,) = seen["active"].nonzero()[:, 0].tolist()
        assert (Neuron(0, active) in set(truth)) == pair(text_of(program, ids))


def test_writers_are_read_from_the_weights():
    program = cna_lens.compiled_program("compiled/chain")
    assert set(program.writers("vowel:1", "chain:1")) < set(
        cna_lens.compiled_truth("compiled/chain")
    )
    assert len(program.writers("vowel:")) == 2
    assert set(program.writers("vowel:")) == {
        *program.writers("vowel:0"),
        *program.writers("vowel:1"),
    }
    assert {each.layer for each in program.writers("vowel:")} == {1}
    assert {each.layer for each in program.writers("chain:1")} == {2}
    with pytest.raises(InputError, match=r"no direction 'vowels:1'; there are: .*vowel:1"):
        program.writers("vowels:1")


def test_rankings_find_the_neurons_of_pair_and_not_those_of_count():
    found = {}
    for name in ("compiled/pair", "compiled/count"):
        program, model = cna_lens.compiled_program(name), cna_lens.load_model(name, device="cpu")
        scores = cna_lens.score_neurons(model, program.positive, program.negative, chat=False)
        found[name] = recovery(scores, cna_lens.compiled_truth(name)).overall
    assert found["compiled/pair"].auroc == found["compiled/pair"].precision == 1
    # All thresholds of the count change by the same amount, so that their differences are equal.
    assert found["compiled/count"].precision < 0.2


def test_a_threshold_that_both_sets_pass_has_no_gradient_on_the_positive_ones():
    name = "compiled/count"
    program, model = cna_lens.compiled_program(name), cna_lens.load_model(name, device="cpu")
    one, zero = program.outputs.index("1"), program.outputs.index("0")
    patching = AttributionPatching(metric=LogitDifference(target=one, foil=zero))
    scores = cna_lens.score_neurons(
        model, program.positive, program.negative, patching, chat=False
    ).values
    neurons = program.writers("count:3")
    places = Circuit(neurons, (1.0,) * len(neurons), program.layout).places
    # Those of two occurrences are not active after the third.
    assert int((scores[places] == 0).sum()) == 2


def test_a_program_comes_back_from_its_file(tmp_path):
    program = cna_lens.compiled_program("compiled/pair")
    digest = program.save(tmp_path / "it.safetensors")
    again = CompiledProgram.load(tmp_path / "it.safetensors")
    assert again.save(tmp_path / "again.safetensors") == digest
    assert (again.positive, again.directions, again.causes) == (
        program.positive,
        program.directions,
        program.causes,
    )
    assert all(torch.equal(again.weights[key], value) for key, value in program.weights.items())


def test_an_altered_byte_and_another_format_are_refused(tmp_path, monkeypatch):
    program = cna_lens.compiled_program("compiled/pair")
    path = tmp_path / "pair.safetensors"
    (tmp_path / "index.json").write_text(json.dumps({"pair": program.save(path)}))
    monkeypatch.setattr(compiled_package, "COMPILED_FOLDER", tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ModelError, match=r"pair\.safetensors is missing or altered; reinstall"):
        cna_lens.compiled_truth("compiled/pair")
    path.write_bytes(content.replace(b"cna_lens.compiled 1", b"cna_lens.compiled 9"))
    with pytest.raises(ModelError, match=r"its format is 'cna_lens\.compiled 9', expected 'cna"):
        CompiledProgram.load(path)
    path.write_bytes(b"no file of tensors")
    with pytest.raises(ModelError, match="cannot be read as a compiled program"):
        CompiledProgram.load(path)


def test_an_unknown_program_and_an_option_are_refused():
    for use in (cna_lens.compiled_truth, cna_lens.load_model):
        with pytest.raises(InputError, match=r"no compiled program 'compiled/sort'.*compiled/pair"):
            use("compiled/sort")
    with pytest.raises(InputError, match="no option but device and dtype, and n_devices was given"):
        cna_lens.load_model("compiled/pair", n_devices=2)
    with pytest.raises(InputError, match="compiled/pair is a compiled program, which has no conf"):
        cna_lens.requirements("compiled/pair")


def test_weights_that_the_bridge_lacks_or_would_keep_are_refused():
    program = cna_lens.compiled_program("compiled/pair")
    less = {k: v for k, v in program.weights.items() if k != "layers.0.mlp.fc_in.bias"}
    with pytest.raises(
        ModelError, match=r"other weights in a native bridge: .*mlp\.(in|fc_in)\.bias"
    ):
        replace(program, weights=less).model("less")
    more = {**program.weights, "layers.7.mlp.fc_in.bias": torch.zeros(3)}
    with pytest.raises(ModelError, match=r"native bridge: layers\.7\.mlp\.fc_in\.bias"):
        replace(program, weights=more).model("more")


def test_without_native_bridges_the_user_is_told(monkeypatch):
    from transformer_lens.model_bridge import TransformerBridge

    monkeypatch.delattr(TransformerBridge, "boot_native")
    with pytest.raises(ModelError, match=r"has no TransformerBridge\.boot_native"):
        cna_lens.load_model("compiled/pair")
