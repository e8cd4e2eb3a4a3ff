from __future__ import annotations

import pytest

from rsembed.core.errors import SpecError
from workers.queues import (
    CONTROL,
    CPU,
    IO,
    ModelKind,
    infer_queue,
    model_of,
    models_of,
    stage_of,
    task_of,
    worker_queues,
)

MODELS: dict[str, ModelKind] = {"alpha": "onthefly", "beta": "onthefly", "product": "precomputed"}


def test_infer_queue_when_the_model_has_a_network_then_it_has_a_queue_of_its_own() -> None:
    assert infer_queue("alpha", "onthefly") == "gpu.alpha"


def test_infer_queue_when_the_model_is_precomputed_then_it_is_cpu() -> None:
    assert infer_queue("product", "precomputed") == "cpu"


@pytest.mark.parametrize("model", ["", "a b", "../x", "A", "a\x06\x163"])
def test_infer_queue_when_the_id_could_not_be_a_key_then_it_is_refused(model: str) -> None:
    with pytest.raises(SpecError, match="cannot name a queue"):
        infer_queue(model, "onthefly")


@pytest.mark.parametrize(
    ("kind", "all_models", "queues"),
    [
        ("io", True, (CONTROL, IO)),
        ("gpu", True, ("gpu.alpha", "gpu.beta")),
        ("cpu", True, (CPU, "gpu.alpha", "gpu.beta")),
    ],
)
def test_worker_queues_when_a_worker_serves_all_models_then_by_its_kind(
    kind: str, all_models: bool, queues: tuple[str, ...]
) -> None:
    assert worker_queues(kind, MODELS, all_models=all_models) == queues  # type: ignore[arg-type]


def test_worker_queues_when_models_are_named_then_theirs_alone() -> None:
    assert worker_queues("cpu", {"beta": "onthefly"}, all_models=False) == ("gpu.beta",)
    assert worker_queues("gpu", {"product": "precomputed"}, all_models=False) == (CPU,)


def test_models_of_when_a_queue_carries_several_models_then_all_are_named() -> None:
    assert models_of(CPU, {**MODELS, "another": "precomputed"}) == ("another", "product")
    assert models_of("gpu.beta", MODELS) == ("beta",)


@pytest.mark.parametrize(
    ("queue", "task", "stage", "model"),
    [
        ("io", "rsembed.fetch", "fetch", None),
        ("cpu", "rsembed.infer", "embed", None),
        ("gpu.alpha", "rsembed.infer", "embed", "alpha"),
        ("control", "rsembed.control", "finish", None),
    ],
)
def test_queue_when_it_is_ours_then_task_stage_and_model_follow(
    queue: str, task: str, stage: str, model: str | None
) -> None:
    assert (task_of(queue), stage_of(queue), model_of(queue)) == (task, stage, model)


def test_task_of_when_the_queue_is_not_ours_then_it_is_refused() -> None:
    with pytest.raises(SpecError, match="celery"):
        task_of("celery")
