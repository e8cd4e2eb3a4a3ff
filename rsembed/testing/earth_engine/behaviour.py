"""How the server behaves: latency, limits, quotas that last, and faults that happen a number of times."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

FaultKind = Literal["error", "page", "reset", "silent", "truncated", "garbage"]

TOO_MANY = "Too Many Requests: Request was rejected because the request rate or concurrency limit was exceeded."
MEMORY = "User memory limit exceeded."
TIMED_OUT = "Computation timed out."
UNAUTHENTICATED = (
    "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid "
    "authentication credential."
)
STATUS_NAMES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


@dataclass(frozen=True)
class Fault:
    """What happens to the next ``times`` requests whose path contains ``path``.

    ``error``: ``status`` with the service's JSON and ``message``. ``page``: ``status`` with a page of HTML, as a
    proxy answers. ``reset``: the connection is reset. ``silent``: no answer for ``delay_s`` (an hour if 0), then a
    reset. ``truncated``: a right answer of which half arrives. ``garbage``: a whole answer that is no NPY.
    ``headers`` are added. ``delay_s`` passes before anything is answered. ``after``: so many requests pass first.
    """

    kind: FaultKind = "error"
    status: int = 429
    message: str = TOO_MANY
    times: int = 1
    path: str = ":compute"
    after: int = 0
    delay_s: float = 0.0
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Latency:
    """Seconds a computation takes at least: lognormal about ``base_s + per_scene_s`` x stored images read.

    The images of all bins together: bins x scenes of a bin, each counted once. ``sigma`` is that of the logarithm.
    """

    base_s: float
    per_scene_s: float = 0.0
    sigma: float = 0.45

    def draw(self, scenes: int, chance: random.Random) -> float:
        """One latency; its median is the formula's value."""
        return (self.base_s + self.per_scene_s * scenes) * math.exp(chance.gauss(0.0, self.sigma))


@dataclass(frozen=True)
class Behaviour:
    """What holds until it is changed. All of it is off unless given.

    ``concurrency``: ``(seconds since it was set, requests at once)`` steps; beyond it requests get 429.
    ``requests_per_s``: beyond it, over the last second, 429. ``memory_limit_pixels`` and ``time_limit_pixels``:
    grids of more pixels (height x width) fail as such computations do. ``quota_status``: the value of the header
    x-earth-engine-quota-status on every answer. ``token``: the one bearer token that is accepted; None takes all,
    an empty text none, as after it has expired.
    """

    concurrency: tuple[tuple[float, int], ...] = ()
    requests_per_s: float | None = None
    latency: Latency | None = None
    memory_limit_pixels: int | None = None
    time_limit_pixels: int | None = None
    quota_status: str | None = None
    token: str | None = None

    def limit_at(self, age_s: float) -> int | None:
        """How many requests may run ``age_s`` seconds after this was set; None: any number."""
        reached = [limit for start_s, limit in self.concurrency if start_s <= age_s]
        return reached[-1] if reached else None


@dataclass(frozen=True)
class RequestRecord:
    """One request as the server saw it; ``at_s`` since its start, ``fault`` the kind that was played or empty."""

    at_s: float
    method: str
    kind: str
    """``discovery``, ``algorithms``, ``value:compute``, ``image:computePixels`` or ``other``."""
    status: int
    """0 where no answer was sent."""
    seconds: float
    bytes_in: int
    bytes_out: int
    bands: int = 0
    height: int = 0
    width: int = 0
    scenes: int = 0
    crs: str = ""
    workload_tag: str = ""
    running: int = 0
    """Computations under way when it came, itself not counted."""
    fault: str = ""
    message: str = ""


@dataclass(frozen=True)
class Counters:
    """Totals since the start or the last ``clear``."""

    requests: int
    pixel_requests: int
    running: int
    peak_running: int
    rejected: int
    """Answers 429."""
