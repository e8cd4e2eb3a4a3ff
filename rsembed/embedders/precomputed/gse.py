"""AlphaEarth Foundations' Satellite Embedding: 64 numbers a 10 m pixel and year, served by Earth Engine."""

from __future__ import annotations

from rsembed.core.card import InputContract, Licence, ModelCard, Step
from rsembed.core.fetching import FramePolicy
from rsembed.embedders.precomputed.product import PrecomputedEmbedder, band_names

COLLECTION = "GOOGLE/SATELLITE_EMBEDDING/V1/ANNUAL"
YEARS = tuple(range(2017, 2026))

_MASK = Step("pixels masked by Earth Engine are holes", "verified")
_POOL = Step(
    "pooled: mean (or maximum) over the pixels that have an embedding, not brought back to unit length", "verified"
)
_GRID = Step("grid: the pixels, NaN in the holes, first row north", "verified")

CARD = ModelCard(
    id="gse",
    title="AlphaEarth Foundations Satellite Embedding (annual)",
    summary="precomputed unit vectors of 64 numbers for each 10 m pixel and year, on Earth Engine",
    paper="arXiv:2507.22291",
    source="https://developers.google.com/earth-engine/datasets/catalog/GOOGLE_SATELLITE_EMBEDDING_V1_ANNUAL",
    kind="precomputed",
    inputs={
        "annual": InputContract(
            COLLECTION,
            band_names("A", 64, 2),
            scale_m=10,
            image_size=2,
            frames=FramePolicy("annual", years=YEARS),
            composite="mosaic",
            any_size=True,
        ),
    },
    outputs=("pooled", "grid"),
    pooling="tokens",
    dims={"": 64},
    licence=Licence(
        "CC-BY-4.0",
        "yes",
        "The AlphaEarth Foundations Satellite Embedding dataset is produced by Google and Google DeepMind",
    ),
    steps={
        "authors": (
            Step("the year in which the window's middle lies; a window is no longer than a year", "inferred"),
            Step("the product's own UTM pixels (those of a neighbouring zone by the nearest one)", "documented"),
            _MASK,
            _POOL,
            _GRID,
        ),
        "rs-embed": (
            Step("the year in which the window begins", "verified"),
            Step(
                "resampled to EPSG:3857 by the nearest pixel; metres are Web Mercator's, shorter away from the equator",
                "verified",
            ),
            _MASK,
            _POOL,
            _GRID,
        ),
    },
    backends=("gee", "raster"),
    notes=(
        f"covers {YEARS[0]} to {YEARS[-1]}; a year outside is refused before any work",
        ("values are as Earth Engine serves them, floats in -1..1; the quantised copies in cloud storage are not read"),
        "a mean of unit vectors is shorter than 1; divide it by its length where that matters",
        "without a buffer, a point stands for the 2 x 2 pixels around it",
        "the reference returns too many pixels for boxes that are no multiple of 512; here every pixel comes once",
    ),
)


class Gse(PrecomputedEmbedder):
    """See :data:`CARD`."""

    card = CARD
