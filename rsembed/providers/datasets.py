"""Open rasters: a bounded pool of datasets for many threads, and the one place where their errors are translated."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.windows import Window as RasterWindow

from rsembed.core.errors import AuthError, ProviderError, QuotaError, TransientProviderError
from rsembed.core.fetching import Grid

MAX_IDLE = 384

REMOTE_OPTIONS = {
    # One file is wanted, not the listing of its folder; then few, large, retried range requests.
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_HTTP_MAX_RETRY": "3",
    "GDAL_HTTP_RETRY_DELAY": "0.5",
    "GDAL_HTTP_CONNECTTIMEOUT": "10",
    "GDAL_HTTP_TIMEOUT": "60",
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_INGESTED_BYTES_AT_OPEN": "32768",
    "VSI_CACHE": "TRUE",
}


@dataclass(frozen=True)
class Lattice:
    """A pixel lattice: ``crs`` as ``EPSG:n`` or WKT, affine ``(a, b, c, d, e, f)``, size in pixels."""

    crs: str
    transform: tuple[float, float, float, float, float, float]
    height: int
    width: int

    @classmethod
    def of_grid(cls, grid: Grid) -> Lattice:
        """The lattice of ``grid``."""
        return cls(f"EPSG:{grid.epsg}", grid.transform, grid.height, grid.width)

    @property
    def is_upright(self) -> bool:
        """Whether rows run south and columns east."""
        a, b, _, d, e, _ = self.transform
        return b == 0 and d == 0 and a > 0 and e < 0

    def part(self, window: PixelWindow) -> Lattice:
        """The lattice of ``window``."""
        a, b, c, d, e, f = self.transform
        row, col = window.row, window.col
        origin = (c + col * a + row * b, f + col * d + row * e)
        return Lattice(self.crs, (a, b, origin[0], d, e, origin[1]), window.height, window.width)


@dataclass(frozen=True)
class PixelWindow:
    """Pixels ``[row, row + height) x [col, col + width)`` of a raster."""

    row: int
    col: int
    height: int
    width: int


class RequestCounter:
    """Counts the remote requests made for one patch."""

    def __init__(self) -> None:
        self.count = 0


class OpenRaster:
    """An open dataset with what is asked of it again and again already looked up; one thread at a time."""

    def __init__(self, href: str) -> None:
        self.href = href
        with _translated(href):
            self._dataset: Any = rasterio.open(href)
            crs = self._dataset.crs
        if crs is None:
            raise ProviderError(f"{href} has no coordinate reference system; it cannot be placed on a grid")
        epsg = crs.to_epsg()
        self.lattice = Lattice(
            f"EPSG:{epsg}" if epsg else crs.to_wkt(),
            tuple(float(v) for v in tuple(self._dataset.transform)[:6]),  # type: ignore[arg-type]  # length is 6
            int(self._dataset.height),
            int(self._dataset.width),
        )
        self.nodata: tuple[float | None, ...] = tuple(self._dataset.nodatavals)
        self.units: tuple[str | None, ...] = tuple(self._dataset.units)

    def read(self, index: int, window: PixelWindow) -> NDArray[np.generic]:
        """The stored numbers of band ``index`` (from 1) in ``window``, shape (height, width)."""
        with _translated(self.href):
            block: NDArray[np.generic] = self._dataset.read(
                index, window=RasterWindow(window.col, window.row, window.width, window.height)
            )
        return block

    def close(self) -> None:
        """Close the file."""
        self._dataset.close()


class DatasetPool:
    """Datasets kept open between reads; each is lent to one thread at a time.

    At most ``max_idle`` wait unused, the longest unused is closed first. A file asked for by two
    threads at once is open twice.
    """

    def __init__(self, max_idle: int = MAX_IDLE) -> None:
        self._max_idle = max_idle
        self._lock = threading.Lock()
        self._idle: OrderedDict[str, list[OpenRaster]] = OrderedDict()
        self._n_idle = 0
        self._closed = False

    @contextmanager
    def borrow(self, href: str, counter: RequestCounter | None = None) -> Iterator[OpenRaster]:
        """An open dataset of ``href`` for the length of the block. Raises ProviderError and its kin."""
        remote = is_remote(href)
        with rasterio.Env(**REMOTE_OPTIONS) if remote else nullcontext():
            raster = self._take(href)
            if raster is None:
                if remote and counter is not None:
                    counter.count += 1
                raster = OpenRaster(href)
            sound = False
            try:
                yield raster
                sound = True
            finally:
                if sound:
                    self._give(raster)
                else:
                    raster.close()  # a handle that failed once is not trusted again

    def _take(self, href: str) -> OpenRaster | None:
        with self._lock:
            waiting = self._idle.get(href)
            if not waiting:
                return None
            raster = waiting.pop()
            self._n_idle -= 1
            if not waiting:
                del self._idle[href]
            return raster

    def _give(self, raster: OpenRaster) -> None:
        surplus: list[OpenRaster] = []
        with self._lock:
            if self._closed:
                surplus.append(raster)
            else:
                self._idle.setdefault(raster.href, []).append(raster)
                self._idle.move_to_end(raster.href)
                self._n_idle += 1
            while self._n_idle > self._max_idle:
                href, waiting = next(iter(self._idle.items()))
                surplus.append(waiting.pop())
                self._n_idle -= 1
                if not waiting:
                    del self._idle[href]
        for old in surplus:
            old.close()

    def close(self) -> None:
        """Close every idle dataset; those still lent are closed when they come back."""
        with self._lock:
            self._closed = True
            idle = [raster for waiting in self._idle.values() for raster in waiting]
            self._idle.clear()
            self._n_idle = 0
        for raster in idle:
            raster.close()


def is_remote(href: str) -> bool:
    """Whether reading ``href`` goes over the network."""
    return "://" in href and not href.startswith("file://")


@contextmanager
def _translated(href: str) -> Iterator[None]:
    try:
        yield
    except RasterioError as exc:
        raise provider_error(exc, href) from exc


_HTTP_STATUS = re.compile(r"(?:HTTP (?:response code|error)|response_code|error code)[ :=]+(\d{3})", re.IGNORECASE)
_MISSING = re.compile(r"no such file|does not exist|not recognized as", re.IGNORECASE)


def provider_error(exc: BaseException, href: str) -> ProviderError:
    """The error of our own tree that stands for ``exc``, raised by the raster library over ``href``."""
    messages: list[str] = []
    link: BaseException | None = exc
    while link is not None:
        messages.append(str(link))
        link = link.__cause__ or link.__context__
    text = "; ".join(dict.fromkeys(messages))
    status = _HTTP_STATUS.search(text)
    code = int(status.group(1)) if status else 0
    if code == 429:
        return QuotaError(f"{href}: the server asks to slow down ({text})")
    if code == 401:
        return AuthError(f"{href}: the server wants credentials ({text})")
    if code in (403, 404, 410):
        return ProviderError(f"{href} cannot be read: HTTP {code}; it was removed, or is not public ({text})")
    if is_remote(href) and not (_MISSING.search(text) and not code):
        return TransientProviderError(f"{href} could not be read ({text})")
    if _MISSING.search(text):
        return ProviderError(f"raster {href} is missing or is not a raster ({text})")
    return ProviderError(f"raster {href} is damaged ({text})")
