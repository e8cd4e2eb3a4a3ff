from __future__ import annotations

import threading
import time

from tests.unit.workers.process_parts import Clock, ScriptedLedger, worker
from workers.degraded import DegradedModels


class Queue:
    """What was left and joined."""

    def __init__(self) -> None:
        self.moves: list[str] = []

    def left(self, model: str) -> None:
        self.moves.append(f"-{model}")

    def joined(self, model: str) -> None:
        self.moves.append(f"+{model}")


def models(clock: Clock, queue: Queue) -> DegradedModels:
    return DegradedModels(probe_s=60.0, clock=clock, left=queue.left, joined=queue.joined)


def wait_until(queue: Queue, moves: list[str]) -> bool:
    end = time.monotonic() + 5
    while queue.moves != moves and time.monotonic() < end:
        time.sleep(0.005)
    return queue.moves == moves


def test_degraded_when_a_model_fails_twice_then_its_queue_is_left_once() -> None:
    queue = Queue()
    degraded = models(Clock(), queue)
    degraded.add("alpha", "no weights")
    degraded.add("alpha", "still none")
    assert queue.moves == ["-alpha"]
    assert degraded.reasons() == {"alpha": "still none"}


def test_degraded_when_there_is_no_probe_then_the_model_is_tried_again_after_the_time() -> None:
    clock, queue = Clock(), Queue()
    degraded = models(clock, queue)
    degraded.add("alpha", "no weights")
    clock.forward(59.0)
    degraded.probe_due()
    assert queue.moves == ["-alpha"]
    clock.forward(1.0)
    degraded.probe_due()
    assert queue.moves == ["-alpha", "+alpha"]
    assert degraded.reasons() == {}


def test_degraded_when_the_probe_fails_then_it_is_asked_again_a_period_later() -> None:
    clock, queue = Clock(), Queue()
    degraded = models(clock, queue)
    asked = threading.Semaphore(0)
    works = [False]

    def probe() -> None:
        asked.release()
        if not works[0]:
            raise RuntimeError("the device does not answer")

    degraded.add("alpha", "no weights", probe)
    clock.forward(60.0)
    degraded.probe_due()
    degraded.probe_due()
    assert asked.acquire(timeout=5)
    end = time.monotonic() + 5
    while degraded.reasons() != {"alpha": "the device does not answer"} and time.monotonic() < end:
        time.sleep(0.005)
    assert degraded.reasons() == {"alpha": "the device does not answer"}
    works[0] = True
    clock.forward(60.0)
    degraded.probe_due()
    assert wait_until(queue, ["-alpha", "+alpha"])
    assert asked.acquire(timeout=5)
    assert not asked.acquire(blocking=False)


def test_degraded_when_a_model_was_never_in_trouble_then_removing_it_does_nothing() -> None:
    queue = Queue()
    models(Clock(), queue).remove("alpha")
    assert queue.moves == []


def test_degraded_when_the_ledger_is_away_then_it_is_told_later_and_once() -> None:
    ledger = ScriptedLedger(Clock())
    process = worker(ledger)
    process.degraded.add("alpha", "no weights")
    ledger.away = True
    process.beat()
    ledger.away = False
    process.beat()
    process.beat()
    process.degraded.remove("alpha")
    process.beat()
    assert ledger.degraded == [("alpha", "no weights"), ("alpha", None)]
