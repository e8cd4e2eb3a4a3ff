"""Scene classification to clear pixels."""

from __future__ import annotations

import numpy as np

from rsembed.providers.masks import scl_clear


def test_scl_clear_when_every_class_then_clouds_shadows_and_holes_go() -> None:
    clear = scl_clear(np.arange(14, dtype=np.uint8))
    assert np.flatnonzero(clear).tolist() == [2, 4, 5, 6, 7, 11]
