"""The skeleton of a TIFF file: which bytes hold which block, and small files that hold one block alone.

A block becomes a TIFF of its own, so that GDAL decodes it whatever its compression, and the skeleton
without its blocks becomes another, so that GDAL tells where the pixels lie. Formats: TIFF 6.0
(Adobe, 1992) and BigTIFF (libtiff.gitlab.io/libtiff/specification/bigtiff.html).
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from rsembed.core.errors import ProviderError

Read = Callable[[int, int], bytes]
"""(start, length) -> those bytes of the file."""

WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC, SAMPLES, PLANAR = 256, 257, 258, 259, 262, 277, 284
TILE_WIDTH, TILE_LENGTH, TILE_OFFSETS, TILE_COUNTS, EXTRA, FORMAT = 322, 323, 324, 325, 338, 339
SUBFILE, PIXEL_SCALE, TIE_POINT = 254, 33550, 33922
# Predictor, fill order, tables of JPEG and parameters of LERC: what a decoder needs besides.
_DECODING = (BITS, COMPRESSION, PHOTOMETRIC, 266, SAMPLES, PLANAR, 317, EXTRA, FORMAT, 347, 530, 532, 34677, 50674)
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_INTEGERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
MAX_TAG_BYTES = 1 << 26


class NotTiledError(Exception):
    """The file is no TIFF made of tiles; it has to be read by other means. Raised and caught in this package."""


@dataclass(frozen=True)
class Flavour:
    """``order``: ``<`` or ``>``, the order of bytes; ``big``: BigTIFF."""

    order: str
    big: bool

    @property
    def header(self) -> int:
        """Bytes before the first directory may begin."""
        return 16 if self.big else 8

    @property
    def word(self) -> str:
        """Struct code of an offset."""
        return "Q" if self.big else "I"


@dataclass(frozen=True)
class Tag:
    """One entry of a directory: type, number of values, and the values as they are stored."""

    kind: int
    count: int
    raw: bytes


@dataclass(frozen=True)
class BlockPlace:
    """Where a block lies in its file; ``length`` 0: it was left out, nothing is there."""

    start: int
    length: int


class TiledImage:
    """One image of a tiled TIFF: ``width`` x ``height`` pixels of ``samples`` bands in blocks."""

    def __init__(self, flavour: Flavour, tags: Mapping[int, Tag]) -> None:
        self._flavour, self._tags = flavour, tags
        if not {WIDTH, LENGTH, TILE_WIDTH, TILE_LENGTH, TILE_OFFSETS, TILE_COUNTS} <= tags.keys():
            raise NotTiledError("a TIFF without tiles")
        self.width, self.height = self._number(WIDTH), self._number(LENGTH)
        self.block_width, self.block_height = self._number(TILE_WIDTH), self._number(TILE_LENGTH)
        self.samples = self._number(SAMPLES, 1)
        self.is_planar = self.samples > 1 and self._number(PLANAR, 1) == 2
        # Thousands of headers are kept, each with hundreds of places: eight bytes a number.
        self._offsets, self._counts = (array("Q", self._numbers(code)) for code in (TILE_OFFSETS, TILE_COUNTS))
        self.is_reduced = bool(self._number(SUBFILE, 0) & 1)
        self.is_mask = bool(self._number(SUBFILE, 0) & 4)
        if min(self.width, self.height, self.block_width, self.block_height, self.samples) < 1:
            raise NotTiledError("a TIFF without pixels")
        planes = self.samples if self.is_planar else 1
        if len(self._offsets) != self.rows * self.cols * planes or len(self._counts) != len(self._offsets):
            raise ProviderError(f"a TIFF header names {len(self._offsets)} tiles, not {self.rows * self.cols * planes}")

    @property
    def rows(self) -> int:
        """Rows of blocks."""
        return -(-self.height // self.block_height)

    @property
    def cols(self) -> int:
        """Columns of blocks."""
        return -(-self.width // self.block_width)

    def place(self, plane: int, row: int, col: int) -> BlockPlace:
        """Where block (``row``, ``col``) lies; ``plane`` is 0 unless the bands lie apart."""
        i = (plane * self.rows + row) * self.cols + col
        return BlockPlace(self._offsets[i], self._counts[i])

    def skeleton_file(self) -> bytes:
        """A TIFF with everything said of the image and none of its pixels."""
        tags = dict(self._tags)
        for code in (TILE_OFFSETS, TILE_COUNTS):
            tags[code] = Tag(tags[code].kind, tags[code].count, bytes(len(tags[code].raw)))
        return _file(self._flavour, tags, b"")

    def block_file(self, data: bytes) -> bytes:
        """A TIFF of one block, whose stored bytes are ``data``."""
        tags = {code: self._tags[code] for code in _DECODING if code in self._tags}
        if self.is_planar:
            tags |= {SAMPLES: self._short(1), PLANAR: self._short(1), PHOTOMETRIC: self._short(1)}
            tags.pop(EXTRA, None)
            for code in (BITS, FORMAT):
                if code in tags:
                    tags[code] = Tag(3, 1, tags[code].raw[:2])
        for code, value in (
            (WIDTH, self.block_width), (LENGTH, self.block_height), (TILE_WIDTH, self.block_width),
            (TILE_LENGTH, self.block_height), (TILE_COUNTS, len(data)), (TILE_OFFSETS, 0),
        ):  # fmt: skip
            tags[code] = Tag(4, 1, struct.pack(f"{self._flavour.order}I", value))
        # Any place: without one the raster library warns at every block.
        tags[PIXEL_SCALE] = Tag(12, 3, struct.pack(f"{self._flavour.order}3d", 1, 1, 0))
        tags[TIE_POINT] = Tag(12, 6, struct.pack(f"{self._flavour.order}6d", 0, 0, 0, 1, 1, 0))
        return _file(self._flavour, tags, data)

    def _short(self, value: int) -> Tag:
        return Tag(3, 1, struct.pack(f"{self._flavour.order}H", value))

    def _numbers(self, code: int) -> tuple[int, ...]:
        tag = self._tags[code]
        if tag.kind not in _INTEGERS:
            raise ProviderError(f"tag {code} of a TIFF has type {tag.kind}, which holds no whole numbers")
        return struct.unpack(f"{self._flavour.order}{tag.count}{_INTEGERS[tag.kind]}", tag.raw)

    def _number(self, code: int, default: int | None = None) -> int:
        if code not in self._tags and default is not None:
            return default
        return self._numbers(code)[0]


def read_images(read: Read) -> Iterable[TiledImage]:
    """The images of a file one by one: the full one, its overviews, their masks.

    Raises NotTiledError where the file is not a tiled TIFF, and what ``read`` raises.
    """
    flavour, at = _flavour(read)
    seen: set[int] = set()
    while at and at not in seen:
        seen.add(at)
        tags, at = _directory(read, flavour, at)
        yield TiledImage(flavour, tags)


def _flavour(read: Read) -> tuple[Flavour, int]:
    start = read(0, 16)
    order = {b"II": "<", b"MM": ">"}.get(start[:2])
    if order is None or len(start) < 16:
        raise NotTiledError("not a TIFF")
    magic = struct.unpack(f"{order}H", start[2:4])[0]
    if magic == 42:
        return Flavour(order, big=False), struct.unpack(f"{order}I", start[4:8])[0]
    if magic == 43:
        return Flavour(order, big=True), struct.unpack(f"{order}Q", start[8:16])[0]
    raise NotTiledError("not a TIFF")


def _directory(read: Read, flavour: Flavour, at: int) -> tuple[dict[int, Tag], int]:
    order, word = flavour.order, flavour.word
    count_code, entry_size = ("Q", 20) if flavour.big else ("H", 12)
    width = struct.calcsize(f"{order}{count_code}")
    (entries,) = struct.unpack(f"{order}{count_code}", read(at, width))
    if not 0 < entries <= 4096:
        raise ProviderError(f"a TIFF header claims {entries} entries; the file is damaged")
    inline = struct.calcsize(f"{order}{word}")
    table = read(at + width, entries * entry_size + inline)
    tags: dict[int, Tag] = {}
    for i in range(entries):
        entry = table[i * entry_size : (i + 1) * entry_size]
        code, kind, count = struct.unpack(f"{order}HH{word}", entry[: 4 + inline])
        size = _SIZES.get(kind, 0) * count
        if not size or size > MAX_TAG_BYTES:
            continue  # of a type that nobody knows
        value = entry[4 + inline :]
        if size > inline:
            (where,) = struct.unpack(f"{order}{word}", value)
            value = read(where, size)
        tags[code] = Tag(kind, count, value[:size])
    (following,) = struct.unpack(f"{order}{word}", table[entries * entry_size :])
    return tags, following


def _file(flavour: Flavour, tags: Mapping[int, Tag], data: bytes) -> bytes:
    """A TIFF of one directory, then values too long for it, then ``data``, to which the tile's offset points."""
    order, word = flavour.order, flavour.word
    inline = struct.calcsize(f"{order}{word}")
    entry_size = 4 + 2 * inline
    head = struct.pack(f"{order}{'Q' if flavour.big else 'H'}", len(tags))
    behind = flavour.header + len(head) + len(tags) * entry_size + inline
    values: list[bytes] = []
    places: dict[int, int] = {}
    for code in sorted(tags):
        raw = tags[code].raw
        if len(raw) > inline:
            places[code] = behind
            values.append(raw + b"\0" * (len(raw) % 2))
            behind += len(values[-1])
    table: list[bytes] = []
    for code in sorted(tags):
        tag = tags[code]
        raw = tag.raw
        if data and code == TILE_OFFSETS:
            raw = struct.pack(f"{order}I", behind)
        value = struct.pack(f"{order}{word}", places[code]) if code in places else raw.ljust(inline, b"\0")
        table.append(struct.pack(f"{order}HH{word}", code, tag.kind, tag.count) + value)
    mark = b"II" if order == "<" else b"MM"
    start = mark + (struct.pack(f"{order}HHHQ", 43, 8, 0, 16) if flavour.big else struct.pack(f"{order}HI", 42, 8))
    end = struct.pack(f"{order}{word}", 0)
    return b"".join((start, head, *table, end, *values, data))
