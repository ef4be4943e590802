"""Everything that the settings allow: tables, figures, and the settling experiments.

python -m experiments.all --config smollm2
"""

from __future__ import annotations

from experiments.run import main

if __name__ == "__main__":
    main("all")
