"""Rows 10 to 18 of the reference's contract: names, aliases, backends, devices, modalities, options."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import rsembed
from rsembed import (
    ExportModelRequest,
    ExportTarget,
    FetchSpec,
    Model,
    ModelError,
    OutputSpec,
    RSEmbedError,
    SensorSpec,
    UnknownModelError,
    get_provider,
)
from rsembed.core.registry import LazyRegistry
from rsembed.core.settings import Settings
from rsembed.embedders.base import EmbedderBase
from rsembed.embedders.catalog import ALIASES, MODEL_SPECS
from rsembed.embedders.describe import card_backends
from rsembed.embedders.registry import REGISTRY, register
from rsembed.providers.factory import resolve_backend
from rsembed.testing.null import COLLECTION, NullEmbedder, NullProvider
from tests.builders import CountingProvider
from tests.contract.reference.calls import PLACE, PLACES, YEAR, batch, settings, single

SENSOR, FETCH = SensorSpec(COLLECTION, ("B1",)), FetchSpec(scale_m=20)


def exported(tmp_path: Path, model: str | ExportModelRequest = "null", **changes: Any) -> Any:
    given = settings(spatials=PLACES, temporal=YEAR, models=[model], target=ExportTarget.dataset(tmp_path / "out"))
    return rsembed.export_batch(**given | changes)


def every_way(tmp_path: Path, **changes: Any) -> Iterator[Any]:
    """The same keywords through every public function that embeds."""
    export = {name: value for name, value in changes.items() if name in ("sensor", "fetch", "modality", "device")}
    options = {name: value for name, value in changes.items() if name not in export}
    yield lambda: single(**changes)
    yield lambda: batch(**changes)
    yield lambda: Model("null", **changes)
    yield lambda: Model("null", **settings()).get_embedding(PLACE, temporal=YEAR, **changes)
    yield lambda: Model("null", **settings()).get_embeddings_batch(PLACES, temporal=YEAR, **changes)
    yield lambda: exported(tmp_path, ExportModelRequest.configure("null", **options), **export)


# Row 10: spelling and aliases


@pytest.mark.parametrize("spelled", ["null", " NULL ", "Null\n", "\tnUlL"])
def test_name_when_spelled_in_any_case_then_the_same_model(spelled: str, tmp_path: Path) -> None:
    assert Model(spelled).name == single(spelled).meta["model"] == "null"
    assert batch(spelled)[0].meta["model"] == "null"
    assert exported(tmp_path, spelled).counts["null"]["ok"] == 5
    assert rsembed.describe_model(spelled) == rsembed.describe_model("null")


@pytest.mark.parametrize(("alias", "name"), sorted(ALIASES.items()))
def test_alias_when_used_then_it_is_the_canonical_model(alias: str, name: str) -> None:
    assert Model(alias).name == Model(alias.upper()).name == name
    assert rsembed.describe_model(f" {alias} ")["id"] == name


def test_alias_when_a_model_is_exported_by_it_then_its_own_id_is_the_label(tmp_path: Path) -> None:
    place = [rsembed.PointBuffer(2.0, 42.0, 640)]
    array = Model("scalemae_rgb", device="cpu")
    assert array.name == "scalemae"
    summary = rsembed.export_batch(
        spatials=place, temporal=YEAR, models=["Null"], target=ExportTarget.dataset(tmp_path), **settings()
    )
    assert list(summary.counts) == ["null"]


def test_alias_when_the_same_model_is_named_twice_then_refused_for_one_label(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="label 'null' stands for 2 models"):
        exported(tmp_path, models=["null", " NULL"])


# Row 11: unknown names


@pytest.mark.parametrize("name", ["nul", "", "prithvi2", "../null", "None"])
def test_name_when_unknown_then_model_error_with_those_there_are(name: str, tmp_path: Path) -> None:
    ways = (
        lambda: single(name),
        lambda: batch(name),
        lambda: Model(name),
        lambda: rsembed.describe_model(name),
        lambda: exported(tmp_path, name),
        lambda: rsembed.inspect_model_input(name, spatial=PLACE, temporal=YEAR, backend=NullProvider()),
    )
    for way in ways:
        with pytest.raises(UnknownModelError) as caught:
            way()
        assert "known: " in str(caught.value)
        assert "prithvi" in str(caught.value)
        assert isinstance(caught.value, ModelError)


@pytest.mark.parametrize("name", [None, 5, ["null"], NullEmbedder])
def test_name_when_it_is_no_text_then_model_error(name: Any) -> None:
    with pytest.raises(ModelError):
        single(name)


# Row 12: the list


def test_list_when_asked_then_sorted_and_from_the_catalogue_alone() -> None:
    program = (
        "import sys, rsembed\n"
        "first = rsembed.list_models(); rsembed.describe_model('prithvi'); second = rsembed.list_models()\n"
        "assert first == second == sorted(first), first\n"
        "assert 'torch' not in sys.modules\n"
        "print(*first)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == sorted(MODEL_SPECS)


def test_list_when_aliases_are_wanted_then_they_are_in_it_sorted() -> None:
    plain, full = rsembed.list_models(), rsembed.list_models(include_aliases=True)
    assert set(full) == set(plain) | set(ALIASES)
    assert full == sorted(full)
    assert Model.list_models(include_aliases=True) == full
    assert Model.list_models() == plain


def test_list_when_the_answer_is_changed_then_the_next_one_is_whole() -> None:
    rsembed.list_models().clear()
    assert "prithvi" in rsembed.list_models()


# Row 13: imports that fail


@pytest.fixture
def mending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module of models that can be broken and mended; forgotten at the end."""
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "contract_models.py"
    sys.modules.pop("contract_models", None)


