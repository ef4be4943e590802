"""The bench on planted models: a ranking that knows the truth, one that does not, and its files."""

import itertools
import math
import runpy
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean

import pytest
import torch
from bench_results import SHARES, effect, scored

from cna_lens import (
    AttributionPatching,
    Circuit,
    InputError,
    Layout,
    LogitDifference,
    Neuron,
    PromptSet,
    RandomScores,
    Ranking,
    RelP,
    collect,
    planted_models,
    planted_truth,
    score_neurons,
)
from cna_lens.discovery.rankings.protocol import Collected
from cna_lens.evidence import (
    Cost,
    League,
    OtherAblations,
    Scored,
    bench_rankings,
    benchmark,
    necessity,
    planted_model,
)
from cna_lens.evidence.known_truth import Found, Recovery
from cna_lens.evidence.passes import counted
from cna_lens.evidence.planted_model import FRACTIONS, PlantedModel
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


@contextmanager
def few_prompts():
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
            return replace(prompts, positive=prompts.positive[:4], negative=prompts.negative[:4])

        given = {each: getattr(behaviour, each) for each in behaviour.__dataclass_fields__}
        for module in (benchmark, planted_model):
            patch.setattr(module, "BEHAVIOURS", {behaviour.name: Few(**given)})
        patch.setattr(planted_model, "FRACTIONS", FRACTIONS[2:4])
        patch.setattr(planted_model, "MAX_NEW_TOKENS", 6)
        patch.setattr(planted_model, "N_CURVE_PROMPTS", 1)
        yield


@pytest.fixture
def few():
    with few_prompts():
        yield


@pytest.fixture(scope="module")
def league(tmp_path_factory):
    rankings = [Oracle(), RandomScores()]
    journal = tmp_path_factory.mktemp("bench") / "tuning"
    with few_prompts():
        found = bench_rankings(
            rankings, split="tuning", models=[NAME], n_half_samples=2, journal=journal, device="cpu"
        )
    return found, journal


@pytest.mark.long
@pytest.mark.real_model
def test_a_ranking_that_knows_the_truth_has_all_of_the_oracles_effect(league):
    knows, random = league[0].scored
    assert knows.recovery.overall == knows.recovery.within_layers == Found(1.0, 1.0, 1.0)
    assert knows.share_of_oracle.value == 1
    # Statistics need one pass over all prompts, in which what the prompts share passes once.
    assert 0.3 < knows.cost.forward <= 1
    assert knows.cost.backward == 0
    assert [each.overall for each in knows.half_samples] == [Found(1.0, 1.0, 1.0)] * 2
    assert knows.auroc_error() == 0
    assert knows.chosen == knows.oracle
    assert knows.chosen_otherwise == knows.oracle_otherwise
    assert knows.unplanted is knows.random is None
    assert random.recovery.overall.auroc == pytest.approx(0.5, abs=0.1)
    assert random.recovery.overall.precision < 0.05
    assert random.share_of_oracle.value < 0.5
    for each in (knows, random):
        assert each.before.rate > 0.8
        assert each.oracle.rate < 0.3
        assert each.before.kl == 0 < each.oracle.kl
        assert each.oracle.log_odds < each.before.log_odds


@pytest.mark.long
@pytest.mark.real_model
def test_finished_results_come_from_the_journal(league, few, monkeypatch):
    whole, journal = league
    monkeypatch.setattr(planted_model, "load_model", None)
    asked = partial(bench_rankings, split="tuning", models=[NAME], journal=journal, device="cpu")
    assert asked([Oracle(), RandomScores()], n_half_samples=2) == whole
    # Half-samples are results of their own; other ones need the model.
    assert [each.half_samples for each in asked([Oracle()]).scored] == [()]
    with pytest.raises(TypeError, match="not callable"):
        asked([Oracle()], n_half_samples=3)
    (file,) = journal.iterdir()
    file.write_text(file.read_text().replace('"tuning"', '"reporting"', 1))
    with pytest.raises(InputError, match=r"reporting[\s\S]*tuning"):
        asked([Oracle()])


