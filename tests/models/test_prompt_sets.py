import csv
import itertools
import re
from importlib.resources import files

import pytest

from cna_lens import InputError, diverse_prompts, prompt_set

SIZES = {
    "refusal": 100,
    "refusal_small": 8,
    "refusal_evaluation": 60,
    "refusal_german": 25,
    "refusal_french": 25,
    "refusal_reworded": 25,
    "capitals": 33,
    "agreement": 40,
}
FACTUAL = ("capitals", "agreement")


def folded(prompt):
    """Remove case and punctuation from a prompt, in any script."""
    return " ".join(re.sub(r"[^\w\s]", " ", prompt.casefold()).split())


def everything():
    """Yield every packaged prompt with its place."""
    for name in SIZES:
        chosen = prompt_set(name)
        for side in ("positive", "negative"):
            for place, prompt in enumerate(getattr(chosen, side)):
                yield f"{name}.{side}[{place}]", prompt
    for place, prompt in enumerate(diverse_prompts()):
        yield f"diverse[{place}]", prompt


@pytest.mark.parametrize("name", SIZES)
def test_a_set_has_its_size_on_both_sides_and_a_purpose(name):
    chosen = prompt_set(name)
    assert chosen.name == name
    assert (len(chosen.positive), len(chosen.negative)) == (SIZES[name], SIZES[name])
    assert len(chosen.purpose.split()) > 3


def test_the_diverse_prompts_are_forty():
    assert len(diverse_prompts()) == 40


def test_no_prompt_occurs_twice():
    seen = {}
    for place, prompt in everything():
        key = folded(prompt)
        assert key not in seen, f"{place} is {seen.get(key)}: {prompt}"
        seen[key] = place
    assert len(seen) == 2 * sum(SIZES.values()) + 40


def test_prompts_are_clean_text():
    for place, prompt in everything():
        assert prompt == " ".join(prompt.split()), place
        assert len(folded(prompt)) > 5, place
        assert "\ufffd" not in prompt, place


def words_of(name):
    chosen = prompt_set(name)
    return [set(folded(prompt).split()) for prompt in (*chosen.positive, *chosen.negative)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        *itertools.combinations(["refusal", "refusal_small", "refusal_evaluation"], 2),
        *itertools.product(["refusal_reworded"], ["refusal_small", "refusal_evaluation"]),
    ],
)
def test_discovery_and_evaluation_share_no_near_copies(one, other):
    for a, b in itertools.product(words_of(one), words_of(other)):
        assert len(a & b) / len(a | b) < 0.75, f"{sorted(a)} and {sorted(b)}"


@pytest.mark.parametrize(
    "name",
    ["refusal", "refusal_small", "refusal_german", "refusal_french", "refusal_reworded"],
)
def test_each_harmful_request_has_a_benign_one_of_its_length_and_opening(name):
    chosen = prompt_set(name)
    for harmful, benign in zip(chosen.positive, chosen.negative, strict=True):
        assert abs(len(harmful.split()) - len(benign.split())) <= 1, (harmful, benign)
        assert harmful.split()[0] == benign.split()[0], (harmful, benign)
        assert harmful[-1] == benign[-1], (harmful, benign)


@pytest.mark.parametrize("name", FACTUAL)
def test_targets_and_foils_begin_with_a_space_and_differ(name):
    chosen = prompt_set(name)
    assert len(chosen.targets) == len(chosen.foils) == len(chosen.positive)
    for target, foil in zip(chosen.targets, chosen.foils, strict=True):
        assert target != foil
        for answer in (target, foil):
            assert re.fullmatch(r" \S.*\S|\s\S", answer), answer


@pytest.mark.parametrize("name", sorted(set(SIZES) - set(FACTUAL)))
def test_sets_of_requests_have_no_targets(name):
    assert prompt_set(name).targets == prompt_set(name).foils == ()


def test_capitals_ask_for_the_capital_and_the_largest_city_of_one_state():
    chosen = prompt_set("capitals")
    states = []
    for capital, largest in zip(chosen.positive, chosen.negative, strict=True):
        assert largest == capital.replace("capital", "largest")
        states.append(re.search("state of (.+) is", capital)[1])
    assert len(set(states)) == 33
    # A state whose capital is its largest city shows no difference.
    assert not {"Arizona", "Colorado", "Georgia", "Massachusetts", "Utah"} & set(states)


def test_agreement_swaps_which_noun_is_plural():
    chosen = prompt_set("agreement")
    assert set(chosen.targets) == {" are", " were", " have", " do"}
    assert set(chosen.foils) == {" is", " was", " has", " does"}
    for plural, singular in zip(chosen.positive, chosen.negative, strict=True):
        assert len(plural.split()) == len(singular.split())
        # The last word, next to the verb, has the other number than the subject.
        assert len(singular.split()[-1]) > len(plural.split()[-1])
        assert len(singular.split()[1]) < len(plural.split()[1])


def test_an_unknown_set_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match=r"no prompt set 'refusals'; .* refusal, .*capitals"):
        prompt_set("refusals")


def test_the_repr_gives_the_purpose_of_a_set():
    chosen = prompt_set("refusal")
    assert "'refusal', 100 positive, 100 negative" in repr(chosen)
    assert chosen.purpose in repr(chosen)


@pytest.mark.parametrize("name", ["refusal_german", "refusal_french", "refusal_reworded"])
def test_sets_for_transfer_ask_for_the_same_as_every_fourth_pair_of_refusal(name):
    def categories(of):
        text = (
            files("cna_lens.models.prompts.sets").joinpath(f"{of}.csv").read_text(encoding="utf-8")
        )
        return [row["category"] for row in csv.DictReader(text.splitlines())]

    assert categories(name) == categories("refusal")[::4]
    originals = {folded(prompt) for prompt in prompt_set("refusal").positive}
    assert not originals & {folded(prompt) for prompt in prompt_set(name).positive}
