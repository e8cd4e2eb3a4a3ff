"""Runs come into the ledger whole, once, whatever happens on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.ledger_parts import execute, load, new_run, stored
from workers.ledger.errors import LedgerError, RunStateError, UnknownRunError
from workers.ledger.records import RunState, StoredRows
from workers.ledger.repository import Ledger

ROOT = Path(__file__).resolve().parents[3]

ODD = StoredRows(
    seq=[0, 1, 2, 3],
    row=[3, 1, 0, 2],
    start=[-10_000, 0, 19_000, 36_500],
    end=[-9_999, 1, 19_365, 36_501],
    kind=[0, 1, 0, 1],
    lon=[-180.0, 1 / 3, 1e-7, 179.999999999],
    lat=[-90.0, 2 / 3, -0.0, 84.1],
    boxes=[None, (0.1, 0.2, 1 / 3, 0.4), None, (-1.5, -2.5, 3.5, 1e-9)],
    ids=['a "b", c', "", "line\n\\.\nend", "\u2028 é ☃ 'x' \\N"],
    carried=[None, "", '{"a":"x,\\"y\\""}', '{"b":null}\n\\.'],
)


def test_rows_when_loaded_then_they_are_read_back_to_the_last_bit(ledger: Ledger) -> None:
    run = ledger.load_run(new_run(4, shard_size=4), [ODD])
    assert ledger.stored_rows(run.id, 0, 4) == ODD


def test_rows_when_read_beyond_the_end_then_only_those_that_are_there_come(ledger: Ledger) -> None:
    run = load(ledger, 25)
    assert list(ledger.stored_rows(run.id, 20, 10).seq) == [20, 21, 22, 23, 24]
    assert len(ledger.stored_rows(run.id, 25, 10)) == 0


def test_run_when_loaded_then_it_is_as_it_was_announced(ledger: Ledger) -> None:
    new = new_run(25, priority=3, max_requests=99)
    run = ledger.load_run(new, stored(25))
    assert (run.state, run.n_rows, run.n_shards, run.generation, run.requests) == (RunState.RUNNING, 25, 3, 0, 0)
    assert (run.groups, run.models, run.spec) == (new.groups, new.models, new.spec)
    assert (run.priority, run.max_requests, run.ended_at) == (3, 99, None)
    assert ledger.run(run.id) == run == ledger.find_run(new.fingerprint, new.output)
    assert ledger.check() == []


def test_run_when_submitted_again_then_it_is_the_same_and_no_row_is_read(ledger: Ledger) -> None:
    new = new_run()
    run = ledger.load_run(new, stored(40))

    def untouched() -> Iterator[StoredRows]:
        pytest.fail("rows were read")
        yield ODD

    assert ledger.load_run(new, untouched()) == run
    assert len(ledger.runs()) == 1


def test_run_when_two_submit_it_at_once_then_both_get_the_same_one(ledger_url: str, ledger: Ledger) -> None:
    new, started = new_run(2000, shard_size=100), threading.Barrier(4)

    def submit() -> int:
        own = Ledger(ledger_url)
        started.wait()
        try:
            return own.load_run(new, stored(2000)).id
        finally:
            own.close()

    with ThreadPoolExecutor(4) as pool:
        ids = {future.result() for future in [pool.submit(submit) for _ in range(4)]}
    assert len(ids) == 1
    assert len(ledger.runs()) == 1
    assert ledger.check() == []


def test_load_when_its_process_was_killed_then_it_is_done_again(ledger_url: str, ledger: Ledger) -> None:
    program = (
        "import sys, time\n"
        "from tests.ledger_parts import new_run, stored\n"
        "from workers.ledger.repository import Ledger\n"
        "def slow():\n"
        "    yield from stored(20)\n"
        "    print('half', flush=True)\n"
        "    time.sleep(60)\n"
        "Ledger(sys.argv[1]).load_run(new_run(40, fingerprint='f'), slow())\n"
    )
    child = subprocess.Popen([sys.executable, "-c", program, ledger_url], stdout=subprocess.PIPE, cwd=ROOT)
    assert child.stdout is not None
    assert child.stdout.readline() == b"half\n"
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    halfway = ledger.find_run("f", "/out")
    assert halfway is not None
    assert halfway.state is RunState.LOADING
    run = ledger.load_run(new_run(40, fingerprint="f"), stored(40))
    assert (run.id, run.state) == (halfway.id, RunState.RUNNING)
    assert ledger.check() == []


@pytest.mark.parametrize("n", [39, 41])
def test_load_when_another_number_of_rows_comes_then_it_is_refused_and_nothing_is_left(ledger: Ledger, n: int) -> None:
    new = new_run(40)
    with pytest.raises(LedgerError, match=f"40 rows were announced, {n} came"):
        ledger.load_run(new, stored(n))
    assert ledger.load_run(new, stored(40)).state is RunState.RUNNING


def test_load_when_a_number_comes_twice_then_it_is_refused(ledger: Ledger) -> None:
    rows = [*stored(20), *stored(19), *stored(1, 39)]
    with pytest.raises(LedgerError, match="refused"):
        ledger.load_run(new_run(40), rows)


def test_load_when_an_id_holds_a_nul_then_the_error_says_which(ledger: Ledger) -> None:
    row = next(stored(1))
    with pytest.raises(LedgerError, match="id holds a NUL"):
        ledger.load_run(new_run(1), [StoredRows(**(row.__dict__ | {"ids": ["a\0"]}))])


def test_load_when_the_run_is_dropped_meanwhile_then_it_says_so(ledger_url: str, ledger: Ledger) -> None:
    new = new_run(40)

    def dropping() -> Iterator[StoredRows]:
        yield from stored(40)
        (found,) = ledger.runs()
        other = Ledger(ledger_url, direct=True)
        other.drop(found.id, "tester")
        other.close()

    with pytest.raises((RunStateError, UnknownRunError, LedgerError)):
        ledger.load_run(new, dropping())
    assert ledger.runs() == []
    assert ledger.check() == []


def test_load_when_somebody_reads_the_table_for_long_then_attaching_waits_its_turn(
    ledger_url: str, ledger: Ledger
) -> None:
    load(ledger)
    locked, done = threading.Event(), threading.Event()

    def hold() -> None:
        own = Ledger(ledger_url)
        with own.transaction() as tx:
            tx.exec_driver_sql("LOCK TABLE rows IN SHARE UPDATE EXCLUSIVE MODE")
            locked.set()
            done.wait(3)
        own.close()

    thread = threading.Thread(target=hold)
    thread.start()
    locked.wait()
    before = time.monotonic()
    run = load(ledger)
    assert time.monotonic() - before > 2
    done.set()
    thread.join()
    assert run.state is RunState.RUNNING


def test_load_when_done_then_the_planner_knows_the_run(ledger_url: str, ledger: Ledger) -> None:
    run = load(ledger, 400)
    (count,) = execute(ledger_url, "SELECT reltuples::int FROM pg_class WHERE relname = %s", f"rows_r{run.id}")
    assert count == (400,)
