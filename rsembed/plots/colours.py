"""From vectors to colours and to likeness: principal components as red, green and blue; the cosine to one vector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsembed.core.embedding import Embedding
from rsembed.core.errors import SpecError

Floats = NDArray[np.float32]
SAMPLE = 8192
"""Vectors that components are fitted to, at most; taken evenly from all."""
_SQUARE = 2048
"""Largest side of a matrix whose eigenvectors are looked for: some seconds."""
_BLOCK = 16_384


@dataclass(frozen=True)
class PcaRgb:
    """Three principal components as red, green and blue.

    A vector becomes ``(vector - mean) * weight @ components``; of each component ``low`` is 0,
    ``middle`` is 0.5 and ``high`` is 1. ``mean``, ``weight``: (D,); ``components``: (D, 3); the others, and ``shares``
    of the variance: (3,).
    The colours of one fit can be compared: give it to other pictures of the same model.
    """

    mean: Floats
    weight: Floats
    components: Floats
    low: Floats
    middle: Floats
    high: Floats
    shares: Floats

    def colours(self, vectors_nd: NDArray[Any]) -> Floats:
        """Vectors (N, D) as colours (N, 3) in 0..1; NaN where a vector has a number that is not finite."""
        given = np.asarray(vectors_nd)
        if given.ndim != 2 or given.shape[1] != len(self.mean):
            raise SpecError(f"these colours were fitted to {len(self.mean)} numbers a vector, got shape {given.shape}")
        scores = np.empty((len(given), 3), np.float32)
        for first in range(0, len(given), _BLOCK):
            scores[first : first + _BLOCK] = self._scores(given[first : first + _BLOCK])
        for i in range(3):
            ends = np.array([self.low[i], self.middle[i], self.high[i]])
            if ends[0] < ends[2]:
                scores[:, i] = np.interp(scores[:, i], ends, (0.0, 0.5, 1.0))
            else:
                scores[np.isfinite(scores[:, i]), i] = 0.5
        return scores

    def image(self, map_dhw: NDArray[Any]) -> Floats:
        """A map (D, H, W) as an image (H, W, 4): red, green, blue, opacity in 0..1; clear where it is not finite."""
        given = np.asarray(map_dhw)
        if given.ndim != 3:
            raise SpecError(f"a map of vectors is (D, H, W), got shape {given.shape}")
        height, width = given.shape[1:]
        colours = self.colours(given.reshape(len(given), -1).T)
        seen = np.isfinite(colours).all(axis=1, keepdims=True)
        return np.hstack([np.where(seen, colours, 1), seen]).astype(np.float32).reshape(height, width, 4)

    def _scores(self, vectors_nd: NDArray[Any]) -> Floats:
        finite = np.isfinite(vectors_nd).all(axis=1, keepdims=True)
        centred = (np.where(finite, vectors_nd, 0).astype(np.float32) - self.mean) * self.weight
        return np.where(finite, centred @ self.components, np.float32(np.nan))


def fit_pca_rgb(
    vectors: Embedding | NDArray[Any], *, percentiles: tuple[float, float] = (2, 98), standardise: bool = True
) -> PcaRgb:
    """Fit the three components that tell ``vectors``, (N, D) or a map (D, H, W), best apart.

    At most 8192 vectors are looked at, evenly taken; those with a NaN are left out. ``standardise``: give each
    number the same variance first, so that a few large ones do not take all of the colour. ``percentiles``: what
    of each component becomes black and full colour; its median becomes half. The same vectors give the same
    colours: a component points to where its largest weight is positive. Raises SpecError where there is nothing
    to fit.
    """
    sample = _sample(vectors.data if isinstance(vectors, Embedding) else np.asarray(vectors))
    low, high = percentiles
    if not 0 <= low < high <= 100:
        raise SpecError(f"percentiles are two rising numbers from 0 to 100, got {percentiles}")
    mean = sample.mean(axis=0)
    spread = sample.std(axis=0)
    # What hardly varies is rounding, and would be blown up.
    alive = spread > 1e-6 * spread.max(initial=0.0)
    weight = np.where(alive, 1 / np.where(alive, spread, 1) if standardise else 1.0, 0.0)
    components, shares = _principal((sample - mean) * weight)
    scores = (sample - mean) * weight @ components
    ends = np.percentile(scores, (low, 50, high), axis=0)
    parts = (mean, weight, components, *ends, shares)
    return PcaRgb(*(part.astype(np.float32) for part in parts))


def cosine_similarity(vectors_nd: NDArray[Any], to_d: NDArray[Any]) -> Floats:
    """The cosine of the angle between each of the vectors (N, D) and ``to_d`` (D,); NaN where one has no direction."""
    given, query = np.asarray(vectors_nd), np.asarray(to_d, dtype=np.float32)
    if given.ndim != 2 or query.shape != (given.shape[1],):
        raise SpecError(f"vectors (N, D) are compared with one of (D,), got {given.shape} and {query.shape}")
    found = np.full(len(given), np.nan, np.float32)
    length = float(np.linalg.norm(query))
    if not (np.isfinite(length) and length > 0):
        raise SpecError("nothing is similar to a vector of zeros or NaN")
    for first in range(0, len(given), _BLOCK):
        block = given[first : first + _BLOCK].astype(np.float32)
        lengths = np.linalg.norm(block, axis=1)
        there = np.isfinite(lengths) & (lengths > 0)
        found[first : first + _BLOCK][there] = block[there] @ (query / length) / lengths[there]
    return np.clip(found, -1, 1)


def sample_rows(count: int, most: int) -> NDArray[np.int64]:
    """Numbers of at most ``most`` of ``count`` rows, evenly spread, rising."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def _sample(given: NDArray[Any]) -> NDArray[np.float64]:
    """Finite vectors, float64 (n, D), evenly taken out of (N, D) or (D, H, W)."""
    if given.ndim not in (2, 3):
        raise SpecError(f"colours are fitted to vectors (N, D) or a map (D, H, W), got shape {given.shape}")
    vectors = given if given.ndim == 2 else given.reshape(len(given), -1).T
    finite = np.ones(len(vectors), np.bool_)
    for first in range(0, len(vectors), _BLOCK):
        finite[first : first + _BLOCK] = np.isfinite(vectors[first : first + _BLOCK]).all(axis=1)
    there = np.flatnonzero(finite)
    if not len(there) or not vectors.shape[1]:
        raise SpecError("there is no vector of finite numbers to take colours from")
    most = SAMPLE if vectors.shape[1] <= _SQUARE else _SQUARE
    return vectors[there[sample_rows(len(there), most)]].astype(np.float64)


def _principal(centred_nd: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The first three components (D, 3) and their shares of the variance (3,); zeros where there are fewer."""
    n, dim = centred_nd.shape
    total = float((centred_nd**2).sum())
    tall = n >= dim
    square = centred_nd.T @ centred_nd if tall else centred_nd @ centred_nd.T
    values, found = np.linalg.eigh(square)
    components, shares = np.zeros((dim, 3)), np.zeros(3)
    for i in range(min(3, len(values))):
        value = values[-1 - i]
        if value <= 1e-12 * max(total, 1e-300):
            break
        axis = found[:, -1 - i] if tall else centred_nd.T @ found[:, -1 - i]
        axis = axis / np.linalg.norm(axis)
        components[:, i] = axis * np.sign(axis[np.abs(axis).argmax()])
        shares[i] = value / total
    return components, shares
