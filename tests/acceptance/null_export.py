"""An export with the null provider and model, as a program that can be killed: one JSON argument (see Job).

Prints ``begin`` when the export begins. Exit status: 0 or 3 as the run's own, 1 with the error on stderr.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from rsembed.core.errors import ExportError, ProviderError
from rsembed.core.fetching import FetchRequest
from rsembed.core.specs import TemporalSpec
from rsembed.exporting import export_batch
from rsembed.pipelines.request import ExportConfig, ExportTarget
from rsembed.testing.null import NullProvider, request_seed

MODELS = ("null@plain", "null:poison=77@picky", "null:modality=multi@series")
"""Two that share a fetch, one of which fails on rows that start with 77, and one with a fetch of its own."""


@dataclass(frozen=True)
class Job:
    """``calls``: file to which every answered request is appended. ``fault``: some rows fail for good.

    ``file_limit``: largest file in bytes from the first request on (a full disk). ``fsyncs``: kill the
    process at that many fsyncs, fork the next one, and so on until one lives. ``layout``: ``out`` is a dataset's
    folder, that of items, or a combined file; ``format`` of the last two.
    """

    table: str
    out: str
    calls: str
    latency_s: float = 0.0
    fault: bool = True
    file_limit: int = 0
    fsyncs: tuple[int, ...] = ()
    workers: int = 8
    shard_size: int = 64
    layout: str = "dataset"
    format: str = "npz"

    def argument(self) -> str:
        return json.dumps(asdict(self))


def run(job: Job) -> int:
    def note(request: FetchRequest) -> None:
        if job.file_limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (job.file_limit, resource.RLIM_INFINITY))
        os.write(log, f"{request_seed(request)},{len(request.bins)}\n".encode())
        if job.fault and request_seed(request) % 40 == 2:
            raise ProviderError(f"no answer for {request.grid.x_min:.0f}")

    provider = NullProvider(
        latency_s=job.latency_s,
        fault=note,
        empty=lambda request: request_seed(request) % 20 == 0,
        clear=lambda request: 0.25 if request_seed(request) % 20 == 1 else 1.0,
    )
    log = os.open(job.calls, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    targets: dict[str, ExportTarget] = {
        "dataset": ExportTarget.dataset(job.out, npz=True),
        "per_item": ExportTarget.per_item(job.out),
        "combined": ExportTarget.combined(job.out),
    }
    ended: Any = export_batch(  # type: ignore[call-overload]  # of three kinds
        spatials=job.table,
        temporal=TemporalSpec.range("2023-01-01", "2023-04-01"),
        models=MODELS,
        target=targets[job.layout],
        config=ExportConfig(
            shard_size=job.shard_size,
            shards_per_part=8,
            fetch_workers=job.workers,
            show_progress=False,
            format=job.format,
        ),
        backend=provider,
    )
    if job.layout == "dataset":
        return int(ended.exit_code)
    manifests = [ended] if job.layout == "combined" else ended
    return 0 if all(manifest["status"] == "ok" for manifest in manifests) else 3


def die_at_fsync(count: int) -> None:
    """Kill this process instead of its ``count``-th fsync."""
    real, left = os.fsync, [count]

    def fsync(descriptor: int) -> None:
        left[0] -= 1
        if left[0] <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
        real(descriptor)

    os.fsync = fsync


def forked(task: Callable[[], int]) -> int:
    """Exit status of ``task`` in a child process (negative: the signal that ended it)."""
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(task())
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def run_with_deaths(job: Job) -> int:
    for count in job.fsyncs:

        def task(count: int = count) -> int:
            die_at_fsync(count)
            return run(job)

        status = forked(task)
        if status != -signal.SIGKILL:
            return status
        print("killed", flush=True)
    return 1


if __name__ == "__main__":
    asked = Job(**json.loads(sys.argv[1]))
    print("begin", flush=True)
    try:
        sys.exit(run_with_deaths(asked) if asked.fsyncs else run(asked))
    except ExportError as exc:
        sys.exit(f"ExportError: {exc}")
