"""The server: an HTTP API that the official client takes for Earth Engine's, on this machine only."""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rsembed.testing.earth_engine.answers import MAX_JSON_BYTES, compute_pixels, compute_value
from rsembed.testing.earth_engine.behaviour import (
    MEMORY,
    TIMED_OUT,
    TOO_MANY,
    UNAUTHENTICATED,
    Behaviour,
    Counters,
    Fault,
    RequestRecord,
)
from rsembed.testing.earth_engine.collections import SyntheticImage, invented, read_catalog
from rsembed.testing.earth_engine.errors import EarthEngineError
from rsembed.testing.earth_engine.http import Handler, Listener
from rsembed.testing.earth_engine.rasters import RasterStore
from rsembed.testing.earth_engine.signatures import algorithms_document, discovery_document
from rsembed.testing.earth_engine.values import Collection

RECURSION = 20_000
"""Python frames: images of hundreds of added bands are as deep as that."""


@dataclass(frozen=True)
class Answer:
    """What goes back: status, body, further headers, and what the log says of it."""

    status: int
    content: bytes
    headers: Mapping[str, str]
    note: Mapping[str, Any]


class LocalEarthEngine:
    """A local Earth Engine over ``catalog`` (a static STAC catalogue) and ``images`` (collection id -> images).

    Use it as a context manager; ``url`` is what ``ee.Initialize(url=...)`` takes. It listens on 127.0.0.1 only,
    at a free port unless one is given. Answers are computed from the expressions that are sent; what it does not
    model is refused with 400 and a message that says so.
    """

    def __init__(
        self,
        catalog: Path | str | None = None,
        *,
        images: Mapping[str, Sequence[SyntheticImage]] | None = None,
        behaviour: Behaviour | None = None,
        port: int = 0,
        seed: int = 0,
    ) -> None:
        store = RasterStore()
        self.collections: dict[str, Collection] = {} if catalog is None else read_catalog(Path(catalog), store)
        self.collections |= {name: invented(found, store) for name, found in (images or {}).items()}
        self._lock = threading.Lock()
        self._chance = random.Random(seed)  # noqa: S311  # latencies, nothing secret
        self._started = time.monotonic()
        self._closing = threading.Event()
        self.behaviour = behaviour or Behaviour()
        self._behaving_since = self._started
        self._faults: list[Fault] = []
        self._log: list[RequestRecord] = []
        self._admitted: deque[float] = deque()
        self._running = self._peak = 0
        self._listener = Listener(("127.0.0.1", port), Handler, self)
        self.url = f"http://127.0.0.1:{self._listener.server_port}"
        self._thread = threading.Thread(target=self._listener.serve_forever, name="local-earth-engine", daemon=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Begin to answer."""
        # Never lowered again: another server of this process may still need it.
        sys.setrecursionlimit(max(sys.getrecursionlimit(), RECURSION))
        self._behaving_since = time.monotonic()
        self._thread.start()

    def close(self) -> None:
        """Stop; open connections are cut. Once closed it stays closed."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._listener.shutdown()
        self._listener.cut()
        self._listener.server_close()
        self._thread.join()

    # Steering

    def script(self, *faults: Fault) -> None:
        """Play ``faults`` on the next requests, in this order, each as often as it says."""
        with self._lock:
            self._faults += faults

    def behave(self, **changes: object) -> None:
        """Change fields of the behaviour; the steps of its concurrency are counted from now."""
        with self._lock:
            self.behaviour = replace(self.behaviour, **changes)  # type: ignore[arg-type]  # fields of Behaviour
            self._behaving_since = time.monotonic()
            self._admitted.clear()

    def clear(self) -> None:
        """Forget the log, the peak and every fault that was not played."""
        with self._lock:
            self._faults.clear()
            self._log.clear()
            self._peak = self._running

    @property
    def log(self) -> list[RequestRecord]:
        """Every request so far, in the order of their ends."""
        with self._lock:
            return list(self._log)

    @property
    def counters(self) -> Counters:
        """Totals so far."""
        with self._lock:
            pixels = sum(record.kind == "image:computePixels" for record in self._log)
            rejected = sum(record.status == 429 for record in self._log)
            return Counters(len(self._log), pixels, self._running, self._peak, rejected)

    # What the HTTP handler calls

    def next_fault(self, path: str) -> Fault | None:
        """The fault to be played on a request for ``path``; it counts as played."""
        with self._lock:
            for number, fault in enumerate(self._faults):
                if fault.path not in path:
                    continue
                if fault.after > 0:
                    self._faults[number] = replace(fault, after=fault.after - 1)
                    return None
                left = replace(fault, times=fault.times - 1)
                self._faults[number : number + 1] = [left] if left.times > 0 else []
                return fault
        return None

    def wait(self, seconds: float) -> None:
        """Let time pass, less of it when the server closes."""
        self._closing.wait(seconds)

    def age_s(self) -> float:
        """Seconds since the server was made."""
        return time.monotonic() - self._started

    def running(self) -> int:
        """Computations under way."""
        with self._lock:
            return self._running

    def record(self, record: RequestRecord) -> None:
        """Add to the log."""
        with self._lock:
            self._log.append(record)

    def answer(self, kind: str, content: bytes, token: str) -> Answer:
        """The answer to one request of ``kind``. Raises EarthEngineError."""
        accepted = self.behaviour.token
        if accepted is not None and (not accepted or token != accepted):
            raise EarthEngineError(UNAUTHENTICATED, 401)
        if kind == "discovery":
            return Answer(200, discovery_document(), {}, {})
        if kind == "algorithms":
            return Answer(200, algorithms_document(), {}, {})
        if len(content) > MAX_JSON_BYTES:
            raise EarthEngineError(f"Request payload size exceeds the limit: {MAX_JSON_BYTES} bytes.", 400)
        if kind not in ("value:compute", "image:computePixels"):
            raise EarthEngineError("Not found. The local Earth Engine server has no such method.", 404)
        self._admit()
        try:
            return self._computed(kind, _body(content))
        finally:
            with self._lock:
                self._running -= 1

    def _admit(self) -> None:
        """Count one more computation as running. Raises EarthEngineError 429 beyond the quotas."""
        now = time.monotonic()
        with self._lock:
            limit = self.behaviour.limit_at(now - self._behaving_since)
            rate = self.behaviour.requests_per_s
            while self._admitted and now - self._admitted[0] >= 1.0:
                self._admitted.popleft()
            if (limit is not None and self._running >= limit) or (rate is not None and len(self._admitted) >= rate):
                raise EarthEngineError(TOO_MANY, 429)
            self._admitted.append(now)
            self._running += 1
            self._peak = max(self._peak, self._running)

    def _computed(self, kind: str, body: Mapping[str, Any]) -> Answer:
        began = time.monotonic()
        note: dict[str, Any] = {"workload_tag": str(body.get("workloadTag", ""))}
        if kind == "value:compute":
            content = compute_value(body, self.collections)
            return Answer(200, content, {}, note)
        size = body.get("grid", {}).get("dimensions", {})
        pixels = int(size.get("height", 0)) * int(size.get("width", 0))
        for limit, text in (
            (self.behaviour.memory_limit_pixels, MEMORY),
            (self.behaviour.time_limit_pixels, TIMED_OUT),
        ):
            if limit is not None and pixels > limit:
                raise EarthEngineError(text)
        found = compute_pixels(body, self.collections)
        note |= {
            "bands": found.bands,
            "height": found.height,
            "width": found.width,
            "scenes": found.scenes,
            "crs": str(body["grid"].get("crsCode", "")),
        }
        latency = self.behaviour.latency
        if latency is not None:
            with self._lock:
                seconds = latency.draw(found.scenes, self._chance)
            self.wait(max(0.0, seconds - (time.monotonic() - began)))
        return Answer(200, found.content, {}, note)


def _body(content: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(content)
    except ValueError as exc:
        raise EarthEngineError("Invalid JSON payload received.") from exc
    if not isinstance(found, dict) or "expression" not in found:
        raise EarthEngineError("Invalid value: the request has no expression.")
    return found
