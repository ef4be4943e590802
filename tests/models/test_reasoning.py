"""Reasoning that a model writes itself: kept in the text, and read behind."""

from itertools import pairwise

import pytest
import torch
from reasoner import CLOSE, NEW_LINE, NEXT, OPEN, SPECIAL_CLOSE, SPECIAL_OPEN, reasoner

import cna_lens
from cna_lens import ChatSettings, InputError, ReasoningFormat, generate, with_reasoning
from cna_lens.metrics import (
    evaluate,
    is_refusal,
    kl_per_token,
    label,
    no_answer,
    perplexity,
    refusal_log_odds,
    without_reasoning,
)
from cna_lens.models import encode

FORCED = ChatSettings(options={"forced": True})
OWN = ReasoningFormat("w42", "w41")
PROMPTS = ["w5", "w6 w8", "w30 w7", "w11 w12 w5"]
REASONED = [
    (5, SPECIAL_OPEN, 50, 51, SPECIAL_CLOSE),
    (6, 8, OPEN, 52, CLOSE),
    (30, 7),
    (11, 12, 5, SPECIAL_OPEN, 50, 51, SPECIAL_CLOSE),
]


@pytest.fixture(scope="module")
def model():
    return reasoner()


def test_special_tokens_that_mark_reasoning_stay_in_the_text(model):
    assert generate(model, PROMPTS) == [
        "[THINK]w50 w51[/THINK]w20 w22",
        "<think> w52 </think> w21",
        "w30 w31",
        "[THINK]w50 w51[/THINK]w20 w22",
    ]
    assert [without_reasoning(answer) for answer in generate(model, PROMPTS)] == [
        "w20 w22",
        "w21",
        "w30 w31",
        "w20 w22",
    ]


def test_other_special_tokens_are_left_out():
    model = reasoner()
    model.tokenizer.add_special_tokens(
        {"additional_special_tokens": ["[THINK]", "[/THINK]", "w22"]}
    )
    assert generate(model, ["w5"]) == ["[THINK]w50 w51[/THINK]w20"]


def test_a_stream_ends_with_the_answer_of_generate(model):
    for prompt in PROMPTS:
        *_, last = cna_lens.stream(model, prompt, chat=FORCED)
        assert [last] == generate(model, [prompt], chat=FORCED)


@pytest.mark.parametrize(
    "begun",
    [
        {"prompt": "w7", "chat": FORCED},
        {"prompt": [7, OPEN], "chat": "auto"},
        {"prompt": [{"role": "assistant", "content": "<think> w7 w40"}], "chat": "auto"},
    ],
    ids=["template", "token ids", "message"],
)
def test_reasoning_that_the_prompt_opens_is_no_answer_until_it_ends(model, begun):
    prompt, chat = begun["prompt"], begun["chat"]
    (cut,) = generate(model, [prompt], chat=chat, max_new_tokens=1)
    assert cut == "<think>w52"
    assert no_answer(cut)
    (whole,) = generate(model, [prompt], chat=chat)
    assert without_reasoning(whole) == "w21"


def test_a_marker_inside_a_prompt_opens_nothing(model):
    assert generate(model, ["<think> w8"], max_new_tokens=1) == ["<think>"]
    assert generate(model, ["<think> w7"], max_new_tokens=1) == ["w30"]


def test_an_answer_goes_on_behind_the_marker_that_its_prompt_opens(model):
    answers = generate(model, ["w7"], chat=FORCED)
    by_ids = perplexity(model, [[7, OPEN]], ["w52 </think> w21"])
    assert perplexity(model, ["w7"], answers, chat=FORCED) == by_ids
    assert perplexity(model, [[7, OPEN]], ["<think> w52 </think> w21"]) == by_ids


@pytest.mark.parametrize("batch_size", [1, 4])
def test_prompts_end_where_the_answers_begin(model, batch_size):
    assert with_reasoning(model, PROMPTS, batch_size=batch_size) == REASONED
    answers = generate(model, REASONED)
    assert answers == [without_reasoning(answer) for answer in generate(model, PROMPTS)]


def test_reasoning_that_the_prompt_opens_is_ended_too(model):
    expected = [(7, OPEN, 52, CLOSE)]
    assert with_reasoning(model, ["w7"], chat=FORCED) == expected
    assert with_reasoning(model, [[7, OPEN]]) == expected
    begun = [{"role": "user", "content": "w7"}, {"role": "assistant", "content": "<think> w9 w52"}]
    assert with_reasoning(model, [begun]) == [(7, OPEN, 9, 52, CLOSE)]


