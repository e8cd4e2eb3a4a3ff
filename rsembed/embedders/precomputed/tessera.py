"""TESSERA: 128 numbers a 10 m pixel and year, published as quantised tiles of 0.1 degrees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsembed.core.card import InputContract, Licence, ModelCard, Option, Step
from rsembed.core.fetching import FetchRecipe, FramePolicy, PixelLattice, ProductRules
from rsembed.embedders.base import View
from rsembed.embedders.precomputed.product import FileFacts, PrecomputedEmbedder, band_names, first_file

COLLECTION = "TESSERA/V1"
YEARS = tuple(range(2017, 2026))
PIXEL_M = 10.0
_TILE_PLACES = ("global_0.1_degree_tiff_all/*.tiff",)

_VALUES = Step("value = int8 * scale; scales by pixel or by pixel and channel", "verified")
_POOL = Step("pooled: mean (or maximum) over the pixels that count", "verified")

CARD = ModelCard(
    id="tessera",
    title="TESSERA embeddings (annual)",
    summary="precomputed vectors of 128 numbers for each 10 m pixel and year, from Sentinel-1 and Sentinel-2 series",
    paper="arXiv:2506.20380",
    source="https://github.com/ucam-eo/geotessera",
    kind="precomputed",
    inputs={
        "annual": InputContract(
            COLLECTION,
            band_names("T", 128, 3),
            scale_m=PIXEL_M,
            image_size=2,
            frames=FramePolicy("annual", years=YEARS),
            composite="mosaic",
            any_size=True,
        ),
    },
    outputs=("pooled", "grid"),
    pooling="tokens",
    dims={"": 128},
    licence=Licence("CC0-1.0", "yes", "TESSERA embeddings by the University of Cambridge (attribution is asked for)"),
    steps={
        "authors": (
            Step("the year in which the window's middle lies; a window is no longer than a year", "inferred"),
            _VALUES,
            Step(
                "pixels off the land mask or without a finite scale are holes, as in the authors' Zarr store",
                "documented",
            ),
            Step("so are pixels whose numbers are all zero", "inferred"),
            Step(
                "the 10 m grid of the place's UTM zone, the nearest pixel of each tile; where tiles overlap, the first "
                "that has an embedding there, from the south-west on",
                "inferred",
            ),
            _POOL,
            Step("grid: the pixels, NaN in the holes, first row north", "documented"),
        ),
        "rs-embed": (
            Step("the year in which the window begins", "verified"),
            _VALUES,
            Step("nothing is masked: zeros stand in holes between tiles and count", "verified"),
            Step(
                "every pixel that the box between the south-west and the north-east corner touches; where tiles "
                "overlap, the last one",
                "verified",
            ),
            _POOL,
            Step("grid: the pixels as far as there are tiles, first row north", "verified"),
        ),
    },
    options=(
        Option(
            "cache_dir",
            "str",
            None,
            "folder that holds the tiles, or takes those that are downloaded; or the http(s) address of a mirror",
        ),
    ),
    notes=(
        (
            f"covers {YEARS[0]} to {YEARS[-1]} (outside Europe and the United States mostly 2024); a year outside is "
            "refused before any work, a place without a tile is no_data"
        ),
        (
            "tiles are downloaded whole (some 150 MB each), resumed where they broke off, checked and kept in the "
            "user's cache folder, whatever the backend of the run's other models"
        ),
        "the registry of tiles is fetched once; remove it from the folder to learn of newer tiles",
        "without a buffer, a point stands for the 2 x 2 pixels around it (recipe rs-embed: the pixel it lies in)",
        "the reference fails for a region across UTM zones; here tiles of the other zone are sampled",
        (
            "each published tile has a pixel origin of its own; here both recipes have one lattice of whole tens of "
            "metres, so that pixels are those of the tile, at most half a pixel aside"
        ),
    ),
)


class Tessera(PrecomputedEmbedder):
    """See :data:`CARD`."""

    card = CARD
    folder_option = "cache_dir"

    def product_rules(self) -> ProductRules:
        """The reference takes the tiles' own pixels, and zeros for what is missing."""
        if self.config.recipe == "rs-embed":
            return ProductRules(self.location, self._lattice, "zero")
        return ProductRules(self.location)

    def fetch_recipe(self) -> FetchRecipe:
        """See :meth:`PrecomputedEmbedder.fetch_recipe`; both recipes sample UTM grids."""
        if self.config.recipe == "rs-embed":
            self.refuse_scale("recipe rs-embed takes the tiles' own pixels")
        recipe = super().fetch_recipe()
        return recipe if recipe.product is None else replace(recipe, grid="utm", resampling="nearest")

    def prepare(self, view: View) -> Mapping[str, NDArray[Any]]:
        """See :meth:`PrecomputedEmbedder.prepare`; the reference's map ends where its tiles end."""
        made = super().prepare(view)
        if self.config.output.mode != "grid" or self.config.recipe != "rs-embed":
            return made
        grid_dhw = made["embedding"]
        there = ~np.isnan(grid_dhw).any(axis=0)
        rows, cols = np.flatnonzero(there.any(axis=1)), np.flatnonzero(there.any(axis=0))
        return {"embedding": grid_dhw[:, rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]}

    @cached_property
    def _lattice(self) -> PixelLattice:
        """Whole tens of metres, as no two published tiles agree; a folder of coarser tiles has a lattice of its own."""
        file = first_file(self.location, _TILE_PLACES)
        found = None if file is None else FileFacts.of(file).lattice
        return PixelLattice(PIXEL_M) if found is None or found.step == PIXEL_M else found
