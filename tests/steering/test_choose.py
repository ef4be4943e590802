import pytest
import torch
from steered import NEGATIVE, POSITIVE

import cna_lens
from cna_lens.metrics import refusal_log_odds

VALIDATION = [[14, 15, 16], [17, 18]]


def openings(model, prompts):
    return refusal_log_odds(model, prompts, openings=["w5", "w40"])


@pytest.fixture
def candidates(llama):
    caa = cna_lens.caa_candidates(llama, POSITIVE, NEGATIVE, coefficient=2.0)
    return (*caa, *map(cna_lens.random_direction, caa))


@pytest.mark.parametrize(("prefer", "best"), [("lowest", min), ("highest", max)])
def test_the_best_mean_over_the_validation_prompts_wins(llama, candidates, prefer, best):
    scores = []
    for method in candidates:
        with method.at(llama, 0.5):
            scores.append(sum(openings(llama, VALIDATION)) / 2)
    choice = cna_lens.choose(llama, candidates, openings, VALIDATION, prefer=prefer, strength=0.5)
    assert choice.scores == pytest.approx(scores)
    assert choice.best is candidates[scores.index(best(scores))]
    assert choice.unsteered == pytest.approx(sum(openings(llama, VALIDATION)) / 2)


def test_the_table_holds_every_candidate(llama, candidates):
    choice = cna_lens.choose(llama, candidates, openings, VALIDATION)
    table = choice.to_frame()
    assert list(table["method"]) == [method.name for method in candidates]
    assert list(table["score"]) == list(choice.scores)
    assert list(table["change"]) == [score - choice.unsteered for score in choice.scores]
    assert list(table.loc[table["chosen"], "method"]) == [choice.best.name]


@pytest.mark.parametrize("prefer", ["lowest", "highest"])
def test_among_equals_the_first_one_is_taken(llama, candidates, prefer):
    choice = cna_lens.choose(
        llama, candidates, lambda model, prompts: [1.0, 2.0], VALIDATION, prefer=prefer
    )
    assert choice.best is candidates[0]
    assert choice.scores == (1.5,) * 4


def test_nothing_is_left_behind_if_the_metric_fails(llama, candidates):
    with torch.no_grad():
        before = llama(torch.tensor([VALIDATION[0]]))
    calls = []

    def fail_when_steered(model, prompts):
        if calls:
            raise KeyError
        calls.append(None)
        return [0.0, 0.0]

    with pytest.raises(KeyError):
        cna_lens.choose(llama, candidates, fail_when_steered, VALIDATION)
    with torch.no_grad():
        assert torch.equal(llama(torch.tensor([VALIDATION[0]])), before)


@pytest.mark.usefixtures("without_type_checks")
def test_invalid_arguments_are_refused(llama, candidates):
    def choose(methods=candidates, metric=openings, prompts=VALIDATION, **options):
        return cna_lens.choose(llama, methods, metric, prompts, **options)

    for arguments, message in (
        ({"methods": ()}, "candidates is empty"),
        ({"prompts": []}, "prompts is empty"),
        ({"prefer": "best"}, "prefer is 'best', expected 'lowest' or 'highest'"),
        ({"metric": lambda m, p: [1.0]}, "1 numbers for 2 prompts"),
        ({"metric": lambda m, p: [1.0, None]}, r"1 numbers for 2 prompts \(without steering\)"),
        ({"metric": lambda m, p: [1.0, float("nan")]}, "it must give one for each"),
        ({"metric": lambda m, p: [1.0, 2.0, 3.0]}, "3 numbers for 2 prompts"),
    ):
        with pytest.raises(cna_lens.InputError, match=message):
            choose(**arguments)
