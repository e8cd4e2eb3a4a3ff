"""Values as plain JSON, back again, and digests of them."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import json
import math
import types
from collections.abc import Mapping, Sequence
from enum import Enum
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from rsembed.core.errors import SpecError
from rsembed.core.patch import Json

T = TypeVar("T")
_NEEDS = {str: "text", int: "a whole number", bool: "true or false", type(None): "null"}


def to_json(value: object) -> Json:
    """``value`` as plain JSON: dataclasses by field, dates in ISO form.

    Anything whose text could differ between processes (functions, objects) raises SpecError:
    it must never enter a fingerprint.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value.value if isinstance(value, Enum) else value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise SpecError(f"{value} cannot be written as JSON")
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    if isinstance(value, (dt.date, dt.datetime)):
        return value.isoformat()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {_key(key): to_json(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return [to_json(item) for item in value]
    raise SpecError(f"{type(value).__name__} cannot be written as JSON")


def _key(key: object) -> str:
    if not isinstance(key, (str, int)):
        raise SpecError(f"a key must be text or a whole number to be written as JSON, got {type(key).__name__}")
    return str(to_json(key))


def canonical(value: object) -> str:
    """``value`` as JSON text that is the same in every process."""
    return json.dumps(to_json(value), sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def digest(value: object) -> str:
    """Hex sha256 of :func:`canonical`."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def differences(old: Json, new: Json, path: str = "") -> list[str]:
    """Where two JSON values differ, one ``path: old -> new`` each, in order of the path."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        found = []
        for key in sorted(set(old) | set(new)):
            where = f"{path}.{key}" if path else key
            if key not in old:
                found.append(f"{where}: (absent) -> {_short(new[key])}")
            elif key not in new:
                found.append(f"{where}: {_short(old[key])} -> (absent)")
            else:
                found += differences(old[key], new[key], where)
        return found
    both_lists = isinstance(old, list) and isinstance(new, list)
    if both_lists and len(old) == len(new):  # type: ignore[arg-type]  # narrowed by both_lists
        pairs = zip(old, new, strict=True)  # type: ignore[arg-type]  # narrowed by both_lists
        return [line for i, (a, b) in enumerate(pairs) for line in differences(a, b, f"{path}[{i}]")]
    return [] if old == new else [f"{path}: {_short(old)} -> {_short(new)}"]


def _short(value: Json) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."


# Back again ------------------------------------------------------------------------------------


def from_json(kind: type[T], value: Json, path: str = "") -> T:
    """``value`` as a ``kind``: a dataclass (by its type hints), a scalar, an enum, a date.

    Strict: an unknown field, a missing one without a default and a value of another type raise
    SpecError that names the place as ``path.field[2]``. What a dataclass itself refuses is raised
    with that place before it.
    """
    found: T = _read(kind, value, path)
    return found


def _read(hint: Any, value: Any, path: str) -> Any:
    origin = get_origin(hint)
    if _is_json(hint):
        return value
    if origin in (Union, types.UnionType):
        return _read_union(get_args(hint), value, path)
    if origin is Literal:
        return _read_literal(get_args(hint), value, path)
    if origin is not None and issubclass(origin, Mapping):
        return _read_mapping(get_args(hint), value, path)
    if origin is not None and issubclass(origin, Sequence):
        return _read_sequence(hint, value, path)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _read_dataclass(hint, value, path)
    return _read_scalar(hint, value, path)


def _is_json(hint: Any) -> bool:
    """Whether ``hint`` is ``Json``, which names itself inside and so comes in several depths."""
    if getattr(hint, "__forward_arg__", None) == "Json":
        return True
    return get_origin(hint) in (Union, types.UnionType) and "ForwardRef('Json')" in str(hint)


def _read_scalar(kind: type, value: Any, path: str) -> Any:
    if issubclass(kind, Enum):
        try:
            return kind(value)
        except ValueError:
            raise _wrong(path, f"one of {', '.join(str(each.value) for each in kind)}", value) from None
    if kind is dt.datetime or kind is dt.date:
        return _read_time(kind, value, path)
    if kind is float:
        try:
            if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
                return float(value)
        except OverflowError:  # a whole number beyond all floats
            pass
        raise _wrong(path, "a finite number", value)
    if kind not in _NEEDS:
        raise TypeError(f"{kind!r} cannot be read from JSON")
    # By the very type, because True is an int to Python.
    if type(value) is not kind:
        raise _wrong(path, _NEEDS[kind], value)
    return value


def _read_time(kind: type[dt.date], value: Any, path: str) -> dt.date:
    try:
        return kind.fromisoformat(value)
    except (TypeError, ValueError):
        raise _wrong(path, "an ISO date" + (" and time" if kind is dt.datetime else ""), value) from None


def _read_literal(choices: tuple[Any, ...], value: Any, path: str) -> Any:
    for choice in choices:
        if type(choice) is type(value) and choice == value:
            return choice
    raise _wrong(path, f"one of {', '.join(map(repr, choices))}", value)


def _read_union(kinds: tuple[Any, ...], value: Any, path: str) -> Any:
    """The first of ``kinds`` that takes ``value``; the error of the last one that looked into it."""
    if value is None and type(None) in kinds:
        return None
    told: SpecError | None = None
    for kind in kinds:
        if kind is type(None):
            continue
        try:
            return _read(kind, value, path)
        except SpecError as exc:
            # An object that is nearly right says more than "it is no number".
            if told is None or dataclasses.is_dataclass(kind):
                told = exc
    if told is None or sum(kind is not type(None) for kind in kinds) > 1:
        raise _wrong(path, " or ".join(_name(kind) for kind in kinds), value) from told
    raise told


def _read_mapping(kinds: tuple[Any, ...], value: Any, path: str) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        raise _wrong(path, "an object", value)
    key_kind, item_kind = kinds
    return {
        (int(key) if key_kind is int else key): _read(item_kind, item, f"{path}.{key}" if path else str(key))
        for key, item in value.items()
    }


def _read_sequence(hint: Any, value: Any, path: str) -> Any:
    origin, kinds = get_origin(hint), get_args(hint)
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        raise _wrong(path, "a list", value)
    fixed = origin is tuple and kinds[-1] is not Ellipsis
    if fixed and len(value) != len(kinds):
        raise _wrong(path, f"a list of {len(kinds)}", value)
    each = kinds if fixed else [kinds[0]] * len(value)
    items = [_read(kind, item, f"{path}[{i}]") for i, (kind, item) in enumerate(zip(each, value, strict=True))]
    return items if origin is list else tuple(items)


@cache
def _fields(kind: type) -> dict[str, tuple[Any, bool]]:
    """Name -> (type, whether it must be there) of a dataclass's fields."""
    hints = get_type_hints(kind)
    missing = dataclasses.MISSING
    return {
        field.name: (hints[field.name], field.default is missing and field.default_factory is missing)
        for field in dataclasses.fields(kind)
        if field.init
    }


def _read_dataclass(kind: type, value: Any, path: str) -> Any:
    if not isinstance(value, Mapping):
        raise _wrong(path, f"an object ({kind.__name__})", value)
    fields = _fields(kind)
    where = path or kind.__name__
    unknown = sorted(set(value) - set(fields))
    if unknown:
        raise SpecError(f"{where} has no field {', '.join(map(repr, unknown))}; it has {', '.join(fields)}")
    lacking = sorted(name for name, (_, needed) in fields.items() if needed and name not in value)
    if lacking:
        raise SpecError(f"{where} lacks {', '.join(map(repr, lacking))}")
    given = {name: _read(fields[name][0], item, f"{path}.{name}" if path else name) for name, item in value.items()}
    try:
        return kind(**given)
    except SpecError as exc:
        raise type(exc)(f"{where}: {exc}") from exc


def _wrong(path: str, needed: str, value: object) -> SpecError:
    text = repr(value)
    return SpecError(f"{path or 'the value'} must be {needed}, got {text if len(text) <= 80 else text[:77] + '...'}")


def _name(kind: Any) -> str:
    return str(_NEEDS.get(kind) or getattr(kind, "__name__", kind))
