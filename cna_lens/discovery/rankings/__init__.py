"""Rank: ways to score every neuron, under one protocol.

| ranking | uses | passes |
|---|---|---|
| `Contrast`, `Standardized` | means and variances | one forward a prompt |
| `ContrastPart` | means and routing | one forward a prompt |
| `OutputWeighted` | means and the down projection | one forward a prompt |
| `PerturbationProbing` | means, down projection, unembedding | one forward a prompt |
| `Probe` | every prompt's activations | one forward a prompt |
| `AttributionPatching`, `RelP` | gradients of a metric | also one backward a positive prompt |
| `SquaredAttribution` | gradients of a metric and of answers | also two of both a positive prompt |
| `ChangeFromBase` | the model before tuning | also two forward a positive prompt |
| `LearnedMask` | gradients through a mask | also `steps` of both, over a batch |
| `RandomScores` | nothing | one forward a prompt |
"""
