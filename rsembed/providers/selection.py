"""Which scenes a request uses: pure rules over what the catalogue says, before any pixel is read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

from rsembed.core.errors import ProviderError
from rsembed.core.fetching import CloudPolicy, FetchRequest
from rsembed.core.patch import Json
from rsembed.core.specs import Window
from rsembed.providers.collections import CollectionInfo
from rsembed.providers.scenes import Scene, grid_centre

DUPLICATE_MINUTES = 10.0
"""Two granules of one tile and platform nearer in time than this are the same acquisition."""

_LANDSAT = re.compile(r"LANDSAT/L[CETM](?P<number>\d\d)/C02/(?P<tier>T\d)")


@dataclass(frozen=True)
class Selection:
    """The scenes to use and what was decided on the way (for the patch's provenance)."""

    scenes: tuple[Scene, ...]
    notes: dict[str, Json] = field(default_factory=dict)


def whole_window(bins: Sequence[Window]) -> Window:
    """The days from the first bin's start to the last one's end."""
    return Window(min(b.start for b in bins), max(b.end for b in bins))


def select_scenes(found: Sequence[Scene], request: FetchRequest, info: CollectionInfo) -> Selection:
    """The scenes among ``found`` that serve ``request``: with every band, once each, of one orbit pass.

    Raises ProviderError when there are scenes but none has all the bands.
    """
    recipe = request.recipe
    scenes = [s for s in found if any(s.date is None or b.start <= s.date < b.end for b in request.bins)]
    scenes = _of_satellite(scenes, info)
    scenes, notes = _with_bands(scenes, request.bands, info)
    scenes = without_duplicates(scenes, info.stac_ids)
    if info.family == "sentinel-1":
        if recipe.s1_require_iw:
            scenes, notes["iw"] = _interferometric_wide(scenes, relax=recipe.s1_relax_iw_on_empty)
        scenes, notes["orbit"] = one_pass(scenes, recipe.orbit, request)
    return Selection(tuple(scenes), notes)


def _of_satellite(scenes: list[Scene], info: CollectionInfo) -> list[Scene]:
    """Of the scenes of all Landsats, which STAC keeps in one collection, those that ``info`` names in Earth Engine.

    ``LANDSAT/LC08/C02/T1_L2`` is Landsat 8, tier 1. What an item does not state is taken as wanted.
    """
    named = _LANDSAT.match(info.name)
    if named is None:
        return scenes
    platform, tier = f"landsat-{int(named['number'])}", named["tier"]
    return [s for s in scenes if s.platform in ("", platform) and s.tier in ("", tier)]


def _with_bands(scenes: list[Scene], bands: Sequence[str], info: CollectionInfo) -> tuple[list[Scene], dict[str, Json]]:
    wanted = {band: info.canonical(band) for band in bands}
    kept = [s for s in scenes if all(name in s.assets for name in wanted.values())]
    if scenes and not kept:
        lacking = [b for b, name in wanted.items() if not any(name in s.assets for s in scenes)] or list(bands)
        have = sorted({name for s in scenes for name in s.assets})
        raise ProviderError(
            f"no scene of {info.name} here ({len(scenes)} in the window) has {', '.join(lacking)}"
            f"{'' if len(lacking) < len(bands) else ' together'}; they have {', '.join(have)}"
        )
    left_out = sorted(s.id for s in scenes if s not in kept)
    return kept, {"left_out_for_bands": left_out} if left_out else {}


def without_duplicates(scenes: Sequence[Scene], preference: Sequence[str]) -> list[Scene]:
    """``scenes`` with every acquisition of a tile once: preferred collection, then newest baseline.

    Granules of one tile, platform and moment that share collection and baseline all stay: they are
    parts of a tile cut by a change of ground station. Scenes without a tile's name are never compared.
    """
    rank = {name: i for i, name in enumerate(preference)}
    kept = [s for s in scenes if not s.tile or s.time is None]
    timed = sorted(
        (s for s in scenes if s.tile and s.time is not None), key=lambda s: (s.tile, s.platform, s.time, s.id)
    )
    for _, same_tile in groupby(timed, key=lambda s: (s.tile, s.platform)):
        for cluster in _clusters(list(same_tile)):
            best = min((rank.get(s.collection, len(rank)), -(s.baseline or 0.0)) for s in cluster)
            kept += [s for s in cluster if (rank.get(s.collection, len(rank)), -(s.baseline or 0.0)) == best]
    return sorted(kept, key=lambda s: (s.collection, s.id))


def _clusters(ordered: list[Scene]) -> list[list[Scene]]:
    clusters: list[list[Scene]] = []
    for scene in ordered:
        last = clusters[-1][-1].time if clusters else None
        near = last is not None and scene.time is not None and (scene.time - last).total_seconds() / 60
        if near is not False and near <= DUPLICATE_MINUTES:
            clusters[-1].append(scene)
        else:
            clusters.append([scene])
    return clusters


def _interferometric_wide(scenes: list[Scene], *, relax: bool) -> tuple[list[Scene], str]:
    wide = [s for s in scenes if s.instrument_mode == "IW"]
    if wide or not relax or not scenes:
        return wide, "required"
    return scenes, "relaxed"


def one_pass(scenes: list[Scene], orbit: str, request: FetchRequest) -> tuple[list[Scene], str]:
    """The scenes of one orbit pass and that pass; ``most_images``: the pass with more datatakes.

    Counted over the whole window at the grid's centre, so that a smaller footprint of the same place
    chooses the same pass; ascending on a tie. Scenes of no stated pass are used when none states one.
    """
    if orbit == "any":
        return scenes, "any"
    if orbit != "most_images":
        return [s for s in scenes if s.orbit_pass == orbit], orbit
    lon, lat = grid_centre(request.grid)
    passes = sorted({s.orbit_pass for s in scenes if s.orbit_pass})
    if not passes:
        return scenes, "not stated"

    def images(name: str) -> tuple[int, int]:
        mine = [s for s in scenes if s.orbit_pass == name]
        return len({s.datatake for s in mine if s.covers(lon, lat)}), len({s.datatake for s in mine})

    best = max(passes, key=lambda name: (images(name), name == "ASCENDING"))
    return [s for s in scenes if s.orbit_pass == best], best


def cloud_steps(policy: CloudPolicy, info: CollectionInfo) -> tuple[float | None, ...]:
    """The scene filters to try in turn, per cent; (None,) where there is nothing to filter by."""
    if info.family == "sentinel-1" or policy.scene_pct is None:
        return (None,)
    if policy.relax_pct is None or policy.relax_pct <= policy.scene_pct:
        return (policy.scene_pct,)
    return (policy.scene_pct, policy.relax_pct)


def within_clouds(scenes: Sequence[Scene], most_pct: float | None, *, above_pct: float | None = None) -> list[Scene]:
    """Scenes with at most ``most_pct`` cloud cover and more than ``above_pct``; unknown cover counts as 0."""
    return [
        s
        for s in scenes
        if (most_pct is None or (s.cloud_pct or 0.0) <= most_pct)
        and (above_pct is None or (s.cloud_pct or 0.0) > above_pct)
    ]
