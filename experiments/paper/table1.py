"""Table 1: instruct models at strength 1, with CNA and CAA from 8 + 8 prompts.

python -m experiments table1 --config smollm2
"""

from __future__ import annotations

from experiments.study import paper
from experiments.study.sweep import sweep_table

EXPERIMENT = sweep_table(
    "table1", "refusals and quality at strength 1, instruct models", "instruct", paper.TABLE1
)
