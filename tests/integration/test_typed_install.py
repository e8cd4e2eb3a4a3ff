"""A user's script under ``mypy --strict``, against the wheel as it installs: what is promised has types, and no Any."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import rsembed

pytest.importorskip("mypy", reason="mypy is not installed: pip install 'rsembed[dev]'")

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ("rsembed", "workers", "migrations", "pyproject.toml", "README.md", "LICENSE")

SCRIPT = """\
from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from pathlib import Path
from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

from rsembed import (
    BBox, Embedding, ExportConfig, ExportModelRequest, ExportResult, ExportSummary, ExportTarget, FetchSpec,
    InputPrepSpec, Model, ModelError, ModelResult, OutputSpec, PointBuffer, ProviderError, RowStatus, RSEmbedError,
    SensorSpec, SpecError, TemporalSpec, describe_model, export_batch, get_embedding, get_embeddings_batch,
    get_provider, inspect_model_input, inspect_provider_patch, list_models, load_export, reset_runtime,
)

place = PointBuffer(2.77, 42.44, buffer_m=320)
box = BBox(minlon=2.7, minlat=42.4, maxlon=2.8, maxlat=42.5)
year = TemporalSpec.year(2022)
summer = TemporalSpec.range("2022-06-01", dt.date(2022, 9, 1))
assert_type(place.lon, float)
assert_type(place.buffer_m, float | None)
assert_type(summer, TemporalSpec)
assert_type(summer.window.days, int)
sensor = SensorSpec("COPERNICUS/S2_SR_HARMONIZED", ("B4", "B3", "B2"), cloudy_pct=30, composite="mosaic")
assert_type(sensor.bands, tuple[str, ...])

one = get_embedding("mosaiks", spatial=place, temporal=year, backend="stac", device="cpu", input_prep="tile")
assert_type(one, Embedding)
assert_type(one.data, NDArray[np.float32])
assert_type(one.meta, Mapping[str, Any])
if one.cells is not None:
    assert_type(one.cells.epsg, int)
    assert_type(one.cells.x, NDArray[np.float64])
assert_type(one.save("one.npz"), Path)

several = get_embeddings_batch(
    "prithvi", spatials=[place, box], temporal=summer, output=OutputSpec.grid(), fetch=FetchSpec(scale_m=20),
    input_prep=InputPrepSpec.tile(224), on_error="nan", precision="bf16", recipe="rs-embed",
    variant="300_tl", max_frames=3,
)
assert_type(several, list[Embedding])
assert_type(several[0].data, NDArray[np.float32])

model = Model("terrafm", modality="s1", backend=get_provider("gee"), output=OutputSpec.pooled("max"), batch_size=4)
assert_type(model.name, str)
assert_type(model.get_embedding(place, temporal=year), Embedding)
assert_type(model.get_embeddings_batch([place], temporal=None, device="cuda:1"), list[Embedding])
assert_type(Model.list_models(include_aliases=True), list[str])
pixels: NDArray[np.uint16] = np.zeros((3, 32, 32), np.uint16)
assert_type(model.get_embedding(place, temporal=year, input_chw=pixels), Embedding)

request = ExportModelRequest.configure("prithvi", sensor=sensor, label="p600", variant="600_tl")
config = ExportConfig(batch_size=8, max_retries=2, show_progress=False)
dataset = export_batch(
    spatials="places.parquet", temporal=[year, summer], models=["mosaiks", request], config=config,
    target=ExportTarget.dataset("out"),
)
assert_type(dataset, ExportSummary)
assert_type(dataset.exit_code, int)
assert_type(dataset.counts, Mapping[str, Mapping[str, int]])
items = export_batch(spatials=[place], temporal=year, models=["mosaiks"], target=ExportTarget.per_item("items"))
assert_type(items, list[dict[str, Any]])
combined = export_batch(spatials=[place], temporal=year, models=["mosaiks"], target=ExportTarget.combined("all.npz"))
assert_type(combined, dict[str, Any])

found = load_export("out")
assert_type(found, ExportResult)
assert_type(found.embedding("mosaiks"), NDArray[Any])
assert_type(found.models, Mapping[str, ModelResult])
assert_type(found.ok_models, list[str])
assert_type(found.n_items, int)

assert_type(list_models(), list[str])
assert_type(describe_model("mosaiks"), dict[str, Any])
assert_type(reset_runtime(), dict[str, int])
assert_type(inspect_model_input("mosaiks", spatial=place, temporal=year, modality="s2"), dict[str, Any])
assert_type(inspect_provider_patch(spatial=box, sensor=sensor, value_range=(0, 10_000)), dict[str, Any])


def careful() -> RowStatus | None:
    try:
        return RowStatus(get_embedding("mosaiks", spatial=place, temporal=year).meta["status"])
    except (ModelError, ProviderError, SpecError) as exc:
        assert_type(exc, ModelError | ProviderError | SpecError)
    except RSEmbedError as exc:
        assert_type(exc.transient, bool)
    return None
"""

WRONG = """\
from rsembed import ExportConfig, ExportTarget, InputPrepSpec, Model, OutputSpec, PointBuffer, SensorSpec, TemporalSpec
from rsembed import export_batch, get_embedding, get_embeddings_batch, load_export
import rsembed

