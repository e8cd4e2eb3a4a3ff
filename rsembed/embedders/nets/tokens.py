"""What a network returns: every token by its name, so that nobody guesses where a class token sits."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Tokens:
    """Outputs of one forward pass over a batch of B inputs; what a network does not have is None.

    ``patches_bthwd``: one vector per frame and ground cell, (B, T, h, w, D), first row north.
    ``cls``: class token (B, D). ``vector``: the network's own image vector (B, Dv), or the region's
    where it has pooled by itself.
    ``weights_bthw``: how much each cell counts, 0..1; None counts all alike.
    """

    patches_bthwd: Tensor | None = None
    cls: Tensor | None = None
    vector: Tensor | None = None
    weights_bthw: Tensor | None = None
