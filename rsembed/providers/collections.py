"""Which collections there are: their bands, lattices and names in STAC catalogues, in one table.

Names are Earth Engine's; the id of a STAC collection is taken as a collection name as well. Light on
purpose: planning reads it, so it loads no raster library.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from rsembed.tools.spatial import GridRule

Family = Literal["sentinel-2", "sentinel-1", "landsat", "hls", "modis", "alphaearth", "unknown"]
Unit = Literal["dn", "dB", "linear", "raw"]

SCENE_CLASSES = "SCL"
"""Canonical name of the scene classification band."""
ALPHAEARTH = "GOOGLE/SATELLITE_EMBEDDING/V1/ANNUAL"
"""Yearly embeddings of 10 m pixels: CC-BY 4.0, developers.google.com/earth-engine/datasets."""


@dataclass(frozen=True)
class BandInfo:
    """One band: ``name`` is Earth Engine's, ``assets`` the keys it has in STAC items, best first.

    ``eo_name`` is its name in ``eo:bands``; ``native_m`` its pixel size in metres; ``aliases`` are
    further names (upper case). ``categorical`` bands hold classes and are never averaged.
    """

    name: str
    assets: tuple[str, ...]
    eo_name: str
    native_m: float
    aliases: tuple[str, ...] = ()
    categorical: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Every name, upper case."""
        return tuple({n.upper(): None for n in (self.name, self.eo_name, *self.assets, *self.aliases)})


@dataclass(frozen=True)
class CollectionInfo:
    """What is known of a collection.

    ``stac_ids``: ids in STAC catalogues in order of preference. ``unit``: what values are given in
    (``dn``: harmonised digital numbers; ``dB`` or ``linear`` power; ``raw``: as stored).
    ``cloud_property``: the scene's cloud cover in Earth Engine, per cent.
    """

    name: str
    family: Family
    stac_ids: tuple[str, ...]
    bands: tuple[BandInfo, ...] = ()
    grid: GridRule = GridRule(1.0)
    unit: Unit = "raw"
    cloud_property: str | None = None

    def band(self, name: str) -> BandInfo | None:
        """The band called ``name`` (any of its names, in any case), or None."""
        return _names(self.bands).get(name.upper())

    def canonical(self, band: str) -> str:
        """Earth Engine's name of ``band``; unknown names come back as they are."""
        info = self.band(band)
        return info.name if info else band


@lru_cache(maxsize=32)
def _names(bands: tuple[BandInfo, ...]) -> dict[str, BandInfo]:
    # The first band to claim a name keeps it; a band's own name always wins.
    table = {name: band for band in reversed(bands) for name in band.names}
    table.update({band.name.upper(): band for band in bands})
    return table


def _s2(name: str, asset: str, native_m: float, *aliases: str) -> BandInfo:
    padded = name if len(name) == 3 else f"B0{name[1:]}"
    return BandInfo(name, (asset, padded, padded.lower(), name), padded, native_m, aliases)


_S2_COMMON = (
    _s2("B1", "coastal", 60, "COASTAL_AEROSOL", "AEROSOL", "AEROSOLS"),
    _s2("B2", "blue", 10),
    _s2("B3", "green", 10),
    _s2("B4", "red", 10),
    _s2("B5", "rededge1", 20, "RED_EDGE_1", "RED_EDGE1", "VRE1"),
    _s2("B6", "rededge2", 20, "RED_EDGE_2", "RED_EDGE2", "VRE2"),
    _s2("B7", "rededge3", 20, "RED_EDGE_3", "RED_EDGE3", "VRE3"),
    _s2("B8", "nir", 10, "NIR_BROAD", "NIR_WIDE"),
    _s2("B8A", "nir08", 20, "NIR_NARROW", "RED_EDGE_4", "RED_EDGE4"),
    _s2("B9", "nir09", 60, "WATER_VAPOR", "WATER_VAPOUR"),
    _s2("B10", "cirrus", 60),
    _s2("B11", "swir16", 20, "SWIR_1", "SWIR1"),
    _s2("B12", "swir22", 20, "SWIR_2", "SWIR2"),
)
_SCL = BandInfo(SCENE_CLASSES, ("scl", "SCL"), SCENE_CLASSES, 20, ("SCENE_CLASSIFICATION",), categorical=True)
S2_ANY = (*_S2_COMMON, _SCL)
_S2_L2A = tuple(band for band in S2_ANY if band.name != "B10")
_S1 = tuple(BandInfo(p, (p.lower(), p), p, 10) for p in ("VV", "VH", "HH", "HV"))
_LANDSAT = (
    BandInfo("SR_B1", ("coastal",), "OLI_B1", 30, ("COASTAL_AEROSOL",)),
    BandInfo("SR_B2", ("blue",), "OLI_B2", 30),
    BandInfo("SR_B3", ("green",), "OLI_B3", 30),
    BandInfo("SR_B4", ("red",), "OLI_B4", 30),
    BandInfo("SR_B5", ("nir08",), "OLI_B5", 30, ("NIR", "NIR_NARROW")),
    BandInfo("SR_B6", ("swir16",), "OLI_B6", 30, ("SWIR_1", "SWIR1")),
    BandInfo("SR_B7", ("swir22",), "OLI_B7", 30, ("SWIR_2", "SWIR2")),
    BandInfo("QA_PIXEL", ("qa_pixel",), "QA_PIXEL", 30, categorical=True),
)


