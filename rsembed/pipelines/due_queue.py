"""A queue whose items may say from when on they want to be taken, so that nobody sleeps beside one that waits."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class DueQueue(Generic[T]):
    """First in, first out; what was put off goes before the rest once it is due. Safe to use from many threads."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._ready: deque[T] = deque()
        self._later: list[tuple[float, int, T]] = []
        self._order = itertools.count()
        self._closed = False

    def put(self, *items: T) -> None:
        """Add ``items`` at the end."""
        with self._changed:
            self._ready.extend(items)
            self._changed.notify(len(items))

    def put_off(self, item: T, in_s: float, *, at_most: int) -> bool:
        """Add ``item``, to be had in ``in_s`` seconds at the earliest; False where ``at_most`` are put off already."""
        with self._changed:
            if len(self._later) >= at_most:
                return False
            heapq.heappush(self._later, (self._clock() + in_s, next(self._order), item))
            self._changed.notify()
            return True

    def get(self, *, wait: bool = True) -> T | None:
        """The next item that is due, waited for; None once the queue is closed, whatever is left in it.

        Without ``wait`` also None where none is due.
        """
        with self._changed:
            while not self._closed:
                now = self._clock() if self._later else 0.0
                if self._later and self._later[0][0] <= now:
                    return heapq.heappop(self._later)[2]
                if self._ready:
                    return self._ready.popleft()
                if not wait:
                    return None
                self._changed.wait(self._later[0][0] - now if self._later else None)
            return None

    def close(self) -> None:
        """Let everybody who waits go."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
