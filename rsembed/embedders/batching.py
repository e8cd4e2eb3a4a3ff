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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rsembed.core.errors import DeviceError, ModelError, RSEmbedError
from rsembed.embedders.base import EmbedderBase
from rsembed.embedders.prepared import Prepared
from rsembed.embedders.stacking import Buffers, Stack
from rsembed.tools.cells import CellLattice

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

    ``values[slot]``: float32 (D,) or (D, h, w); ``cells[slot]``: where the cells of a map lie;
    ``errors[slot]``: why a slot gave nothing. ``batch_size``: the B in force at the end, smaller than
    asked when memory ran out.
    """

    batch_size: int
    values: dict[int, Floats] = field(default_factory=dict)
    cells: dict[int, CellLattice] = field(default_factory=dict)
    errors: dict[int, Exception] = field(default_factory=dict)
    forwards: int = 0

    def add(self, batch: SlotResults) -> None:
        """Take in what came of one batch."""
        self.values |= batch.values
        self.cells |= batch.cells
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
    size, buffers = batch_size, Buffers()
    with ThreadPoolExecutor(threads, "prepare") if threads else nullcontext() as pool:
        while True:
            results = SlotResults(size)
            batches = [range(first, min(first + size, n_slots)) for first in range(0, n_slots, size)]

            def run(slots: range) -> SlotResults:
                loaded = (pool.map if pool else map)(_Attempt(load), slots)
                length = size if pad else len(slots)  # noqa: B023 - called in this round only
                return _Batch(embedder, slots, length, SlotResults(size), buffers).run(loaded)  # noqa: B023 - the same

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


@dataclass(frozen=True)
class _Batch:
    """One batch on its way: ``slots`` in ``length`` places."""

    embedder: EmbedderBase
    slots: range
    length: int
    results: SlotResults
    buffers: Buffers

    def run(self, loaded: Iterable[Sequence[Prepared] | Exception | None]) -> SlotResults:
        """Embed what was loaded for each slot, tile by tile."""
        results = self.results
        inputs: dict[int, list[Prepared]] = {}
        early: Stack | None = None
        for slot, found in zip(self.slots, loaded, strict=True):
            if isinstance(found, Exception):
                results.errors[slot] = found
            elif found is not None:
                inputs[slot] = list(found)
                if found:
                    early = early or self._stack(found[0])
                    if found[0].signature == early.signature:
                        # Nearly always: a row's memory is then free for the pixels of the next one.
                        inputs[slot][0] = early.take_over(slot, found[0])
        parts: dict[int, list[Floats]] = {slot: [] for slot in inputs}
        if early is not None:
            self._pass(early, parts)
        for tile in range(max((len(tiles) for tiles in inputs.values()), default=0)):
            by_shape: dict[object, list[int]] = {}
            for slot, tiles in inputs.items():
                waits = tile < len(tiles) and len(parts[slot]) == tile
                if waits and slot not in results.errors:
                    by_shape.setdefault(tiles[tile].signature, []).append(slot)
            for members in by_shape.values():
                stack = self._stack(inputs[members[0]][tile])
                for slot in members:
                    inputs[slot][tile] = stack.take_over(slot, inputs[slot][tile])
                self._pass(stack, parts)
        for slot, tiles in inputs.items():
            if slot in results.errors:
                continue
            try:
                answer = self.embedder.combine(parts[slot], tiles)
            except Exception as exc:  # noqa: BLE001 - a row ends here as well
                results.errors[slot] = exc
                continue
            results.values[slot] = answer.values
            if answer.cells is not None:
                results.cells[slot] = answer.cells
        return results

    def _stack(self, like: Prepared) -> Stack:
        return self.buffers.stack(like, self.slots.start, self.length)

    def _pass(self, stack: Stack, parts: Mapping[int, list[Floats]]) -> None:
        stack.clear_absent()
        for slot, value in self._forward(stack.members, stack.arrays, stack.roi).items():
            parts[slot].append(value)

    def _forward(self, members: Sequence[int], arrays: Mapping[str, NDArray[Any]], roi: Floats) -> dict[int, Floats]:
        """One pass for the slots ``members``; a failure is narrowed down by masking at the same size."""
        name, results, first = self.embedder.card.id, self.results, self.slots.start
        try:
            results.forwards += 1
            out = self.embedder.embed_batch(arrays, roi)
        except Exception as exc:  # a batch ends here; the guilty row is found and recorded
            if type(exc).__name__ == "AcceleratorError":
                raise DeviceError(f"{name}: the device failed: {exc}") from exc
            if _is_out_of_memory(exc):
                if results.batch_size > 1:
                    raise _BatchTooLargeError from exc
                exc = OutOfMemoryError(f"a single input of {name} does not fit into memory: {exc}")
            if len(members) == 1:
                results.errors[members[0]] = exc
                return {}
            half = len(members) // 2
            return self._masked(members[:half], arrays, roi) | self._masked(members[half:], arrays, roi)
        if len(out) != self.length:
            raise ModelError(f"{name} returned {len(out)} embeddings for a batch of {self.length}")
        # A copy, whatever memory the answer lies in.
        values = np.array(out, dtype=np.float32)
        sound: list[bool] = np.logical_and.reduce(np.isfinite(values.reshape(len(values), -1)), axis=1).tolist()
        found = {}
        for slot in members:
            if self.embedder.holes or sound[slot - first]:
                found[slot] = values[slot - first]
            else:
                results.errors[slot] = ModelError(f"{name} gave NaN or infinite numbers for this row")
        return found

    def _masked(self, members: Sequence[int], arrays: Mapping[str, NDArray[Any]], roi: Floats) -> dict[int, Floats]:
        """:meth:`_forward` with all other places zero."""
        places = [slot - self.slots.start for slot in members]

        def only(array: NDArray[Any]) -> NDArray[Any]:
            kept = np.zeros_like(array)
            kept[places] = array[places]
            return kept

        return self._forward(members, {name: only(array) for name, array in arrays.items()}, only(roi))


def _is_out_of_memory(error: Exception) -> bool:
    # torch's own class is recognised by name, so that numpy-only models need no torch here.
    text = str(error)
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and ("DefaultCPUAllocator" in text or "out of memory" in text))
    )