def test_white_space_behind_the_closing_marker_belongs_to_the_prompt():
    model = reasoner({**NEXT, CLOSE: NEW_LINE, NEW_LINE: 21})
    assert with_reasoning(model, ["w8"]) == [(8, OPEN, 52, CLOSE, NEW_LINE)]


def test_an_empty_answer_begins_behind_the_reasoning(model):
    # "w31" ends the turn, and closes the reasoning here.
    own = ChatSettings(reasoning=[ReasoningFormat("w30", "w31")])
    assert with_reasoning(model, ["w7"], chat=own) == [(7, 30, 31)]


def test_nothing_is_generated_behind_the_answers_first_token():
    # Longer than the part of an answer in which markers are looked for.
    thought = list(range(12, 50))
    path = [5, SPECIAL_OPEN, *thought, SPECIAL_CLOSE, 50, 51, 52, 53]
    model = reasoner(dict(pairwise(path)))
    passes = []
    with model.hooks(
        fwd_hooks=[("blocks.0.mlp.hook_post", lambda activation, hook: passes.append(1))]
    ):
        assert with_reasoning(model, ["w5"]) == [tuple(path[:-4])]
    assert len(passes) == len([SPECIAL_OPEN, *thought, SPECIAL_CLOSE, "w50"])


def test_reasoning_without_an_end_names_the_prompt(model):
    endless = [{"role": "assistant", "content": "<think> w53"}]
    with pytest.raises(InputError, match=r"about prompts\[1\] does not end within 9 tokens"):
        with_reasoning(model, ["w5", endless], max_new_tokens=9)
    # The context holds 256 tokens, of which the prompt takes 2.
    with pytest.raises(InputError, match=r"does not end within 254 tokens"):
        with_reasoning(model, [endless])
    with pytest.raises(InputError, match=r"ends its turn inside its reasoning about prompts\[0\]"):
        with_reasoning(model, [[{"role": "assistant", "content": "<think> w55"}]])
    with pytest.raises(InputError, match=r"about negative\[0\] does not end"):
        cna_lens.find_circuit(
            model, ["w5"], [endless], k=1, universal=None, position="answer", progress=False
        )


def test_a_marker_at_the_bound_has_not_ended_the_reasoning(model):
    with pytest.raises(InputError, match="does not end within 4 tokens"):
        with_reasoning(model, ["w5"], max_new_tokens=4)
    assert with_reasoning(model, ["w5"], max_new_tokens=5) == REASONED[:1]


def test_markers_of_ones_own_are_told(model):
    with pytest.raises(InputError, match="does not reason about any of the 1 prompts"):
        with_reasoning(model, ["w10"])
    own = ChatSettings(reasoning=[OWN])
    assert with_reasoning(model, ["w10"], chat=own) == [(10, 42, 56, 57, 41)]
    evaluation = evaluate(model, ["w10"], max_new_tokens=3, chat=own)
    assert evaluation.outcomes == ["no answer"]
    assert evaluate(model, ["w10"], max_new_tokens=3).outcomes == ["other"]
    assert without_reasoning("w42 w56 w57 w41 w23", [OWN]) == "w23"


def test_a_marker_of_several_tokens_is_waited_for(model):
    chat = ChatSettings(reasoning=[ReasoningFormat("w42 w56", "w41")])
    assert with_reasoning(model, ["w10"], chat=chat) == [(10, 42, 56, 57, 41)]


def test_a_comparison_is_about_the_answers(model):
    layout = cna_lens.collect(model, PROMPTS).layout
    circuit = cna_lens.Circuit((cna_lens.Neuron(1, 3),), (1.0,), layout)
    table = cna_lens.compare(
        model,
        [cna_lens.ablation(circuit)],
        cna_lens.PromptSet("words", "to compare on", ("w5", "w10", "w7"), ("w8",)),
        [1.0],
        {},
        shows_behaviour=lambda answer: any(word in answer for word in ("w50", "w56", "w30")),
        max_new_tokens=3,
        chat=ChatSettings(reasoning=[OWN]),
        progress=False,
    )
    assert table.outcomes[0].positive == (False, False, True)
    assert table.outcomes[0].no_answer == (True, True, False)


def test_what_opens_the_answer_is_no_part_of_it(model):
    own = ReasoningFormat("w42", "w41", answer_opening="w23", answer_closings=("w24",))
    chat = ChatSettings(reasoning=[own])
    assert with_reasoning(model, ["w10"], chat=chat) == [(10, 42, 56, 57, 41, 23)]
    assert without_reasoning("w42 w56 w41 w23 w5 w24 w6", [own]) == "w5"
    assert without_reasoning("w42 w56 w41 w5 w24 w6", [own]) == "w5 w24 w6"


