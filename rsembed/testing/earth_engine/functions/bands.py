"""Which bands an image has: selecting, renaming, adding; what is said of them."""

from __future__ import annotations

import re

from rsembed.testing.earth_engine.errors import EarthEngineError, NotModelledError
from rsembed.testing.earth_engine.functions.arithmetic import is_name
from rsembed.testing.earth_engine.signatures import function
from rsembed.testing.earth_engine.values import Date, Geometry, Image


@function("Image.select")
def _selected(
    input: Image,  # noqa: A002  # the service's names
    bandSelectors: list[object],  # noqa: N803
    newNames: list[str] | None = None,  # noqa: N803
) -> Image:
    chosen: list[str] = []
    for selector in bandSelectors:
        chosen += _matching(input, selector)
    names = newNames if newNames is not None else chosen
    if len(names) != len(chosen):
        raise EarthEngineError(f"Image.select: got {len(names)} new names for {len(chosen)} bands.")
    if len(set(names)) != len(names):
        raise NotModelledError(f"Image.select of the same band name twice ({names})")
    bands = {name: input.bands[band] for name, band in zip(names, chosen, strict=True)}
    return Image(bands, input.properties, input.outline)


def _matching(image: Image, selector: object) -> list[str]:
    names = list(image.bands)
    if isinstance(selector, (int, float)) and not isinstance(selector, bool):
        if not 0 <= selector < len(names):
            raise EarthEngineError(f"Image.select: Band index {int(selector)} out of bounds [0, {len(names)}).")
        return [names[int(selector)]]
    text = str(selector)
    found = [text] if is_name(text) and text in image.bands else [name for name in names if re.fullmatch(text, name)]
    if not found:
        raise EarthEngineError(
            f"Image.select: Band pattern '{text}' did not match any bands. Available bands: [{', '.join(names)}]"
        )
    return found


@function("Image.rename")
def _renamed(input: Image, names: list[str]) -> Image:  # noqa: A002
    if len(names) != len(input.bands):
        raise EarthEngineError(
            f"Image.rename: The number of names ({len(names)}) must match the number of bands ({len(input.bands)})."
        )
    if len(set(names)) != len(names):
        raise EarthEngineError(f"Image.rename: Can't add a band with a name that is there already ({names}).")
    return Image(dict(zip(names, input.bands.values(), strict=True)), input.properties, input.outline)


@function("Image.addBands")
def _added(
    dstImg: Image,  # noqa: N803
    srcImg: Image,  # noqa: N803
    names: list[str] | None = None,
    overwrite: bool = False,
) -> Image:
    """Description of Image.addBands: a name that is taken gets a number (``B4_1``) unless ``overwrite``."""
    bands = dict(dstImg.bands)
    for name in names if names is not None else list(srcImg.bands):
        if name not in srcImg.bands:
            raise EarthEngineError(f"Image.addBands: No band named '{name}'.")
        free, number = name, 0
        while free in bands and not overwrite:
            number += 1
            free = f"{name}_{number}"
        bands[free] = srcImg.bands[name]
    return Image(bands, dstImg.properties, dstImg.outline)


@function("Image.bandNames")
def _band_names(image: Image) -> list[str]:
    return list(image.bands)


@function("Image.date")
def _date(image: Image) -> Date:
    time = image.properties.get("system:time_start")
    if not isinstance(time, (int, float)):
        raise EarthEngineError("Image.date: Parameter 'value' is required and may not be null.")
    return Date(int(time))


@function("Image.geometry")
def _geometry(feature: Image) -> Geometry:
    if feature.outline is None:
        raise NotModelledError("the geometry of an image without end")
    return Geometry(feature.outline)
