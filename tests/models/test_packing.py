import pytest
from hypothesis import example, given, settings, strategies as st

from cna_lens.models.running.packing import PackedTokens, alone, pack

# Two different tokens only, so that prompts often begin alike.
IDS = st.lists(st.integers(1, 2), min_size=1, max_size=8).map(tuple)
PROMPTS = st.lists(IDS, min_size=1, max_size=9)
MOST = st.integers(1, 20)


def distinct_tokens(prompts):
    """Slow definition: one token for each beginning, and one for the end of each prompt."""
    return len({ids[:n] for ids in prompts for n in range(1, len(ids))}) + len(prompts)


@given(PROMPTS, MOST)
@settings(deadline=None)
def test_rows_hold_every_prompt_once_and_each_common_beginning_once(prompts, most):
    rows = pack(prompts, most)
    assert sorted(place for row in rows for place in row.prompts) == list(range(len(prompts)))
    for row in rows:
        assert row.length == distinct_tokens([prompts[place] for place in row.prompts])
        assert row.length <= most or len(row.prompts) == 1


def test_prompts_that_begin_alike_share_a_row_whatever_their_order():
    prompts = [(1, 2, 3, 4), (7, 8, 9), (1, 2, 3, 5), (7, 8, 6), (1, 2, 3, 6)]
    assert {row.prompts for row in pack(prompts, most=6)} == {(0, 2, 4), (3, 1)}


def test_a_row_is_filled_to_its_last_token():
    prompts = [(1, 2), (1, 3), (1, 4)]
    assert [row.length for row in pack(prompts, most=4)] == [4]
    assert [row.length for row in pack(prompts, most=3)] == [3, 2]


@given(PROMPTS, MOST)
@example([(1, 2), (1, 2), (1, 2, 1)], 20)
@settings(deadline=None)
def test_each_token_sees_its_prompt_up_to_itself_and_nothing_else(prompts, most):
    rows = [[prompts[place] for place in row.prompts] for row in pack(prompts, most)]
    packed = PackedTokens.of(rows, pad_id=9)
    order, sees = packed.order(), packed.sees()
    together = [ids for row in rows for ids in row]
    for ids, row, columns in zip(together, packed.rows, packed.columns, strict=True):
        for place, column in enumerate(columns):
            assert order[row, column] == place
            assert packed.mask[row, column] == 1
            visible = sees[row, column].nonzero().squeeze(1)
            assert tuple(packed.ids[row, visible].tolist()) == ids[: place + 1]
            assert visible.tolist() == list(columns[: place + 1])


@given(PROMPTS, MOST, st.data())
@settings(deadline=None)
def test_a_token_is_found_by_its_place_in_its_prompt(prompts, most, data):
    rows = [[prompts[place] for place in row.prompts] for row in pack(prompts, most)]
    packed = PackedTokens.of(rows, pad_id=9)
    together = [ids for row in rows for ids in row]
    places = [data.draw(st.integers(0, len(ids) - 1)) for ids in together]
    found = packed.ids[list(packed.rows), packed.at(places)].tolist()
    assert found == [ids[place] for ids, place in zip(together, places, strict=True)]


@pytest.mark.parametrize("row", [[(1, 2), (1, 2, 3)], [(1, 2, 3), (1, 2)]])
def test_a_prompt_that_another_begins_with_ends_in_a_token_of_its_own(row):
    packed = PackedTokens.of([row], pad_id=9)
    first, second = packed.columns
    assert first[0] == second[0] == 0
    assert not set(first[1:]) & set(second[1:])
    assert packed.ids.shape == (1, 4)


@given(PROMPTS, MOST)
@settings(deadline=None)
def test_padding_is_masked_and_sees_itself_alone(prompts, most):
    rows = pack(prompts, most)
    packed = PackedTokens.of([[prompts[place] for place in row.prompts] for row in rows], pad_id=9)
    assert packed.mask.sum(1).tolist() == [row.length for row in rows]
    for row, column in (packed.mask == 0).nonzero().tolist():
        assert packed.ids[row, column] == 9
        assert packed.sees()[row, column].nonzero().tolist() == [[column]]


@given(PROMPTS)
@settings(deadline=None)
def test_prompts_alone_keep_the_given_order(prompts):
    rows = alone(prompts)
    packed = PackedTokens.of([[prompts[place] for place in row.prompts] for row in rows], pad_id=9)
    assert packed.is_plain
    assert packed.rows == tuple(range(len(prompts)))
    for ids, row, tokens in zip(prompts, rows, packed.ids.tolist(), strict=True):
        assert tokens[: row.length] == list(ids)


def test_rows_of_several_prompts_are_not_plain():
    assert not PackedTokens.of([[(1, 2), (1, 3)], [(4,)]], pad_id=9).is_plain
