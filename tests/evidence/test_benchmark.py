"""The bench on planted models: a ranking that knows the truth, one that does not, and its files."""

import itertools
import math
from dataclasses import dataclass, replace
from statistics import fmean

import pytest
import torch
from bench_results import SHARES, effect, scored

from cna_lens import InputError, RandomScores, Ranking, planted_models, planted_truth
from cna_lens.evidence import League, Scored, bench_rankings, benchmark
from cna_lens.evidence.benchmark import FRACTIONS
from cna_lens.evidence.known_truth import Found
from cna_lens.metrics import BEHAVIOURS
from cna_lens.models import planting

NAME = next(name for name in planted_models("tuning") if "-138-all-" in name)


@dataclass(frozen=True)
class Oracle(Ranking):
    """Knows which neurons were planted, and drops some of them."""

    dropped: int = 0
    name = "oracle"
    needs = "statistics"

    def score(self, collected):
        layout = collected.positive.layout
        values = torch.zeros(layout.n_neurons, dtype=torch.float64)
        values[planted_truth(NAME).places[self.dropped :]] = 1.0
        return collected.scored(self, values)


@pytest.fixture(scope="module")
def few():
    """The behaviour of the planted model with few prompts, and few sizes."""
    with pytest.MonkeyPatch.context() as patch:
        behaviour = BEHAVIOURS[planting(NAME).behaviour]

        @dataclass(frozen=True)
        class Few(type(behaviour)):
            @property
            def discovery(self):
                return cut(behaviour.discovery)

            @property
            def evaluation(self):
                return cut(behaviour.evaluation)

        def cut(prompts):
            return replace(prompts, positive=prompts.positive[:6], negative=prompts.negative[:6])

        given = {each: getattr(behaviour, each) for each in behaviour.__dataclass_fields__}
        patch.setattr(benchmark, "BEHAVIOURS", {behaviour.name: Few(**given)})
        patch.setattr(benchmark, "FRACTIONS", FRACTIONS[2:4])
        patch.setattr(benchmark, "MAX_NEW_TOKENS", 8)
        patch.setattr(benchmark, "N_CURVE_PROMPTS", 2)
        yield


@pytest.fixture(scope="module")
def league(few, tmp_path_factory):
    rankings = [Oracle(), RandomScores()]
    journal = tmp_path_factory.mktemp("bench") / "tuning.jsonl"
    return bench_rankings(
        rankings, split="tuning", models=[NAME], journal=journal, device="cpu"
    ), journal


@pytest.mark.real_model
def test_a_ranking_that_knows_the_truth_has_all_of_the_oracles_effect(league):
    knows, random = league[0].scored
    assert knows.recovery.overall == knows.recovery.within_layers == Found(1.0, 1.0, 1.0)
    assert knows.share_of_oracle == 1
    assert knows.chosen == knows.oracle
    assert knows.at_last_prompt == knows.oracle_at_last_prompt
    assert knows.unplanted is knows.random is None
    assert random.recovery.overall.auroc == pytest.approx(0.5, abs=0.1)
    assert random.recovery.overall.precision < 0.05
    assert random.share_of_oracle < 0.5
    for each in (knows, random):
        assert each.before.rate > 0.8
        assert each.oracle.rate < 0.3
        assert each.before.kl == 0 < each.oracle.kl
        assert each.oracle.log_odds < each.before.log_odds


@pytest.mark.real_model
def test_finished_results_come_from_the_journal(league, few, monkeypatch):
    whole, journal = league
    monkeypatch.setattr(benchmark, "load_model", None)
    again = bench_rankings(
        [Oracle(), RandomScores()], split="tuning", models=[NAME], journal=journal
    )
    assert again == whole
    with pytest.raises(InputError, match="other"):
        bench_rankings([Oracle()], split="reporting", journal=journal)


def test_models_of_the_other_split_are_refused():
    with pytest.raises(InputError, match="is of the split 'tuning', not of 'reporting'"):
        bench_rankings([RandomScores()], models=[NAME])
    with pytest.raises(InputError, match="no planted model 'planted/none'"):
        bench_rankings([RandomScores()], models=["planted/none"])
    with pytest.raises(InputError, match="there is no ranking"):
        bench_rankings([], models=[])


def test_figures_are_those_computed_by_hand():
    one = scored((False, True, True, False), (0.0, 0.0, 0.5, 1.0, 1.0, 1.5))
    assert one.share_of_oracle == pytest.approx(0.5)  # 3 of 4, 1 of 4 with the oracle, 2 of 4 here
    places = [math.log(share) for share in SHARES]
    steps = [b - a for a, b in itertools.pairwise(places)]

    def area(values):
        pairs = itertools.pairwise(values)
        total = sum(step * (a + b) / 2 for step, (a, b) in zip(steps, pairs, strict=True))
        return total / (places[-1] - places[0])

    assert one.cpr == pytest.approx(area([0, 0, 0.5, 1, 1, 1.5]))
    assert one.cmd == pytest.approx(area([1, 1, 0.5, 0, 0, 0.5]))
    (row,) = League("tuning", (one,)).to_frame().to_dict("records")
    assert row["share_at_last_prompt"] == pytest.approx((4 - 1) / (4 + 2))
    assert row["lost_by_unplanted"] == pytest.approx(0.75 - 0.25)
    assert row["lost_by_random"] == 0


def test_means_are_over_models_and_leave_out_what_has_no_value():
    no_effect = scored((True,) * 4, model="planted/two", oracle=effect((True, True, True, False)))
    league = League("tuning", (scored((False, True, True, False)), no_effect))
    (means,) = league.means().values()
    assert math.isnan(no_effect.share_of_oracle)
    assert (means["share_of_oracle"].value, means["share_of_oracle"].n) == (0.5, 1)
    assert means["auroc"].value == fmean([0.7, 0.7])
    assert means["auroc"].n == 2


def test_a_result_comes_back_from_its_record():
    import json

    one = scored((False, True, True, False))
    assert Scored.from_record(json.loads(json.dumps(one.record()))) == one
