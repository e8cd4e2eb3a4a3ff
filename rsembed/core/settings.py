"""The environment, read once into a frozen object that is passed down.

Variables: ``RSEMBED_BACKEND``, ``RSEMBED_STAC_URL``, ``RSEMBED_WEIGHTS_DIR``,
``RSEMBED_CACHE_DIR``, ``RSEMBED_EE_PROJECT``, ``RSEMBED_EE_URL`` (another address than Google's),
``RSEMBED_EE_WORKLOAD_TAG`` (under which Earth Engine accounts for requests; the fleet sets the run's),
``RSEMBED_REQUIRE_COMMERCIAL``, ``RSEMBED_OFFLINE``,
``RSEMBED_DEVICE`` (of the fleet's inference workers, ``cpu`` or ``cuda``, where a command does not say),
``RSEMBED_PLUGINS`` (modules, by commas, that register models and backends; see ``rsembed/plugins.py``).
``RSEMBED_INPUT_CACHE_GB`` (10; 0: off) bounds what fetched pixels take of the cache folder.
``RSEMBED_THROTTLE``, such as ``gee=80/200,stac=16``, says how many requests a source gets at a time, and after
the slash how many may begin in a second; the throttle then finds what the source takes below that.
``AWS_REQUEST_PAYER=requester`` (GDAL's own) says that the user pays for reading from buckets that ask for it.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rsembed.core.errors import SpecError

DEFAULT_INPUT_CACHE_GB = 10.0
_THROTTLE = re.compile(r"(?P<source>[\w.-]+)=(?P<cap>[1-9]\d*)(/(?P<per_s>\d+(\.\d+)?))?")


@dataclass(frozen=True)
class ThrottleLimits:
    """What is never exceeded: ``cap`` requests at a time, ``per_s`` starts a second (None: as many as come)."""

    cap: int = 64
    per_s: float | None = None


@dataclass(frozen=True)
class Settings:
    """What the environment says; see the module's docstring for the names. Made by hand, it keeps no inputs."""

    backend: str = "auto"
    stac_url: str | None = None
    weights_dir: Path | None = None
    cache_dir: Path = Path.home() / ".cache" / "rsembed"
    ee_project: str | None = None
    ee_url: str | None = None
    ee_workload_tag: str | None = None
    require_commercial: bool = False
    offline: bool = False
    device: str = ""
    plugins: tuple[str, ...] = ()
    requester_pays: bool = False
    input_cache_bytes: int = 0
    throttle: tuple[tuple[str, ThrottleLimits], ...] = ()

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Settings from ``environ`` (default: the process's own environment).

        Raises SpecError for a value that is none.
        """
        env = os.environ if environ is None else environ
        weights = env.get("RSEMBED_WEIGHTS_DIR")
        cache = env.get("RSEMBED_CACHE_DIR")
        if not cache:
            cache = os.path.join(env.get("XDG_CACHE_HOME") or Path.home() / ".cache", "rsembed")
        return cls(
            backend=env.get("RSEMBED_BACKEND") or "auto",
            stac_url=env.get("RSEMBED_STAC_URL") or None,
            weights_dir=Path(weights).expanduser() if weights else None,
            cache_dir=Path(cache).expanduser(),
            ee_project=env.get("RSEMBED_EE_PROJECT") or None,
            ee_url=env.get("RSEMBED_EE_URL") or None,
            ee_workload_tag=env.get("RSEMBED_EE_WORKLOAD_TAG") or None,
            require_commercial=_flag(env, "RSEMBED_REQUIRE_COMMERCIAL"),
            offline=_flag(env, "RSEMBED_OFFLINE"),
            device=env.get("RSEMBED_DEVICE", ""),
            plugins=tuple(name.strip() for name in env.get("RSEMBED_PLUGINS", "").split(",") if name.strip()),
            requester_pays=env.get("AWS_REQUEST_PAYER", "").strip().lower() == "requester",
            input_cache_bytes=_gigabytes(env, "RSEMBED_INPUT_CACHE_GB", DEFAULT_INPUT_CACHE_GB),
            throttle=_limits(env.get("RSEMBED_THROTTLE", "")),
        )

    def with_input_cache(self, use: bool) -> Settings:
        """The same, or without the cache of fetched pixels."""
        return self if use else replace(self, input_cache_bytes=0)


def _flag(env: Mapping[str, str], name: str) -> bool:
    return env.get(name, "").strip().lower() in ("1", "true", "yes", "on")


def _gigabytes(env: Mapping[str, str], name: str, default: float) -> int:
    """A number of GB in bytes."""
    text = env.get(name, "").strip()
    try:
        found = float(text) if text else default
    except ValueError:
        found = -1.0
    if not 0 <= found < math.inf:
        raise SpecError(f"{name} is {text!r}; it has to be a number of GB, 0 for none.")
    return int(found * 1e9)


def _limits(text: str) -> tuple[tuple[str, ThrottleLimits], ...]:
    """``source=cap`` or ``source=cap/per second``, by commas."""
    found = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        match = _THROTTLE.fullmatch(part)
        if match is None or (match["per_s"] and not float(match["per_s"])):
            raise SpecError(
                f"RSEMBED_THROTTLE has {part!r}; write SOURCE=REQUESTS or SOURCE=REQUESTS/PER_SECOND by commas, "
                "such as gee=80/200,stac=16, all above 0."
            )
        found.append((match["source"], ThrottleLimits(int(match["cap"]), float(match["per_s"] or 0) or None)))
    return tuple(found)