def test_models_of_the_other_split_are_refused():
    with pytest.raises(InputError, match="is of the split 'tuning', not of 'reporting'"):
        bench_rankings([RandomScores()], models=[NAME])
    with pytest.raises(InputError, match="no planted model 'planted/none'"):
        bench_rankings([RandomScores()], models=["planted/none"])
    with pytest.raises(InputError, match="there is no ranking"):
        bench_rankings([], models=[])


def test_figures_are_those_computed_by_hand():
    one = scored((False, True, True, False), (0.0, 0.0, 0.5, 1.0, 1.0, 1.5))
    assert one.share_of_oracle.value == pytest.approx(0.5)
    places = [math.log(share) for share in SHARES]
    steps = [b - a for a, b in itertools.pairwise(places)]

    def area(values):
        pairs = itertools.pairwise(values)
        total = sum(step * (a + b) / 2 for step, (a, b) in zip(steps, pairs, strict=True))
        return total / (places[-1] - places[0])

    assert one.cpr == pytest.approx(area([0, 0, 0.5, 1, 1, 1.5]))
    assert one.cmd == pytest.approx(area([1, 1, 0.5, 0, 0, 0.5]))
    (row,) = League("tuning", (one,)).to_frame().to_dict("records")
    assert row["share_by_mean"] == pytest.approx((4 - 2) / (4 - 3.5))
    assert row["share_by_last_prompt_zero"] == pytest.approx((4 - 3) / (4 + 1))
    assert row["share_by_last_prompt_mean"] == pytest.approx((4 - 1) / (4 + 2))
    assert (row["forward"], row["backward"], row["seconds"]) == (1.0, 0.5, 2.0)
    assert row["lost_by_unplanted"] == pytest.approx(0.75 - 0.25)
    assert math.isnan(row["lost_by_random"])


def test_what_is_lost_is_counted_on_the_same_prompts():
    one = scored((True,) * 4, before=effect((True, True, False, False)), random=(False, True))
    (row,) = League("tuning", (one,)).to_frame().to_dict("records")
    assert row["lost_by_random"] == 0.5  # of the first two, not of all four


def test_means_are_over_models_and_leave_out_what_has_no_value():
    no_effect = scored((True,) * 4, model="planted/two", oracle=effect((True, True, True, False)))
    league = League("tuning", (scored((False, True, True, False)), no_effect))
    (means,) = league.means().values()
    assert no_effect.share_of_oracle is None
    assert (means["share_of_oracle"].value, means["share_of_oracle"].n) == (0.5, 1)
    assert means["auroc"].value == fmean([0.7, 0.7])
    assert means["auroc"].n == 2


def test_standard_errors_are_those_of_the_half_samples():
    from statistics import stdev

    def half(auroc):
        found = Found(auroc, 0.2, 0.1)
        return Recovery("mine", 3, 100, found, replace(found, auroc=auroc / 2), 0.03)

    one = scored((True,) * 4, half_samples=(half(0.5), half(0.6), half(0.9)))
    (row,) = League("tuning", (one,)).to_frame().to_dict("records")
    assert row["auroc_error"] == pytest.approx(stdev([0.5, 0.6, 0.9]))
    assert row["auroc_within_layers_error"] == pytest.approx(stdev([0.5, 0.6, 0.9]) / 2)
    assert scored((True,) * 4).auroc_error() is None
    means = League("tuning", (one,)).means()["mine"]
    assert "auroc" in means
    assert not any(name.endswith(("_error", "_low", "_high")) for name in means)


@pytest.mark.parametrize("name", ["french", "sums"])
def test_a_half_keeps_pairs_and_items_together(name):
    behaviour = BEHAVIOURS[name]
    sets, halves = behaviour.discovery, benchmark._halves(behaviour, 3, 0)
    assert len(set(map(tuple, halves))) == 3
    assert benchmark._halves(behaviour, 3, 0) == halves
    assert benchmark._halves(behaviour, 3, 1)[0] != halves[0]
    for places in halves:
        assert len(set(places)) == len(places) == len(sets.positive) // 2
        if name == "french":
            assert {place ^ 1 for place in places} == set(places)  # both wordings of each dish


