"""Rank: ways to score every neuron, by one protocol and under one roof.

| ranking | looks at | passes |
|---|---|---|
| `Contrast`, `Standardized` | means and variances | one forward a prompt |
| `ContrastPart` | means and routing | one forward a prompt |
| `OutputWeighted` | means and the down projection | one forward a prompt |
| `Probe` | every prompt's activations | one forward a prompt |
| `AttributionPatching`, `RelP` | gradients of a metric | and one more with a backward pass |
| `RandomScores` | nothing | one forward a prompt |
"""
