"""Pictures of embeddings and of pixels. The one owner of matplotlib, which is imported when a picture is asked for."""

from __future__ import annotations

from rsembed.plots.colours import PcaRgb, cosine_similarity, fit_pca_rgb
from rsembed.plots.maps import plot_map
from rsembed.plots.points import plot_points
from rsembed.plots.similarity import plot_similarity

__all__ = ["PcaRgb", "cosine_similarity", "fit_pca_rgb", "plot_map", "plot_points", "plot_similarity"]
