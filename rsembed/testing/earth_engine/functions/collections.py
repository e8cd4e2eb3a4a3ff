"""Collections: mapping, ordering, merging, counting."""

from __future__ import annotations

from dataclasses import replace

from rsembed.testing.earth_engine.errors import EarthEngineError, NotModelledError
from rsembed.testing.earth_engine.functions.filters import field_of, ordered
from rsembed.testing.earth_engine.signatures import function
from rsembed.testing.earth_engine.values import Collection, Element, Feature, Function, Image

INDEX = "system:index"


def with_index(element: Element, index: object) -> Element:
    """``element`` under another ``system:index``."""
    return replace(element, properties={**element.properties, INDEX: index})


@function("Collection.map")
def _mapped(collection: Collection, baseAlgorithm: Function, dropNulls: bool = False) -> Collection:  # noqa: N803
    found: list[Element] = []
    for element in collection.elements:
        made = baseAlgorithm(element)
        if made is None and dropNulls:
            continue
        if not isinstance(made, (Image, Feature)):
            raise EarthEngineError("Collection.map: A mapped algorithm must return a Feature or Image.")
        # What is mapped keeps its place in the collection, so also the name that it has there.
        found.append(with_index(made, element.properties.get(INDEX)))
    return Collection(tuple(found))


@function("Collection.limit")
def _limited(
    collection: Collection, limit: int | None = None, key: str | None = None, ascending: bool = True
) -> Collection:
    elements = list(collection.elements)
    if key is not None:
        elements = ordered(elements, key, ascending=ascending)
    return Collection(tuple(elements if limit is None else elements[: int(limit)]))


@function("Collection.size")
def _size(collection: Collection) -> int:
    return len(collection.elements)


@function("Collection.first")
def _first(collection: Collection) -> Element | None:
    return collection.elements[0] if collection.elements else None


@function("Collection.toList")
def _to_list(collection: Collection, count: int, offset: int = 0) -> list[Element]:
    return list(collection.elements[int(offset) : int(offset) + int(count)])


@function("Collection.merge", "ImageCollection.merge")
def _merged(collection1: Collection, collection2: Collection) -> Collection:
    """Description of Collection.merge: ids get the prefixes ``1_`` and ``2_``."""
    parts = [
        with_index(element, f"{number}_{element.properties.get(INDEX)}")
        for number, collection in ((1, collection1), (2, collection2))
        for element in collection.elements
    ]
    return Collection(tuple(parts))


@function("Collection.distinct")
def _distinct(collection: Collection, properties: str | list[str]) -> Collection:
    names = [properties] if isinstance(properties, str) else properties
    if any(name.startswith(".") for name in names):
        raise NotModelledError("Collection.distinct by geometry")
    kept: dict[str, Element] = {}
    for element in collection.elements:
        # Which of equal elements stays is not documented; the first does here.
        kept.setdefault(repr([field_of(element, name) for name in names]), element)
    return Collection(tuple(kept.values()))


@function("AggregateFeatureCollection.array")
def _array(collection: Collection, property: str) -> list[object]:  # noqa: A002
    found = [element.properties.get(property) for element in collection.elements]
    return [value for value in found if value is not None]


@function("AggregateFeatureCollection.count_distinct")
def _count_distinct(collection: Collection, property: str) -> int:  # noqa: A002
    return len({repr(value) for value in _array(collection, property)})


@function("AggregateFeatureCollection.min")
def _least(collection: Collection, property: str) -> object:  # noqa: A002
    return min(_numbers(collection, property), default=None)


@function("AggregateFeatureCollection.max")
def _greatest(collection: Collection, property: str) -> object:  # noqa: A002
    return max(_numbers(collection, property), default=None)


def _numbers(collection: Collection, name: str) -> list[float]:
    found = _array(collection, name)
    numbers = [value for value in found if isinstance(value, (int, float))]
    if len(numbers) != len(found):
        raise NotModelledError(f"the smallest or largest {name!r} of things that are not numbers")
    return numbers


@function("ImageCollection.fromImages")
def _from_images(images: list[Image]) -> Collection:
    if not all(isinstance(image, Image) for image in images):
        raise EarthEngineError("ImageCollection.fromImages: the list holds something that is not an Image.")
    return Collection(tuple(with_index(image, str(number)) for number, image in enumerate(images)))


@function("ImageCollection.toBands")
def _to_bands(collection: Collection) -> Image:
    """Description of ImageCollection.toBands: bands are named by the image's id and their own name."""
    images = collection.images
    bands = {f"{i.properties.get(INDEX)}_{name}": band for i in images for name, band in i.bands.items()}
    return Image(bands)
