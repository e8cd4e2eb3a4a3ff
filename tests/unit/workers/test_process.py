from __future__ import annotations

import mmap
import threading

import pytest

from tests.unit.workers.process_parts import Clock, LeftError, ScriptedLedger, shard, unit, worker
from workers.ledger.records import Marks, RunState
from workers.memory import rss_bytes
from workers.process import EXIT_MEMORY, EXIT_STUCK


@pytest.fixture
def ledger() -> ScriptedLedger:
    return ScriptedLedger(Clock())


# Fencing


def test_hold_when_renewed_in_time_then_it_is_not_lost(ledger: ScriptedLedger) -> None:
    process = worker(ledger)
    with process.holding(unit()) as hold:
        for _ in range(10):
            ledger.clock.forward(5.0)
            assert process.beat()
            assert not hold.lost


def test_hold_when_not_renewed_for_two_thirds_of_the_lease_then_it_is_lost_for_good(ledger: ScriptedLedger) -> None:
    process = worker(ledger)
    with process.holding(unit()) as hold:
        ledger.clock.forward(13.3)
        assert not hold.lost
        ledger.clock.forward(0.1)
        assert hold.lost
        process.beat()
        assert hold.lost
        assert hold.reason == "lost"


def test_hold_when_the_answer_comes_late_then_the_lease_counts_from_the_question(ledger: ScriptedLedger) -> None:
    process = worker(ledger)
    ledger.delay_s = 10.0
    with process.holding(unit()) as hold:
        process.beat()
        ledger.clock.forward(3.0)
        assert not hold.lost
        ledger.clock.forward(0.5)
        assert hold.lost


def test_claim_when_the_statement_takes_long_then_the_lease_counts_from_before_it(ledger: ScriptedLedger) -> None:
    process = worker(ledger)

    def take(_alone: bool) -> object:
        ledger.clock.forward(14.0)
        return unit()

    hold = process.claim(take, limit=4)  # type: ignore[type-var]
    assert hold is not None
    assert hold.lost


def test_hold_when_lost_then_its_token_is_not_renewed_any_more(ledger: ScriptedLedger) -> None:
    process = worker(ledger)
    with process.holding(unit("a")), process.holding(unit("b")):
        ledger.lost = frozenset({"a"})
        process.beat()
        process.beat()
    assert ledger.beats == [(("a", "b"), 2), (("b",), 2)]


def test_hold_when_its_block_ends_then_its_token_is_not_renewed_any_more(ledger: ScriptedLedger) -> None:
    process = worker(ledger)
    with process.holding(unit("a")):
        assert process.leased == 1
    process.beat()
    assert process.leased == 0
    assert ledger.beats == [((), 1)]


def test_hold_when_it_brings_its_own_renewal_then_that_decides(ledger: ScriptedLedger) -> None:
    process = worker(ledger)
    answers = [True, False]
    with process.holding(unit("r"), renew=lambda: answers.pop(0)) as hold:
        process.beat()
        assert not hold.lost
        process.beat()
        assert hold.lost
    assert ledger.beats == [((), 1), ((), 1)]


# Why work stops


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (RunState.RUNNING, None),
        (RunState.FINISHING, None),
        (RunState.PAUSED, "paused"),
        (RunState.BLOCKED, "paused"),
        (RunState.CANCELLING, "cancelled"),
        (RunState.CANCELLED, "cancelled"),
        (RunState.DROPPING, "cancelled"),
    ],
)
def test_hold_when_the_run_changes_then_it_hears_with_the_next_heartbeat(
    ledger: ScriptedLedger, state: RunState, reason: str | None
) -> None:
    process = worker(ledger)
    with process.holding(unit(run=4)) as hold:
        ledger.runs = {4: state}
        process.beat()
        assert hold.run_state is state
        assert hold.reason == reason
        assert hold.stopping.is_set() == hold.should_stop() == (reason is not None)


