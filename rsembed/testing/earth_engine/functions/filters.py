"""Filters, and the join that pairs collections by one.

Each comparison takes a left operand (``leftField`` or ``leftValue``) and a right one (``rightField`` or
``rightValue``). In a join fields of the left come from the primary element, of the right from the secondary.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, replace

from rsembed.testing.earth_engine.errors import EarthEngineError, NotModelledError
from rsembed.testing.earth_engine.lattices import outlines_meet
from rsembed.testing.earth_engine.signatures import function
from rsembed.testing.earth_engine.values import Collection, Date, DateRange, Element, Feature, Filter, Geometry, Image

Operands = tuple[object, object]


def field_of(element: Element, name: str) -> object:
    """The property ``name``, or the geometry where it is ``.all`` or ``.geo``; None where there is none."""
    if name in (".all", ".geo"):
        return None if element.outline is None else Geometry(element.outline)
    return element.properties.get(name)


def _filter(
    test: Callable[[object, object], bool], fields: tuple[str | None, str | None], constants: Operands, name: str
) -> Filter:
    """The filter that applies ``test`` to its operands; what has a missing operand does not pass."""
    for field, constant in zip(fields, constants, strict=True):
        if (field is None) == (constant is None):
            raise EarthEngineError(f"Filter.{name}: an operand needs either a field or a value, not both or none.")

    def passes(element: Element, other: Element | None = None) -> bool:
        left = constants[0] if fields[0] is None else field_of(element, fields[0])
        right = constants[1] if fields[1] is None else field_of(other or element, fields[1])
        if left is None or right is None:
            if name == "notEquals":
                raise NotModelledError(f"Filter.notEquals on a missing property ({fields}): what passes")
            return False
        return test(left, right)

    return Filter(passes)


def _comparable(left: object, right: object) -> tuple[float, float] | tuple[str, str]:
    if isinstance(left, str) and isinstance(right, str):
        return left, right
    numbers = [value.millis if isinstance(value, Date) else value for value in (left, right)]
    if all(isinstance(value, (int, float)) for value in numbers):
        return float(str(numbers[0])), float(str(numbers[1]))
    raise NotModelledError(
        f"comparing {type(left).__name__} {left!r} with {type(right).__name__} {right!r} in a filter"
    )


def _ordered(name: str, compare: Callable[..., bool]) -> None:
    def made(
        leftField: str | None = None,  # noqa: N803  # the service's names
        rightValue: object = None,  # noqa: N803
        rightField: str | None = None,  # noqa: N803
        leftValue: object = None,  # noqa: N803
    ) -> Filter:
        def test(left: object, right: object) -> bool:
            return bool(compare(*_comparable(left, right)))

        return _filter(test, (leftField, rightField), (leftValue, rightValue), name)

    function(f"Filter.{name}")(made)


def _testing(name: str, test: Callable[[object, object], bool]) -> None:
    def made(
        leftField: str | None = None,  # noqa: N803
        rightValue: object = None,  # noqa: N803
        rightField: str | None = None,  # noqa: N803
        leftValue: object = None,  # noqa: N803
    ) -> Filter:
        return _filter(test, (leftField, rightField), (leftValue, rightValue), name)

    function(f"Filter.{name}")(made)


def _in_range(left: object, right: object) -> bool:
    # Description of DateRange: start inclusive, end exclusive.
    if not isinstance(left, DateRange):
        raise NotModelledError(f"Filter.dateRangeContains with {left!r} for a date range")
    moment = right.millis if isinstance(right, Date) else right
    return isinstance(moment, (int, float)) and left.start.millis <= moment < left.end.millis


def _meets(left: object, right: object) -> bool:
    outlines = [
        value.outline for value in (left, right) if isinstance(value, (Geometry, Feature, Image)) and value.outline
    ]
    return len(outlines) == 2 and outlines_meet(outlines[1], outlines[0])


def _contains(left: object, right: object) -> bool:
    return isinstance(left, list) and right in left


for _name, _compare in {
    "lessThan": operator.lt,
    "lessThanOrEquals": operator.le,
    "greaterThan": operator.gt,
    "greaterThanOrEquals": operator.ge,
    "equals": operator.eq,
    "notEquals": operator.ne,
}.items():
    _ordered(_name, _compare)
_testing("dateRangeContains", _in_range)
_testing("intersects", _meets)
_testing("listContains", _contains)
_testing("inList", lambda left, right: _contains(right, left))
_testing("stringStartsWith", lambda left, right: str(left).startswith(str(right)))
_testing("stringContains", lambda left, right: str(right) in str(left))


@function("Filter.and")
def _both(filters: list[Filter]) -> Filter:
    return Filter(lambda *elements: all(one.passes(*elements) for one in filters))


@function("Filter.or")
def _either(filters: list[Filter]) -> Filter:
    return Filter(lambda *elements: any(one.passes(*elements) for one in filters))


@function("Filter.not")
def _negated(filter: Filter) -> Filter:  # noqa: A002  # the service's name
    return Filter(lambda *elements: not filter.passes(*elements))


@function("Filter.notNull")
def _not_null(properties: list[str]) -> Filter:
    return Filter(lambda element, *_: all(field_of(element, name) is not None for name in properties))


@function("Collection.filter")
def _filtered(collection: Collection, filter: Filter) -> Collection:  # noqa: A002
    if not isinstance(filter, Filter):
        raise NotModelledError("a filter given as text")
    return Collection(tuple(element for element in collection.elements if filter.passes(element)))


@dataclass(frozen=True)
class SaveAll:
    """A join that keeps all matches of each primary element as a list in its property ``key``."""

    key: str
    ordering: str | None
    ascending: bool
    outer: bool


@function("Join.saveAll")
def _save_all(
    matchesKey: str,  # noqa: N803
    ordering: str | None = None,
    ascending: bool = True,
    outer: bool = False,
) -> SaveAll:
    return SaveAll(matchesKey, ordering, ascending, outer)


@function("Join.apply")
def _joined(join: object, primary: Collection, secondary: Collection, condition: Filter) -> Collection:
    """Description of Join.saveAll: the list of matches becomes a property; unmatched elements stay only if outer."""
    if not isinstance(join, SaveAll):
        raise NotModelledError("a join other than saveAll")
    found: list[Element] = []
    for element in primary.elements:
        matches = [other for other in secondary.elements if condition.passes(element, other)]
        if join.ordering is not None:
            matches = ordered(matches, join.ordering, ascending=join.ascending)
        if matches or join.outer:
            found.append(replace(element, properties={**element.properties, join.key: matches}))
    return Collection(tuple(found))


def ordered(elements: list[Element], key: str, *, ascending: bool) -> list[Element]:
    """``elements`` sorted by a property; equal ones keep their order (that of the service is not documented)."""
    values = [element.properties.get(key) for element in elements]
    numeric = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
    if not numeric and not all(isinstance(value, str) for value in values):
        raise NotModelledError(f"sorting by {key!r}, which is missing somewhere or neither numbers nor text")
    order = sorted(range(len(elements)), key=lambda i: values[i], reverse=not ascending)  # type: ignore[arg-type,return-value]  # one kind, checked above
    return [elements[i] for i in order]
