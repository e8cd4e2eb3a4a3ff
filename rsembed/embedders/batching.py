"""Fixed slots: which row sits where in which batch, so that the same row gives the same bytes.

Row i of a shard has slot ``i % B`` of batch ``i // B``. Rows that are absent, failed or of
another shape leave their slot zero-filled; nothing is ever moved together. On some CPUs and
widths another batch size changes the last bits of every row, so a batch that fails is searched
for the guilty row by masking at the same B, and only memory running out changes B (halved for
all slots, which are then done again).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rsembed.core.errors import DeviceError, ModelError, RSEmbedError
from rsembed.embedders.base import EmbedderBase, Prepared

logger = logging.getLogger(__name__)
Floats = NDArray[np.float32]
_UNDER_WAY = 2
"""Batches at once where threads prepare them: one computes, one is made ready."""


class SlotLoader(Protocol):
    """Gives the network inputs of a slot, one per tile; None where the slot is empty."""

    def __call__(self, slot: int, /) -> Sequence[Prepared] | None: ...


@dataclass
class SlotResults:
    """What came of a shard's slots.

    ``values[slot]``: float32 (D,) or (D, h, w); ``prepared[slot]``: its inputs' regions
    (arrays dropped); ``errors[slot]``: why a slot gave nothing. ``batch_size``: the B in force
    at the end, smaller than asked when memory ran out.
    """

    batch_size: int
    values: dict[int, Floats] = field(default_factory=dict)
    errors: dict[int, Exception] = field(default_factory=dict)
    forwards: int = 0

    def add(self, batch: SlotResults) -> None:
        """Take in what came of one batch."""
        self.values |= batch.values
        self.errors |= batch.errors
        self.forwards += batch.forwards


class OutOfMemoryError(RSEmbedError, MemoryError):
    """One row alone does not fit into memory."""

    error_class = "out_of_memory"


class StoppedError(RSEmbedError):
    """The caller asked to stop between two batches."""

    error_class = "stopped"


def run_slots(
    embedder: EmbedderBase,
    load: SlotLoader,
    n_slots: int,
    *,
    batch_size: int,
    pad: bool = True,
    threads: int = 0,
    should_stop: Callable[[], bool] = lambda: False,
) -> SlotResults:
    """Embed ``n_slots`` slots in batches of ``batch_size``.

    ``pad``: the last batch is zero-filled to the full size (runs); without it it is short
    (arrays in hand, where nobody waits for empty slots). ``threads``: so many call ``load``, and a
    batch is made ready while another one computes, so that an accelerator need not wait for pixels;
    with 0 everything happens in the caller's thread. The numbers are the same. A row's error is
    recorded, never raised; StoppedError and DeviceError are.
    """
    size = batch_size
    with ThreadPoolExecutor(threads, "prepare") if threads else nullcontext() as pool:
        while True:
            results = SlotResults(size)
            batches = [range(first, min(first + size, n_slots)) for first in range(0, n_slots, size)]

            def run(slots: range) -> SlotResults:
                inputs = (pool.map if pool else map)(_Attempt(load), slots)
                return _run_batch(embedder, slots, list(inputs), size, pad=pad)  # noqa: B023 - called in this round only

            try:
                for batch in _each(batches, run, at_once=_UNDER_WAY if threads else 1, should_stop=should_stop):
                    results.add(batch)
                return results
            except _BatchTooLargeError:
                size //= 2
                logger.warning("batch_halved", extra={"model": embedder.card.id, "batch_size": size})


class _BatchTooLargeError(Exception):
    """Memory ran out on a batch of more than one row."""


def _each(
    batches: Sequence[range], run: Callable[[range], SlotResults], *, at_once: int, should_stop: Callable[[], bool]
) -> Iterator[SlotResults]:
    """``run`` of every batch, in order; StoppedError between two of them."""
    with ThreadPoolExecutor(at_once, "batch") if at_once > 1 else nullcontext() as pool:
        under_way: deque[Future[SlotResults]] = deque()
        try:
            for slots in batches:
                if should_stop():
                    raise StoppedError("stopped between two batches")
                if pool is None:
                    yield run(slots)
                    continue
                under_way.append(pool.submit(run, slots))
                if len(under_way) == at_once:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            for future in under_way:
                future.cancel()


@dataclass(frozen=True)
class _Attempt:
    """``load``, with an error as an answer."""

    load: SlotLoader

    def __call__(self, slot: int) -> Sequence[Prepared] | Exception | None:
        """The slot's inputs, or why there are none."""
        try:
            return self.load(slot)
        except Exception as exc:  # noqa: BLE001 - a row ends here; what went wrong is recorded with it
            return exc