def _hls(name: str, *aliases: str) -> BandInfo:
    padded = name if len(name) == 3 else f"B0{name[1:]}"
    return BandInfo(name, (padded,), padded, 30, aliases)


_HLS_VISIBLE = (_hls("B1", "COASTAL_AEROSOL", "COASTAL"), _hls("B2", "BLUE"), _hls("B3", "GREEN"), _hls("B4", "RED"))
_FMASK = BandInfo("Fmask", ("Fmask",), "Fmask", 30, categorical=True)
_HLS_L30 = (
    *_HLS_VISIBLE,
    _hls("B5", "NIR", "NIR_NARROW", "NIR08"),
    _hls("B6", "SWIR_1", "SWIR1", "SWIR16"),
    _hls("B7", "SWIR_2", "SWIR2", "SWIR22"),
    _hls("B9", "CIRRUS"),
    _hls("B10"),
    _hls("B11"),
    _FMASK,
)
_HLS_S30 = (
    *_HLS_VISIBLE,
    *(_hls(f"B{i}", f"RED_EDGE_{i - 4}", f"RED_EDGE{i - 4}") for i in (5, 6, 7)),
    _hls("B8", "NIR_BROAD"),
    _hls("B8A", "NIR", "NIR_NARROW", "NIR08"),
    _hls("B9", "WATER_VAPOR"),
    _hls("B10", "CIRRUS"),
    _hls("B11", "SWIR_1", "SWIR1", "SWIR16"),
    _hls("B12", "SWIR_2", "SWIR2", "SWIR22"),
    _FMASK,
)
# The sinusoidal grid's pixels: 463.3 m and 926.6 m a side (MODIS Land's "500 m" and "1 km").
_MODIS_500 = tuple(BandInfo(f"sur_refl_b0{i}", (f"sur_refl_b0{i}",), f"sur_refl_b0{i}", 463.313) for i in range(1, 8))
_MODIS_LST = (BandInfo("LST_1KM", ("LST_1KM",), "LST_1KM", 926.625),)
_ALPHAEARTH = tuple(BandInfo(f"A{i:02d}", (f"A{i:02d}",), f"A{i:02d}", 10) for i in range(64))

_S2_GRID, _S1_GRID = GridRule(20.0), GridRule(10.0)
_LANDSAT_GRID, _HLS_GRID = GridRule(30.0, 15.0, 25.0), GridRule(30.0, 0.0, 10.0)
_S2_CLOUDS = "CLOUDY_PIXEL_PERCENTAGE"
_TABLE: dict[str, CollectionInfo] = {
    info.name: info
    for info in (
        CollectionInfo(
            "COPERNICUS/S2_SR_HARMONIZED",
            "sentinel-2",
            ("sentinel-2-c1-l2a", "sentinel-2-l2a"),
            _S2_L2A,
            _S2_GRID,
            "dn",
            _S2_CLOUDS,
        ),
        CollectionInfo(
            "COPERNICUS/S2_HARMONIZED", "sentinel-2", ("sentinel-2-l1c",), _S2_COMMON, _S2_GRID, "dn", _S2_CLOUDS
        ),
        # sentinel-1-rtc is gamma0, not sigma0: a substitute, used only where it is asked for by name.
        CollectionInfo("COPERNICUS/S1_GRD", "sentinel-1", ("sentinel-1-grd",), _S1, _S1_GRID, "dB"),
        CollectionInfo("COPERNICUS/S1_GRD_FLOAT", "sentinel-1", ("sentinel-1-grd",), _S1, _S1_GRID, "linear"),
        CollectionInfo("sentinel-1-rtc", "sentinel-1", ("sentinel-1-rtc",), _S1, _S1_GRID, "dB"),
        *(
            CollectionInfo(
                f"LANDSAT/{name}/C02/T1_L2",
                "landsat",
                ("landsat-c2-l2",),
                _LANDSAT,
                _LANDSAT_GRID,
                cloud_property="CLOUD_COVER",
            )
            for name in ("LC08", "LC09")
        ),
        # Reflectance 0..1 in Earth Engine; its tiles begin at whole multiples of 30 m, unlike Landsat's own.
        *(
            CollectionInfo(
                f"NASA/HLS/HLS{kind}/v002", "hls", (f"hls2-{kind.lower()}",), bands, _HLS_GRID, "raw", "CLOUD_COVERAGE"
            )
            for kind, bands in (("L30", _HLS_L30), ("S30", _HLS_S30))
        ),
        # With the temperature of the same day's MOD21A1D as one more band.
        CollectionInfo("MODIS/061/MOD09GA", "modis", ("MODIS/061/MOD09GA",), (*_MODIS_500, *_MODIS_LST)),
        CollectionInfo("MODIS/061/MOD21A1D", "modis", ("MODIS/061/MOD21A1D",), _MODIS_LST),
        CollectionInfo(ALPHAEARTH, "alphaearth", (ALPHAEARTH,), _ALPHAEARTH, _S1_GRID),
    )
}


