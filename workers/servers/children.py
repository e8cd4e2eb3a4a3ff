"""Child processes that die with this one, and processes known by more than their number."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

LEASH = Path(__file__).with_name("leash.py")
MAX_LOG_BYTES = 10 * 2**20


@dataclass(frozen=True)
class ServerUser:
    """The ordinary user as whom a server runs when we are root."""

    uid: int
    gid: int
    name: str


class _Spawner:
    """One thread that starts every child and never ends.

    Linux sends the parent-death signal when the *thread* that started a child ends, so a
    child of a short-lived thread would die with that thread.
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[tuple[Future[subprocess.Popen[bytes]], Callable[[], subprocess.Popen[bytes]]]]
        self._jobs = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._owner = 0

    def run(self, job: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._owner != os.getpid():  # first use, or a forked copy, which has none of our threads
                self._jobs = queue.SimpleQueue()
                threading.Thread(target=self._loop, args=(self._jobs,), name="spawner", daemon=True).start()
                self._owner = os.getpid()
            done: Future[subprocess.Popen[bytes]] = Future()
            self._jobs.put((done, job))
        return done.result()

    @staticmethod
    def _loop(
        jobs: queue.SimpleQueue[tuple[Future[subprocess.Popen[bytes]], Callable[[], subprocess.Popen[bytes]]]],
    ) -> None:
        while True:
            done, job = jobs.get()
            try:
                done.set_result(job())
            except BaseException as error:  # noqa: BLE001 - handed to the thread that asked
                done.set_exception(error)


_spawner = _Spawner()


def spawn(
    argv: Sequence[str],
    *,
    folder: Path,
    log: Path,
    environ: Mapping[str, str],
    user: ServerUser | None = None,
    death_signal: signal.Signals = signal.SIGTERM,
    oom_score_adj: int | None = None,
) -> subprocess.Popen[bytes]:
    """Start ``argv`` (its program by absolute path) in ``folder``, output appended to ``log``.

    The child has a session of its own, so a Ctrl-C at the terminal does not reach it, and gets
    ``death_signal`` when this process ends in whatever way (on Linux; elsewhere it stays).
    ``oom_score_adj`` is set where the system lets us.
    """
    leash = [
        str(os.getpid()),
        str(int(death_signal)),
        "-" if oom_score_adj is None else str(oom_score_adj),
        str(user.uid) if user else "-",
        str(user.gid) if user else "-",
    ]
    with contextlib.suppress(OSError):
        if log.stat().st_size > MAX_LOG_BYTES:
            log.replace(log.with_name(log.name + ".1"))

    def start() -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-I", "-S", str(LEASH), *leash, *argv],
                cwd=folder if user is None else "/",
                env=dict(environ),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    return _spawner.run(start)


def log_tail(log: Path, lines: int = 6) -> str:
    """The last ``lines`` of ``log``, for an error message."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 8192))
            return "\n".join(file.read().decode("utf-8", "replace").splitlines()[-lines:])
    except OSError:
        return ""


def command_line(pid: int) -> list[str]:
    """The arguments of process ``pid``; empty when there is none, or only a dead one not yet reaped."""
    if sys.platform == "linux":
        try:
            text = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return []
        return [os.fsdecode(part) for part in text.split(b"\0") if part]
    listed = subprocess.run(["ps", "-ww", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return listed.stdout.split()


def is_program(pid: int, program: str, argument: Path) -> bool:
    """Whether ``pid`` runs ``program`` on ``argument``, and is not a stranger with a number used again."""
    found = command_line(pid)
    return bool(found) and Path(found[0]).name == program and str(argument) in found


def processes_in(folder: Path) -> Iterator[int]:
    """Processes whose working folder is ``folder``, as far as we may know (Linux only)."""
    wanted = os.path.realpath(folder)
    for entry in Path("/proc").glob("[0-9]*") if sys.platform == "linux" else ():
        with contextlib.suppress(OSError):
            if str((entry / "cwd").readlink()) == wanted and command_line(int(entry.name)):
                yield int(entry.name)


def wait_until(condition: Callable[[], bool], timeout_s: float, *, every_s: float = 0.02) -> bool:
    """Whether ``condition`` came true within ``timeout_s``."""
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= end:
            return False
        time.sleep(every_s)
    return True


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that may be gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
