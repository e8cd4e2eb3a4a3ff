"""The environment, read once into a frozen object that is passed down.

Variables: ``RSEMBED_BACKEND``, ``RSEMBED_STAC_URL``, ``RSEMBED_WEIGHTS_DIR``,
``RSEMBED_CACHE_DIR``, ``RSEMBED_EE_PROJECT``, ``RSEMBED_REQUIRE_COMMERCIAL``, ``RSEMBED_OFFLINE``,
``RSEMBED_DEVICE`` (of the fleet's inference workers, ``cpu`` or ``cuda``, where a command does not say),
``RSEMBED_PLUGINS`` (modules, by commas, that register models and backends; see ``rsembed/plugins.py``).
``AWS_REQUEST_PAYER=requester`` (GDAL's own) says that the user pays for reading from buckets that ask for it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """What the environment says; see the module's docstring for the names."""

    backend: str = "auto"
    stac_url: str | None = None
    weights_dir: Path | None = None
    cache_dir: Path = Path.home() / ".cache" / "rsembed"
    ee_project: str | None = None
    require_commercial: bool = False
    offline: bool = False
    device: str = ""
    plugins: tuple[str, ...] = ()
    requester_pays: bool = False

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Settings from ``environ`` (default: the process's own environment)."""
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
            require_commercial=_flag(env, "RSEMBED_REQUIRE_COMMERCIAL"),
            offline=_flag(env, "RSEMBED_OFFLINE"),
            device=env.get("RSEMBED_DEVICE", ""),
            plugins=tuple(name.strip() for name in env.get("RSEMBED_PLUGINS", "").split(",") if name.strip()),
            requester_pays=env.get("AWS_REQUEST_PAYER", "").strip().lower() == "requester",
        )


def _flag(env: Mapping[str, str], name: str) -> bool:
    return env.get(name, "").strip().lower() in ("1", "true", "yes", "on")
