"""Which queue work goes to, and which queues a worker listens on: names only, nothing is opened.

========================  ===============================================================
``io``                    fetch units
``gpu.<model id>``        shards of a model with a network, whatever device computes them
``cpu``                   shards of precomputed products
``control``               finishing a run, cleaning up inputs
========================  ===============================================================
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from rsembed.core.errors import SpecError
from workers.report import Stage

WorkerKind = Literal["io", "gpu", "cpu"]
ModelKind = Literal["onthefly", "precomputed"]

IO = "io"
CPU = "cpu"
CONTROL = "control"
GPU_PREFIX = "gpu."

TASK_FETCH = "rsembed.fetch"
TASK_INFER = "rsembed.infer"
TASK_CONTROL = "rsembed.control"

STAGES: Mapping[str, Stage] = {TASK_FETCH: "fetch", TASK_INFER: "embed", TASK_CONTROL: "finish"}
"""Task name -> what it does."""

_MODEL_ID = re.compile(r"[a-z0-9][a-z0-9_.+-]*")


def infer_queue(model_id: str, kind: ModelKind) -> str:
    """The queue of a model's shards; ``kind`` is its card's. SpecError for an id no queue can carry."""
    if not _MODEL_ID.fullmatch(model_id):
        raise SpecError(f"model id {model_id!r} cannot name a queue: lower-case letters, digits and _ . + - only")
    return CPU if kind == "precomputed" else f"{GPU_PREFIX}{model_id}"


def task_of(queue: str) -> str:
    """Name of the task whose tickets go to ``queue``; SpecError for a queue that is none of ours."""
    if queue == IO:
        return TASK_FETCH
    if queue == CONTROL:
        return TASK_CONTROL
    if queue == CPU or queue.startswith(GPU_PREFIX):
        return TASK_INFER
    raise SpecError(f"{queue!r} is no queue of the fleet: io, cpu, control or gpu.<model id>")


def worker_queues(
    kind: WorkerKind, models: Mapping[str, ModelKind] | None = None, *, all_models: bool = True
) -> tuple[str, ...]:
    """The queues that a worker listens on, sorted; every worker of an IO kind takes control work too.

    ``models``: id -> kind of the models it serves (ignored by ``io``). With ``all_models`` a ``cpu``
    worker listens on ``cpu`` even where no precomputed model is known yet.
    """
    if kind == "io":
        return (CONTROL, IO)
    queues = {infer_queue(model, model_kind) for model, model_kind in (models or {}).items()}
    if kind == "cpu" and all_models:
        queues.add(CPU)
    if kind == "gpu" and all_models:
        queues.discard(CPU)  # precomputed products need no card; `worker cpu` takes them
    return tuple(sorted(queues))


def stage_of(queue: str) -> Stage:
    """What is done with the tickets of ``queue``; SpecError for a queue that is none of ours."""
    return STAGES[task_of(queue)]


def model_of(queue: str) -> str | None:
    """The model whose shards alone go to ``queue``; None where there is no one such model."""
    return queue.removeprefix(GPU_PREFIX) if queue.startswith(GPU_PREFIX) else None


def models_of(queue: str, models: Mapping[str, ModelKind]) -> tuple[str, ...]:
    """Which of ``models`` (id -> kind) have their shards in ``queue``, sorted."""
    return tuple(sorted(model for model, kind in models.items() if infer_queue(model, kind) == queue))
