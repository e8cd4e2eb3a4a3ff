"""Sharing the input store's budget."""

from __future__ import annotations

from workers.ledger.admission import Demand, plan_admission


def demand(run: int = 1, **changes: int) -> Demand:
    fields = {"run": run, "priority": 0, "waiting": 99, "ahead": 0, "reserved_bytes": 0, "unit_bytes": 10}
    return Demand(**(fields | changes))


def test_admission_when_there_is_room_then_a_run_gets_what_it_may_have_ahead() -> None:
    assert plan_admission([demand(ahead=3, reserved_bytes=30)], free_bytes=1000, per_run_ahead=8) == {1: 5}


def test_admission_when_the_budget_is_short_then_it_is_not_exceeded() -> None:
    assert plan_admission([demand(ahead=1, reserved_bytes=10)], free_bytes=25, per_run_ahead=8) == {1: 2}


def test_admission_when_nothing_is_free_then_a_run_that_holds_nothing_still_gets_one_unit() -> None:
    demands = [demand(1), demand(2, reserved_bytes=10)]
    assert plan_admission(demands, free_bytes=-5, per_run_ahead=8) == {1: 1}


def test_admission_when_runs_compete_then_the_one_that_holds_least_comes_first() -> None:
    demands = [demand(1, reserved_bytes=100), demand(2, reserved_bytes=10)]
    assert plan_admission(demands, free_bytes=50, per_run_ahead=8) == {2: 5}


def test_admission_when_runs_are_equal_then_they_get_the_same() -> None:
    assert plan_admission([demand(1), demand(2)], free_bytes=60, per_run_ahead=8) == {1: 3, 2: 3}


def test_admission_when_a_run_has_priority_then_the_others_get_what_it_leaves() -> None:
    demands = [demand(1, reserved_bytes=10), demand(2, priority=5, reserved_bytes=10)]
    assert plan_admission(demands, free_bytes=60, per_run_ahead=4) == {2: 4, 1: 2}


def test_admission_when_units_weigh_nothing_then_it_still_ends() -> None:
    assert plan_admission([demand(unit_bytes=0)], free_bytes=0, per_run_ahead=3) == {1: 3}


def test_admission_when_few_units_wait_then_no_more_are_given_and_the_rest_is_for_others() -> None:
    demands = [demand(1, waiting=1), demand(2)]
    assert plan_admission(demands, free_bytes=60, per_run_ahead=10**9) == {1: 1, 2: 5}


def test_admission_when_nobody_asks_then_nothing_is_given() -> None:
    assert plan_admission([], free_bytes=100, per_run_ahead=3) == {}
