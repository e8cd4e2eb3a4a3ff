"""Which processes a fleet of one machine consists of, beside its servers."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from rsembed.core.errors import SpecError
from workers.fleet_file import FleetFile
from workers.settings import FleetSettings, inherited_environment
from workers.supervisor import ChildSpec


@dataclass(frozen=True)
class UpOptions:
    """What `fleet up` starts.

    ``io``: IO workers. ``gpu``: inference workers on CUDA devices, None one for each device;
    beside them one worker on the processor always runs. ``cpu``: none on a CUDA device.
    ``models``: ids that the inference workers serve, () all.
    """

    io: int = 1
    gpu: int | None = None
    cpu: bool = False
    flower: bool = True
    models: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.io < 0 or (self.gpu or 0) < 0:
            raise SpecError("--io and --gpu count workers; they cannot be negative.")
        if self.cpu and self.gpu:
            raise SpecError("--cpu says that no worker may use a GPU; leave it out, or --gpu.")


def crew(options: UpOptions, settings: FleetSettings, file: FleetFile) -> Iterator[ChildSpec]:
    """The commands to keep running, each told by its environment where ``file`` says that things are.

    ``settings`` name the home and how to reach Flower and the metrics; only Flower learns its password.
    """
    base = {
        "DATABASE_URL": file.database_url,
        "RSEMBED_DIRECT_DATABASE_URL": file.direct_database_url,
        "REDIS_URL": file.redis_url,
        "RSEMBED_INPUTS": file.inputs,
        "RSEMBED_HOME": str(settings.home),
        "RSEMBED_METRICS_PORT": "0",
        "RSEMBED_FLOWER_USER": "",
        "RSEMBED_FLOWER_PASSWORD": "",
    }

    def spec(name: str, *command: str, **more: str) -> ChildSpec:
        environ = inherited_environment({**base, **more})
        log = settings.home / "logs" / f"{name}.log"
        return ChildSpec(name, ("-m", "rsembed", "fleet", *command), environ, log)

    yield spec("dispatcher", "dispatcher", RSEMBED_METRICS_PORT=str(settings.metrics_port))
    for number in range(options.io):
        yield spec(f"io-{number + 1}", "worker", "io")
    served = ("--models", ",".join(options.models)) if options.models else ()
    devices = 0 if options.cpu else count_gpus()
    for number in range(devices if options.gpu is None else options.gpu):
        yield spec(f"gpu-{number + 1}", "worker", "gpu", "--device", f"cuda:{number % max(1, devices)}", *served)
    yield spec("cpu-1", "worker", "cpu", *served)
    if options.flower:
        login = {"RSEMBED_FLOWER_USER": settings.flower_user, "RSEMBED_FLOWER_PASSWORD": settings.flower_password}
        yield spec("flower", "flower", RSEMBED_FLOWER_PORT=str(settings.flower_port), **login)


def count_gpus() -> int:
    """CUDA devices of this machine as its driver's own tool lists them; torch is not loaded for it."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return 0
    try:
        listed = subprocess.run([program, "-L"], capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines()) if listed.returncode == 0 else 0
