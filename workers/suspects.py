"""Which row kills its process: found by running a suspect unit in marked steps; pure.

A unit whose lease ended without an outcome is suspect and runs alone in its process. Before each
step the slots about to run are written to the ledger (:class:`~workers.ledger.records.Marks`).
If the process dies, the next claimer knows which step it was: a batch is then run row by row, and
a row that was alone in its step at two deaths is condemned while its mates are done. Two, because
a process may also be killed from outside while an innocent row runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from workers.ledger.records import Marks

DEATHS = 2
"""Deaths of a process while a row ran alone, after which the row is given up."""


def fold(marks: Marks) -> Marks:
    """``marks`` of the last claim as the next one takes them: what was about to run has seen one more death."""
    if not marks.slots:
        # It was not alone, so whose memory it was is not known.
        return replace(marks, out_of_memory=False)
    if len(marks.slots) > 1:
        return replace(marks, slots=(), batches=(*marks.batches, marks.slots))
    (slot,) = marks.slots
    return replace(marks, slots=(), deaths={**marks.deaths, slot: marks.deaths.get(slot, 0) + 1})


def about_to_run(marks: Marks, slots: Sequence[int]) -> Marks:
    """``marks`` to be written before ``slots`` run; none, when the last of them have. How others died is over."""
    return replace(marks, slots=tuple(slots), out_of_memory=False)


def condemned(marks: Marks) -> frozenset[int]:
    """Slots that have cost enough processes."""
    return frozenset(slot for slot, deaths in marks.deaths.items() if deaths >= DEATHS)


def error_class(marks: Marks) -> str:
    """Under which class a condemned row fails."""
    return "out_of_memory" if marks.out_of_memory else "crash"


def steps(marks: Marks, slots: Sequence[int], size: int) -> Iterator[tuple[int, ...]]:
    """``slots`` without the condemned ones in steps: batches of ``size`` places, then suspects one by one.

    Innocent rows come first, so that whatever a guilty one does, theirs are known to be good. A batch
    holds the slots of one span of ``size`` places, as inference would run them.
    """
    out = condemned(marks)
    alone = {slot for batch in marks.batches for slot in batch} | set(marks.deaths)
    batches: dict[int, list[int]] = {}
    for slot in slots:
        if slot not in out and slot not in alone:
            batches.setdefault(slot // size, []).append(slot)
    for _, members in sorted(batches.items()):
        yield tuple(members)
    for slot in sorted(alone - out):
        if slot in set(slots):
            yield (slot,)
