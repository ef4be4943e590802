"""How fast discovery, steering and generation are, measured side by side.

    python -m experiments.benchmarks cpu   # the demo model
    python -m experiments.benchmarks gpu   # random weights in the shapes of Llama 3.1
    python -m experiments.benchmarks ray   # the bench, in one process and in two workers on Ray

Every ratio compares runs that alternate in one process, A B A B ..., so that a machine whose speed
drifts slows both; reported are the medians of the pairwise ratios and their range.
"""
