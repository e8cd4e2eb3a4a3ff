"""Threads that wait for a network on behalf of those that compute."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Later(Protocol[T_co]):
    """The outcome of a call that is made at some time."""

    def result(self) -> T_co:
        """What the call returns or raises, waited for."""
        ...

    def cancel(self) -> bool:
        """Do not begin the call if that can be helped; nobody will ask for its outcome."""
        ...


class WhenAsked(Generic[T_co]):
    """A call that is made when its outcome is asked for, by whoever asks."""

    def __init__(self, call: Callable[[], T_co]) -> None:
        self._call = call

    def result(self) -> T_co:
        """What the call returns or raises."""
        return self._call()

    def cancel(self) -> bool:
        """Nothing has begun."""
        return True


class LoaderThreads:
    """At most ``count`` threads, begun as they are needed, that run what is submitted in order.

    They are daemons: the interpreter's own pools wait for their work when the process ends, and a
    request that hangs would keep a cancelled export alive for a minute.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._lock = threading.Lock()
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._free = threading.Semaphore(0)

    def submit(self, call: Callable[[], T]) -> Future[T]:
        """A future of what ``call`` returns or raises."""
        future: Future[T] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(call())
            except BaseException as exc:  # noqa: BLE001  # raised where the result is asked for
                future.set_exception(exc)

        if not self._free.acquire(blocking=False):
            self._begin()
        self._work.put(run)
        return future

    def close(self) -> None:
        """No thread takes up more work; calls that have begun end by themselves."""
        with self._lock:
            for _ in self._threads:
                self._work.put(None)
            self._threads.clear()

    def _begin(self) -> None:
        with self._lock:
            if len(self._threads) < self._count:
                thread = threading.Thread(target=self._serve, daemon=True, name=f"load-{len(self._threads)}")
                self._threads.append(thread)
                thread.start()

    def _serve(self) -> None:
        while (run := self._work.get()) is not None:
            run()
            self._free.release()
