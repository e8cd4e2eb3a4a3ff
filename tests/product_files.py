"""Published products in small: tiles, a global map, and a file server that fails on script."""

from __future__ import annotations

import hashlib
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import rasterio
from rasterio.transform import Affine

from rsembed.tools.spatial import from_lonlat, utm_epsg

BANDS = 128
TILES, MASKS = "global_0.1_degree_representation", "global_0.1_degree_tiff_all"


@dataclass(frozen=True)
class MadeTile:
    """A tile as it was written; ``values`` (H, W, 128) dequantised, ``land`` (H, W)."""

    lon_i: int
    lat_i: int
    year: int
    epsg: int
    left: float
    top: float
    pixel_m: float
    values: np.ndarray
    land: np.ndarray

    @property
    def name(self) -> str:
        return f"grid_{self.lon_i / 100:.2f}_{self.lat_i / 100:.2f}"

    def at(self, x: float, y: float) -> np.ndarray | None:
        """The embedding at a place in the tile's own zone; None beyond it or on water."""
        row, col = int(np.floor((self.top - y) / self.pixel_m)), int(np.floor((x - self.left) / self.pixel_m))
        height, width = self.land.shape
        if not (0 <= row < height and 0 <= col < width and self.land[row, col]):
            return None
        return self.values[row, col]


def write_tile(
    root: Path, lon_i: int, lat_i: int, year: int = 2021, *, pixel_m: float = 200.0, scales_3d: bool = False,
    water: bool = False, aligned: bool = False,
) -> MadeTile:  # fmt: skip
    """One tile in the published layout: its cell's bounding box in the zone of its centre, from that corner on."""
    lon, lat = lon_i / 100, lat_i / 100
    epsg = int(utm_epsg(np.array([lon]), np.array([lat]))[0])
    lons, lats = np.meshgrid([lon - 0.05, lon, lon + 0.05], [lat - 0.05, lat, lat + 0.05])
    x, y = from_lonlat(epsg, lons.ravel(), lats.ravel())
    left, top = float(x.min()), float(y.max())
    if aligned:
        left, top = np.floor(left / pixel_m) * pixel_m, np.ceil(top / pixel_m) * pixel_m
    height, width = int(np.ceil((top - y.min()) / pixel_m)), int(np.ceil((x.max() - left) / pixel_m))
    random = np.random.default_rng([year, lon_i + 18000, lat_i + 9000])
    stored = random.integers(-127, 128, (height, width, BANDS), dtype=np.int8)
    scales = random.uniform(0.01, 0.1, (height, width, BANDS) if scales_3d else (height, width)).astype(np.float32)
    land = np.ones((height, width), bool)
    if water:
        land[: height // 3] = False
        stored[~land] = 0
    made = MadeTile(
        lon_i, lat_i, year, epsg, left, top, pixel_m,
        stored.astype(np.float32) * (scales if scales_3d else scales[..., None]), land,
    )  # fmt: skip
    folder = root / TILES / str(year) / made.name
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / f"{made.name}.npy", stored)
    np.save(folder / f"{made.name}_scales.npy", scales)
    (root / MASKS).mkdir(exist_ok=True)
    profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "height": height, "width": width}
    place = {"crs": f"EPSG:{epsg}", "transform": Affine(pixel_m, 0, left, 0, -pixel_m, top)}
    with rasterio.open(root / MASKS / f"{made.name}.tiff", "w", **place, **profile) as target:
        target.write(land.astype(np.uint8), 1)
    return made


def write_registry(root: Path, tiles: Sequence[MadeTile], *, sums: bool = True) -> Path:
    """``registry.parquet`` and ``landmasks.parquet`` of ``tiles``, in their order."""

    def sha256(path: Path) -> str:
        return hashlib.sha256(path.read_bytes()).hexdigest()

    places = [root / TILES / str(t.year) / t.name / t.name for t in tiles]
    columns: dict[str, list[object]] = {
        "year": [t.year for t in tiles],
        "lon": [t.lon_i / 100 for t in tiles],
        "lat": [t.lat_i / 100 for t in tiles],
    }
    masks = {name: columns[name] for name in ("lon", "lat")}
    if sums:
        columns["hash"] = [sha256(p.with_name(f"{p.name}.npy")) for p in places]
        columns["scales_hash"] = [sha256(p.with_name(f"{p.name}_scales.npy")) for p in places]
        masks = masks | {"hash": [sha256(root / MASKS / f"{t.name}.tiff") for t in tiles]}
    pq.write_table(pa.table(columns), root / "registry.parquet", row_group_size=2)
    pq.write_table(pa.table(masks), root / "landmasks.parquet")
    return root / "registry.parquet"