def test_import_when_it_fails_then_nothing_half_made_stays_and_the_next_call_tries_again(mending: Path) -> None:
    registry: LazyRegistry[EmbedderBase] = LazyRegistry("model", {"own": ("contract_models", "Own")}, {})
    mending.write_text("HALF = 1\nimport not_there_at_all\n")
    with pytest.raises(ModelError, match=r"'own' could not be imported from contract_models: .*not_there_at_all") as e:
        registry.get("own")
    assert isinstance(e.value.__cause__, ModuleNotFoundError)
    assert "contract_models" not in sys.modules
    mending.write_text("class Own: ...\n# mended, and longer than it was\n")
    assert registry.get("OWN").__name__ == "Own"
    assert registry.forget() == 1
    assert registry.get("own").__name__ == "Own"


def test_import_when_the_class_is_not_in_the_module_then_model_error_with_the_cause(mending: Path) -> None:
    mending.write_text("")
    registry: LazyRegistry[EmbedderBase] = LazyRegistry("model", {"own": ("contract_models", "Own")}, {})
    with pytest.raises(ModelError, match="Own"):
        registry.get("own")


def test_runtime_when_reset_then_counts_are_told_and_everything_works_again() -> None:
    Model("mosaiks")
    first = single().data
    counts = rsembed.reset_runtime()
    assert set(counts) == {"models", "networks", "providers"}
    assert counts["models"] >= 1
    assert rsembed.reset_runtime() == {"models": 0, "networks": 0, "providers": 0}
    assert single().data.tobytes() == first.tobytes()
    assert Model("mosaiks").name == "mosaiks"


# Row 14: registration


def test_register_when_a_name_is_taken_then_the_later_one_wins() -> None:
    for number in (1, 2):

        @register(" Contract-Own ")
        class Own(NullEmbedder):
            card = replace(NullEmbedder.card, id="contract-own", title=f"number {number}")

        assert REGISTRY.get("contract-own") is Own
        assert rsembed.describe_model("CONTRACT-OWN")["title"] == f"number {number}"
    assert single("contract-own").data.shape == (16,)
    assert "contract-own" in rsembed.list_models()


# Row 15: backends. `local` reads published embeddings alone, so a model that needs imagery has no such backend.


def test_backend_when_none_or_auto_then_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("RSEMBED_")]:
        monkeypatch.delenv(name)
    rsembed.reset_runtime()
    assert get_provider(None) is get_provider("auto")
    assert get_provider(None).name == resolve_backend("auto", settings=Settings.from_environment()) == "stac"
    monkeypatch.setenv("RSEMBED_BACKEND", "gee")
    assert resolve_backend(None, settings=Settings.from_environment()) == "gee"


@pytest.mark.parametrize("backend", [" STAC ", "Gee", "RASTER", "auto", None])
def test_backend_when_spelled_in_any_case_then_known(backend: str | None) -> None:
    assert Model("null", backend=backend).name == "null"


