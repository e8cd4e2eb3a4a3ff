"""The part of an input that was asked for, as ``(left, top, right, bottom)`` fractions; what a network sees of it."""

from __future__ import annotations

from collections.abc import Callable

from rsembed.tools.tiling import Box


def on_canvas(roi: Box, height: int, width: int, canvas_height: int, canvas_width: int) -> Box:
    """``roi`` of a ``height`` x ``width`` image, as fractions of the canvas the model sees.

    The canvas shares the image's top-left corner; it is larger where the image was padded
    to the right and the bottom, smaller where those sides were cut.
    """
    if (height, width) == (canvas_height, canvas_width):
        return roi
    down, across = height / canvas_height, width / canvas_width
    left, top, right, bottom = roi
    return (min(1.0, left * across), min(1.0, top * down), min(1.0, right * across), min(1.0, bottom * down))


def canvas_box(region: Callable[[Box, int, int], Box], height: int, width: int) -> Box:
    """What a network sees of a ``height`` x ``width`` tile: ``(left, top, right, bottom)`` in pixels of the tile.

    ``region``: how a part of the tile is told as fractions of what the network sees (scaled and shifted). Where the
    tile is padded, the box is larger than the tile. Found from a box near the tile's centre, which no cut leaves out.
    """
    reach = min(height, width) / 4
    near = (0.5 - reach / width, 0.5 - reach / height, 0.5, 0.5)
    seen = region(near, height, width)
    across = reach / (seen[2] - seen[0])
    down = reach / (seen[3] - seen[1])
    left, top = near[0] * width - seen[0] * across, near[1] * height - seen[1] * down
    return (left, top, left + across, top + down)