def test_tokens_are_counted_forward_and_backward(llama):
    texts = [[5, 6, 7], [8, 9, 10]], [[7, 5, 3], [1, 2, 3]]

    def cost(ranking):
        with counted(llama, n_tokens=12) as found:
            score_neurons(llama, *texts, ranking)
        return found()

    metric = LogitDifference(target=5, foil=6)
    assert (cost("contrast").forward, cost("contrast").backward) == (1, 0)
    # Both sets once, then the positive half forward and backward.
    plain = cost(AttributionPatching(metric=metric))
    assert (plain.forward, plain.backward) == (1.5, 0.5)
    # Both sets, and the positive half's tokens before the last. Then each last token as it is, and
    # in two layers at two points and at the means; the second begins inside the last block.
    two = cost(AttributionPatching(metric=metric, steps=2))
    last = (1 + 2 * 3) * 2 / 12
    assert two.forward == pytest.approx(1 + 4 / 12 + last)
    assert two.backward == pytest.approx(last)
    assert not llama.blocks[-1]._forward_hooks
    assert not llama.blocks[-1]._forward_pre_hooks


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"n_half_samples": 1}, "n_half_samples is 1, expected 0 or at least 2"),
        ({"n_half_samples": 3.0}, r"n_half_samples is 3\.0, expected 0 or at least 2"),
        ({"models": NAME}, "models is .*, expected several"),
        ({"rankings": RandomScores()}, r"rankings is RandomScores\(.*expected several"),
        ({"rankings": [RandomScores]}, "rankings has <class .*expected rankings such as"),
    ],
)
def test_invalid_settings_are_refused_before_a_model_is_loaded(monkeypatch, changed, message):
    monkeypatch.setattr(planted_model, "load_model", None)
    settings = {"rankings": [RandomScores()], "split": "tuning", "models": [NAME], **changed}
    with pytest.raises(InputError, match=message):
        bench_rankings(**settings)


def test_a_loss_of_a_tenth_is_enough_for_a_share_of_the_oracle():
    before, oracle = effect((True,) * 10), effect((True,) * 9 + (False,))
    assert scored((True,) * 9 + (False,), before=before, oracle=oracle).share_of_oracle is not None
    assert scored((True,) * 10, before=before, oracle=before).share_of_oracle is None


def test_the_share_of_the_oracle_has_an_interval_over_prompts():
    chosen = (True,) * 3 + (False,) * 7
    one = scored(chosen, before=effect((True,) * 10), oracle=effect((False,) * 10))
    share = one.share_of_oracle
    assert share.value == 0.7
    # The percentile interval of a share of 10 is about 1.96 standard errors of .145 wide.
    assert share.low == pytest.approx(0.7 - 0.28, abs=0.11)
    assert share.high == pytest.approx(0.7 + 0.28, abs=0.11)
    assert share.n == 10


def test_a_result_comes_back_from_its_record():
    import json

    half = scored((True,) * 4).recovery
    one = scored((False, True, True, False), half_samples=(half, half), in_decoy=0.25)
    assert Scored.from_record(json.loads(json.dumps(one.record()))) == one


@dataclass(frozen=True)
class OnlyTwo(Ranking):
    """Scores two neurons, and no other."""

    name = "only two"
    needs = "statistics"

    def score(self, collected):
        layout = collected.positive.layout
        values = torch.arange(layout.n_neurons, dtype=torch.float64)
        return collected.scored(self, values, eligible=values < 2)


