"""Cloud-Optimised GeoTIFFs over HTTP: a header is read once a process, a block once for all rows that need it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.io import MemoryFile

from rsembed.core.errors import ProviderError, TransientProviderError
from rsembed.providers.blocks import SharedCache, memory_share
from rsembed.providers.lattice import Lattice, PixelWindow, described
from rsembed.providers.loaders import LoaderThreads
from rsembed.providers.tiff import NotTiledError, TiledImage, read_images
from rsembed.providers.transport import RangeClient, RequestCounter

HEAD_BYTES = 32_768
"""Read at first: the header of a Cloud-Optimised GeoTIFF of a Sentinel-2 tile has 2 to 8 KB."""
MORE_BYTES = 16_384
MAX_HEADERS = 10_000
"""Kept in memory; that of a Sentinel-2 band has about 4 KB."""
LOADERS = 32
SAMPLE_BLOCKS = 4
"""An overview of up to so many blocks is read whole as a sample of its image."""

Block = NDArray[np.generic]


@dataclass(frozen=True)
class Header:
    """What is known of a file before its pixels are read.

    ``images``: the full image, then what overviews the first bytes told of. ``nodata``, ``units``: per band.
    """

    href: str
    images: tuple[TiledImage, ...]
    lattice: Lattice
    nodata: tuple[float | None, ...]
    units: tuple[str | None, ...]
    dtype: str
    etag: str


class RemoteFiles:
    """Headers and blocks of files on the network, shared by all threads of a process.

    ``block_bytes``: memory for decoded blocks (a block of 1024 x 1024 digital numbers has 2 MB); left out, a share of
    what the process may use. ``loaders``: threads that :meth:`submit` runs calls on.
    """

    def __init__(self, client: RangeClient, *, block_bytes: int | None = None, loaders: int = LOADERS) -> None:
        self._client = client
        block_bytes = memory_share() if block_bytes is None else block_bytes
        self._headers: SharedCache[Header | None] = SharedCache(MAX_HEADERS)
        self._blocks: SharedCache[Block] = SharedCache(block_bytes, lambda block: block.nbytes)
        self.threads = LoaderThreads(loaders)

    def open(self, href: str, counter: RequestCounter, checksum: str | None = None) -> RemoteRaster | None:
        """The raster at ``href``; None where it is no tiled TIFF, so that other means have to be used.

        ``checksum``: the catalogue's ``file:checksum``, compared where the whole file came with its
        header. Raises ProviderError and its kin.
        """
        header = self._headers.get(href, lambda: read_header(self._client, href, counter, checksum))
        return None if header is None else RemoteRaster(self, header, counter)

    def block(self, header: Header, level: int, place: tuple[int, int, int], counter: RequestCounter) -> Block:
        """Block ``place`` (plane, row, column) of image ``level``, shape (bands, height, width); read-only."""
        key = (header.href, level, *place)
        return self._blocks.get(key, lambda: self._load(header, level, place, counter))

    def _load(self, header: Header, level: int, place: tuple[int, int, int], counter: RequestCounter) -> Block:
        image = header.images[level]
        found = image.place(*place)
        if not found.length:
            planes = 1 if image.is_planar else image.samples
            empty = header.nodata[place[0]]
            shape = (planes, image.block_height, image.block_width)
            return np.full(shape, 0 if empty is None else empty, dtype=header.dtype)
        piece = self._client.read(header.href, found.start, found.length, counter)
        if len(piece.data) < found.length:
            raise ProviderError(
                f"{header.href} is cut off: its header places a tile at bytes {found.start} to "
                f"{found.start + found.length}, the file has {piece.total}"
            )
        if piece.etag and header.etag and piece.etag != header.etag:
            self._forget(header.href)
            raise TransientProviderError(f"{header.href} was replaced while it was being read; reading it anew")
        try:
            with MemoryFile(image.block_file(piece.data)) as memory, memory.open() as dataset:
                block: Block = dataset.read()
        except RasterioError as exc:
            raise TransientProviderError(
                f"tile {place} of {header.href} cannot be decoded ({_reason(exc)}): it arrived damaged, or the file is"
            ) from exc
        block.flags.writeable = False
        return block

    def _forget(self, href: str) -> None:
        self._headers.drop(lambda key: key == href)
        self._blocks.drop(lambda key: isinstance(key, tuple) and key[0] == href)

    def close(self) -> None:
        """Forget everything and close the connections."""
        self.threads.close()
        self._headers.clear()
        self._blocks.clear()
        self._client.close()


class RemoteRaster:
    """A :class:`~rsembed.providers.lattice.RasterSource` over the network; ``counter`` hears of what it asks."""

    def __init__(self, files: RemoteFiles, header: Header, counter: RequestCounter) -> None:
        self._files, self._header, self._counter = files, header, counter
        self.lattice, self.nodata, self.units = header.lattice, header.nodata, header.units

    def read(self, index: int, window: PixelWindow) -> NDArray[np.generic]:
        """The stored numbers of band ``index`` (from 1) in ``window``, shape (height, width)."""
        return self._read(0, index, window)

    def sample(self, index: int) -> NDArray[np.generic]:
        """Some stored numbers of band ``index`` from all over the image: its smallest overview."""
        level = len(self._header.images) - 1
        image = self._header.images[level]
        if image.rows * image.cols <= SAMPLE_BLOCKS:
            return self._read(level, index, PixelWindow(0, 0, image.height, image.width))
        row, col = image.rows // 2 * image.block_height, image.cols // 2 * image.block_width
        height, width = min(image.block_height, image.height - row), min(image.block_width, image.width - col)
        return self._read(level, index, PixelWindow(row, col, height, width))

    def _read(self, level: int, index: int, window: PixelWindow) -> NDArray[np.generic]:
        image = self._header.images[level]
        plane, band = (index - 1, 0) if image.is_planar else (0, index - 1)
        bottom, right = window.row + window.height, window.col + window.width
        tall, wide = image.block_height, image.block_width
        found: NDArray[np.generic] | None = None
        for row in range(window.row // tall, -(-bottom // tall)):
            top = row * tall
            a, b = max(window.row, top), min(bottom, top + tall)
            for col in range(window.col // wide, -(-right // wide)):
                left = col * wide
                c, d = max(window.col, left), min(right, left + wide)
                block = self._files.block(self._header, level, (plane, row, col), self._counter)
                part = block[band, a - top : b - top, c - left : d - left]
                if part.shape == (window.height, window.width):
                    return part
                if found is None:
                    found = np.empty((window.height, window.width), block.dtype)
                found[a - window.row : b - window.row, c - window.col : d - window.col] = part
        if found is None:
            raise ProviderError(f"{self._header.href}: an empty window {window} was asked for")
        return found


def read_header(client: RangeClient, href: str, counter: RequestCounter, checksum: str | None) -> Header | None:
    """The header of the file at ``href``; None where it is no tiled TIFF. Raises ProviderError and its kin."""
    head = _Head(client, href, counter)
    if checksum is not None and head.is_whole:
        check_sum(href, head.first, checksum)
    images: list[TiledImage] = []
    try:
        for image in read_images(head.read):
            full = not images
            if full or (image.is_reduced and not image.is_mask and image.samples == images[0].samples):
                images.append(image)
            if head.asked_more and images:
                break  # overviews are a convenience; they are worth no request of their own
    except NotTiledError:
        if not images:
            return None
    try:
        with MemoryFile(images[0].skeleton_file()) as memory, memory.open() as dataset:
            lattice, nodata, units, dtype = described(dataset, href)
    except RasterioError as exc:
        raise ProviderError(f"the header of {href} cannot be understood ({_reason(exc)})") from exc
    return Header(href, tuple(images), lattice, nodata, units, dtype, head.etag)


def check_sum(href: str, data: bytes, checksum: str) -> None:
    """Raise TransientProviderError where ``data`` is not what ``checksum`` says.

    ``checksum``: a multihash in hexadecimal (github.com/stac-extensions/file); kinds other than SHA-256 pass.
    """
    if checksum[:4].lower() == "1220" and hashlib.sha256(data).hexdigest() != checksum[4:].lower():
        raise TransientProviderError(
            f"{href} is not the file that the catalogue names: its SHA-256 is {hashlib.sha256(data).hexdigest()}, "
            f"{checksum[4:].lower()} was expected"
        )


class _Head:
    """The first bytes of a file, and further ones as they are asked for."""

    def __init__(self, client: RangeClient, href: str, counter: RequestCounter) -> None:
        self._ask: Callable[[int, int], bytes] = lambda at, n: client.read(href, at, n, counter).data
        piece = client.read(href, 0, HEAD_BYTES, counter)
        self.href, self.first, self.etag = href, piece.data, piece.etag
        self.is_whole = piece.total is not None and piece.total <= len(piece.data)
        self.asked_more = False
        self._later: list[tuple[int, bytes]] = []

    def read(self, start: int, length: int) -> bytes:
        for at, data in ((0, self.first), *self._later):
            if at <= start and start + length <= at + len(data):
                return data[start - at : start - at + length]
        self.asked_more = True
        data = b"" if self.is_whole else self._ask(start, max(length, MORE_BYTES))
        if len(data) < length:
            raise ProviderError(f"{self.href} is cut off: its header goes on at byte {start}, where the file ends")
        self._later.append((start, data))
        return data[:length]


def _reason(exc: BaseException) -> str:
    return str(exc.__cause__ or exc)
