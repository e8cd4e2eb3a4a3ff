"""How arrays are cut into chunks, and streams of rows into blocks of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsembed.core.errors import ExportError


def chunk_shape(shape: tuple[int, ...], itemsize: int, target_bytes: int) -> tuple[int, ...]:
    """The largest chunk of at most ``target_bytes`` (or of one number) that keeps the last axes whole.

    So a chunk of a table is many rows of it, one of large maps is some of the layers of one map.
    """
    budget = max(1, target_bytes // itemsize)
    chunk: list[int] = []
    for size in reversed(shape):
        length = max(1, min(size, budget))
        chunk.append(length)
        budget //= length
    return tuple(reversed(chunk))


def row_blocks(name: str, pieces: Iterable[NDArray[Any]], shape: tuple[int, ...], rows: int) -> Iterator[NDArray[Any]]:
    """``pieces`` of an array of ``shape``, joined and cut along the first axis into ``rows`` each; the last is shorter.

    Raises ExportError when they do not make up ``shape``; ``name`` says in it whose values they are.
    """
    waiting: list[NDArray[Any]] = []
    held = came = 0
    for piece in pieces:
        came += len(piece)
        if piece.shape[1:] != shape[1:] or came > shape[0]:
            raise ExportError(
                f"{name}: {shape[0]} rows of shape {shape[1:]} were to come, got {came} so far, of {piece.shape[1:]}"
            )
        for start in range(0, len(piece), rows):
            waiting.append(piece[start : start + rows])
            held += len(waiting[-1])
            if held >= rows:
                joined = np.concatenate(waiting) if len(waiting) > 1 else waiting[0]
                yield joined[:rows]
                held -= rows
                waiting = [joined[rows:]] if held else []
    if held:
        yield np.concatenate(waiting)
    if came != shape[0]:
        raise ExportError(f"{name}: {shape[0]} rows were to come, got {came}")
