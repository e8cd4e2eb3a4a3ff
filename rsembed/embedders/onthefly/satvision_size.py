"""How large a SatVision network is: as published, as options name it, or as a checkpoint has it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from rsembed.core.card import OptionValue
from rsembed.core.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor


class Size(NamedTuple):
    """Shape of a network: token length of the first stage, blocks and heads of each stage."""

    dim: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]


GIANT = Size(512, (2, 2, 42, 2), (16, 32, 64, 128))


def asked_size(dim: OptionValue, depths: OptionValue, heads: OptionValue, *, otherwise: Size = GIANT) -> Size:
    """The size of the options; what they leave out is that of ``otherwise``. Raises ModelError for malformed counts."""
    return Size(
        otherwise.dim if dim is None else int(dim),
        otherwise.depths if depths is None else _counts("depths", str(depths)),
        otherwise.heads if heads is None else _counts("num_heads", str(heads)),
    )


def _counts(option: str, text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"\s*[1-9]\d*(\s*,\s*[1-9]\d*){3}\s*", text):
        raise ModelError(f"satvision: {option} must be four counts such as 2,2,42,2; got {text!r}")
    return tuple(int(part) for part in text.split(","))


def size_of(state: Mapping[str, Tensor]) -> Size | None:
    """The size of a checkpoint by the names and shapes of its tensors; None where they do not tell."""
    scales: dict[int, dict[int, int]] = {}
    for name, tensor in state.items():
        if found := re.fullmatch(r"encoder\.layers\.(\d+)\.blocks\.(\d+)\.attn\.logit_scale", name):
            scales.setdefault(int(found[1]), {})[int(found[2])] = len(tensor)
    norm = state.get("encoder.patch_embed.norm.weight")
    if norm is None or sorted(scales) != [0, 1, 2, 3]:
        return None
    depths = tuple(max(scales[stage]) + 1 for stage in range(4))
    return Size(len(norm), depths, tuple(scales[stage][max(scales[stage])] for stage in range(4)))