def write_map(path: Path, cells: np.ndarray, *, left: float = -180.0, top: float = 90.125) -> Path:
    """The global map (D, rows, columns) as the product's GeoTIFF: planes, no CRS, a quarter degree a pixel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = {"driver": "GTiff", "count": len(cells), "height": cells.shape[1], "width": cells.shape[2]}
    with rasterio.open(
        path, "w", dtype=cells.dtype, transform=Affine(0.25, 0, left, 0, -0.25, top), compress="deflate",
        interleave="band", **profile,
    ) as target:  # fmt: skip
        target.write(cells)
    return path


@dataclass
class FileServer:
    """Serves the files below ``root`` with ranges and ETags (``etag``: this one for every file).

    ``script[path]``: what happens to the next requests for it, one each: ``("cut", n)`` ends after n bytes of the
    answer, ``("stall", n)`` waits there for ``release``, ``("status", code)``, ``("body", bytes, content type)``.
    ``log``: (path, Range header or None).
    """

    root: Path
    url: str = ""
    ranges: bool = True
    etags: bool = True
    etag: str | None = None
    script: dict[str, list[tuple[object, ...]]] = field(default_factory=lambda: defaultdict(list))
    log: list[tuple[str, str | None]] = field(default_factory=list)
    release: threading.Event = field(default_factory=threading.Event)

    def asked(self, path: str) -> list[str | None]:
        """The Range headers of the requests for ``path``."""
        return [given for name, given in self.log if name == path]


@contextmanager
def file_server(root: Path, **how: bool) -> Iterator[FileServer]:
    """A :class:`FileServer` on this machine for the length of the block."""
    state = FileServer(root, **how)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            _answer(state, self)

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield state
    finally:
        state.release.set()
        server.shutdown()
        server.server_close()
        thread.join()


def _answer(state: FileServer, handler: BaseHTTPRequestHandler) -> None:
    path = handler.path.lstrip("/")
    wanted = handler.headers.get("Range")
    state.log.append((path, wanted))
    fault = state.script[path].pop(0) if state.script[path] else ()
    file = state.root / path
    if fault[:1] == ("status",):
        _send(handler, int(str(fault[1])), b"no", {})
        return
    if fault[:1] == ("body",):
        assert isinstance(fault[1], bytes)
        _send(handler, 200, fault[1], {"Content-Type": str(fault[2])})
        return
    if not file.is_file():
        _send(handler, 404, b"no such file", {})
        return
    data = file.read_bytes()
    etag = f'"{state.etag or hashlib.sha256(data).hexdigest()[:20]}"'
    headers = {"ETag": etag} if state.etags else {}
    status, body = 200, data
    current = handler.headers.get("If-Range") in (None, etag)
    if wanted is not None and state.ranges and current:
        start = int(wanted.removeprefix("bytes=").rstrip("-"))
        if start >= len(data):
            _send(handler, 416, b"", {})
            return
        status, body = 206, data[start:]
        headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
    if fault[:1] == ("stall",):
        _send(handler, status, body, headers, cut=int(str(fault[1])), before_the_end=state.release)
        return
    cut = int(str(fault[1])) if fault[:1] == ("cut",) else None
    _send(handler, status, body, headers, cut=cut)


def _send(
    handler: BaseHTTPRequestHandler,
    status: int,
    body: bytes,
    headers: dict[str, str],
    *,
    cut: int | None = None,
    before_the_end: threading.Event | None = None,
) -> None:
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **headers}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body if cut is None else body[:cut])
    if cut is not None:
        handler.wfile.flush()
        if before_the_end is not None:
            before_the_end.wait(timeout=300)
        handler.close_connection = True
        handler.connection.close()
