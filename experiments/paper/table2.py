"""Table 2: base models at strength 1, with CNA and CAA from 8 + 8 prompts.

python -m experiments table2 --config smollm2
"""

from __future__ import annotations

from experiments.study import paper
from experiments.study.experiment import needs_base
from experiments.study.sweep import sweep_table

EXPERIMENT = sweep_table(
    "table2",
    "refusals and quality at strength 1, base models",
    "base",
    paper.TABLE2,
    unavailable=needs_base,
    differences=(
        "a base model whose tokenizer has a chat template is asked in it, another in plain text",
    ),
)