@pytest.mark.parametrize("backend", ["earthengine", "", "gee2", 5, ("gee",), NullProvider])
def test_backend_when_unknown_then_model_error_that_names_the_known_ones(backend: Any, tmp_path: Path) -> None:
    ways = [
        lambda: single(backend=backend),
        lambda: batch(backend=backend),
        lambda: Model("null", backend=backend),
        lambda: exported(tmp_path, backend=backend),
    ]
    for way in ways:
        with pytest.raises(ModelError, match=r"gee, stac, raster|what get_provider returns"):
            way()


def test_backend_when_local_then_published_embeddings_only(tmp_path: Path) -> None:
    for name in ("tessera", "copernicus"):
        assert Model(name, backend="local").name == name
        assert "local" in rsembed.describe_model(name)["backend"]
    for name in ("null", "prithvi", "gse"):
        with pytest.raises(ModelError, match=f"{name} does not read published embeddings.*runs with auto"):
            Model(name, backend="local")
    with pytest.raises(ModelError, match="null does not read published embeddings"):
        exported(tmp_path, backend="local")


@pytest.mark.parametrize("name", sorted(MODEL_SPECS))
def test_backend_when_a_model_is_described_then_it_says_which(name: str) -> None:
    backends = rsembed.describe_model(name)["backend"]
    assert backends == list(card_backends(REGISTRY.get(name).card))
    assert set(backends) <= {"gee", "stac", "raster", "local"}
    assert len(backends) >= 2


# Row 16: devices. Asking for one that is not there is an error here, never a silent CPU.


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "CPU", "", None, 0])
def test_device_when_it_is_no_device_then_model_error_by_every_way(device: Any, tmp_path: Path) -> None:
    for way in every_way(tmp_path, device=device):
        with pytest.raises(ModelError, match="device must be auto, cpu, cuda, cuda:N or mps"):
            way()


@pytest.mark.parametrize("device", ["cuda:97", "mps"])
def test_device_when_it_is_not_there_then_model_error_that_lists_what_is(device: str) -> None:
    place = rsembed.PointBuffer(2.0, 42.0)
    import torch

    if device == "mps" and torch.backends.mps.is_available():
        pytest.skip("this machine has one")
    with pytest.raises(ModelError, match=rf"device '{device}' is not there; this machine has cpu"):
        rsembed.get_embedding("mosaiks", spatial=place, temporal=YEAR, device=device, backend=NullProvider())
    with pytest.raises(ModelError, match="null runs on the CPU only"):
        single(device=device)


def test_device_when_cpu_is_named_then_torch_is_not_asked() -> None:
    program = (
        "import sys, rsembed\n"
        "from rsembed.testing.null import NullProvider\n"
        "rsembed.Model('prithvi', device='cuda', precision='bf16')\n"
        "from rsembed.pipelines.plan import plan_run\n"
        "from rsembed.pipelines.request import ExportModelRequest, RunRequest\n"
        "from rsembed.core.settings import Settings\n"
        "plan = plan_run(RunRequest((ExportModelRequest('prithvi'),), device='cpu'), NullProvider(), Settings())\n"
        "assert plan.models[0].device == 'cpu'\n"
        "assert 'torch' not in sys.modules, 'torch was loaded'\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_device_when_auto_then_it_is_recorded_which() -> None:
    assert single(device="auto").meta["device"] == "cpu"


# Row 17: sensor, fetch, modality


def test_sensor_when_given_with_fetch_then_model_error_by_every_way(tmp_path: Path) -> None:
    for way in every_way(tmp_path, sensor=SENSOR, fetch=FETCH):
        with pytest.raises(ModelError, match="sensor or fetch, not both"):
            way()


def test_sensor_when_one_is_made_with_and_the_other_called_with_then_model_error() -> None:
    model = Model("null", sensor=SENSOR, **settings())
    with pytest.raises(ModelError, match="sensor or fetch, not both"):
        model.get_embedding(PLACE, temporal=YEAR, fetch=FETCH)


def test_sensor_when_a_request_has_both_then_model_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="sensor or fetch, not both"):
        exported(tmp_path, ExportModelRequest.configure("null", sensor=SENSOR, fetch=FETCH))


@pytest.mark.parametrize(
    "changes", [{"sensor": FETCH}, {"fetch": SENSOR}, {"sensor": "S2"}, {"fetch": {"scale_m": 10}}]
)
def test_sensor_when_of_the_wrong_kind_then_model_error(changes: dict[str, Any], tmp_path: Path) -> None:
    for way in every_way(tmp_path, **changes):
        with pytest.raises(ModelError, match=r"must be a (SensorSpec|FetchSpec)"):
            way()