def test_hold_when_its_deadline_is_over_then_it_stops_though_the_lease_stands(ledger: ScriptedLedger) -> None:
    process = worker(ledger)
    with process.holding(unit(deadline_s=8.0)) as hold:
        ledger.clock.forward(7.0)
        process.beat()
        assert not hold.should_stop()
        ledger.clock.forward(1.0)
        assert hold.reason == "deadline"


def test_hold_when_the_process_stops_then_waiting_threads_are_told(ledger: ScriptedLedger) -> None:
    process = worker(ledger)
    with process.holding(unit()) as hold:
        process.stop.set()
        process.watch()
        assert hold.stopping.is_set()
        assert hold.reason == "stop"


def test_hold_when_paused_and_then_lost_then_lost_is_the_reason(ledger: ScriptedLedger) -> None:
    process = worker(ledger)
    with process.holding(unit()) as hold:
        ledger.runs = {1: RunState.PAUSED}
        process.beat()
        ledger.clock.forward(14.0)
        assert hold.reason == "lost"


# Claims


def test_claim_when_nothing_is_held_then_it_may_ask_for_suspects(ledger: ScriptedLedger) -> None:
    process = worker(ledger)
    asked: list[bool] = []

    def take(alone: bool) -> None:
        asked.append(alone)

    assert process.claim(take, limit=4) is None
    with process.holding(unit()):
        process.claim(take, limit=4)
    assert asked == [True, False]


def test_claim_when_a_suspect_is_held_then_nothing_joins_it(ledger: ScriptedLedger) -> None:
    process = worker(ledger)
    with process.holding(shard(losses=1)) as hold:
        assert hold.alone
        assert process.claim(lambda _alone: unit("b"), limit=4) is None


def test_claim_when_the_limit_is_reached_then_none(ledger: ScriptedLedger) -> None:
    process = worker(ledger)
    with process.holding(unit("a")), process.holding(unit("b")):
        assert process.claim(lambda _alone: unit("c"), limit=2) is None
        assert process.claim(lambda _alone: unit("c"), limit=3) is not None


def test_claim_when_the_ledger_drains_the_worker_then_none_until_it_ends(ledger: ScriptedLedger) -> None:
    process = worker(ledger)
    ledger.draining = True
    process.beat()
    assert process.claim(lambda _alone: unit(), limit=4) is None
    ledger.draining = False
    process.beat()
    assert process.claim(lambda _alone: unit(), limit=4) is not None


def test_claim_when_the_process_stops_then_none(ledger: ScriptedLedger) -> None:
    process = worker(ledger)
    process.stop.set()
    assert process.claim(lambda _alone: unit(), limit=4) is None


