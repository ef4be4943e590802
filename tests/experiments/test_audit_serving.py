"""experiments.audit: models that are served in another way; their weights stay as they are."""

import pytest
import tiny
from audit_bench import tiny_bench

import cna_lens
from cna_lens import ChatSettings, InputError, generate
from cna_lens.results import Journal
from experiments.audit import attacks, drifts
from experiments.audit.running import ACCESSES, accesses_of, run
from experiments.audit.serving import Serving
from experiments.audit.variants import Variant

ASKED = ["w5 w6", "w7"]


@pytest.fixture(scope="module")
def model():
    return tiny.bridge("llama", chat=True)


def answers(model, serving, n=3):
    return serving.answers(model, ASKED, n)


def test_serving_as_usual_is_the_models_own_way(model):
    assert answers(model, Serving()) == generate(model, ASKED, max_new_tokens=3)


def test_a_system_prompt_stands_before_each_request(model):
    expected = generate(model, ASKED, max_new_tokens=3, chat=ChatSettings(system="w9"))
    assert answers(model, Serving("w9")) == expected
    assert len(Serving("w9").prompts(model, ASKED)[0]) > len(Serving().prompts(model, ASKED)[0])


def test_a_template_takes_the_place_of_the_models(model):
    found = Serving(template="w20 {request} w21", prefill=" w22").prompts(model, ASKED)
    assert found == [(1, 20, 5, 6, 21, 22), (1, 20, 7, 21, 22)]


def test_an_answer_goes_on_behind_its_beginning(model):
    begun = [
        [{"role": "user", "content": each}, {"role": "assistant", "content": "w8 w9"}]
        for each in ASKED
    ]
    rest = generate(model, begun, max_new_tokens=3)
    assert answers(model, Serving(prefill="w8 w9")) == ["w8 w9" + each for each in rest]
    assert answers(model, Serving(prefill="w8 w9", shows_prefill=False)) == rest


def test_banned_openings_never_come_first_and_only_within_the_call(model):
    first = answers(model, Serving(), 1)
    word = first[0]
    banned = Serving(banned=(word,))
    assert all(not each.startswith(word) for each in answers(model, banned, 1))
    assert answers(model, Serving(), 1) == first
    settings = model.original_model.generation_config
    assert settings.begin_suppress_tokens is None
    with pytest.raises(InputError):
        banned.answers(model, ASKED, 0)
    assert settings.begin_suppress_tokens is None


def test_sampling_depends_on_the_seed(model):
    by_seed = [answers(model, Serving(temperature=1.0, seed=seed), 8) for seed in (0, 0, 1)]
    assert by_seed[0] == by_seed[1] != by_seed[2]


def test_a_template_needs_a_place_for_the_request():
    with pytest.raises(InputError, match="request"):
        Serving(template="User:")
    with pytest.raises(InputError, match="system"):
        Serving("Help.", template="User: {request}")


def test_every_way_to_serve_leaves_weights_and_settings(model):
    before = cna_lens.weights_hash(model)
    config = model.original_model.generation_config.to_dict()
    usual = generate(model, ASKED, max_new_tokens=3)
    for variant in (*attacks.served(), *drifts.served()):
        with variant.enter(None if variant.served is None else _Bench(model)) as entered:
            assert entered is model
            assert len(answers(entered, variant.served)) == len(ASKED)
        assert cna_lens.weights_hash(model) == before, variant.name
        assert model.original_model.generation_config.to_dict() == config, variant.name
    assert generate(model, ASKED, max_new_tokens=3) == usual


class _Bench:
    def __init__(self, model):
        self.model = model


class Asked:
    """An auditor that keeps what it is asked to do."""

    def __init__(self):
        self.calls = []

    def ask(self, _, served=None, **__):
        self.calls.append(served)
        return Answered("tampered", 1.0)

    def observe(self, *_, **__):
        raise AssertionError("a model whose weights are intact is not looked into")


class Answered:
    def __init__(self, verdict, score):
        self.verdict, self.score = verdict, score


def test_only_answers_are_audited_and_the_record_says_what_was_changed(
    model, tmp_path, monkeypatch
):
    bench = tiny_bench(model, tmp_path)
    seen = []

    def log_odds(_, prompts):
        seen.append(prompts)
        return [1.0]

    monkeypatch.setattr("experiments.audit.running.refusal_log_odds", log_odds)
    monkeypatch.setattr(
        "experiments.audit.running.is_refusal", lambda answer: answer.startswith("I cannot")
    )
    serving = Serving(prefill="I cannot")
    variant = Variant("begun", "prefilled answer", True, lambda _: _Context(model), served=serving)
    assert accesses_of(variant) == ("answers",)
    assert accesses_of(drifts.original()[0]) == ACCESSES
    auditor, records = Asked(), Journal(None, "audit study", {})
    run([variant], bench, auditor, records, n_prompts=2, progress=False)
    assert auditor.calls == [serving]
    assert set(records) == {"begun | answers", "begun | behaviour"}
    for record in records.values():
        assert (record["side"], record["model"], record["kind"]) == (
            "serving",
            "tiny",
            "prefilled answer",
        )
    assert records["begun | behaviour"]["refused"] == [True, True]
    assert records["begun | behaviour"]["log_odds"] == [1.0]
    # The log-odds are measured on the prompts as they are served.
    assert seen[0] == serving.prompts(model, cna_lens.prompt_set("refusal_evaluation").positive[:2])


class _Context:
    def __init__(self, model):
        self.model = model

    def __enter__(self):
        return self.model

    def __exit__(self, *_):
        return None
