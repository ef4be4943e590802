"""`python -m experiments NAME ...` is `cna-lens reproduce NAME ...`."""

from __future__ import annotations

import sys

from cna_lens.cli import main

if __name__ == "__main__":
    main(["reproduce", *sys.argv[1:]])
