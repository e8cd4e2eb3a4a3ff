"""The permits of a thread that asks one request after the other."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from rsembed.providers.throttle import Permit, Throttle

T = TypeVar("T")


class Permits:
    """The permits of one thread: one that was good for a request may be good for the thread's next one.

    Call :meth:`drop` before the thread does anything else than ask.
    """

    def __init__(self) -> None:
        self._throttle: Throttle | None = None
        self._permit: Permit | None = None

    def ask(self, throttle: Throttle, stop: threading.Event, request: Callable[[], T]) -> T:
        """What ``request`` gives, asked with a permit of ``throttle``; raises as :meth:`Throttle.acquire` does."""
        permit = self._kept(throttle) or throttle.acquire(stop)
        try:
            answer = request()
        except BaseException as exc:  # whatever it was, the throttle learns how the request ended
            permit.end(exc)
            raise
        if permit.may_stay():
            self._throttle, self._permit = throttle, permit
        else:
            permit.end()
        return answer

    def _kept(self, throttle: Throttle) -> Permit | None:
        permit = self._permit
        if permit is not None and throttle is self._throttle and permit.may_stay():
            self._permit = None
            permit.begin_again()
            return permit
        self.drop()
        return None

    def drop(self) -> None:
        """Give back what is held."""
        permit, self._permit = self._permit, None
        if permit is not None:
            permit.end()
