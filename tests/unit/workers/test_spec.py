"""A run as JSON, and back into the plan that was submitted."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import rsembed.testing.fleet
from rsembed.core.errors import ModelError, ProviderError, SpecError, UnknownModelError, WeightsError
from rsembed.core.settings import Settings
from rsembed.embedders.weights import WeightsPin
from rsembed.pipelines.plan import RunPlan, fingerprint, lock_weights, plan_run
from rsembed.pipelines.request import ExportConfig, ExportModelRequest, RunRequest
from tests.builders import places, row_table
from workers.spec import SPEC_VERSION, PlanMismatchError, ProviderSpec, RunSpec, describe_run

NULL = ProviderSpec("null")
PLAIN = Settings()


def request(*models: str, device: str = "cpu", **config: Any) -> RunRequest:
    named = models or ("null", "null:modality=multi@series")
    return RunRequest(tuple(map(ExportModelRequest.parse, named)), config=ExportConfig(**config), device=device)


def submitted(
    folder: Path, asked: RunRequest | None = None, *, provider: ProviderSpec = NULL, settings: Settings = PLAIN
) -> tuple[RunSpec, RunPlan]:
    asked = asked or request()
    plan = plan_run(asked, provider.make(settings), settings, stated_device=True)
    plan = lock_weights(plan, settings)
    table = row_table(places(5, extra={"n": [1, 2, 3, 4, 5], "t": list("abcde")}), folder)
    return RunSpec.of(plan, asked, provider, table), plan


def through_json(spec: RunSpec) -> RunSpec:
    return RunSpec.from_json(json.loads(json.dumps(spec.to_json())))


def with_description(spec: RunSpec, **changes: Any) -> RunSpec:
    """As another version of the code would have written it, fingerprint and all."""
    description = {**spec.description, **changes}
    return replace(spec, description=description, fingerprint=fingerprint(description, spec.rows_digest))


def test_spec_when_written_and_read_then_it_is_the_same(tmp_path: Path) -> None:
    spec, _ = submitted(tmp_path, request(buffer_m=150, precision="fp32"))
    assert through_json(spec) == spec
    assert through_json(replace(spec, zarr=False)).zarr is False
    assert through_json(spec).schema.names == ["n", "t"]
    assert spec.n_rows == 5


def test_spec_when_planned_on_a_worker_then_the_plan_is_the_submitted_one(tmp_path: Path) -> None:
    spec, plan = submitted(tmp_path)
    again = through_json(spec).plan(Settings(), with_weights=False)
    assert again.describe() == plan.describe()
    assert [again.group_digest(group) for group in again.groups] == [plan.group_digest(g) for g in plan.groups]


def test_spec_when_made_then_its_fingerprint_is_that_of_a_local_export(tmp_path: Path) -> None:
    asked = request()
    spec, _ = submitted(tmp_path, asked)
    local = plan_run(asked, NULL.make(Settings()), Settings())
    table = row_table(places(5, extra={"n": [1, 2, 3, 4, 5], "t": list("abcde")}), tmp_path / "again")
    assert spec.fingerprint == fingerprint(describe_run(local, table), table.digest)


def test_plan_when_another_version_would_do_something_else_then_refused_by_what_differs(tmp_path: Path) -> None:
    spec, _ = submitted(tmp_path)
    models = [dict(model) for model in spec.description["models"]]  # type: ignore[union-attr, arg-type]
    models[0]["numerics_version"] = 0
    with pytest.raises(PlanMismatchError, match=r"models\[0\]\.numerics_version: 0 -> 1"):
        with_description(spec, models=models).plan(Settings(), with_weights=False)


def test_plan_when_the_format_is_another_then_refused_with_both_versions(tmp_path: Path) -> None:
    spec, _ = submitted(tmp_path)
    with pytest.raises(PlanMismatchError, match="format version 999"):
        with_description(spec, format_version=999).plan(Settings(), with_weights=False)


def test_plan_when_the_fingerprint_is_not_of_the_description_then_refused(tmp_path: Path) -> None:
    spec, _ = submitted(tmp_path)
    with pytest.raises(PlanMismatchError, match="fingerprint"):
        replace(spec, fingerprint="0" * 64).plan(Settings(), with_weights=False)


def test_from_json_when_the_spec_is_newer_then_an_update_is_asked_for(tmp_path: Path) -> None:
    spec, _ = submitted(tmp_path)
    newer = {**spec.to_json(), "version": SPEC_VERSION + 1, "what_is_new": 1}
    with pytest.raises(PlanMismatchError, match="update it"):
        RunSpec.from_json(newer)


def test_from_json_when_the_spec_is_damaged_then_the_place_is_named(tmp_path: Path) -> None:
    spec, _ = submitted(tmp_path)
    with pytest.raises(SpecError, match=r"request\.config"):
        RunSpec.from_json({**spec.to_json(), "request": {"models": [{"name": "null"}], "config": {"threads": "x"}}})


def test_plan_when_a_model_is_not_known_here_then_the_error_says_so(tmp_path: Path) -> None:
    spec, _ = submitted(tmp_path)
    stranger = replace(spec, request=replace(spec.request, models=(ExportModelRequest("from-a-plug-in"),)))
    with pytest.raises(UnknownModelError):
        stranger.plan(Settings(), with_weights=False)


# Weights and devices


def weights_folder(folder: Path, content: bytes = b"weights") -> Settings:
    file = folder / "test" / "null" / "null.bin"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    return Settings(weights_dir=folder, cache_dir=folder / "cache", offline=True)


def test_plan_when_nothing_is_embedded_then_weights_are_pins_and_need_not_be_there(tmp_path: Path) -> None:
    spec, plan = submitted(tmp_path, request("null-weights"), settings=weights_folder(tmp_path / "weights"))
    elsewhere = spec.plan(Settings(offline=True, cache_dir=tmp_path / "none"), with_weights=False)
    assert isinstance(elsewhere.models[0].weights, WeightsPin)
    assert elsewhere.describe() == plan.describe()


def test_plan_when_it_embeds_then_the_locked_weights_are_found(tmp_path: Path) -> None:
    settings = weights_folder(tmp_path / "weights")
    spec, _ = submitted(tmp_path, request("null-weights"), settings=settings)
    model = through_json(spec).plan(settings, with_weights=True).models[0]
    assert isinstance(model.embedder, rsembed.testing.fleet.WeighedNull)
    assert model.embedder.weights is not None
    assert model.embedder.weights.path.read_bytes() == b"weights"


def test_plan_when_the_weights_here_are_others_then_refused(tmp_path: Path) -> None:
    spec, _ = submitted(tmp_path, request("null-weights"), settings=weights_folder(tmp_path / "weights"))
    with pytest.raises(WeightsError, match=r"weights\.lock"):
        spec.plan(weights_folder(tmp_path / "others", b"others"), with_weights=True)


def test_plan_when_only_some_models_are_served_then_only_their_weights_are_looked_for(tmp_path: Path) -> None:
    spec, _ = submitted(tmp_path, request("null", "null-weights"), settings=weights_folder(tmp_path / "weights"))
    poor = Settings(offline=True, cache_dir=tmp_path / "none")
    assert spec.plan(poor, with_weights=True, labels={"null"}).models[0].device == "cpu"
    with pytest.raises(WeightsError):
        spec.plan(poor, with_weights=True, labels={"null-weights"})


def test_plan_when_the_worker_has_another_device_then_refused(tmp_path: Path) -> None:
    spec, _ = submitted(tmp_path)
    with pytest.raises(PlanMismatchError, match="for cpu, this worker has cuda:1"):
        spec.plan(Settings(), with_weights=True, device="cuda:1")


def test_plan_run_when_the_device_is_stated_then_nobody_looks_for_it() -> None:
    asked = request("remoteclip", device="cuda")
    plan = plan_run(asked, NULL.make(Settings()), Settings(), stated_device=True)
    assert plan.models[0].describe()["device_class"] == "cuda"
    assert plan.models[0].batch_size == plan.models[0].embedder.card.batch_size["cuda"]


@pytest.mark.parametrize(("device", "precision"), [("auto", "fp32"), ("cpu", "bf16")])
def test_plan_run_when_the_stated_device_cannot_be_then_refused(device: str, precision: str) -> None:
    asked = request("remoteclip", device=device, precision=precision)
    with pytest.raises(ModelError):
        plan_run(asked, NULL.make(Settings()), Settings(), stated_device=True)


def test_plan_when_a_submitter_or_io_worker_plans_then_torch_and_ee_are_not_loaded() -> None:
    program = """
