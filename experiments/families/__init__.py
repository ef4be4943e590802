"""Check on tiny random models which families work, and write docs/models.md.

    python -m experiments.families

The tests run the same checks, and fail if docs/models.md differs from the results.
"""
