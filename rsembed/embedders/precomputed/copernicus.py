"""Copernicus-Embed: 768 numbers for each quarter degree of land in 2021, published as one GeoTIFF."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

from rsembed.core.card import InputContract, Licence, ModelCard, Option, Step
from rsembed.core.fetching import FetchRecipe, FramePolicy, PixelLattice, ProductRules
from rsembed.embedders.precomputed.product import FileFacts, PrecomputedEmbedder, band_names, first_file

COLLECTION = "COPERNICUS_EMBED/025DEG"
YEARS = (2021,)
CELL_DEGREES = 0.25
PUBLISHED = PixelLattice(CELL_DEGREES, -180.0, 90.125)
"""The cells of a file that is not georeferenced: rows centred on multiples of a quarter degree."""
_FILES = ("embed_map_*.tif", "embed_map_*.nc")

_CELLS = Step("every cell of a quarter degree that the region touches counts alike", "verified")
_GRID = Step("grid: the cells in EPSG:4326, first row north", "verified")

CARD = ModelCard(
    id="copernicus",
    title="Copernicus-Embed 0.25 degrees (2021)",
    summary="precomputed vectors of 768 numbers for each quarter degree of land, by Copernicus-FM; for climate scales",
    paper="arXiv:2503.11849",
    source="https://github.com/zhu-xlab/Copernicus-FM",
    kind="precomputed",
    inputs={
        "annual": InputContract(
            COLLECTION,
            band_names("E", 768, 3),
            scale_m=27_830,
            image_size=1,
            frames=FramePolicy("annual", years=YEARS),
            composite="mosaic",
            any_size=True,
        ),
    },
    outputs=("pooled", "grid"),
    pooling="tokens",
    dims={"": 768},
    licence=Licence("CC-BY-4.0", "yes", "Copernicus-Embed by Wang et al. 2025 (Copernicus-FM)"),
    steps={
        "authors": (
            Step("the year in which the window's middle lies; a window is no longer than a year", "inferred"),
            _CELLS,
            Step("cells that are all zero, or not finite, are holes", "inferred"),
            Step("pooled: mean (or maximum) over the cells that have an embedding", "inferred"),
            _GRID,
        ),
        "rs-embed": (
            Step("the year in which the window begins", "verified"),
            _CELLS,
            Step("nothing is masked: the zeros of the ocean count", "verified"),
            Step("pooled: mean (or maximum) over all cells", "verified"),
            _GRID,
        ),
    },
    options=(
        Option(
            "data_dir",
            "str",
            None,
            "folder that holds embed_map_*.tif (or .nc), or takes the download; or the http(s) address of a mirror",
        ),
    ),
    notes=(
        f"covers {YEARS[0]} only; another year is refused before any work",
        "the file (768 MB) is downloaded once, resumed where it broke off, checked and kept in the user's cache folder",
        (
            "a point without a buffer, or with one of less than a cell, stands for the cells it touches; the reference "
            "refuses regions below a quarter degree"
        ),
    ),
)


class Copernicus(PrecomputedEmbedder):
    """See :data:`CARD`. A file of the user's own may have fewer or more bands; they are named in the same way."""

    card = CARD
    folder_option = "data_dir"

    @property
    def contract(self) -> InputContract:
        """The card's, with as many bands as the file in the user's folder has."""
        contract = super().contract
        if self._file is None or self.config.sensor is not None:
            return contract
        return replace(contract, bands=band_names("E", self._file.bands, 3))

    @property
    def dim(self) -> int:
        """Length of the pooled vector."""
        return len(self.contract.bands)

    def product_rules(self) -> ProductRules:
        """The file's own cells in either recipe."""
        found = None if self._file is None else self._file.lattice
        holes = ProductRules(self.location, found or PUBLISHED)
        return replace(holes, holes="zero") if self.config.recipe == "rs-embed" else holes

    def fetch_recipe(self) -> FetchRecipe:
        """See :meth:`PrecomputedEmbedder.fetch_recipe`."""
        self.refuse_scale("the cells are the product's own")
        recipe = super().fetch_recipe()
        return recipe if recipe.product is None else replace(recipe, grid="lonlat", resampling="nearest")

    @cached_property
    def _file(self) -> FileFacts | None:
        file = first_file(self.location, _FILES)
        return None if file is None else FileFacts.of(file)
