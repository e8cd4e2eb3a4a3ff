from __future__ import annotations

import random
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from workers.ledger.records import Marks
from workers.suspects import about_to_run, condemned, error_class, fold, steps


def run_until_done(
    slots: list[int], size: int, guilty: set[int], killed_at: frozenset[int] | set[int] = frozenset()
) -> tuple[Marks, int]:
    """Claim, step and die as a worker does; ``killed_at``: claims in which the process is shot at a random step."""
    marks, deaths, claim = Marks(), 1, 0
    while True:
        claim += 1
        marks = fold(marks)
        planned = list(steps(marks, slots, size))
        shot = random.Random(claim).randrange(len(planned) + 1) if claim in killed_at else None
        for number, step in enumerate(planned):
            marks = about_to_run(marks, step)
            if number == shot or guilty & set(step):
                deaths += 1
                break
        else:
            return marks, deaths


def test_steps_when_nothing_is_known_then_every_slot_runs_once_in_the_batches_of_inference() -> None:
    assert list(steps(Marks(), [0, 1, 2, 5, 9], 4)) == [(0, 1, 2), (5,), (9,)]


def test_steps_when_a_batch_has_died_then_its_slots_run_alone_and_last() -> None:
    marks = fold(Marks(slots=(4, 5, 6)))
    assert list(steps(marks, range(10), 4)) == [(0, 1, 2, 3), (7,), (8, 9), (4,), (5,), (6,)]


def test_fold_when_a_row_died_alone_twice_then_it_is_condemned() -> None:
    marks = fold(Marks(slots=(3,)))
    assert condemned(marks) == frozenset()
    marks = fold(about_to_run(marks, (3,)))
    assert condemned(marks) == {3}
    assert (3,) not in list(steps(marks, range(8), 4))


def test_fold_when_the_process_ended_between_two_steps_then_nobody_is_blamed() -> None:
    marks = Marks(deaths={1: 1}, batches=((0, 1),))
    assert fold(marks) == marks


def test_error_class_when_the_watchdog_ended_the_process_then_memory_is_the_reason() -> None:
    assert error_class(Marks(out_of_memory=True)) == "out_of_memory"
    assert error_class(Marks()) == "crash"


def test_error_class_when_memory_ran_out_under_others_too_then_it_is_not_held_against_a_row() -> None:
    marks = fold(Marks(out_of_memory=True))  # of everything that the process had in hand
    marks = fold(about_to_run(marks, (3,)))
    assert error_class(marks) == "crash"
    died_of_it = replace(about_to_run(marks, (3,)), out_of_memory=True)
    assert error_class(fold(died_of_it)) == "out_of_memory"
    assert error_class(fold(about_to_run(fold(died_of_it), (3,)))) == "crash"


@given(st.integers(1, 300), st.integers(1, 64), st.data())
def test_steps_when_one_row_is_guilty_then_it_alone_is_condemned_within_ten_deaths(
    n: int, size: int, data: st.DataObject
) -> None:
    guilty = data.draw(st.integers(0, n - 1))
    marks, deaths = run_until_done(list(range(n)), size, {guilty})
    assert condemned(marks) == {guilty}
    assert deaths <= 10


@given(st.integers(2, 100), st.integers(2, 32), st.sets(st.integers(1, 6), max_size=3))
def test_steps_when_processes_are_shot_at_random_then_most_rows_are_never_alone_twice(
    n: int, size: int, killed_at: set[int]
) -> None:
    marks, _ = run_until_done(list(range(n)), size, set(), killed_at)
    assert len(condemned(marks)) <= 1
