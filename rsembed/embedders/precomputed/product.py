"""What the precomputed products share: pixels that are embeddings already, reduced or handed on; numpy only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rsembed.core.card import InputContract
from rsembed.core.errors import ModelError
from rsembed.core.fetching import CloudPolicy, FetchRecipe, PixelLattice, ProductRules
from rsembed.embedders.base import EmbedderBase, Floats, View

EVERY_SCENE = CloudPolicy(mask="none", scene_pct=None, relax_pct=None)
"""Clouds are the producers' business."""


@dataclass(frozen=True)
class FileFacts:
    """What a file of a product says of itself: its bands and its pixels (None: it is not georeferenced).

    A file of several rasters (variables of a NetCDF, pages of a TIFF) has their bands, one after the other.
    """

    bands: int
    lattice: PixelLattice | None

    @classmethod
    def of(cls, path: Path) -> FileFacts:
        """Facts of the raster at ``path``; ModelError where it is none."""
        import warnings

        import rasterio
        from rasterio.errors import NotGeoreferencedWarning, RasterioError

        try:
            with warnings.catch_warnings(), ExitStack() as stack:
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                first = stack.enter_context(rasterio.open(path))
                parts = [stack.enter_context(rasterio.open(name)) for name in first.subdatasets] or [first]
                a, _, x, _, _, y = tuple(parts[0].transform)[:6]
                known = not parts[0].transform.is_identity
                lattice = PixelLattice(float(a), float(x), float(y)) if known else None
                return cls(sum(part.count for part in parts), lattice)
        except RasterioError as exc:
            raise ModelError(f"{path} should be a raster of the product, but cannot be read: {exc}") from exc


class PrecomputedEmbedder(EmbedderBase):
    """A product of embeddings by the year: cropped to the region, reduced over the pixels that have one.

    A grid keeps the product's pixels; NaN where there is no embedding.
    """

    holes = True
    folder_option: ClassVar[str] = ""
    """The option that names the folder (or mirror) with the product's files, where there is one."""

    @property
    def contract(self) -> InputContract:
        """See :meth:`EmbedderBase.contract`; a product is one mosaic a year in either recipe."""
        contract = replace(super().contract, composite="mosaic")
        if self.config.recipe == "rs-embed":  # it takes the year in which a window begins
            contract = replace(contract, frames=replace(contract.frames, year_of="start"))
        return contract

    def fetch_recipe(self) -> FetchRecipe:
        """See :meth:`EmbedderBase.fetch_recipe`: no scenes are filtered, no pixel is masked for clouds.

        With a sensor, the user's own copy of the product is imagery like any other.
        """
        rules = None if self.config.sensor is not None else self.product_rules()
        return replace(super().fetch_recipe(), clouds=EVERY_SCENE, frame_date="midpoint", product=rules)

    def product_rules(self) -> ProductRules | None:
        """How the product is read; None for one that a backend serves as it serves imagery."""
        return None

    @cached_property
    def location(self) -> str | None:
        """Absolute folder or address given by the option; None for the published place and the user's cache."""
        given = self.config.options.get(self.folder_option)
        if given is None:
            return None
        text = str(given)
        return text.rstrip("/") if "://" in text else str(Path(text).expanduser().absolute())

    def refuse_scale(self, why: str) -> None:
        """Raise ModelError when another ``scale_m`` was asked for."""
        fetch = self.config.fetch
        if fetch is not None and fetch.scale_m is not None:
            raise ModelError(f"{self.card.id}: scale_m cannot be changed: {why}")

    def prepare(self, view: View) -> Mapping[str, NDArray[Any]]:
        """``embedding``: the pooled vector (D,), or the map (D, H, W) with NaN in its holes."""
        if len(view.values_tchw) != 1:
            raise ModelError(f"{self.card.id} takes one year, got {len(view.values_tchw)} frames")
        values = view.values_tchw[0]
        there = (view.valid_tchw[0] & np.isfinite(values)).all(axis=0)
        if self.config.output.mode == "grid":
            return {"embedding": np.where(there, values, np.float32(np.nan))}
        if not there.any():
            raise ModelError(f"{self.card.id} has no embedding anywhere in the region")
        pixels = values[:, there]
        pooled = pixels.max(axis=1) if self.config.output.pooling == "max" else pixels.mean(axis=1, dtype=np.float64)
        return {"embedding": np.asarray(pooled, dtype=np.float32)}

    def load(self, device: str) -> None:
        """See :meth:`EmbedderBase.load`: there is no network."""

    def embed_batch(self, arrays: Mapping[str, NDArray[Any]], roi: Floats) -> Floats:
        """See :meth:`EmbedderBase.embed_batch`: what was prepared is the answer."""
        embedding: Floats = arrays["embedding"]
        return embedding


def band_names(prefix: str, count: int, digits: int) -> tuple[str, ...]:
    """``prefix`` and a number, from 0."""
    return tuple(f"{prefix}{i:0{digits}d}" for i in range(count))


def first_file(folder: str | None, patterns: Sequence[str]) -> Path | None:
    """The alphabetically first file in ``folder`` that matches the first pattern with any; None without one."""
    if folder is None or "://" in folder:
        return None
    for pattern in patterns:
        found = min(Path(folder).glob(pattern), default=None)
        if found is not None:
            return found
    return None
