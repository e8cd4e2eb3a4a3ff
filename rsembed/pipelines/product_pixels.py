"""Which pixels of a published product a row takes: what was asked for, no more, and its own where they are wanted."""

from __future__ import annotations

from rsembed.core.errors import ModelError
from rsembed.core.fetching import FetchRecipe
from rsembed.pipelines.rows.places import BOX
from rsembed.pipelines.rows.shard import RowShard
from rsembed.tools.lattices import buffer_boxes, touched_grids
from rsembed.tools.spatial import GridArray
from rsembed.tools.tiling import Footprint, whole_image

MOST_VALUES = 2**28
"""Numbers in one row's part of a product: 1 GiB as float32."""


def product_footprint(height: int, width: int, bands: int) -> Footprint:
    """Exactly what is asked for: there is no network that wants another size. Raises ModelError for too much."""
    if height * width * bands > MOST_VALUES:
        side = int((MOST_VALUES / bands) ** 0.5)
        raise ModelError(
            f"{height} x {width} pixels of {bands} numbers are too many for one row; cut the region into pieces of at "
            f"most {side} x {side} pixels"
        )
    return whole_image(height, width)


def touched_pixels(recipe: FetchRecipe, shard: RowShard, buffer_m: float | None) -> GridArray | None:
    """The product's own pixels that each row touches; None where a grid of our own is sampled.

    ``buffer_m`` None: the pixel that the point lies in.
    """
    if recipe.product is None or recipe.product.lattice is None:
        return None
    boxes = buffer_boxes(shard.lon, shard.lat, buffer_m or 0.0)
    given = shard.kind == BOX
    boxes[given] = shard.boxes[given]
    return touched_grids(shard.lon, shard.lat, boxes, recipe.product.lattice, recipe.grid)
