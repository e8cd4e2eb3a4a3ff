"""Children that end are started again, more and more slowly."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from workers.servers.children import wait_until
from workers.supervisor import Child, ChildSpec, describe_exit, stop_all

SLEEP = ("-c", "import time; time.sleep(60)")
FAIL = ("-c", "import sys; print('no such thing'); sys.exit(3)")
DEAF = (
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)",
)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def child(folder: Path, arguments: tuple[str, ...], clock: Clock | None = None) -> Child:
    spec = ChildSpec("it", arguments, {}, folder / "it.log")
    return Child(spec, clock=clock or Clock())


def ended(it: Child) -> bool:
    return wait_until(lambda: it.pid is None, 20.0)


def test_child_when_it_ends_then_it_is_started_again_after_growing_pauses(tmp_path: Path) -> None:
    clock = Clock()
    it = child(tmp_path, FAIL, clock)
    pauses = []
    it.keep()
    for _ in range(4):
        assert ended(it)
        starts = it.starts
        it.keep()
        assert it.starts == starts
        before = clock.now
        while it.starts == starts:
            clock.now += 0.5
            it.keep()
        pauses.append(clock.now - before)
    assert ended(it)
    assert pauses == [1.0, 2.0, 4.0, 8.0]


def test_child_when_it_ends_then_its_last_words_are_told(tmp_path: Path) -> None:
    it = child(tmp_path, FAIL)
    assert it.keep() is None
    assert ended(it)
    said = it.keep()
    assert said is not None
    assert "exit code 3" in said
    assert "no such thing" in said


def test_child_when_it_lived_long_then_the_pause_is_short_again(tmp_path: Path) -> None:
    clock = Clock()
    it = child(tmp_path, FAIL, clock)
    it.keep()
    assert ended(it)
    it.keep()
    clock.now += 1.0
    it.keep()
    clock.now += 100.0
    assert ended(it)
    said = it.keep()
    assert said is not None
    assert "again in 1 s" in said


def test_stop_all_when_a_child_is_deaf_then_it_is_killed_and_named(tmp_path: Path) -> None:
    deaf = child(tmp_path, DEAF)
    deaf.keep()
    assert wait_until(lambda: "up" in (tmp_path / "it.log").read_text(), 20.0)
    assert stop_all([deaf], grace_s=0.3) == ["it"]
    assert deaf.pid is None


def test_stop_all_when_hurried_then_it_does_not_wait(tmp_path: Path) -> None:
    deaf = child(tmp_path, DEAF)
    deaf.keep()
    assert wait_until(lambda: "up" in (tmp_path / "it.log").read_text(), 20.0)
    assert stop_all([deaf], grace_s=600.0, hurry=lambda: True) == ["it"]


def test_children_when_their_parent_is_killed_then_they_die_with_it(tmp_path: Path) -> None:
    program = (
        "import pathlib, sys, threading, time\n"
        "from workers.supervisor import Child, ChildSpec\n"
        "def start():\n"
        "    it = Child(ChildSpec('it', ('-c', 'import time; time.sleep(60)'), {}, pathlib.Path(sys.argv[1])))\n"
        "    it.keep(); print(it.pid, flush=True)\n"
        "thread = threading.Thread(target=start); thread.start(); thread.join()\n"
        "time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "log")], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert not wait_until(lambda: not Path(f"/proc/{pid}").exists(), 0.5)  # the thread that started it is gone
    parent.kill()
    parent.wait()
    parent.stdout.close()
    stat = Path(f"/proc/{pid}/stat")
    assert wait_until(lambda: not stat.exists() or stat.read_text().split()[2] == "Z", 10.0)


def test_describe_exit_when_killed_then_the_signal_is_named() -> None:
    assert describe_exit(-int(signal.SIGKILL)) == "killed by SIGKILL"
    assert describe_exit(2) == "exit code 2"
