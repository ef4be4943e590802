"""The compiled programs of the package are those of the experiment, and it scores every ranking."""

import pytest

import cna_lens
from experiments.compiled.exact import figures
from experiments.compiled.programs import PROGRAMS, prompts

pytestmark = pytest.mark.filterwarnings("ignore:.*takes no cache")


@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_the_packaged_prompts_are_those_that_are_drawn(name):
    packaged, program = cna_lens.compiled_program(f"compiled/{name}"), PROGRAMS[name]
    assert (packaged.description, packaged.causes) == (program.description, program.causes)
    assert set(packaged.tokens) == {*program.letters, "begin", "compiler_pad"}
    for ids, texts in zip((packaged.positive, packaged.negative), prompts(program), strict=True):
        assert [tuple(packaged.tokens[i] for i in one[1:]) for one in ids] == list(texts)


@pytest.mark.long
def test_a_programs_variables_are_scored_apart():
    rows = {row["ranking"]: row["variables"]["count:3"] for row in figures("compiled/count")}
    # Those of two occurrences are not active after the third, and have no effect there.
    assert rows["exact effect"]["n"] == 4
    assert rows["exact effect"]["zero_scores"] == rows["attribution_patching"]["zero_scores"] == 2


@pytest.mark.long
def test_every_ranking_and_the_exact_effect_have_a_row():
    rows = {row["ranking"]: row for row in figures("compiled/pair")}
    assert set(rows) == {*cna_lens.RANKINGS, "exact effect"} - {"relp"}
    exact = rows["exact effect"]
    assert exact["variables"] == {}
    assert exact["zero_scores"] == 0
    assert (exact["k"], exact["n_neurons"]) == (3, 36)
    assert exact["auroc"] == exact["precision"] == 1
    assert exact["outputs_of_1"] == exact["outputs_of_1_without_causes"] == 0
    assert rows["random"]["outputs_of_1"] > 0.5
