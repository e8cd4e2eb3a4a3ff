"""What the installed client says of the service: discovery document, function signatures, and the table of ours.

Both documents come with the client's package. They are found without importing it.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rsembed.testing.earth_engine.errors import EarthEngineError, NotModelledError
from rsembed.testing.earth_engine.lattices import crs_name
from rsembed.testing.earth_engine.values import (
    Collection,
    Date,
    DateRange,
    Feature,
    Filter,
    Geometry,
    Image,
    Projection,
    Reducer,
)

Known = TypeVar("Known", bound=Callable[..., object])

FUNCTIONS: dict[str, Callable[..., object]] = {}
"""Name as it travels in a graph -> what we do, called with the service's argument names."""

_CLASSES: dict[str, tuple[type, ...]] = {
    "Image": (Image,),
    "ImageCollection": (Collection,),
    "FeatureCollection": (Collection,),
    "Element": (Image, Feature),
    "Integer": (int, float),
    "Long": (int, float),
    "Float": (int, float),
    "Number": (int, float),
    "String": (str,),
    "Boolean": (bool,),
    "List": (list,),
    "Dictionary": (dict,),
    "Filter": (Filter,),
    "Reducer": (Reducer,),
    "Geometry": (Geometry,),
    "DateRange": (DateRange,),
    "Date": (Date,),
    "Projection": (Projection,),
}


@dataclass(frozen=True)
class Argument:
    """One argument of a function: its name, its type without what it holds, and whether it may be left out."""

    name: str
    type: str
    optional: bool


def function(*names: str) -> Callable[[Known], Known]:
    """Enter a Python function into the table under ``names``."""

    def enter(made: Known) -> Known:
        for name in names:
            FUNCTIONS[name] = made
        return made

    return enter


def _shipped(name: str) -> bytes:
    spec = importlib.util.find_spec("ee")
    path = Path(spec.origin).parent / "tests" / name if spec is not None and spec.origin else None
    if path is None or not path.exists():
        raise FileNotFoundError(
            f"the local Earth Engine server needs {name} of the package earthengine-api; "
            "pip install 'earthengine-api>=1.4,<2' (a version that ships its test data)"
        )
    return path.read_bytes()


@functools.cache
def discovery_document() -> bytes:
    """The API's description that the client asks for first; it ships under another version's name."""
    return _shipped("cloud_api_discovery_document.json").replace(b"v1alpha", b"v1")


@functools.cache
def algorithms_document() -> bytes:
    """The signatures of the service's functions."""
    return _shipped("algorithms.json")


@functools.cache
def signatures() -> Mapping[str, tuple[Argument, ...]]:
    """Arguments of every function of the service."""
    return {
        entry["name"].split("/", 1)[1]: tuple(
            Argument(a["argumentName"], a["type"].split("<")[0], bool(a.get("optional")))
            for a in entry.get("arguments", [])
        )
        for entry in json.loads(algorithms_document())["algorithms"]
    }


def call(name: str, given: Mapping[str, object]) -> object:
    """Call the function ``name``: argument names and types are checked as the service's signature has them."""
    expected = signatures().get(name)
    if expected is None:
        raise EarthEngineError(f"Unknown function '{name}'.")
    unknown = set(given) - {argument.name for argument in expected}
    if unknown:
        raise EarthEngineError(f"{name}: Unrecognized argument '{min(unknown)}'.")
    ours = FUNCTIONS.get(name)
    if ours is None:
        raise NotModelledError(f"{name}: this function")
    taken = {}
    for argument in expected:
        value = given.get(argument.name)
        if value is not None:
            taken[argument.name] = _checked(name, argument, value)
        elif not argument.optional:
            raise EarthEngineError(f"{name}: Parameter '{argument.name}' is required and may not be null.")
    left = set(taken) - accepted(ours)
    if left:
        raise NotModelledError(f"{name}: the argument {min(left)}={taken[min(left)]!r}")
    return ours(**taken)


@functools.cache
def accepted(ours: Callable[..., object]) -> set[str]:
    """Argument names that one of our functions takes; ``from``, no name in Python, comes in its ``**origin``."""
    parameters = inspect.signature(ours).parameters.values()
    names = {p.name for p in parameters if p.kind is not p.VAR_KEYWORD}
    return names | ({"from"} if any(p.kind is p.VAR_KEYWORD for p in parameters) else set())


def _checked(name: str, argument: Argument, value: object) -> object:
    if argument.type == "Projection" and isinstance(value, str):
        return Projection(crs_name(value), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0))
    if argument.type == "Date" and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        return FUNCTIONS["Date"](value)
    if argument.type == "Geometry" and isinstance(value, Feature) and value.outline is not None:
        return Geometry(value.outline)
    classes = _CLASSES.get(argument.type)
    if classes is None or (isinstance(value, classes) and not (isinstance(value, bool) and bool not in classes)):
        return value
    raise EarthEngineError(
        f"{name}, argument '{argument.name}': Invalid type. Expected type: {argument.type}. "
        f"Actual type: {type(value).__name__}."
    )
