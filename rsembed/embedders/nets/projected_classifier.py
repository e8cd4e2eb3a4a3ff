"""An image classifier with linear projections of its class scores (WildSAT, arXiv:2412.14428, section 3)."""

from __future__ import annotations

from torch import Tensor, nn

from rsembed.embedders.nets.tokens import Tokens


class ProjectedClassifier(nn.Module):
    """``trunk`` gives tokens with an image vector of length ``width``, or a class token where it has none."""

    def __init__(self, trunk: nn.Module, width: int, *, classes: int, out_dim: int, branches: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.classifier = nn.Linear(width, classes)
        self.branches = nn.ModuleList(nn.Linear(classes, out_dim, bias=False) for _ in range(branches))

    def forward(self, pixels_bchw: Tensor, branch: int | None) -> Tokens:
        """``vector``: the scores through that branch (from 0), or with None the scores (B, classes) themselves."""
        tokens: Tokens = self.trunk(pixels_bchw)
        vector = self.classifier(tokens.cls if tokens.vector is None else tokens.vector)
        if branch is not None:
            vector = self.branches[branch](vector)
        return Tokens(patches_bthwd=tokens.patches_bthwd, cls=tokens.cls, vector=vector)