def test_where_a_ranking_has_no_more_neurons_the_curve_takes_all_that_it_has(
    chat_model, monkeypatch
):
    monkeypatch.setattr(planted_model, "FRACTIONS", (0.02, 0.1, 0.5))  # 1, 5 and 24 of 48 neurons
    behaviour = replace(BEHAVIOURS["sums"], openings=("w5",))
    monkeypatch.setattr(type(behaviour), "evaluation", PromptSet("", "", ("w3 w4",), ("w6",)))
    means = collect(chat_model, ["w6"])
    scores = score_neurons(chat_model, ["w3 w4"], ["w6"], OnlyTwo())
    truth, read = Circuit((), (), scores.layout), Collected(means, means)
    model = PlantedModel(NAME, chat_model, behaviour, truth, read, Cost(0.0, 0.0, 0.0), (), ())
    points = model.curves(scores)
    assert [point.k for point in points] == [1, 2, 2]
    # The ends, which all rankings share, are measured once.
    prompts, odds = ("w3 w4",), model._odds_of_each
    whole = necessity(
        chat_model, prompts, {"mine": scores}, odds, means, sizes=[1, 2],
        n_resamples=50, progress=False,
    )  # fmt: skip
    assert [point.alone for point in points[:2]] == [point.alone for point in whole.points]
    monkeypatch.setattr(planted_model, "ends_of", lambda *_: pytest.fail("measured again"))
    assert model.curves(scores) == points


def test_small_effects_of_the_planted_neurons_are_not_divided_by():
    almost = scored((True,) * 4, oracle=effect((True, True, True, False), 3.6))
    assert almost.share_of_oracle is None
    gained = scored((True,) * 4, before=effect((False,) * 4), oracle=effect((True,) * 4))
    assert gained.share_of_oracle is None
    weak = scored((True,) * 4, oracle_otherwise=OtherAblations(2.0, 3.6, 2.0))  # 0.4 nats below
    (row,) = League("tuning", (weak,)).to_frame().to_dict("records")
    assert math.isnan(row["share_by_last_prompt_zero"])
    assert row["share_by_mean"] == pytest.approx(1)


def test_answers_too_short_for_a_quality_have_none():
    one = replace(scored((True,) * 4), chosen=replace(effect((True,) * 4), quality=None))
    assert Scored.from_record(one.record()) == one
    assert "quality" not in League("tuning", (one,)).means()["mine"]


@pytest.mark.parametrize(
    ("given", "twice"),
    [
        ({"rankings": [RandomScores(), RandomScores()], "models": [NAME]}, r"random\(seed=0\)"),
        ({"rankings": [RandomScores()], "models": [NAME, NAME]}, NAME),
    ],
)
def test_what_is_named_twice_is_refused(given, twice):
    with pytest.raises(InputError, match=f"{twice} is named twice"):
        bench_rankings(split="tuning", **given)


def test_a_metric_of_ones_own_is_refused_and_the_default_is_not_in_the_label():
    own = RelP(metric=LogitDifference(target=5, foil=6))
    with pytest.raises(InputError, match=r"relp\(.*\) has a metric of its own"):
        bench_rankings([own], split="tuning", models=[NAME])
    assert benchmark._label(AttributionPatching(steps=3)) == "attribution_patching(steps=3)"


def test_the_key_of_a_ranking_changes_with_its_file(tmp_path):
    path = tmp_path / "mine.py"
    code = (
        "from dataclasses import dataclass\nfrom cna_lens import Ranking\n"
        "@dataclass(frozen=True)\nclass Mine(Ranking):\n    name = 'mine'\n"
        "    needs = 'statistics'\n    def score(self, collected):\n        return 1\n"
    )
    path.write_text(code)
    before = benchmark._key(runpy.run_path(str(path))["Mine"]())
    assert before == benchmark._key(runpy.run_path(str(path))["Mine"]())
    path.write_text(code.replace("return 1", "return 2"))
    assert before != benchmark._key(runpy.run_path(str(path))["Mine"]())


def test_no_control_neuron_is_planted_or_chosen():
    layout = Layout((6, 6, 40))
    truth = Circuit((Neuron(0, 0), Neuron(0, 1), Neuron(1, 3), Neuron(2, 9)), (1.0,) * 4, layout)
    chosen = Circuit((Neuron(0, 2), Neuron(2, 0), Neuron(2, 1)), (1.0,) * 3, layout)
    control = planted_model.control(chosen, truth)
    assert sorted(neuron.layer for neuron in control) == [0, 2, 2]
    assert not set(control) & {*truth, *chosen}
