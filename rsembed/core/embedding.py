"""The answer to one row: a vector or a map of vectors, and what is known about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray


class RowStatus(StrEnum):
    """How a row ended. An embedding exists for ``ok`` and ``low_quality``."""

    OK = "ok"
    LOW_QUALITY = "low_quality"
    NO_DATA = "no_data"
    COLLECTION_GAP = "collection_gap"
    FAILED = "failed"

    @property
    def has_embedding(self) -> bool:
        """Whether a row of this status carries numbers."""
        return self in (RowStatus.OK, RowStatus.LOW_QUALITY)


@dataclass(frozen=True)
class Embedding:
    """``data``: float32, ``(D,)`` pooled or ``(D, H, W)`` grid (first row north).

    ``meta`` is plain JSON: model, options, recipe, sensor, window, frames, validity, weights.
    """

    data: NDArray[np.float32]
    meta: Mapping[str, Any] = field(default_factory=dict)  # JSON at the edge: one key per fact
