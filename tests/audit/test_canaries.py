"""An operator's own canaries: a file that is read whole, or refused."""

import pytest

from cna_lens import InputError
from cna_lens.audit import Canaries

ROWS = [f"harmful {place},benign {place}" for place in range(40)]


def read(tmp_path, *lines):
    path = tmp_path / "mine.csv"
    path.write_text("\n".join(lines))
    return Canaries.read(path)


def test_canaries_are_read_in_their_order_and_cells_may_be_empty(tmp_path):
    found = read(tmp_path, "harmful,benign", *ROWS, ' one more ,""')
    assert found.harmful == (*(f"harmful {place}" for place in range(40)), "one more")
    assert found.benign == tuple(f"benign {place}" for place in range(40))


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["harmful;benign", *ROWS], "seem to be separated by ';'"),
        (["harmful,benign", *ROWS, '"one more,benign'], "line 42, cannot be read as CSV"),
        (["harmful,benign", *ROWS, "one, more,benign"], "line 42, has 3 fields and the header 2"),
        (["harmful,other", *ROWS], "need a header with the columns harmful, benign"),
    ],
    ids=["semicolons", "an open quote", "a comma", "another column"],
)
def test_a_file_that_would_be_misread_is_refused(tmp_path, lines, said):
    with pytest.raises(InputError, match=said):
        read(tmp_path, *lines)
