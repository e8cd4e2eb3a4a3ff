"""Named arrays with dimensions and attributes, and how CF stores what is no number: for NetCDF and Zarr alike."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from rsembed.core.errors import ExportError
from rsembed.core.patch import Json

_NO_DAY = int(np.iinfo(np.int32).min)
_NO_SECOND = int(np.iinfo(np.int64).min)
_KINDS = "biufUOM"


@dataclass(frozen=True)
class Slices:
    """Values that do not fit into memory: pieces that follow each other along the first dimension.

    Together they have ``shape``; each is cast to ``dtype`` (numbers, datetime64 or text).
    """

    shape: tuple[int, ...]
    dtype: DTypeLike
    pieces: Iterable[NDArray[Any]]


@dataclass(frozen=True)
class Variable:
    """One variable: ``dims`` name its axes; ``values`` are there, or come as :class:`Slices`.

    Numbers, truth values, text (U or objects of str) and datetime64 (stored as days or seconds since 1970, NaT as
    the fill value) can be stored. ``fill``: what stands for "no value"; NaN for floats unless given.
    ``attributes``: text, numbers, or lists of either; None is left out, anything else becomes JSON text.
    """

    name: str
    dims: tuple[str, ...]
    values: NDArray[Any] | Slices
    attributes: Mapping[str, Json] = field(default_factory=dict)
    fill: float | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of ``dims``."""
        return tuple(self.values.shape)

    def pieces(self) -> Iterable[NDArray[Any]]:
        """The values, in order along the first dimension."""
        return self.values.pieces if isinstance(self.values, Slices) else [self.values]

    def encoding(self) -> Encoding:
        """How the values are stored; raises ExportError where they cannot be."""
        dtype = np.dtype(self.values.dtype)
        if dtype.kind not in _KINDS:
            raise ExportError(f"{self.name} is {dtype}: numbers, truth values, text and dates can be written")
        return Encoding.of(dtype, self.fill)


@dataclass(frozen=True)
class Encoding:
    """How values of a kind are stored, by CF's rules: ``dtype`` (object: text), fill value, attributes that say so."""

    dtype: np.dtype[Any]
    fill: Any = None
    attributes: Mapping[str, Json] = field(default_factory=dict)

    @classmethod
    def of(cls, dtype: np.dtype[Any], fill: float | None = None) -> Encoding:
        """The encoding for values of ``dtype``."""
        if dtype.kind == "M":
            days = np.datetime_data(dtype)[0] == "D"
            units = f"{'days' if days else 'seconds'} since 1970-01-01"
            stored = np.dtype(np.int32 if days else np.int64)
            none = stored.type(_NO_DAY if days else _NO_SECOND)
            return cls(stored, none, {"units": units, "calendar": "proleptic_gregorian"})
        if dtype.kind in "UO":
            return cls(np.dtype(object))
        if dtype.kind == "b":
            return cls(np.dtype(np.int8), None, {"dtype": "bool"})  # as xarray marks them
        if dtype.kind == "f":
            return cls(dtype, dtype.type(np.nan if fill is None else fill))
        return cls(dtype, None if fill is None else dtype.type(fill))

    @property
    def is_text(self) -> bool:
        """Whether values are text of any length."""
        return self.dtype == object

    def __call__(self, values: NDArray[Any]) -> NDArray[Any]:
        """``values`` as they are stored."""
        if values.dtype.kind == "M":
            days = self.dtype.itemsize == 4
            numbers = values.astype(f"datetime64[{'D' if days else 's'}]").astype(np.int64)
            stored: NDArray[Any] = np.where(np.isnat(values), _NO_DAY if days else _NO_SECOND, numbers)
            return stored.astype(self.dtype)
        return values.astype(self.dtype, copy=False)


def dimension_sizes(variables: Iterable[Variable]) -> dict[str, int]:
    """Length of every dimension; raises ExportError where two variables differ about one."""
    sizes: dict[str, int] = {}
    for variable in variables:
        if len(variable.shape) != len(variable.dims):
            raise ExportError(
                f"{variable.name} has the dimensions {variable.dims}, but values of shape {variable.shape}"
            )
        for name, size in zip(variable.dims, variable.shape, strict=True):
            if sizes.setdefault(name, size) != size:
                raise ExportError(f"dimension {name} is {sizes[name]} long, and {size} in {variable.name}")
    return sizes


def plain_attribute(value: Json) -> str | int | float | list[str] | list[int] | list[float]:
    """``value`` as any format can hold it: text, a number, a list of either; all else as JSON text.

    So is a list of one: NetCDF would make its only item of it.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (str, int, float)):
        return value
    if isinstance(value, (list, tuple)) and len(value) > 1:
        if all(isinstance(item, str) for item in value):
            return [str(item) for item in value]
        if all(isinstance(item, int) and not isinstance(item, bool) for item in value):
            return [int(item) for item in value]
        if all(isinstance(item, (int, float)) and not isinstance(item, bool) for item in value):
            return [float(item) for item in value]
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def plain_attributes(
    attributes: Mapping[str, Json],
) -> dict[str, str | int | float | list[str] | list[int] | list[float]]:
    """``attributes`` without those that are None, each as :func:`plain_attribute` gives it."""
    return {name: plain_attribute(value) for name, value in attributes.items() if value is not None}
