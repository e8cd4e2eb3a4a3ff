"""Properties of elements, choices, numbers, text, lists, dictionaries."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace

from rsembed.testing.earth_engine.errors import EarthEngineError, NotModelledError
from rsembed.testing.earth_engine.functions.filters import field_of
from rsembed.testing.earth_engine.signatures import function
from rsembed.testing.earth_engine.values import Element, Function

# Elements


@function("Element.get")
def _get(object: Element, property: str) -> object:  # noqa: A002  # the service's names
    return field_of(object, property)


@function("Element.set")
def _set(object: Element, key: str, value: object = None) -> Element:  # noqa: A002
    kept = {name: found for name, found in object.properties.items() if name != key}
    return replace(object, properties=kept if value is None else {**kept, key: value})


@function("Element.copyProperties", "Image.copyProperties")
def _copied(
    destination: Element | None = None,
    source: Element | None = None,
    properties: list[str] | None = None,
    exclude: list[str] | None = None,
) -> Element | None:
    """Description of Element.copyProperties: without a list all but the system's properties are copied."""
    if destination is None or source is None:
        return destination
    if properties is not None:
        if exclude is not None:
            raise EarthEngineError("Element.copyProperties: 'exclude' must not be given with 'properties'.")
        chosen = [name for name in properties if name in source.properties]
    else:
        chosen = [n for n in source.properties if not n.startswith("system:") and n not in (exclude or ())]
    return replace(
        destination, properties={**destination.properties, **{name: source.properties[name] for name in chosen}}
    )


@function("If")
def _if(condition: object = None, trueCase: object = None, falseCase: object = None) -> object:  # noqa: N803
    """Description of If: 0, NaN, null and what is empty are false. Both cases were evaluated, as may happen there."""
    if isinstance(condition, float) and math.isnan(condition):
        condition = False
    return trueCase if condition or not isinstance(condition, (int, float, str, list, dict, type(None))) else falseCase


# Numbers, text, lists


def _arithmetic(name: str, operation: Callable[..., float]) -> None:
    def made(left: float, right: float) -> float:
        return operation(left, right)

    function(f"Number.{name}")(made)


def _quotient(left: float, right: float) -> float:
    if right == 0:
        raise NotModelledError("Number.divide by 0")
    return left / right


def _remainder(left: float, right: float) -> float:
    if right == 0:
        raise NotModelledError("Number.mod by 0")
    # Of Java: the sign of the dividend.
    return (
        math.fmod(left, right) if isinstance(left, float) or isinstance(right, float) else int(math.fmod(left, right))
    )


_OPERATIONS: dict[str, Callable[..., float]] = {
    "add": lambda left, right: left + right,
    "subtract": lambda left, right: left - right,
    "multiply": lambda left, right: left * right,
    "divide": _quotient,
    "mod": _remainder,
    "pow": lambda left, right: left**right,
    "min": min,
    "max": max,
    "eq": lambda left, right: int(left == right),
    "neq": lambda left, right: int(left != right),
    "lt": lambda left, right: int(left < right),
    "lte": lambda left, right: int(left <= right),
    "gt": lambda left, right: int(left > right),
    "gte": lambda left, right: int(left >= right),
    "and": lambda left, right: int(left != 0 and right != 0),
    "or": lambda left, right: int(left != 0 or right != 0),
}
for _name, _operation in _OPERATIONS.items():
    _arithmetic(_name, _operation)


@function("Number.not")
def _negated(input: float) -> int:  # noqa: A002
    return int(input == 0)


@function("Number.floor")
def _floor(input: float) -> int:  # noqa: A002
    return math.floor(input)


@function("Number.ceil")
def _ceiling(input: float) -> int:  # noqa: A002
    return math.ceil(input)


@function("Number.int", "Number.toInt", "Number.toInt32", "Number.int32")
def _integer(input: float) -> int:  # noqa: A002
    if float(input) != int(input) or abs(input) >= 2**31:
        raise NotModelledError(f"Number.toInt of {input!r}; take floor() first")
    return int(input)


@function("Number.parse")
def _parsed(input: str, radix: int = 10) -> float:  # noqa: A002
    try:
        return int(input, int(radix))
    except ValueError:
        pass
    try:
        return float(input)
    except ValueError as exc:
        raise EarthEngineError(f"Number.parse: Cannot parse '{input}' as a number.") from exc


@function("Number.format")
def _formatted(number: float, pattern: str = "%s") -> str:
    found = re.fullmatch(r"[^%]*%(0?\d*)(?:\.\d+)?([dfsx])[^%]*", pattern)
    if not found:
        raise NotModelledError(f"Number.format with the pattern {pattern!r}")
    if found.group(2) in "dx":
        if float(number) != int(number):
            raise EarthEngineError(f"Number.format: the pattern '{pattern}' is for whole numbers, got {number}.")
        return pattern % int(number)
    if found.group(2) == "s":
        return pattern % _text(number)
    return pattern % float(number)


@function("String")
def _text(input: object) -> str:  # noqa: A002
    if isinstance(input, str):
        return input
    if isinstance(input, bool) or not isinstance(input, int):
        raise NotModelledError(f"the text of {input!r}; use Number.format")
    return str(input)


@function("String.cat")
def _joined(string1: str, string2: str) -> str:
    return string1 + string2


@function("String.slice")
def _sliced(string: str, start: int, end: int | None = None) -> str:
    return string[int(start) : None if end is None else int(end)]


@function("String.split")
def _split(string: str, regex: str) -> list[str]:
    if not regex:
        return list(string)
    return re.split(regex, string)


@function("List.get")
def _item(list: list[object], index: int) -> object:  # noqa: A002
    if not -len(list) <= index < len(list):
        raise EarthEngineError(f"List.get: Index {int(index)} is out of bounds for a list of {len(list)}.")
    return list[int(index)]


@function("List.size", "List.length")
def _length(list: list[object]) -> int:  # noqa: A002
    return len(list)


@function("List.add")
def _appended(list: list[object], element: object) -> list[object]:  # noqa: A002
    return [*list, element]


@function("List.cat")
def _chained(list: list[object], other: list[object]) -> list[object]:  # noqa: A002
    return [*list, *other]


@function("List.zip")
def _zipped(list: list[object], other: list[object]) -> object:  # noqa: A002
    return [[one, two] for one, two in zip(list, other)]


@function("List.map")
def _mapped(list: list[object], baseAlgorithm: Function, dropNulls: bool = False) -> object:  # noqa: A002, N803
    made = [baseAlgorithm(one) for one in list]
    return [one for one in made if one is not None] if dropNulls else made


@function("List.sequence")
def _sequence(start: float, end: float | None = None, step: float = 1, count: int | None = None) -> list[float]:
    if count is not None or end is None:
        raise NotModelledError("List.sequence by count")
    return [start + step * number for number in range(math.floor((end - start) / step) + 1)]


@function("Dictionary")
def _dictionary(input: dict[str, object]) -> dict[str, object]:  # noqa: A002
    return input


@function("Dictionary.get")
def _entry(dictionary: dict[str, object], key: str, defaultValue: object = None) -> object:  # noqa: N803
    if key not in dictionary and defaultValue is None:
        raise EarthEngineError(f"Dictionary.get: Dictionary does not contain key: '{key}'.")
    return dictionary.get(key, defaultValue)
