"""The environment of the fleet, read once into a frozen object that is passed down.

Where things are:

``DATABASE_URL``
    Postgres, as ``postgresql://user:password@host/name``; may lead through a transaction pooler.
``RSEMBED_DIRECT_DATABASE_URL``
    The same database without a pooler, for the dispatcher and migrations (default: ``DATABASE_URL``).
``REDIS_URL``
    The broker: ``redis://``, ``rediss://`` (TLS) or ``redis+socket:///path/to/socket``.
``RSEMBED_INPUTS``
    The store between IO and inference workers, a folder that all of them see or an
    ``s3://``, ``gs://`` or ``az://`` URL. ``RSEMBED_INPUTS_BUDGET_GB`` (50) bounds what lies there.
``RSEMBED_HOME``
    State of ``rsembed fleet up`` (default ``~/.local/share/rsembed/fleet``). While such a fleet runs
    there and ``DATABASE_URL`` is unset, its ``fleet.json`` stands in for every variable above.
``RSEMBED_PLUGINS``
    Modules imported before work, separated by commas: they register own models and providers.

Seconds:

``RSEMBED_LEASE_S`` (20)
    After so long without a heartbeat a worker's work goes to another.
``RSEMBED_HEARTBEAT_S`` (a quarter of the lease)
    Between two heartbeats of a worker; at most half the lease.
``RSEMBED_SWEEP_S`` (2, or half the lease where that is less)
    Between two looks of the dispatcher; at most half the lease.
``RSEMBED_DEADLINE_S`` (1800)
    A unit or shard held longer than this is taken away, heartbeats or not.
``RSEMBED_PROBE_S`` (60)
    Between two tries of a blocked run.
``RSEMBED_PATIENCE_S`` (30)
    A shard of an unloaded model that waited longer than this goes before those of loaded ones.

The dispatcher:

``RSEMBED_AUTOSCALED_MODELS``
    Model ids, separated by commas, whose workers an autoscaler starts once shards are ready: their rows are
    fetched although no worker that serves them is alive.

A worker process:

``RSEMBED_MEMORY_MB`` (0: off)
    The watchdog ends a worker whose resident memory exceeds this.
``RSEMBED_FETCH_THREADS`` (32)
    Provider requests of one IO worker at a time.

To be looked at:

``RSEMBED_METRICS_PORT`` (0: off), ``RSEMBED_METRICS_HOST`` (127.0.0.1)
    Where the dispatcher answers Prometheus.
``RSEMBED_FLOWER_USER``, ``RSEMBED_FLOWER_PASSWORD``
    Who may open Flower; it refuses to start without both.
``RSEMBED_FLOWER_PORT`` (5555), ``RSEMBED_FLOWER_HOST`` (127.0.0.1)
    Where Flower listens.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rsembed.core.errors import SpecError
from workers.fleet_file import running_fleet

DEFAULT_HOME = Path.home() / ".local" / "share" / "rsembed" / "fleet"
_UP = "or run `rsembed fleet up`, which brings its own"


@dataclass(frozen=True)
class FleetSettings:
    """What the environment says; see the module's docstring for the names. Times in seconds.

    URLs are empty where nothing is said; those who need one ask with `need_database_url`
    and its like.
    """

    database_url: str = ""
    direct_database_url: str = ""
    redis_url: str = ""
    inputs: str = ""
    inputs_budget_bytes: int = 50 * 10**9
    home: Path = DEFAULT_HOME
    plugins: tuple[str, ...] = ()
    lease_s: float = 20.0
    heartbeat_s: float = 5.0
    sweep_s: float = 2.0
    deadline_s: float = 1800.0
    probe_s: float = 60.0
    patience_s: float = 30.0
    autoscaled_models: tuple[str, ...] = ()
    memory_mb: int = 0
    fetch_threads: int = 32
    metrics_port: int = 0
    metrics_host: str = "127.0.0.1"
    flower_user: str = ""
    flower_password: str = ""
    flower_port: int = 5555
    flower_host: str = "127.0.0.1"

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> FleetSettings:
        """Settings from ``environ`` (default: the process's own environment).

        Raises SpecError for a value that is no number or out of its range.
        """
        env = os.environ if environ is None else environ
        home = Path(env.get("RSEMBED_HOME") or DEFAULT_HOME).expanduser()
        urls = _urls(env, home)
        lease_s = _number(env, "RSEMBED_LEASE_S", 20.0, least=0.2)
        return cls(
            **urls,
            inputs_budget_bytes=int(_number(env, "RSEMBED_INPUTS_BUDGET_GB", 50.0, least=0.0) * 10**9),
            home=home,
            plugins=_names(env, "RSEMBED_PLUGINS"),
            lease_s=lease_s,
            heartbeat_s=_number(env, "RSEMBED_HEARTBEAT_S", lease_s / 4, least=0.01, most=lease_s / 2),
            sweep_s=_number(env, "RSEMBED_SWEEP_S", min(2.0, lease_s / 2), least=0.01, most=lease_s / 2),
            deadline_s=_number(env, "RSEMBED_DEADLINE_S", 1800.0, least=lease_s),
            probe_s=_number(env, "RSEMBED_PROBE_S", 60.0, least=0.1),
            patience_s=_number(env, "RSEMBED_PATIENCE_S", 30.0, least=0.0),
            autoscaled_models=_names(env, "RSEMBED_AUTOSCALED_MODELS"),
            memory_mb=_whole(env, "RSEMBED_MEMORY_MB", 0, least=0),
            fetch_threads=_whole(env, "RSEMBED_FETCH_THREADS", 32, least=1, most=1024),
            metrics_port=_whole(env, "RSEMBED_METRICS_PORT", 0, least=0, most=65535),
            metrics_host=env.get("RSEMBED_METRICS_HOST") or "127.0.0.1",
            flower_user=env.get("RSEMBED_FLOWER_USER", ""),
            flower_password=env.get("RSEMBED_FLOWER_PASSWORD", ""),
            flower_port=_whole(env, "RSEMBED_FLOWER_PORT", 5555, least=0, most=65535),
            flower_host=env.get("RSEMBED_FLOWER_HOST") or "127.0.0.1",
        )

    @property
    def scratch(self) -> Path:
        """Folder of this machine for files on their way to or from a bucket."""
        return self.home / "scratch"

    def need_database_url(self) -> str:
        """The ledger's URL; SpecError where none is set."""
        return _needed(
            self.database_url,
            "database",
            f"DATABASE_URL is not set, and no `rsembed fleet up` runs with its state in {self.home}. Start one, or "
            "set DATABASE_URL=postgresql://user:password@host/name",
        )

    def need_direct_database_url(self) -> str:
        """The ledger's URL past any pooler; SpecError where neither it nor ``DATABASE_URL`` is set."""
        return self.direct_database_url or self.need_database_url()

    def need_redis_url(self) -> str:
        """The broker's URL; SpecError where none is set."""
        return _needed(
            self.redis_url, "broker", f"set REDIS_URL=redis://host:6379/0 (or redis+socket:///path/to/socket), {_UP}"
        )

    def need_inputs(self) -> str:
        """The input store's folder or URL; SpecError where none is set."""
        return _needed(
            self.inputs,
            "input store",
            f"set RSEMBED_INPUTS to a folder that all workers see, or to s3://, gs:// or az://bucket/prefix, {_UP}",
        )


def _needed(value: str, what: str, how: str) -> str:
    if not value:
        raise SpecError(f"The fleet has no {what}: {how}.")
    return value


def _urls(env: Mapping[str, str], home: Path) -> dict[str, str]:
    """The four places; from the fleet that runs in ``home`` only while ``DATABASE_URL`` is unset."""
    database_url = env.get("DATABASE_URL", "")
    urls = {
        "database_url": database_url,
        "direct_database_url": env.get("RSEMBED_DIRECT_DATABASE_URL", "") or database_url,
        "redis_url": env.get("REDIS_URL", ""),
        "inputs": env.get("RSEMBED_INPUTS", ""),
    }
    if database_url:
        return urls
    fleet = running_fleet(home)
    if fleet is None:
        return urls
    return {
        "database_url": fleet.database_url,
        "direct_database_url": urls["direct_database_url"] or fleet.direct_database_url,
        "redis_url": urls["redis_url"] or fleet.redis_url,
        "inputs": urls["inputs"] or fleet.inputs,
    }


def _names(env: Mapping[str, str], variable: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in env.get(variable, "").split(",") if name.strip())


def _number(env: Mapping[str, str], name: str, default: float, *, least: float, most: float = math.inf) -> float:
    text = env.get(name, "").strip()
    if not text:
        return default
    try:
        value = float(text)
    except ValueError as exc:
        raise SpecError(f"{name} is {text!r}; it has to be a number.") from exc
    if not (least <= value <= most) or math.isinf(value):
        bound = f"at least {least:g}" if math.isinf(most) else f"between {least:g} and {most:g}"
        raise SpecError(f"{name} is {text}; it has to be {bound}.")
    return value


def _whole(env: Mapping[str, str], name: str, default: int, *, least: int, most: float = math.inf) -> int:
    value = _number(env, name, default, least=least, most=most)
    if value != int(value):
        raise SpecError(f"{name} is {value:g}; it has to be a whole number.")
    return int(value)


def inherited_environment(changes: Mapping[str, str]) -> dict[str, str]:
    """The process's own environment with ``changes``, for its children."""
    return {**os.environ, **changes}
