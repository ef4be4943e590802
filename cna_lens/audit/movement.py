"""How far a model has moved, wherever to: what tells benign drift from a match."""

from __future__ import annotations

import torch

from cna_lens.audit.measurement import Measurement
from cna_lens.audit.reference import Reference


def movement(reference: Reference, now: Measurement) -> float:
    r"""The root mean square change of the log-odds and of the places on the axes.

    $$\sqrt{\frac{1}{2} \overline{\left(\frac{z_i - z^\circ_i}{g}\right)^2} +
    \frac{1}{2} \overline{(p_{l,i} - p^\circ_{l,i})^2}}$$

    with g the distance of the kinds' mean log-odds, and p the places in the residual stream, so
    that 1 is about as far as from a harmful canary to a benign one.
    """
    n = reference.n_harmful
    gap = (reference.log_odds[:n].mean() - reference.log_odds[n:].mean()).abs().clamp_min(1e-9)
    log_odds = ((now.log_odds - reference.log_odds) / gap).square().mean()
    places = (reference.stream.of(now.stream) - reference.stream.places).square().mean()
    return float(torch.sqrt((log_odds + places.double()) / 2))