place, year = PointBuffer(2.0, 42.0), TemporalSpec.year(2022)
PointBuffer("2", 42)  # wrong
TemporalSpec.year("2022")  # wrong
SensorSpec("S2", ("B4",), composite="mean")  # wrong
OutputSpec.pooled("median")  # wrong
InputPrepSpec("crop")  # wrong
get_embedding("m", spatial=(2, 42), temporal=year)  # wrong
get_embedding("m", spatial=place, temporal="2022")  # wrong
get_embedding("m", spatial=place, temporal=year, output="pooled")  # wrong
get_embedding("m", spatial=place, temporal=year, device=0)  # wrong
get_embedding("m", spatial=place, temporal=year, on_error="ignore")  # wrong
get_embedding("m", spatial=place, temporal=year, recipe="mine")  # wrong
get_embedding("m", spatial=place, temporal=year, input_prep="crop")  # wrong
get_embedding("m", spatial=place, temporal=year, backend=5)  # wrong
get_embedding("m", spatial=place, temporal=year, variant=["large"])  # wrong
get_embeddings_batch("m", spatials=place, temporal=year)  # wrong
Model("m", batch_size="many")  # wrong
Model("m").get_embedding(place, temporal=year, devise="cpu")  # wrong
Model("m").get_embedding((2, 42), temporal=year)  # wrong
export_batch(spatials=[place], temporal=year, models=["m"], target="out")  # wrong
export_batch(spatials=[place], temporal=year, models=["m"], target=ExportTarget.dataset("out"), config={})  # wrong
ExportConfig(format="hdf5")  # wrong
load_export(5)  # wrong
rsembed.get_embeding  # wrong
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with the wheel in its site-packages, and everything else from this environment."""
    folder = tmp_path_factory.mktemp("install")
    source = folder / "source"
    source.mkdir()
    for name in SHIPPED:
        found = ROOT / name
        if found.is_dir():
            shutil.copytree(found, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(found, source / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "-q"]
    wheel = [*pip, "wheel", str(source), "--no-deps", "--no-build-isolation", "--no-index", "-w", str(folder)]
    done = subprocess.run(wheel, capture_output=True, text=True, check=False)
    if "setuptools" in done.stderr and "Cannot import" in done.stderr:
        pytest.skip("a wheel is built with setuptools, which is not installed here")
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("rsembed-*.whl")
    with zipfile.ZipFile(built) as archive:
        assert "rsembed/py.typed" in archive.namelist()
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", str(site), str(built)], check=True)
    (site / "others.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    return folder / "venv" / "bin" / "python"


def checked(python: Path, folder: Path, text: str, *options: str) -> list[str]:
    """What ``mypy --strict`` says of ``text``, line by line."""
    script = folder / "script.py"
    script.write_text(text, encoding="utf-8")
    mypy = [sys.executable, "-m", "mypy", "--strict", "--python-executable", str(python), "--config-file", ""]
    cache = ["--cache-dir", str(python.parents[2] / "cache"), "--no-error-summary"]
    done = subprocess.run(
        [*mypy, *cache, *options, str(script)], capture_output=True, text=True, check=False, cwd=folder,
        env={"PATH": "", "HOME": str(folder)},
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    return done.stdout.splitlines()


def test_wheel_when_installed_then_it_is_what_the_script_sees(python: Path) -> None:
    program = "import rsembed; print(rsembed.__file__); print(*sorted(rsembed.__all__))"
    done = subprocess.run(
        [str(python), "-I", "-c", program], capture_output=True, text=True, check=True, cwd=python.parent
    )
    where, names = done.stdout.splitlines()
    assert Path(where).is_relative_to(python.parents[1])
    assert names.split() == sorted(rsembed.__all__)


def test_script_when_checked_strictly_then_no_error_and_every_type_is_concrete(python: Path, tmp_path: Path) -> None:
    # JSON at the edge and arrays of any type are Any on purpose; those lines are the only ones allowed.
    allowed = re.compile(
        r"\.meta\b|Any\]|describe_model|inspect_|assert_type\(items|assert_type\(combined|items =|combined ="
    )
    lines = SCRIPT.splitlines()
    said = [line for line in checked(python, tmp_path, SCRIPT, "--disallow-any-expr") if "error:" in line]
    leaks = [line for line in said if not allowed.search(lines[int(line.split(":")[1]) - 1])]
    assert leaks == []


def test_script_when_arguments_are_wrong_then_each_is_found(python: Path, tmp_path: Path) -> None:
    said = checked(python, tmp_path, WRONG)
    found = {int(line.split(":")[1]) for line in said if "error:" in line}
    wrong = {number for number, line in enumerate(WRONG.splitlines(), 1) if line.endswith("# wrong")}
    assert found == wrong


def test_names_when_the_package_lists_them_then_each_is_there() -> None:
    assert {name for name in rsembed.__all__ if getattr(rsembed, name, None) is None} == set()
    assert set(rsembed._LAZY) <= set(rsembed.__all__)  # noqa: SLF001 - the package's own table of names
