"""TIFF skeletons: every block of every flavour decodes to what the raster library reads from the whole file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.io import MemoryFile
from rasterio.transform import Affine

from rsembed.core.errors import ProviderError
from rsembed.providers.tiff import NotTiledError, TiledImage, read_images

PLACE = {"crs": "EPSG:32631", "transform": Affine(10.0, 0, 480_000.0, 0, -10.0, 4_700_000.0)}


def written(path: Path, values: NDArray[Any], **options: Any) -> bytes:
    count, height, width = values.shape
    shape = {"count": count, "height": height, "width": width, "dtype": values.dtype, "nodata": 0}
    tiles = {"tiled": True, "blockxsize": 64, "blockysize": 32}
    with rasterio.open(path, "w", driver="GTiff", **shape, **PLACE, **(tiles | options)) as target:
        target.write(values)
    return path.read_bytes()


def images(data: bytes) -> list[TiledImage]:
    return list(read_images(lambda start, length: data[start : start + length]))


def decoded(image: TiledImage, data: bytes, plane: int, row: int, col: int) -> NDArray[Any]:
    place = image.place(plane, row, col)
    with MemoryFile(image.block_file(data[place.start : place.start + place.length])) as memory, memory.open() as block:
        found: NDArray[Any] = block.read()
    return found


def noise(*shape: int, dtype: str = "uint16") -> NDArray[Any]:
    return (np.random.default_rng(0).random(shape) * 200 + 1).astype(dtype)


@pytest.mark.parametrize(
    "options",
    [
        {"compress": "deflate", "predictor": 2}, {"compress": "lzw"}, {"compress": "zstd"}, {}, {"ENDIANNESS": "BIG"},
        {"BIGTIFF": "YES", "compress": "deflate"}, {"BIGTIFF": "YES", "ENDIANNESS": "BIG", "compress": "lzw"},
        {"interleave": "band", "compress": "deflate"}, {"interleave": "pixel", "compress": "deflate", "predictor": 2},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_block_when_cut_out_then_it_decodes_to_the_pixels_of_the_file(
    tmp_path: Path, options: dict[str, Any], dtype: str
) -> None:
    values = noise(2, 100, 150, dtype=dtype)
    if dtype == "float32" and "predictor" in options:
        options = options | {"predictor": 3}
    data = written(tmp_path / "a.tif", values, **options)
    (image,) = images(data)
    assert (image.width, image.height, image.samples, image.rows, image.cols) == (150, 100, 2, 4, 3)
    padded = np.pad(values, ((0, 0), (0, 28), (0, 42)), mode="edge")
    for row, col in ((0, 0), (1, 2), (3, 1)):
        whole = [decoded(image, data, plane, row, col) for plane in range(2 if image.is_planar else 1)]
        block = np.concatenate(whole)
        tall, wide = min(32, 100 - 32 * row), min(64, 150 - 64 * col)
        expected = padded[:, 32 * row : 32 * row + tall, 64 * col : 64 * col + wide]
        np.testing.assert_array_equal(block[:, :tall, :wide], expected)


def test_skeleton_when_opened_then_it_says_where_the_pixels_lie(tmp_path: Path) -> None:
    (image,) = images(written(tmp_path / "a.tif", noise(1, 100, 150), compress="deflate"))
    with MemoryFile(image.skeleton_file()) as memory, memory.open() as dataset:
        assert (dataset.crs.to_epsg(), dataset.transform, dataset.nodata) == (32631, PLACE["transform"], 0)
        assert (dataset.width, dataset.height, dataset.dtypes) == (150, 100, ("uint16",))


def test_place_when_a_tile_was_left_out_then_it_has_no_bytes(tmp_path: Path) -> None:
    values = noise(1, 64, 128)
    values[:, :32, :64] = 0
    (image,) = images(written(tmp_path / "a.tif", values, SPARSE_OK="TRUE"))
    assert (image.place(0, 0, 0).length, image.place(0, 0, 1).length) == (0, 64 * 32 * 2)


def test_images_when_there_are_overviews_then_they_follow_and_are_known_as_such(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    written(path, noise(1, 256, 256))
    with rasterio.open(path, "r+") as target:
        target.build_overviews([2, 4])
    found = images(path.read_bytes())
    assert [(image.width, image.is_reduced) for image in found] == [(256, False), (128, True), (64, True)]


@pytest.mark.parametrize("content", [b"<html>not here</html>", b"II", b"\x89PNG\r\n\x1a\n" + bytes(20)])
def test_images_when_it_is_no_tiff_then_not_tiled(content: bytes) -> None:
    with pytest.raises(NotTiledError):
        images(content)


def test_images_when_it_has_strips_then_not_tiled(tmp_path: Path) -> None:
    with pytest.raises(NotTiledError):
        images(written(tmp_path / "a.tif", noise(1, 64, 64), tiled=False))


def test_images_when_the_directory_is_nonsense_then_the_file_is_damaged() -> None:
    with pytest.raises(ProviderError, match="damaged"):
        images(b"II*\0\x08\0\0\0" + b"\xff" * 40)
