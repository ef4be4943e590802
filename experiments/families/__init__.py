"""Which families of models work: checked on tiny random ones, written to docs/models.md.

    python -m experiments.families

The tests run the same checks, and fail where docs/models.md says anything else.
"""
