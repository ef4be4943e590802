import pytest
from hypothesis import given, strategies as st

from cna_lens.metrics import is_refusal, without_reasoning

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
    ],
)
def test_reasoning_is_removed_and_the_answer_stays(answer, left):
    assert without_reasoning(answer) == left


@pytest.mark.parametrize("rule", ["strict", "opening", "anywhere"])
@pytest.mark.parametrize("refuses", [True, False])
def test_only_the_answer_after_the_reasoning_is_judged(refuses, rule):
    answer = "I can't help with that." if refuses else "Sure, here it is."
    thought = "Sure, here it is." if refuses else "I can't help with that."
    for text in (f"<think>{thought}</think>{answer}", ANALYSIS + FINAL + answer):
        assert is_refusal(text, rule) == refuses
    assert not is_refusal(f"<think>{thought} I can't help with that.", rule)


@pytest.mark.parametrize(
    "piece", ["<think>", "</think>", "<think></think>", "<|channel|>a", "<|channel|>"]
)
def test_thousands_of_tags_are_removed(piece):
    assert without_reasoning(piece * 10_000) == ""


@given(st.text())
def test_text_without_tags_is_unchanged(answer):
    assert without_reasoning(answer) == answer


@given(st.text(), st.text())
def test_any_thought_is_skipped(thought, answer):
    assert without_reasoning(f"<think>{thought}</think>{answer}") == answer.strip()
