from __future__ import annotations

import threading

from rsembed.pipelines.due_queue import DueQueue


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_queue_when_nothing_is_put_off_then_first_in_is_first_out() -> None:
    queue: DueQueue[int] = DueQueue()
    for i in range(5):
        queue.put(i)
    assert [queue.get() for _ in range(5)] == list(range(5))


def test_queue_when_an_item_is_put_off_then_the_others_go_first_and_it_goes_once_it_is_due() -> None:
    clock = Clock()
    queue: DueQueue[str] = DueQueue(clock=clock)
    assert queue.put_off("late", 5.0, at_most=2)
    assert queue.put_off("earlier", 3.0, at_most=2)
    assert not queue.put_off("one too many", 1.0, at_most=2)
    for name in ("a", "b", "c"):
        queue.put(name)
    assert queue.get() == "a"
    clock.now = 5.0
    assert [queue.get() for _ in range(4)] == ["earlier", "late", "b", "c"]


def test_queue_when_only_what_was_put_off_is_there_then_it_is_waited_for() -> None:
    queue: DueQueue[str] = DueQueue()
    queue.put_off("late", 0.01, at_most=1)
    assert queue.get() == "late"


def test_queue_when_closed_then_everybody_who_waits_gets_none() -> None:
    queue: DueQueue[str] = DueQueue()
    found: list[str | None] = []
    threads = [threading.Thread(target=lambda: found.append(queue.get())) for _ in range(3)]
    for thread in threads:
        thread.start()
    queue.close()
    for thread in threads:
        thread.join(10)
    queue.put("x")
    assert [*found, queue.get()] == [None] * 4


def test_get_when_it_may_not_wait_then_only_what_is_due_is_had() -> None:
    clock = Clock()
    queue: DueQueue[str] = DueQueue(clock=clock)
    assert queue.get(wait=False) is None
    queue.put_off("later", 5.0, at_most=1)
    assert queue.get(wait=False) is None
    queue.put("now", "then")
    assert (queue.get(wait=False), queue.get(wait=False), queue.get(wait=False)) == ("now", "then", None)
    clock.now += 5.0
    assert queue.get(wait=False) == "later"
