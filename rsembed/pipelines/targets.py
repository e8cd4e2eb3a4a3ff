"""Where an export goes, and in which layout: a dataset, a file an item, one file for all."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rsembed.core.errors import ExportArgumentError

FileFormat = Literal["npz", "netcdf"]
EXTENSIONS: Mapping[str, str] = {"npz": ".npz", "netcdf": ".nc"}
"""Format of the files of an item or of all -> what their names end in."""
PER_ITEM_FOLDER = "_rsembed"
"""What a per-item export keeps in its folder beside the items' files."""
INDEX = "export.json"
"""In it: which files belong to the export."""
UNSEEN = "items"
"""In it: the sidecars of items, where none are wanted beside their files."""
_AnyPath = str | os.PathLike[str]


class ExportTarget:
    """Where a run's output goes; made by :meth:`dataset`, :meth:`per_item` or :meth:`combined`.

    ``ExportTarget(out)`` is a dataset.
    """

    if TYPE_CHECKING:

        def __new__(cls, out: _AnyPath, npz: bool = False, zarr: bool | None = None) -> DatasetTarget: ...

    else:

        def __new__(cls, *_given, **_named):
            return object.__new__(DatasetTarget if cls is ExportTarget else cls)

    @staticmethod
    def dataset(out: _AnyPath, *, npz: bool = False, zarr: bool | None = None) -> DatasetTarget:
        """A folder with one GeoParquet dataset per model; ``npz``, ``zarr``: see :class:`DatasetTarget`."""
        return DatasetTarget(out, npz, zarr)

    @staticmethod
    def per_item(out_dir: _AnyPath, names: Iterable[str] | None = None) -> PerItemTarget:
        """A folder with one file and one JSON sidecar per place; ``names`` in the order of the places."""
        return PerItemTarget(out_dir, None if names is None else tuple(names))

    @staticmethod
    def combined(out_file: _AnyPath) -> CombinedTarget:
        """One file with everything and one JSON beside it; the format's extension is added where it lacks."""
        return CombinedTarget(out_file)


@dataclass(frozen=True)
class DatasetTarget(ExportTarget):
    """A folder with one GeoParquet dataset per model.

    ``npz``: also one ``<label>.npz`` per model, rows in the order of the input. ``zarr``: also one Zarr store
    ``<label>.zarr`` per model (None: where its rows are maps).
    """

    out: Path
    npz: bool = False
    zarr: bool | None = None

    if TYPE_CHECKING:

        def __init__(self, out: _AnyPath, npz: bool = False, zarr: bool | None = None) -> None: ...

    def __post_init__(self) -> None:
        object.__setattr__(self, "out", _path("out", self.out))


@dataclass(frozen=True)
class PerItemTarget(ExportTarget):
    """A folder with one file and one JSON sidecar per place.

    ``names``: of the files, without extension, in the order of the places (None: ``p00000``, ``p00001``, ...).
    """

    out_dir: Path
    names: tuple[str, ...] | None = None

    if TYPE_CHECKING:

        def __init__(self, out_dir: _AnyPath, names: Sequence[str] | None = None) -> None: ...

    def __post_init__(self) -> None:
        object.__setattr__(self, "out_dir", _path("out_dir", self.out_dir))
        if self.names is None:
            return
        if isinstance(self.names, str):
            raise ExportArgumentError(f"names must be a list with a name for each place, got the text {self.names!r}")
        object.__setattr__(self, "names", tuple(self.names))
        seen: set[str] = set()
        for name in self.names:
            _check_name(name)
            if name in seen:
                raise ExportArgumentError(f"names must differ, but {name!r} is there twice")
            seen.add(name)


@dataclass(frozen=True)
class CombinedTarget(ExportTarget):
    """One file with the arrays of all places and models, and one JSON of the same stem beside it."""

    out_file: Path

    if TYPE_CHECKING:

        def __init__(self, out_file: _AnyPath) -> None: ...

    def __post_init__(self) -> None:
        object.__setattr__(self, "out_file", _path("out_file", self.out_file))

    def file(self, extension: str) -> Path:
        """The file of arrays; ``extension`` is added where the given name lacks it."""
        given = self.out_file
        return given if given.name.endswith(extension) else given.with_name(given.name + extension)


def _path(name: str, given: object) -> Path:
    if not isinstance(given, (str, os.PathLike)) or not os.fspath(given):
        raise ExportArgumentError(f"{name} must be a path, got {given!r}")
    if "://" in os.fsdecode(given):
        raise ExportArgumentError(f"{name} must be a path on this machine, got {given!r}; the fleet writes to buckets")
    return Path(os.fsdecode(given)).expanduser()


def _check_name(name: object) -> None:
    """Names stay inside their folder, and differ from what the export itself keeps there."""
    if not isinstance(name, str) or not name.strip():
        raise ExportArgumentError(f"names must be text that is not empty, got {name!r}")
    if "/" in name or "\\" in name or not name.isprintable() or name.startswith((".", "_rsembed")):
        raise ExportArgumentError(
            f"{name!r} cannot name a file: no slashes, no control characters, and no '.' or '_rsembed' at the start"
        )
    if len(os.fsencode(name)) > 200:
        raise ExportArgumentError(f"{name[:40]!r}... cannot name a file: it is longer than 200 bytes")
