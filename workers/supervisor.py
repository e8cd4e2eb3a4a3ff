"""Child processes kept alive: started again with growing pauses when they end by themselves."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from workers.servers.children import log_tail, send, spawn, wait_until

logger = logging.getLogger(__name__)

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
STEADY_S = 60.0
"""A child that lived so long starts with the first pause again."""

Spawn = Callable[[], "subprocess.Popen[bytes]"]


@dataclass(frozen=True)
class ChildSpec:
    """A child to keep alive: its name for people, the arguments after the interpreter, its surroundings."""

    name: str
    arguments: Sequence[str]
    environ: Mapping[str, str]
    log: Path


class Child:
    """One supervised process. ``clock`` is monotonic, in seconds; ``longest_pause_s``: between two starts."""

    def __init__(
        self,
        spec: ChildSpec,
        *,
        start: Spawn | None = None,
        clock: Callable[[], float] = time.monotonic,
        longest_pause_s: float = LONGEST_PAUSE_S,
    ) -> None:
        self.spec = spec
        self.starts = 0
        self._spawn = start or (lambda: _spawn(spec))
        self._clock = clock
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._next_start = 0.0
        self._pause_s = FIRST_PAUSE_S
        self._longest_pause_s = longest_pause_s

    @property
    def pid(self) -> int | None:
        """Process id while it runs, else None."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def keep(self) -> str | None:
        """Start the child where it does not run and its pause is over; what happened, for people, or None."""
        said = None
        if self._process is not None:
            code = self._process.poll()
            if code is None:
                return None
            self._process = None
            now = self._clock()
            if now - self._started_at >= STEADY_S:
                self._pause_s = FIRST_PAUSE_S
            self._next_start = now + self._pause_s
            said = f"{self.spec.name} ended ({describe_exit(code)}), again in {self._pause_s:.0f} s: {self.spec.log}"
            said += "".join(f"\n    {line}" for line in log_tail(self.spec.log, 2).splitlines())
            logger.info("child_ended", extra={"child": self.spec.name, "code": code, "pause_s": self._pause_s})
            self._pause_s = min(2 * self._pause_s, self._longest_pause_s)
        if self._clock() >= self._next_start:
            self._process = self._spawn()
            self._started_at = self._clock()
            self.starts += 1
        return said

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Ask the child to stop; it is not started again by anybody who does not call `keep`."""
        if self._process is not None and self._process.poll() is None:
            send(self._process.pid, number)

    def reap(self) -> None:
        """Take the dead child's exit code."""
        if self._process is not None and self._process.poll() is not None:
            self._process = None


def stop_all(children: Sequence[Child], *, grace_s: float, hurry: Callable[[], bool] = lambda: False) -> list[str]:
    """End ``children`` together; the names of those that had to be killed after ``grace_s`` or in a ``hurry``."""
    for child in children:
        child.end()
    wait_until(lambda: hurry() or all(child.pid is None for child in children), grace_s, every_s=0.05)
    late = [child for child in children if child.pid is not None]
    for child in late:
        child.end(signal.SIGKILL)
    wait_until(lambda: all(child.pid is None for child in late), 10.0)
    for child in children:
        child.reap()
    return [child.spec.name for child in late]


def describe_exit(code: int) -> str:
    """An exit code of `subprocess` in words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def _spawn(spec: ChildSpec) -> subprocess.Popen[bytes]:
    return spawn(
        [sys.executable, *spec.arguments],
        folder=Path.cwd(),
        log=spec.log,
        environ=spec.environ,
        death_signal=signal.SIGKILL,  # a crash of the supervisor is a crash of all: leases expire, nothing is lost
    )
