"""``python -m rsembed.testing.earth_engine``: the server on its own, for other processes."""

from __future__ import annotations

import contextlib
import signal
import threading
from pathlib import Path

import click

from rsembed.testing.earth_engine.behaviour import Behaviour, Latency
from rsembed.testing.earth_engine.server import LocalEarthEngine

EPILOG = """\
\b
Connect the official client to the address that is printed:
    ee.Initialize(credentials=None, url="http://127.0.0.1:8790", project="any")
\b
Steer it while it runs (JSON):
    curl -d '{"status": 429, "times": 3}' http://127.0.0.1:8790/local/faults
    curl -d '{"concurrency": [[0, 40], [60, 10]]}' http://127.0.0.1:8790/local/behaviour
    curl http://127.0.0.1:8790/local/log
    curl http://127.0.0.1:8790/local/counters
    curl -d '' http://127.0.0.1:8790/local/clear
\b
Kinds of faults: error (status, message), page (HTML of a proxy), reset, silent (delay_s), truncated, garbage.
Fields of the behaviour: concurrency, requests_per_s, latency {base_s, per_scene_s, sigma}, memory_limit_pixels,
time_limit_pixels, quota_status, token ("" refuses every token, as after its expiry).
"""


def steps_of(text: str) -> tuple[tuple[float, int], ...]:
    """Steps of a quota: ``40`` or ``40,60:10,120:40`` (from the 60th second on 10, and so on)."""
    steps = []
    for part in text.split(","):
        start, _, limit = part.rpartition(":")
        steps.append((float(start or 0), int(limit)))
    return tuple(steps)


@click.command(epilog=EPILOG)
@click.option(
    "--catalog",
    type=click.Path(exists=True, path_type=Path),
    help="Static STAC catalogue: its folder or its catalog.json. Sentinel-2, Sentinel-1 and Landsat collections "
    "get their Earth Engine names.",
)
@click.option("--port", default=8790, show_default=True, help="Port on 127.0.0.1; 0 takes a free one.")
@click.option("--concurrency", metavar="STEPS", help="Requests at once before 429: 40, or 40,60:10,120:40 over time.")
@click.option("--rate", type=float, metavar="N", help="Requests a second before 429.")
@click.option("--latency", metavar="A,B[,SIGMA]", help="Lognormal seconds: A + B x scenes read (sigma 0.45).")
@click.option("--memory-limit", type=int, metavar="PIXELS", help="Larger grids fail with 'User memory limit exceeded.'")
@click.option("--time-limit", type=int, metavar="PIXELS", help="Larger grids fail with 'Computation timed out.'")
def main(
    catalog: Path | None,
    port: int,
    concurrency: str | None,
    rate: float | None,
    latency: str | None,
    memory_limit: int | None,
    time_limit: int | None,
) -> None:
    """Run a local Earth Engine until it is interrupted.

    It answers the official client with pixels of the catalogue's rasters, computed from the expressions that are
    sent, and refuses what it does not model. It listens on this machine only.
    """
    try:
        behaviour = Behaviour(
            concurrency=steps_of(concurrency) if concurrency else (),
            requests_per_s=rate,
            latency=Latency(*(float(part) for part in latency.split(","))) if latency else None,
            memory_limit_pixels=memory_limit,
            time_limit_pixels=time_limit,
        )
    except (TypeError, ValueError) as exc:
        raise click.UsageError(f"--concurrency or --latency cannot be read ({exc}); see --help") from exc
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    with LocalEarthEngine(catalog, behaviour=behaviour, port=port) as server:
        held = ", ".join(sorted(server.collections)) or "none"
        click.echo(f"{server.url} collections: {held}")
        with contextlib.suppress(KeyboardInterrupt):
            stopped.wait()


if __name__ == "__main__":
    main()
