"""`rsembed fleet up`: one machine's fleet as real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from workers.fleet_file import FleetFile, running_fleet
from workers.ledger.errors import LedgerError
from workers.ledger.repository import Ledger
from workers.servers.children import command_line, wait_until
from workers.servers.place import settle

PATIENCE_S = 90.0


class Up:
    """A running `fleet up` and the commands of a user beside it."""

    def __init__(self, home: Path, *options: str) -> None:
        self.home = home
        self.log = home.with_name(home.name + ".log")
        self._output = self.log.open("ab")
        self.process = subprocess.Popen(
            self.command("up", "--cpu", *options), env=self.environ, stdout=self._output, stderr=subprocess.STDOUT
        )

    @property
    def environ(self) -> dict[str, str]:
        """The test's own, without servers that somebody else runs."""
        kept = {name: value for name, value in os.environ.items() if name not in {"DATABASE_URL", "REDIS_URL"}}
        ports = {"RSEMBED_FLOWER_PORT": "0", "RSEMBED_METRICS_PORT": "0"}
        return {**kept, **ports, "RSEMBED_HOME": str(self.home), "RSEMBED_PLUGINS": "rsembed.testing.fleet"}

    @staticmethod
    def command(*arguments: str) -> list[str]:
        return [sys.executable, "-m", "rsembed", "fleet", *arguments]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments), env=self.environ, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )

    def wait(self) -> FleetFile:
        """Until its servers are up and its file is there."""
        assert wait_until(lambda: running_fleet(self.home) is not None, PATIENCE_S), self.said
        found = running_fleet(self.home)
        assert found is not None
        return found

    @property
    def said(self) -> str:
        return self.log.read_text()

    def workers(self, *, live_only: bool = True) -> dict[str, int]:
        """Kind -> process id of the workers that the ledger knows."""
        ledger = Ledger(self.wait().database_url)
        try:
            return {worker.info.kind: worker.info.pid for worker in ledger.workers(live_only)}
        except LedgerError:  # its server was just killed
            return {}
        finally:
            ledger.close()

    def wait_for_workers(self, *, apart_from: int = 0) -> dict[str, int]:
        def all_there() -> bool:
            found = self.workers()
            return {"io", "cpu", "dispatcher"} <= set(found) and apart_from not in found.values()

        assert wait_until(all_there, PATIENCE_S, every_s=0.5), self.said
        return self.workers()

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        code = self.process.wait(PATIENCE_S)
        self._output.close()
        return code

    def remove(self) -> None:
        """Whatever is left, with the data that the servers keep elsewhere when the tests run as root."""
        if self.process.poll() is None:
            self.end(signal.SIGKILL)
        assert wait_until(lambda: not self.servers(), 30.0)
        for name in ("postgres", "redis"):
            settle(self.home / name).remove()

    def servers(self) -> dict[int, str]:
        """Process ids of its Postgres and Redis, with the name of their programs."""
        found = {}
        folders = [str(settle(self.home / name).folder) for name in ("postgres", "redis")]
        for entry in Path("/proc").glob("[0-9]*"):
            arguments = command_line(int(entry.name))
            if arguments and any(folder in argument for folder in folders for argument in arguments):
                found[int(entry.name)] = Path(arguments[0]).name
        return found


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    fleet = Up(tmp_path_factory.mktemp("up") / "home")
    try:
        fleet.wait()
        yield fleet
    finally:
        fleet.remove()


def test_up_when_it_runs_then_other_commands_find_it_without_variables(up: Up) -> None:
    assert (up.home / "fleet.json").stat().st_mode & 0o777 == 0o600
    assert set(up.wait_for_workers()) == {"dispatcher", "io", "cpu"}
    assert up.run("workers").stdout.count("running") == 3
    assert "The fleet runs" in up.said


def test_up_when_it_runs_then_flower_wants_the_generated_password(up: Up) -> None:
    url = f"{up.wait().flower_url}/metrics"
    password = (up.home / "flower.password").read_text().strip()
    assert len(password) >= 20
    assert password not in up.said

    def refuses() -> bool:
        try:
            urllib.request.urlopen(url, timeout=10).close()
        except urllib.error.HTTPError as error:
            error.close()
            return error.code == 401
        except urllib.error.URLError:
            return False
        raise AssertionError("Flower answers without a password")

    assert wait_until(refuses, PATIENCE_S, every_s=0.5)
    manager = urllib.request.HTTPPasswordMgrWithDefaultRealm()
    manager.add_password(None, url, "rsembed", password)
    with urllib.request.build_opener(urllib.request.HTTPBasicAuthHandler(manager)).open(url, timeout=10) as answer:
        assert answer.status == 200


def test_up_when_it_runs_then_prometheus_can_read_the_ledger(up: Up) -> None:
    up.wait_for_workers()
    with urllib.request.urlopen(up.wait().metrics_url, timeout=10) as answer:
        text = answer.read().decode()
    assert "rsembed_up 1.0" in text
    assert 'rsembed_workers{kind="io",state="running"} 1.0' in text


def test_up_when_another_is_started_in_the_same_home_then_it_is_refused_and_harms_nothing(up: Up) -> None:
    done = up.run("up", "--cpu")
    assert done.returncode == 2
    assert f"process {up.process.pid}" in done.stdout + done.stderr
    assert running_fleet(up.home) is not None
    assert up.workers()


def test_up_when_a_worker_is_killed_then_it_is_started_again(up: Up) -> None:
    pid = up.wait_for_workers()["io"]
    os.kill(pid, signal.SIGKILL)
    assert up.wait_for_workers(apart_from=pid)["io"] != pid
    assert "io-1 ended (killed by SIGKILL)" in up.said


def test_up_when_its_servers_are_killed_then_they_are_started_again(up: Up) -> None:
    up.wait_for_workers()
    before = up.servers()
    assert set(before.values()) == {"postgres", "redis-server"}
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    assert wait_until(
        lambda: {name for pid, name in up.servers().items() if pid not in before} >= {"postgres", "redis-server"},
        PATIENCE_S,
    )
    assert wait_until(lambda: bool(up.workers()), PATIENCE_S)


def test_up_when_terminated_then_nothing_is_left_and_the_next_one_goes_on(tmp_path: Path) -> None:
    first = Up(tmp_path / "home", "--no-flower")
    try:
        found = first.wait()
        assert found.flower_url == ""
        pids = [*first.wait_for_workers().values(), *first.servers()]
        assert first.end() == 0
        assert "was killed" not in first.said
        assert not [pid for pid in pids if command_line(pid)]
        assert not (first.home / "fleet.json").exists()
        second = Up(first.home, "--no-flower")
        try:
            assert second.wait().database_url == found.database_url
            assert set(pids) & set(second.workers(live_only=False).values())
        finally:
            second.end(signal.SIGINT)
    finally:
        first.remove()


def test_up_when_it_is_killed_then_everything_dies_with_it(tmp_path: Path) -> None:
    fleet = Up(tmp_path / "home", "--no-flower")
    try:
        fleet.wait()
        pids = [*fleet.wait_for_workers().values(), *fleet.servers()]
        fleet.end(signal.SIGKILL)
        assert wait_until(lambda: not [pid for pid in pids if command_line(pid)], 30.0)
        assert running_fleet(fleet.home) is None
    finally:
        fleet.remove()
