import pytest
from hypothesis import assume, given, strategies as st

from cna_lens import REASONING_FORMATS, InputError, ReasoningFormat
from cna_lens.metrics import is_refusal, label, no_answer, without_reasoning
from cna_lens.models.prompts.reasoning_formats import opening_at_end

FINAL = "<|channel|>final<|message|>"
ANALYSIS = "<|channel|>analysis<|message|>I can't?<|end|><|start|>assistant"


@pytest.mark.parametrize(
    ("answer", "left"),
    [
        ("<think>I can't.</think>\n\nParis.", "Paris."),
        ("  <THINK>\nI can't.\n</THINK>Paris.\n", "Paris."),
        ("<thinking>Hm.</thinking> Paris.", "Paris."),
        ("<thought>Hm.</thought> Paris.", "Paris."),
        ("<reasoning>Hm.</reasoning> Paris.", "Paris."),
        ("<reflection>Hm.</reflection> Paris.", "Paris."),
        ("[THINK]Hm.[/THINK]Paris.", "Paris."),
        ("\u25c1think\u25b7Hm.\u25c1/think\u25b7Paris.", "Paris."),
        ("<think></think>Paris.", "Paris."),
        ("<think>One.</think><think>Two.</think>Paris.", "Paris."),
        ("<think>One <think>two</think> three</think>Paris.", "Paris."),
        ("Which city? It is\n</think>\nParis.", "Paris."),
        ("**<think>Hm.</think> Paris.**", "Paris.**"),
        ("<think>Which city? It", ""),
        ("<think>Done.</think><think>Or not", ""),
        ("<think>Done.</think>", ""),
        (ANALYSIS + FINAL + "Paris.<|return|>", "Paris."),
        (FINAL + "Paris.<|end|>", "Paris."),
        (ANALYSIS, ""),
        ("<|channel|>analysis", ""),
        ("analysisI can't? Well.assistantfinalParis.", "Paris."),
        (
            "Analysis of the poem: it has a final line.",
            "Analysis of the poem: it has a final line.",
        ),
        ("Write <think>why</think> before it.", "Write <think>why</think> before it."),
        (" Paris. ", " Paris. "),
        ("", ""),
        ("<think>\nHm.\n</think>\n<answer>\nParis.\n</answer>", "Paris."),
        ("<thinking>Hm. <reflection>No.</reflection></thinking><output>Paris.</output>", "Paris."),
        ("<think>Hm.</think>Say </answer>.", "Say </answer>."),
        ("<think>Is </reasoning> a tag?</think>Paris.", "Paris."),
        ("<|channel|>analysis<|message|>Hm.<|end|>" + FINAL.replace("final", "final x"), ""),
        ("<|channel|>final <|constrain|>json<|message|>{}", "{}"),
        (ANALYSIS + FINAL + "Paris.<|end|><|start|>assistant<|channel|>commentary", "Paris."),
        ("I can't.\nHere is my response: Paris.", "I can't.\nHere is my response: Paris."),
    ],
)
def test_reasoning_is_removed_and_the_answer_stays(answer, left):
    assert without_reasoning(answer) == left


@pytest.mark.parametrize("known", REASONING_FORMATS, ids=lambda known: known.source)
def test_every_known_format_is_split(known):
    assert known.source.startswith("https://")
    ends = known.answer_closings[:1] or ("",)
    reasoning = f"{known.opening} I can't. "
    answer = f"{known.answer_opening}Sure, here it is.{ends[0]}"
    whole = f"{reasoning}{known.closing}{answer}"
    assert without_reasoning(whole) == "Sure, here it is."
    assert without_reasoning(whole.lower()) == "sure, here it is."
    assert not is_refusal(whole)
    # An answer that is cut inside its reasoning is none.
    for cut in range(len(known.opening), len(reasoning) + len(known.closing)):
        assert no_answer(whole[:cut])
        assert label(["a"], [whole[:cut]]).outcomes == ["no answer"]
    alone = without_reasoning(f"I can't. {known.closing}{answer}")
    assert (alone == "Sure, here it is.") == known.opened_by_template
    assert without_reasoning(f"Use {known.opening}") == f"Use {known.opening}"


def test_markers_of_ones_own_come_beside_the_known_ones():
    own = [ReasoningFormat("((", "))")]
    assert without_reasoning("((Hm.))Paris.", own) == "Paris."
    assert without_reasoning("((Hm.", own) == ""
    assert without_reasoning("((Hm.))Paris.") == "((Hm.))Paris."
    assert without_reasoning("<think>Hm.</think>Paris.", own) == "Paris."
    assert label(["a"], ["((I can't help."], reasoning=own).outcomes == ["no answer"]
    assert label(["a"], ["((Hm.))I can't help."], reasoning=own).refused == [True]


@pytest.mark.parametrize("markers", [("", "x"), ("x", " "), ("x", "x")])
def test_markers_that_cannot_be_told_apart_are_refused(markers):
    with pytest.raises(InputError, match="expected two different markers"):
        ReasoningFormat(*markers)


@pytest.mark.parametrize("rule", ["strict", "opening", "anywhere"])
@pytest.mark.parametrize("refuses", [True, False])
def test_only_the_answer_after_the_reasoning_is_judged(refuses, rule):
    answer = "I can't help with that." if refuses else "Sure, here it is."
    thought = "Sure, here it is." if refuses else "I can't help with that."
    for text in (f"<think>{thought}</think>{answer}", ANALYSIS + FINAL + answer):
        assert is_refusal(text, rule) == refuses
    assert not is_refusal(f"<think>{thought} I can't help with that.", rule)


@pytest.mark.parametrize(
    "piece",
    ["<think>", "</think>", "<think></think>", "<|channel|>a", "<|channel|>", "<|channel|>final"],
)
def test_thousands_of_tags_are_removed(piece):
    assert without_reasoning(piece * 10_000) == ""


def test_a_prompt_that_ends_where_the_answer_begins_opens_no_reasoning():
    assert opening_at_end(ANALYSIS + FINAL) == ""
    assert opening_at_end("<|start|>assistant<|channel|>analysis<|message|>") == "<|channel|>"
    assert opening_at_end("<think>\n") == "<think>"
    assert opening_at_end("<think>I can't?</think>") == ""


@given(st.text(st.characters(exclude_characters="<[◁")))
def test_text_without_tags_is_unchanged(answer):
    assert without_reasoning(answer) == answer


@given(st.text(), st.text())
def test_any_thought_is_skipped(thought, answer):
    # Hypothesis knows the markers, which would end the thought, or begin another one.
    assume(without_reasoning(f"<think>{thought}") == "" and without_reasoning(answer) == answer)
    assert without_reasoning(f"<think>{thought}</think>{answer}") == answer.strip()