def test_claim_when_two_threads_claim_then_one_after_the_other(ledger: ScriptedLedger) -> None:
    process = worker(ledger)
    inside, most, count = [0], [0], iter(range(100))

    def take(_alone: bool) -> object:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        threading.Event().wait(0.01)
        inside[0] -= 1
        return unit(f"t{next(count)}")

    threads = [threading.Thread(target=process.claim, args=(take,), kwargs={"limit": 9}) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert process.leased == 4


def test_claim_when_something_was_claimed_then_onlookers_hear_of_it(ledger: ScriptedLedger) -> None:
    process = worker(ledger)
    heard: list[str] = []
    process.on_claim = lambda claimed: heard.append(claimed.token)
    process.claim(lambda _alone: unit("x"), limit=1)
    assert heard == ["x"]


# The ledger away


def test_beat_when_the_ledger_is_away_then_work_is_let_go_before_the_lease_ends(ledger: ScriptedLedger) -> None:
    process = worker(ledger)
    with process.holding(unit()) as hold:
        ledger.away = True
        ledger.clock.forward(5.0)
        assert not process.beat()
        assert not hold.should_stop()
        ledger.clock.forward(9.0)
        process.watch()
        assert hold.stopping.is_set()
    assert not process.stop.is_set()
    ledger.away = False
    assert process.beat()


def test_beat_when_the_ledger_was_away_then_claims_are_told_afterwards(ledger: ScriptedLedger) -> None:
    process = worker(ledger)
    with process.holding(unit()):
        pass
    ledger.away = True
    process.beat()
    ledger.away = False
    process.beat()
    assert ledger.beats == [((), 1)]


def test_beat_when_the_ledger_has_forgotten_the_worker_then_it_registers_again_with_its_troubles(
    ledger: ScriptedLedger,
) -> None:
    process = worker(ledger)
    process.degraded.add("alpha", "no weights")
    process.beat()
    ledger.known = False
    process.beat()
    assert ledger.registered == 1
    assert ledger.degraded == [("alpha", "no weights"), ("alpha", "no weights")]


def test_start_when_the_ledger_is_away_then_it_waits_for_it(ledger: ScriptedLedger) -> None:
    process = worker(ledger)
    ledger.away = True
    starting = threading.Thread(target=process.start)
    starting.start()
    ledger.away = False
    starting.join(10)
    assert ledger.registered == 1
    process.close()
    assert ledger.retired


# Leaving


def test_watch_when_memory_exceeds_the_budget_then_the_held_are_marked_and_the_process_leaves(
    ledger: ScriptedLedger,
) -> None:
    process = worker(ledger, rss=lambda: 101, memory_bytes=100)
    with process.holding(unit("u")) as hold:
        hold.mark(Marks(slots=(5,)))
        with pytest.raises(LeftError) as left:
            process.watch()
    assert left.value.code == EXIT_MEMORY
    assert ledger.marks[-1] == ("u", Marks(slots=(5,), out_of_memory=True))


def test_watch_when_memory_is_within_the_budget_then_nothing_happens(ledger: ScriptedLedger) -> None:
    worker(ledger, rss=lambda: 100, memory_bytes=100).watch()


def test_watch_when_a_thread_ignores_the_stop_flag_then_the_process_leaves_after_the_grace(
    ledger: ScriptedLedger,
) -> None:
    process = worker(ledger)
    with process.holding(unit()):
        process.stop.set()
        process.watch()
        ledger.clock.forward(24.0)
        process.watch()
        ledger.clock.forward(2.0)
        with pytest.raises(LeftError) as left:
            process.watch()
    assert left.value.code == EXIT_STUCK


def test_watch_when_a_thread_ignores_its_deadline_then_the_process_leaves_after_the_grace(
    ledger: ScriptedLedger,
) -> None:
    process = worker(ledger)
    with process.holding(unit(deadline_s=100.0)):
        ledger.clock.forward(124.0)
        process.watch()
        ledger.clock.forward(2.0)
        with pytest.raises(LeftError) as left:
            process.watch()
    assert left.value.code == EXIT_STUCK


def test_watch_when_shutting_down_hangs_with_nothing_held_then_the_process_leaves_as_if_done(
    ledger: ScriptedLedger,
) -> None:
    process = worker(ledger)
    process.stop.set()
    process.watch()
    ledger.clock.forward(26.0)
    with pytest.raises(LeftError) as left:
        process.watch()
    assert left.value.code == 0


# Marks


def test_mark_when_the_lease_may_be_gone_then_nothing_is_written(ledger: ScriptedLedger) -> None:
    process = worker(ledger)
    with process.holding(shard()) as hold:
        assert hold.mark(Marks(slots=(1,)))
        ledger.clock.forward(14.0)
        assert not hold.mark(Marks(slots=(2,)))
    assert ledger.marks == [("s1", Marks(slots=(1,)))]


def test_rss_bytes_when_asked_then_it_is_of_this_process() -> None:
    before = rss_bytes()
    # A mapping of its own: what a bytearray gets may be memory that the process has held all along.
    with mmap.mmap(-1, 50 * 2**20) as block:
        for start in range(0, len(block), mmap.PAGESIZE):
            block[start] = 1
        assert rss_bytes() - before > 40 * 2**20
