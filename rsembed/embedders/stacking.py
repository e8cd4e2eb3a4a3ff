"""Memory of a batch: the inputs of one pass side by side, in arrays that the next batch uses again."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsembed.embedders.base import Floats
from rsembed.embedders.prepared import Prepared


@dataclass(frozen=True)
class Stack:
    """Inputs of one pass, each in its place; ``first``: the slot of place 0; ``roi``: float32 (length, 4)."""

    signature: object
    first: int
    arrays: Mapping[str, NDArray[Any]]
    roi: Floats
    members: list[int] = field(default_factory=list)

    def take_over(self, slot: int, prepared: Prepared) -> Prepared:
        """Copy an input to its place; returns what it is without its arrays."""
        for name, array in prepared.arrays.items():
            self.arrays[name][slot - self.first] = array
        self.roi[slot - self.first] = prepared.roi
        self.members.append(slot)
        return Prepared({}, prepared.roi, prepared.area_px, prepared.covers)

    def clear_absent(self) -> None:
        """Zeros in the places without an input."""
        places = np.ones(len(self.roi), dtype=np.bool_)
        places[[slot - self.first for slot in self.members]] = False
        for array in self.arrays.values():
            array[places] = 0


class Buffers(threading.local):
    """Memory for a batch's arrays, used again for the next one of the same thread.

    A batch can be 100 MB: handed out fresh by the system, page by page, it costs as much as preparing the pixels.
    """

    def __init__(self) -> None:
        self._kept: dict[str, NDArray[Any]] = {}

    def stack(self, like: Prepared, first: int, length: int) -> Stack:
        """An empty stack of inputs like this one for the slots from ``first`` on; the stack before it is over."""
        arrays = {name: self._take(name, (length, *array.shape), array.dtype) for name, array in like.arrays.items()}
        return Stack(like.signature, first, arrays, np.zeros((length, 4), dtype=np.float32))

    def _take(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        found = self._kept.get(name)
        if found is None or found.shape != shape or found.dtype != dtype:
            found = self._kept[name] = np.empty(shape, dtype)
        return found