def test_activations_are_read_where_the_answer_begins(model):
    found = cna_lens.collect(model, PROMPTS, position="answer")
    expected = cna_lens.collect(model, [list(ids) for ids in REASONED])
    torch.testing.assert_close(found.mean, expected.mean)
    assert found.source.position == "answer"
    assert found.source.prompts == expected.source.prompts
    assert (found.mean - cna_lens.collect(model, PROMPTS).mean).abs().max() > 1e-3


def test_circuits_are_found_where_the_answer_begins(model):
    options = {"k": 5, "universal": None, "progress": False}
    circuit = cna_lens.find_circuit(model, PROMPTS[:2], PROMPTS[2:], position="answer", **options)
    expected = cna_lens.find_circuit(model, REASONED[:2], REASONED[2:], **options)
    assert circuit.neurons == expected.neurons
    assert circuit.provenance.position == "answer"
    assert circuit != cna_lens.find_circuit(model, PROMPTS[:2], PROMPTS[2:], **options)


def test_the_diverse_prompts_are_read_there_too(model):
    universal = cna_lens.universal_neurons(model, PROMPTS, position="answer")
    assert universal.prompts == encode(model, REASONED).record
    assert torch.equal(universal.counts, cna_lens.universal_neurons(model, REASONED).counts)


def test_directions_are_read_where_the_answer_begins(model):
    read = {"site": "hook_resid_post"}
    found = cna_lens.difference_of_means(model, PROMPTS[:2], PROMPTS[2:], position="answer", **read)
    expected = cna_lens.difference_of_means(model, REASONED[:2], REASONED[2:], **read)
    torch.testing.assert_close(found.vectors, expected.vectors)


def test_log_odds_are_of_the_answers_first_token(model):
    openings = ["w20"]
    found = refusal_log_odds(model, PROMPTS, openings=openings, position="answer")
    assert found == pytest.approx(refusal_log_odds(model, REASONED, openings=openings))
    assert found[0] > found[1]
    assert found[0] > refusal_log_odds(model, PROMPTS[:1], openings=openings)[0] + 1


@pytest.mark.usefixtures("without_type_checks")
def test_other_places_of_the_log_odds_are_refused(model):
    with pytest.raises(InputError, match="position is 3, expected -1"):
        refusal_log_odds(model, PROMPTS, position=3)
    with pytest.raises(InputError, match="position is 'end', expected a whole number"):
        cna_lens.collect(model, PROMPTS, position="end")


def test_steering_from_the_answer_on_leaves_the_reasoning(model):
    layout = cna_lens.collect(model, PROMPTS).layout
    circuit = cna_lens.Circuit((cna_lens.Neuron(1, 3),), (1.0,), layout)

    def steering():
        return cna_lens.steer(model, circuit, 50.0, positions="generated")

    reasoned = with_reasoning(model, ["w5"])
    (kl,) = kl_per_token(model, steering, reasoned, ["w20 w22"])
    (first,) = kl_per_token(model, steering, reasoned, ["w20"])
    assert kl > first == 0
    (whole,) = kl_per_token(model, steering, ["w5"], generate(model, ["w5"]))
    assert whole > 0


def test_an_anchor_needs_a_token_of_the_prompt(model):
    stats = cna_lens.collect(model, PROMPTS, position="answer")
    circuit = cna_lens.Circuit((cna_lens.Neuron(1, 3),), (1.0,), stats.layout)
    with pytest.raises(InputError, match=r'statistics at position "answer"'):
        cna_lens.magnitude_anchor(circuit, stats, stats, target=0.0)


def test_without_a_tokenizer_reasoning_cannot_be_found():
    model = reasoner()
    model.tokenizer = None
    with pytest.raises(InputError, match="no tokenizer, by which its reasoning is found"):
        with_reasoning(model, [[5]])


def test_a_refusal_in_the_reasoning_is_not_the_answers():
    from reasoner import WORDS
    from tiny import tokenizer

    from cna_lens.models.prompts.reasoning_formats import marked_text, special_markers

    words = tokenizer(more_words=(*WORDS, "I", "can't.", "Sure,", "here."))
    words.add_special_tokens({"additional_special_tokens": ["[THINK]", "[/THINK]"]})
    ids = words("[THINK] I can't. [/THINK] Sure, here.", add_special_tokens=False)["input_ids"]
    assert is_refusal(words.decode(ids, skip_special_tokens=True))
    text = marked_text(words, ids, special_markers(words))
    assert not is_refusal(text)
    assert without_reasoning(text) == "Sure, here."
    assert label(["w5"], [text]).refused == [False]