def _run_batch(
    embedder: EmbedderBase,
    slots: range,
    loaded: Sequence[Sequence[Prepared] | Exception | None],
    size: int,
    *,
    pad: bool,
) -> SlotResults:
    results = SlotResults(size)
    inputs: dict[int, Sequence[Prepared]] = {}
    for slot, found in zip(slots, loaded, strict=True):
        if isinstance(found, Exception):
            results.errors[slot] = found
        elif found is not None:
            inputs[slot] = found
    length = results.batch_size if pad else len(slots)
    parts: dict[int, list[Floats]] = {slot: [] for slot in inputs}
    for tile in range(max((len(tiles) for tiles in inputs.values()), default=0)):
        by_shape: dict[object, dict[int, Prepared]] = {}
        for slot, tiles in inputs.items():
            if tile < len(tiles) and slot not in results.errors:
                by_shape.setdefault(tiles[tile].signature, {})[slot] = tiles[tile]
        for members in by_shape.values():
            for slot, value in _forward(embedder, members, slots.start, length, results).items():
                parts[slot].append(value)
    for slot, tiles in inputs.items():
        if slot in results.errors:
            continue
        try:
            results.values[slot] = embedder.combine(parts[slot], tiles)
        except Exception as exc:  # noqa: BLE001 - a row ends here as well
            results.errors[slot] = exc
    return results


def _forward(
    embedder: EmbedderBase, members: dict[int, Prepared], first: int, length: int, results: SlotResults
) -> dict[int, Floats]:
    """One zero-filled pass over ``members``; a failure is narrowed down by masking at the same size."""
    if not members:
        return {}
    example = next(iter(members.values()))
    arrays = {name: np.zeros((length, *a.shape), dtype=a.dtype) for name, a in example.arrays.items()}
    roi = np.zeros((length, 4), dtype=np.float32)
    for slot, prepared in members.items():
        for name, array in prepared.arrays.items():
            arrays[name][slot - first] = array
        roi[slot - first] = prepared.roi
    try:
        results.forwards += 1
        out = embedder.embed_batch(arrays, roi)
    except Exception as exc:  # a batch ends here; the guilty row is found and recorded
        if type(exc).__name__ == "AcceleratorError":
            raise DeviceError(f"{embedder.card.id}: the device failed: {exc}") from exc
        if _is_out_of_memory(exc):
            if results.batch_size > 1:
                raise _BatchTooLargeError from exc
            exc = OutOfMemoryError(f"a single input of {embedder.card.id} does not fit into memory: {exc}")
        if len(members) == 1:
            results.errors[next(iter(members))] = exc
            return {}
        items = list(members.items())
        half = len(items) // 2
        left = _forward(embedder, dict(items[:half]), first, length, results)
        return left | _forward(embedder, dict(items[half:]), first, length, results)
    if len(out) != length:
        raise ModelError(f"{embedder.card.id} returned {len(out)} embeddings for a batch of {length}")
    found = {}
    for slot in members:
        value = np.ascontiguousarray(out[slot - first], dtype=np.float32)
        if np.isfinite(value).all():
            found[slot] = value
        else:
            results.errors[slot] = ModelError(f"{embedder.card.id} gave NaN or infinite numbers for this row")
    return found


def _is_out_of_memory(error: Exception) -> bool:
    # torch's own class is recognised by name, so that numpy-only models need no torch here.
    text = str(error)
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and ("DefaultCPUAllocator" in text or "out of memory" in text))
    )
