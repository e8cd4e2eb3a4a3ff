"""A source of imagery and models that misbehave on demand: a plug-in for tests of the fleet.

Use it with ``RSEMBED_PLUGINS=rsembed.testing.fleet``. Backend ``null``, with the options of
:func:`null_backend`; models ``null``, ``null-slow``, ``null-pair``, ``null-crash``, ``null-hog``
and ``null-weights``. Every one gives the vectors of ``null``, so a run that was disturbed can be
compared byte for byte with one that was not.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsembed.core.card import InputContract, Option, WeightsFile
from rsembed.core.errors import AuthError, ProviderError, TransientProviderError, WeightsError
from rsembed.core.fetching import FetchRequest
from rsembed.core.patch import Json
from rsembed.core.settings import Settings
from rsembed.embedders.base import Floats, View
from rsembed.embedders.registry import register
from rsembed.embedders.weights import WeightsHandle, WeightsPin, resolve_weights
from rsembed.providers.factory import register_backend
from rsembed.testing.null import COLLECTION, NullEmbedder, NullProvider, request_seed

_HOG_CHUNK_MB = 32
_HOG_MOST_MB = 8192


def fate(request: FetchRequest) -> float:
    """A number in 0..1 that follows from place and time: which share of the rows a row belongs to."""
    # A multiplicative hash: seeds of neighbours differ in few bits.
    return (request_seed(request) * 2654435761 % 2**32) / 2**32


@dataclass
class _Misfortune:
    """What befalls a request before it is answered."""

    fault_share: float
    permanent_share: float
    heal_file: Path | None
    crash_seed: int | None
    locked_file: Path | None
    trace_file: Path | None
    _failed: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, request: FetchRequest) -> None:
        """Raise what a real provider raises, or end the process."""
        if self.trace_file:
            _trace(self.trace_file)
        if self.locked_file and self.locked_file.exists():
            raise AuthError("the test's credentials have expired")
        if self.crash_seed is not None and request_seed(request) == self.crash_seed:
            os.kill(os.getpid(), signal.SIGKILL)
        if fate(request) >= 1 - self.permanent_share and not (self.heal_file and self.heal_file.exists()):
            raise ProviderError(f"no answer for {request.grid.x_min:.0f}, {request.grid.y_max:.0f}")
        if not self.fault_share:
            return
        name = f"{request.grid}{request.bins[0]}{len(request.bins)}"
        with self._lock:
            if name in self._failed:
                # Once is enough: a row must not run out of attempts by bad luck alone.
                self._failed.discard(name)
            elif random.random() < self.fault_share:  # noqa: S311 - a test's bad luck
                self._failed.add(name)
                raise TransientProviderError("connection reset by the test's own bad luck")


def _trace(path: Path) -> None:
    """Add a line with the time in seconds; short appends of several processes do not mix."""
    with path.open("a", encoding="ascii") as file:
        file.write(f"{time.time():.6f}\n")


class _SharedNull(NullProvider):
    """A NullProvider that names the shares that change its answers."""

    identity: Mapping[str, Json] = {}

    def describe(self) -> Mapping[str, Json]:
        """See ProviderBase. Latency and faults change no answer, so they are not named."""
        return {"backend": self.name, **self.identity}


def null_backend(
    *,
    latency_s: float = 0.0,
    sigma: float = 0.0,
    fault_share: float = 0.0,
    permanent_share: float = 0.0,
    heal_file: str | None = None,
    empty_share: float = 0.0,
    low_share: float = 0.0,
    crash_seed: int | None = None,
    locked_file: str | None = None,
    trace_file: str | None = None,
) -> NullProvider:
    """Answers every request with noise that follows from place and time.

    ``latency_s``: seconds a call, lognormally spread by ``sigma``. ``fault_share`` of the calls end
    in a transient error, at random, never twice in a row for one request in one process.
    ``permanent_share`` of the rows fail for good until ``heal_file`` exists; ``empty_share`` have no
    imagery, ``low_share`` only a quarter of their pixels: always the same rows. The row whose
    :func:`~rsembed.testing.null.request_seed` is ``crash_seed`` kills the process.
    While ``locked_file`` exists nobody is let in; ``trace_file`` gets a line a call.
    """
    heal, locked, trace = (None if name is None else Path(name) for name in (heal_file, locked_file, trace_file))
    troubled = fault_share or permanent_share or locked or trace or crash_seed is not None
    provider = _SharedNull(
        latency_s=latency_s,
        sigma=sigma,
        # What is not asked for costs nothing: benchmarks measure what is around this source.
        fault=_Misfortune(fault_share, permanent_share, heal, crash_seed, locked, trace) if troubled else None,
        empty=(lambda request: fate(request) < empty_share) if empty_share else None,
        clear=(lambda request: 0.25 if 0 <= fate(request) - empty_share < low_share else 1.0) if low_share else None,
    )
    provider.identity = {
        name: share for name, share in (("empty_share", empty_share), ("low_share", low_share)) if share
    }
    return provider


register_backend("null", null_backend)


_CARD = NullEmbedder.card
_VICTIM = (
    Option("lon", "float", None, "longitude of the row that does it"),
    Option("lat", "float", None, "latitude of the row that does it"),
)


@register("null-slow")
class SlowNull(NullEmbedder):
    """``null`` with a forward pass that takes ``latency_s`` seconds, lognormally spread by ``sigma``."""

    card = replace(
        _CARD,
        id="null-slow",
        options=(
            *_CARD.options,
            Option("latency_s", "float", 0.1, "seconds a forward pass", minimum=0),
            Option("sigma", "float", 0.0, "spread of its logarithm", minimum=0),
            Option("trace_file", "str", "", "gets a line a forward pass"),
        ),
    )

    def embed_batch(self, arrays: Mapping[str, NDArray[Any]], roi: Floats) -> Floats:
        """See EmbedderBase."""
        seconds, sigma = (float(str(self.config.options[name])) for name in ("latency_s", "sigma"))
        if self.config.options["trace_file"]:
            _trace(Path(str(self.config.options["trace_file"])))
        time.sleep(seconds * random.lognormvariate(0.0, sigma))
        return super().embed_batch(arrays, roi)


@register("null-pair")
class PairNull(NullEmbedder):
    """``null`` that asks for a second band, and does not look at it."""

    card = replace(
        _CARD, id="null-pair", inputs={"single": InputContract(COLLECTION, ("B1", "B2"), 10.0, 8, any_size=True)}
    )


class _Victim(NullEmbedder):
    """``null`` on which something happens when the row at (``lon``, ``lat``) is in the batch."""

    def prepare(self, view: View) -> Mapping[str, NDArray[Any]]:
        """See EmbedderBase; a mark goes with the chosen row, and is 0 in a row that is masked."""
        options = self.config.options
        chosen = options["lon"] is not None and (view.lon, view.lat) == (options["lon"], options["lat"])
        return {**super().prepare(view), "victim": np.array([chosen], np.float32)}

    def embed_batch(self, arrays: Mapping[str, NDArray[Any]], roi: Floats) -> Floats:
        """See EmbedderBase."""
        if arrays["victim"].any():
            self.strike()
        return super().embed_batch(arrays, roi)

    def strike(self) -> None:
        """What happens."""


@register("null-crash")
class CrashingNull(_Victim):
    """``null`` whose process dies of the row at (``lon``, ``lat``)."""

    card = replace(_CARD, id="null-crash", options=(*_CARD.options, *_VICTIM))

    def strike(self) -> None:
        """The end of the process, as a fault in a driver would bring it."""
        os.kill(os.getpid(), signal.SIGKILL)


@register("null-hog")
class HoggingNull(_Victim):
    """``null`` that takes all memory for the row at (``lon``, ``lat``), a little at a time."""

    card = replace(_CARD, id="null-hog", options=(*_CARD.options, *_VICTIM))

    def strike(self) -> None:
        """Grow until somebody ends the process; MemoryError if nobody does."""
        held = []
        for _ in range(_HOG_MOST_MB // _HOG_CHUNK_MB):
            held.append(np.ones(_HOG_CHUNK_MB << 17))
            time.sleep(0.05)
        raise MemoryError(f"{len(held) * _HOG_CHUNK_MB} MB were not enough")


@register("null-weights")
class WeighedNull(NullEmbedder):
    """``null`` that wants a file: ``test/null/null.bin`` in the weights folder, of any content."""

    card = replace(_CARD, id="null-weights", weights={"": WeightsFile("test/null", "null.bin")})
    weights: WeightsHandle | None = None

    def resolve(self, settings: Settings, pin: WeightsPin | None = None) -> WeightsHandle | None:
        """See EmbedderBase."""
        self.weights = resolve_weights(self.card, "", settings, pin=pin)
        return self.weights

    def load(self, device: str) -> None:
        """See EmbedderBase; raises WeightsError where the file is gone."""
        if self.weights is None or not self.weights.path.is_file():
            raise WeightsError("the weights of the test's model are not there")