def test_modality_when_chosen_then_the_models_profile_decides_what_is_fetched() -> None:
    provider = CountingProvider()
    assert single(backend=provider).meta["modality"] == "single"
    assert single(backend=provider, modality="multi").meta["modality"] == "multi"
    assert [len(request.bins) for request in provider.asked] == [1, 3]
    assert Model("null", modality="multi", **settings()).get_embedding(PLACE, temporal=YEAR).meta["n_bins"] == 3


def test_modality_when_the_sensor_names_one_then_it_counts() -> None:
    sensor = replace(SENSOR, modality="multi")
    assert single(sensor=sensor).meta["modality"] == "multi"
    assert single(sensor=sensor, modality="multi").meta["modality"] == "multi"
    with pytest.raises(ModelError, match="the sensor's is 'multi'"):
        single(sensor=sensor, modality="single")


@pytest.mark.parametrize("modality", ["s9", "", "S2 "])
def test_modality_when_unsupported_then_model_error_with_those_there_are(modality: str, tmp_path: Path) -> None:
    if not modality:
        assert single(modality=modality).meta["modality"] == "single"  # nothing said
        return
    for way in every_way(tmp_path, modality=modality):
        with pytest.raises(ModelError, match="modality must be one of single, multi"):
            way()


@pytest.mark.parametrize("name", ["terrafm", "olmoearth", "thor"])
def test_modality_when_radar_is_chosen_then_the_radar_profile(name: str) -> None:
    Model(name, modality="s1")
    inputs = rsembed.describe_model(name)["inputs"]
    assert next(iter(inputs)).startswith("s2")
    assert inputs["s1"]["collection"].startswith("COPERNICUS/S1_GRD")
    assert {"VV", "VH"} <= set(inputs["s1"]["bands"])


# Row 18: unknown options


@pytest.mark.parametrize("wrong", [{"poisson": 3}, {"variant": "large"}, {"n_frames": 3}, {"_poison": 1}])
def test_option_when_unknown_then_model_error_with_the_accepted_ones_by_every_way(
    wrong: dict[str, Any], tmp_path: Path
) -> None:
    for way in every_way(tmp_path, **wrong):
        with pytest.raises(ModelError, match=r"null has no option .*accepted: poison"):
            way()


@pytest.mark.parametrize(
    ("wrong", "meant"), [("bakend", "backend"), ("outputs", "output"), ("batchsize", "batch_size")]
)
def test_option_when_a_keyword_is_misspelt_then_it_is_told(wrong: str, meant: str) -> None:
    for way in (lambda: single(**{wrong: 1}), lambda: batch(**{wrong: 1}), lambda: Model("null", **{wrong: 1})):
        with pytest.raises(ModelError, match=rf"did you mean {meant}\?.*accepted keywords: sensor"):
            way()


@pytest.mark.parametrize("value", ["large", 2.5, None, True, [1]])
def test_option_when_its_value_is_not_accepted_then_model_error_by_every_way(value: Any, tmp_path: Path) -> None:
    for way in every_way(tmp_path, poison=value):
        with pytest.raises(ModelError, match="option poison"):
            way()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"output": OutputSpec.grid()}, "gives pooled, not 'grid'"),
        ({"output": "pooled"}, "output must be OutputSpec"),
        ({"recipe": "mine"}, "recipe must be one of"),
        ({"precision": "fp16"}, "precision must be one of"),
        ({"context": "wide"}, "context must be one of"),
        ({"input_prep": "crop"}, "mode must be one of tile, resize, auto"),
        ({"input_prep": 3}, "input_prep must be"),
        ({"batch_size": 0}, "batch_size must be a whole number"),
        ({"threads": 0}, "threads must be a whole number"),
        ({"fetch_workers": "many"}, "fetch_workers must be a whole number"),
        ({"on_error": "ignore"}, "on_error must be 'raise' or 'nan'"),
        ({"cache": "no"}, "cache must be True or False"),
    ],
)
def test_keyword_when_its_value_is_wrong_then_model_refuses_it_at_once(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(RSEmbedError, match=said):
        Model("null", **changes)
    with pytest.raises(RSEmbedError, match=said):
        batch(**changes)


def test_model_when_made_then_nothing_is_opened_or_loaded() -> None:
    provider = CountingProvider()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = Model("prithvi", variant="300_tl", backend=provider, device="cuda:3")
    assert provider.asked == []
    assert repr(model).startswith("Model('prithvi', backend=")
