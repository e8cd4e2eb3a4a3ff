from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rsembed import Embedding, load_embedding
from rsembed.core.errors import SpecError

META = {
    "model": "mosaiks",
    "recipe": "authors",
    "temporal": {"start": "2022-01-01", "end": "2023-01-01", "default": False},
    "frame_dates": ["2022-06-13"],
    "n_images": 3,
    "valid_fraction": 0.5,
    "grid": {"epsg": 32631, "transform": [20.0, 0.0, 480_000.0, 0.0, -20.0, 4_700_000.0]},
}
TILE = np.random.default_rng(0).standard_normal((3, 4, 6)).astype(np.float32)


@pytest.mark.parametrize("ending", [".npz", ".nc", ".zarr"])
@pytest.mark.parametrize("data", [TILE, TILE[:, 0, 0]], ids=["map", "vector"])
def test_load_when_saved_then_numbers_place_and_facts_are_back(tmp_path: Path, ending: str, data: np.ndarray) -> None:
    meta = META if data.ndim == 3 else META | {"grid": None}
    back = load_embedding(Embedding(data, meta).save(tmp_path / f"one{ending}"))
    assert np.array_equal(back.data, data)
    assert back.cells == Embedding(data, meta).cells
    assert {name: back.meta[name] for name in ("model", "temporal", "n_images")} == {
        name: META[name] for name in ("model", "temporal", "n_images")
    }
    assert back.meta["frame_dates"] == ["2022-06-13"]


def test_load_when_a_geotiff_then_place_model_and_window_are_back(tmp_path: Path) -> None:
    holed = TILE.copy()
    holed[:, 0, 0] = np.nan
    back = load_embedding(Embedding(holed, META).save(tmp_path / "one.tif"))
    assert np.array_equal(back.data, holed, equal_nan=True)
    assert back.cells == Embedding(TILE, META).cells
    assert back.meta["model"] == "mosaiks"
    assert back.meta["temporal"] == {"start": "2022-01-01", "end": "2023-01-01"}


def test_load_when_numbers_alone_or_json_then_they_are_back(tmp_path: Path) -> None:
    assert np.array_equal(load_embedding(Embedding(TILE).save(tmp_path / "one.npy")).data, TILE)
    (tmp_path / "one.json").write_text(json.dumps({"shape": [2], "data": [1.0, 2.0], "meta": {"model": "x"}}))
    back = load_embedding(tmp_path / "one.json")
    assert (back.data.tolist(), back.meta["model"]) == ([1.0, 2.0], "x")


def bad(folder: Path, name: str) -> Path:
    """Files that hold no embedding."""
    path = folder / name
    if name == "no-embedding.npz":
        np.savez(path, a=np.ones(3))
    elif name == "flat.npy":
        np.save(path, np.ones((3, 3)))
    elif name == "pickled.npy":
        np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    elif name != "missing.npz":
        path.write_bytes(b"no such thing")
    return path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.npz", "no embedding at"),
        ("notes.txt", "expected one that ends in .npy"),
        ("no-embedding.npz", "no array 'embedding'"),
        ("flat.npy", r"shape \(3, 3\)"),
        ("pickled.npy", "damaged or holds no embedding"),
        *((f"torn{ending}", "damaged or holds no embedding") for ending in (".npy", ".npz", ".json", ".nc", ".tif")),
    ],
)
def test_load_when_there_is_no_embedding_then_it_says_so(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        load_embedding(bad(tmp_path, name))