import sys
from rsembed.core.settings import Settings
from rsembed.pipelines.plan import plan_run
from rsembed.pipelines.request import ExportModelRequest, RunRequest
import rsembed.testing.fleet, workers.spec, workers.submit
request = RunRequest((ExportModelRequest("prithvi"),), device="cuda")
plan_run(request, rsembed.testing.fleet.null_backend(), Settings(), stated_device=True)
print(*[name for name in ("torch", "ee", "celery") if name in sys.modules])
"""
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


# Where imagery comes from


def test_provider_when_resolved_then_the_submitters_environment_is_in_it(tmp_path: Path) -> None:
    settings = Settings(stac_url="https://example.org/stac")
    assert ProviderSpec.resolve("auto", settings).catalog == "https://example.org/stac"
    assert ProviderSpec.resolve("auto", Settings(ee_project="p")) == ProviderSpec("gee", project="p")
    assert ProviderSpec.resolve("auto", Settings(), source=["a.tif"], collection="C").source[0].startswith("/")


def test_provider_when_the_workers_environment_differs_then_the_spec_decides(tmp_path: Path) -> None:
    spec, _ = submitted(tmp_path, provider=ProviderSpec("null", declared={"low_share": 0.5}))
    found = through_json(spec).open_provider(Settings(backend="stac", stac_url="https://example.org/other"))
    assert found.describe() == {"backend": "null", "low_share": 0.5}


def test_provider_when_it_is_no_longer_the_planned_one_then_refused(tmp_path: Path) -> None:
    spec, _ = submitted(tmp_path)
    changed = replace(spec, provider=ProviderSpec("null", declared={"empty_share": 0.5}))
    with pytest.raises(ProviderError, match=r"empty_share: \(absent\) -> 0\.5"):
        changed.open_provider(Settings())


def test_provider_when_its_options_are_unknown_then_a_spec_error_names_the_backend() -> None:
    with pytest.raises(SpecError, match="the backend null does not take"):
        ProviderSpec("null", declared={"nonsense": 1}).make(Settings())