def _alone() -> dict[str, CollectionInfo]:
    found: dict[str, CollectionInfo] = {}
    for info in _TABLE.values():
        for stac_id in info.stac_ids:
            found.setdefault(stac_id, replace(info, name=stac_id, stac_ids=(stac_id,)))
    return found


_BY_STAC_ID = _alone()


def known_collections() -> tuple[str, ...]:
    """Every collection name in the table, Earth Engine's first."""
    return tuple({**_TABLE, **_BY_STAC_ID})


def collection_info(name: str) -> CollectionInfo:
    """What is known of ``name``: Earth Engine's name or the id of a STAC collection.

    An unknown name gives family ``unknown``, that id alone and no bands: its family is told by its
    items (:func:`of_constellation`).
    """
    return _TABLE.get(name) or _BY_STAC_ID.get(name) or CollectionInfo(name, "unknown", (name,))


def of_constellation(name: str, constellation: str | None) -> CollectionInfo:
    """:func:`collection_info`, with an unknown collection's family taken from ``constellation``.

    ``constellation`` is the STAC property: ``sentinel-2`` (or ``sentinel-2a``), ``sentinel-1``.
    """
    info = collection_info(name)
    if info.family != "unknown" or not constellation:
        return info
    kind = constellation.lower()
    if kind.startswith("sentinel-2"):
        return CollectionInfo(name, "sentinel-2", (name,), S2_ANY, _S2_GRID, "dn", _S2_CLOUDS)
    if kind.startswith("sentinel-1"):
        return CollectionInfo(name, "sentinel-1", (name,), _S1, _S1_GRID, "dB")
    return info


def grid_rule(collection: str) -> GridRule:
    """The lattice of ``collection``'s pixel edges; whole multiples of the scale where unknown."""
    return collection_info(collection).grid


def canonical_bands(collection: str, bands: Sequence[str]) -> tuple[str, ...]:
    """Earth Engine's names of ``bands``, in any case and by any alias.

    Names that the table does not know pass through (Earth Engine has more bands than are listed
    here); a provider's ``check`` refuses those it cannot serve.
    """
    info = collection_info(collection)
    return tuple(info.canonical(band) for band in bands)


def imagery_attribution(collection: str, years: Sequence[int]) -> str | None:
    """The sentence that has to go with anything made from ``collection``; None where none is known.

    ``years``: those in which the imagery was taken (none: nothing was used). Copernicus asks for it in
    its Legal Notice on the use of Sentinel data; Landsat's source is to be named.
    """
    if not years:
        return None
    family = of_constellation(collection, collection).family
    *earlier, last = [str(year) for year in sorted(set(years))]
    when = f"{', '.join(earlier)} and {last}" if earlier else last
    if family in ("sentinel-1", "sentinel-2"):
        return f"Contains modified Copernicus Sentinel data {when}"
    if family == "landsat":
        return f"Landsat-8/9 imagery of {when} courtesy of the U.S. Geological Survey"
    if family == "hls":
        return (
            f"Harmonized Landsat Sentinel-2 data of {when} courtesy of NASA; contains modified Copernicus Sentinel data"
        )
    if family == "modis":
        return f"MODIS data of {when} courtesy of NASA LP DAAC"
    if family == "alphaearth":
        return "The AlphaEarth Foundations Satellite Embedding dataset is produced by Google and Google DeepMind."
    return None
