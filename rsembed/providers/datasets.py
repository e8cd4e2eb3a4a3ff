"""Open rasters: a bounded pool for many threads, and the one place where the errors of GDAL are translated."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.windows import Window as RasterWindow

from rsembed.core.errors import AuthError, ProviderError, QuotaError, TransientProviderError
from rsembed.providers.lattice import PixelWindow, RasterSource, described
from rsembed.providers.loaders import Later, WhenAsked
from rsembed.providers.remote import RemoteFiles
from rsembed.providers.transport import RequestCounter

T = TypeVar("T")
MAX_IDLE = 384
SAMPLE_PIXELS = 512
"""Side of the sample of a file without overviews, pixels."""

REMOTE_OPTIONS = {
    # One file is wanted, not the listing of its folder; then few, large, retried range requests.
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_HTTP_MAX_RETRY": "3",
    "GDAL_HTTP_RETRY_DELAY": "0.5",
    "GDAL_HTTP_CONNECTTIMEOUT": "10",
    "GDAL_HTTP_TIMEOUT": "60",
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_INGESTED_BYTES_AT_OPEN": "32768",
    # GDAL keeps a cut or refused answer for the life of the process, and every retry would meet it.
    "CPL_VSIL_CURL_NON_CACHED": "/vsicurl/",
}
"""For what is neither local nor a tiled TIFF over HTTP: buckets by their own scheme, other formats."""


class OpenRaster:
    """An open dataset with what is asked of it again and again already looked up; one thread at a time."""

    def __init__(self, href: str) -> None:
        self.href = href
        with _translated(href):
            self._dataset: Any = rasterio.open(href)
        self.lattice, self.nodata, self.units, _ = described(self._dataset, href)

    def read(self, index: int, window: PixelWindow) -> NDArray[np.generic]:
        """The stored numbers of band ``index`` (from 1) in ``window``, shape (height, width)."""
        with _translated(self.href):
            block: NDArray[np.generic] = self._dataset.read(
                index, window=RasterWindow(window.col, window.row, window.width, window.height)
            )
        return block

    def sample(self, index: int) -> NDArray[np.generic]:
        """Some stored numbers of band ``index`` from all over the image: its smallest overview, or every n-th pixel."""
        factors = self._dataset.overviews(index) or [max(1, max(self._dataset.shape) // SAMPLE_PIXELS)]
        height, width = (max(1, side // factors[-1]) for side in self._dataset.shape)
        with _translated(self.href):
            block: NDArray[np.generic] = self._dataset.read(index, out_shape=(height, width))
        return block

    def close(self) -> None:
        """Close the file."""
        self._dataset.close()


class DatasetPool:
    """Rasters kept open between reads.

    ``remote`` reads tiled TIFFs over HTTP, for all threads at once. Everything else is a dataset lent to
    one thread at a time: at most ``max_idle`` wait unused, the longest unused is closed first, and a
    file asked for by two threads at once is open twice. ``sign``: applied to links that GDAL opens.
    """

    def __init__(
        self,
        max_idle: int = MAX_IDLE,
        *,
        remote: RemoteFiles | None = None,
        sign: Callable[[str], str] | None = None,
    ) -> None:
        self._max_idle = max_idle
        self._remote, self._sign = remote, sign
        self._lock = threading.Lock()
        self._idle: OrderedDict[str, list[OpenRaster]] = OrderedDict()
        self._n_idle = 0
        self._closed = False

    @contextmanager
    def borrow(
        self, href: str, counter: RequestCounter | None = None, *, checksum: str | None = None
    ) -> Iterator[RasterSource]:
        """The raster at ``href`` for the length of the block. Raises ProviderError and its kin."""
        counter = counter or RequestCounter()
        if self._remote is not None and href.startswith(("http://", "https://")):
            found = self._remote.open(href, counter, checksum)
            if found is not None:
                yield found
                return
        with self._dataset(href, counter) as raster:
            yield raster

    def submit(self, href: str, call: Callable[[], T]) -> Later[T]:
        """``call``, which reads ``href``: made beside others where that is remote, else when it is asked for."""
        if self._remote is None or not is_remote(href):
            return WhenAsked(call)
        return self._remote.threads.submit(call)

    @contextmanager
    def _dataset(self, href: str, counter: RequestCounter) -> Iterator[OpenRaster]:
        remote = is_remote(href)
        link = self._sign(href) if remote and self._sign is not None else href
        with rasterio.Env(**REMOTE_OPTIONS) if remote else nullcontext():
            raster = self._take(link)
            if raster is None:
                if remote:
                    counter.add()
                raster = OpenRaster(link)
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
        if self._remote is not None:
            self._remote.close()


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
