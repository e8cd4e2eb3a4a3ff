"""Values that several threads share: each is made once, by whoever comes first, and kept while there is room."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Generic, TypeVar

V = TypeVar("V")
SHARE = 8
LEAST_BYTES, MOST_BYTES = 256 << 20, 4 << 30
LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Where Linux says how much memory a container may use: control groups of version 2 and 1."""


def memory_share(limits: Sequence[Path] = LIMITS) -> int:
    """Bytes of memory that a cache may take: an eighth of the machine's or the container's, 256 MB to 4 GB."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for path in limits:
        with contextlib.suppress(OSError, ValueError):  # not there, or "max"
            total = min(total, int(path.read_text(encoding="ascii")))
    return max(LEAST_BYTES, min(MOST_BYTES, total // SHARE))


class SharedCache(Generic[V]):
    """Values by key, the longest unused dropped first once they weigh more than ``capacity`` together.

    Threads that want a value while another one makes it wait for that one and share its outcome, a
    fault included; a fault is not kept, so whoever asks later tries again.
    """

    def __init__(self, capacity: int, weight: Callable[[V], int] = lambda _: 1) -> None:
        self._capacity, self._weight = capacity, weight
        self._lock = threading.Lock()
        self._values: OrderedDict[Hashable, V] = OrderedDict()
        self._making: dict[Hashable, Future[V]] = {}
        self._total = 0

    def get(self, key: Hashable, make: Callable[[], V]) -> V:
        """The value of ``key``, made by ``make`` where it is not there. Raises what ``make`` raises."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
            other = self._making.get(key)
            if other is None:
                mine = self._making[key] = Future()
        if other is not None:
            return other.result()
        try:
            value = make()
        except BaseException as exc:  # whoever waits has to hear of it, whatever it is
            with self._lock:
                del self._making[key]
            mine.set_exception(exc)
            raise
        with self._lock:
            del self._making[key]
            self._keep(key, value)
        mine.set_result(value)
        return value

    def held(self, key: Hashable) -> V | None:
        """The value of ``key`` if it is there."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def drop(self, wanted: Callable[[Hashable], bool]) -> None:
        """Forget the values whose key is ``wanted``."""
        with self._lock:
            for key in [key for key in self._values if wanted(key)]:
                self._total -= self._weight(self._values.pop(key))

    def clear(self) -> None:
        """Forget everything."""
        self.drop(lambda _: True)

    @property
    def total(self) -> int:
        """What the values weigh together."""
        return self._total

    def _keep(self, key: Hashable, value: V) -> None:
        self._values[key] = value
        self._total += self._weight(value)
        while self._total > self._capacity and len(self._values) > 1:
            _, old = self._values.popitem(last=False)
            self._total -= self._weight(old)
