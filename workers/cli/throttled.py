"""How many requests a run's source of imagery gets at the moment, for ``rsembed fleet status``."""

from __future__ import annotations

from collections.abc import Mapping

from rsembed.providers.throttle import ThrottleState
from workers.broker import BrokerAwayError
from workers.ledger.records import RunRecord
from workers.loaded_run import throttle_key
from workers.permit_store import throttle_states
from workers.settings import FleetSettings


def run_throttle(run: RunRecord, settings: FleetSettings) -> ThrottleState | str | None:
    """The throttle that the run shares with all that ask its source.

    A text where it cannot be known, None where nothing was asked yet or the run has ended.
    """
    key = run_key(run)
    if key is None or run.ended_at is not None or not settings.redis_url:
        return None
    try:
        return throttle_states(settings.redis_url).get(key)
    except BrokerAwayError as exc:
        return str(exc)


def run_key(run: RunRecord) -> str | None:
    """The throttle's name, from what was submitted; None where that says no source."""
    provider, description = run.spec.get("provider"), run.spec.get("description")
    if not isinstance(provider, Mapping) or not isinstance(description, Mapping):
        return None
    return throttle_key(str(provider.get("backend")), description.get("provider"))


def throttle_line(found: ThrottleState | str) -> str:
    """The throttle for people."""
    if isinstance(found, str):
        return f"throttle  unknown: {found}"
    rate = "" if found.rate_cap is None else f", {found.rate_cap:g} starts a second"
    line = (
        f"throttle  {found.in_flight:,} requests under way, {int(found.limit):,} allowed now, "
        f"never more than {found.cap:,}{rate}"
    )
    if found.quota_errors:
        line += f"; asked to slow down {found.quota_errors:,} times"
    return line + ("; the provider says that the project is restricted" if found.restricted else "")
