"""Values as plain JSON, and digests of them."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from enum import Enum

from rsembed.core.errors import SpecError
from rsembed.core.patch import Json


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
