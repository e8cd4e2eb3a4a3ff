"""Which fetch units may start: the input store's budget, shared out between runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from workers.ledger.transactions import Transactions, sql, transactional


@dataclass(frozen=True)
class Demand:
    """A run that has units to admit: ``waiting`` of them, each planned to be of ``unit_bytes``.

    ``ahead``: units admitted and not claimed.
    """

    run: int
    priority: int
    waiting: int
    ahead: int
    reserved_bytes: int
    unit_bytes: int


def plan_admission(demands: Sequence[Demand], *, free_bytes: int, per_run_ahead: int) -> Mapping[int, int]:
    """Run -> units to admit now.

    A run that holds nothing of the budget gets a unit even when nothing is free, so that every
    run goes on. The rest goes to the highest priority first, and there always to the run that
    holds least.
    """
    given = {demand.run: int(demand.reserved_bytes == 0 and demand.ahead == 0) for demand in demands}
    free = free_bytes - sum(given[demand.run] * demand.unit_bytes for demand in demands)
    for priority in sorted({demand.priority for demand in demands}, reverse=True):
        level = [demand for demand in demands if demand.priority == priority]
        while True:
            able = [d for d in level if given[d.run] < _most(d, per_run_ahead) and d.unit_bytes <= free]
            if not able:
                break
            least = min(able, key=lambda d: (d.reserved_bytes + given[d.run] * d.unit_bytes, given[d.run], d.run))
            given[least.run] += 1
            free -= least.unit_bytes
    return {run: count for run, count in given.items() if count}


def _most(demand: Demand, per_run_ahead: int) -> int:
    return min(demand.waiting, per_run_ahead - demand.ahead)


_DEMANDS = """
    SELECT r.id, r.priority, next.n, coalesce(a.n, 0) AS ahead, coalesce(b.held, 0) AS held, next.bytes
    FROM runs r
    LEFT JOIN (SELECT run_id, count(*) AS n FROM fetch_units WHERE state = 'pending' AND admitted GROUP BY run_id) a
        ON a.run_id = r.id
    LEFT JOIN (SELECT run_id, sum(reserved_bytes) AS held FROM fetch_units WHERE reserved_bytes > 0 GROUP BY run_id) b
        ON b.run_id = r.id
    CROSS JOIN LATERAL (
        SELECT count(*) AS n, max(bytes) AS bytes FROM (
            SELECT u.open_rows * u.row_bytes AS bytes FROM fetch_units u
            WHERE u.run_id = r.id AND u.state = 'pending' AND NOT u.admitted AND u.group_index IN (
                SELECT m.group_index FROM run_models m
                WHERE m.run_id = r.id AND (CAST(:served AS text[]) IS NULL OR m.model = ANY(:served)))
            ORDER BY u.shard, u.group_index LIMIT :ahead
        ) u
    ) next
    WHERE r.ended_at IS NULL AND r.state = 'running' AND next.n > 0
"""

# By tuple, so that no estimate can make the planner compare every unit with every other.
_ADMIT = """
    UPDATE fetch_units u SET admitted = true, reserved_bytes = u.reserved_bytes + u.open_rows * u.row_bytes,
        ready_at = clock_timestamp()
    WHERE u.ctid = ANY(ARRAY(
        SELECT n.ctid FROM fetch_units n
        WHERE n.run_id = :run AND n.state = 'pending' AND NOT n.admitted AND n.group_index IN (
            SELECT m.group_index FROM run_models m
            WHERE m.run_id = :run AND (CAST(:served AS text[]) IS NULL OR m.model = ANY(:served)))
        ORDER BY n.shard, n.group_index LIMIT :n FOR NO KEY UPDATE SKIP LOCKED))
        AND u.run_id = :run AND u.state = 'pending' AND NOT u.admitted
"""


class Admission(Transactions):
    """Back-pressure: a unit reserves its planned bytes before anything of it is fetched."""

    @transactional
    def admit(
        self, tx: Connection, budget_bytes: int, per_run_ahead: int, served_models: Sequence[str] | None = None
    ) -> int:
        """Admit fetch units within ``budget_bytes``, at most ``per_run_ahead`` of a run unclaimed; how many.

        ``served_models``: ids of models somebody serves; a fetch that none of them needs is not
        admitted. None: do not ask.
        """
        served = None if served_models is None else list(served_models)
        held = tx.execute(sql("SELECT coalesce(sum(reserved_bytes), 0) FROM fetch_units WHERE reserved_bytes > 0"))
        free = budget_bytes - int(held.scalar_one())
        demands = [
            Demand(run, priority, waiting, ahead, int(reserved), int(unit))
            for run, priority, waiting, ahead, reserved, unit in tx.execute(
                sql(_DEMANDS), {"served": served, "ahead": per_run_ahead}
            )
        ]
        admitted = 0
        for run, count in plan_admission(demands, free_bytes=free, per_run_ahead=per_run_ahead).items():
            admitted += tx.execute(sql(_ADMIT), {"run": run, "n": count, "served": served}).rowcount
        return admitted
