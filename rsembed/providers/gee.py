"""Imagery through Earth Engine: composites made on the server, one request for a row with all its bins and bands."""

from __future__ import annotations

import importlib.util
import logging
import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from rsembed.core.errors import ProviderError, TooComplexError
from rsembed.core.fetching import FetchRecipe, FetchRequest
from rsembed.core.patch import Json, Patch
from rsembed.providers.collections import CollectionInfo, collection_info, known_collections
from rsembed.providers.gee_plan import GraphPlan, plan_graph
from rsembed.providers.gee_request import ASCENDING, RELAXED_MODE, Piece, Stitched, first_pieces, halves
from rsembed.providers.selection import whole_window

if TYPE_CHECKING:  # the client takes half a second to load, and a plan needs none
    import requests

    from rsembed.providers.gee_client import Answer, EarthEngineClient

logger = logging.getLogger(__name__)

TAG_LENGTH = 63
"""Longest workload tag: developers.google.com/earth-engine/guides/computation_overview."""


class GeeProvider:
    """A :class:`~rsembed.providers.base.ProviderBase` over Google Earth Engine.

    ``project``: the Google Cloud project that computes and pays (None: the client's own configuration).
    ``url``: the service's address (None: the high-volume endpoint); over plain http no credentials are sent.
    ``credentials``: of google.auth (None: those of ``earthengine authenticate``). ``workload_tag`` marks the
    requests in the cloud's metrics; ``session`` carries them in the place of one of our own. The client is
    loaded, and logs in, with the first request; it has one session a process, so providers of different
    projects or addresses must not be used at the same time.
    """

    name = "gee"

    def __init__(
        self,
        project: str | None = None,
        url: str | None = None,
        credentials: Any = None,
        *,
        workload_tag: str | None = None,
        session: requests.Session | None = None,
    ) -> None:
        self._project, self._url, self._credentials, self._session = project, url, credentials, session
        self._tag = _tag(workload_tag) if workload_tag else None
        self._lock = threading.Lock()
        self._made: EarthEngineClient | None = None
        self._too_complex: dict[tuple[FetchRecipe, tuple[str, ...], int], int] = {}

    def describe(self) -> Mapping[str, Json]:
        """The project, whose quota it is, and the address where it is not Google's."""
        return {"backend": self.name, "project": self._project, "url": self._url}

    def check(self, recipe: FetchRecipe, bands: Sequence[str]) -> None:
        """Raise ProviderError for a collection or a band that is not known, or when the client is not installed."""
        info = _known(recipe.collection)
        unknown = [band for band in bands if info.band(band) is None]
        if unknown:
            raise ProviderError(
                f"{info.name} has no band {', '.join(unknown)}; it has {', '.join(band.name for band in info.bands)}"
            )
        _require_client()

    def fetch(self, request: FetchRequest) -> Patch:
        """The imagery of one row; see :class:`~rsembed.providers.base.ProviderBase`.

        One request, unless it is too large or too complex for the service: then its parts, one after the other.
        """
        started = time.monotonic()
        info = _known(request.recipe.collection)
        plan = plan_graph(request, info)
        log = _Log()
        stitched = self._ask(request, plan, log)
        relaxed = stitched.settle()
        frames = tuple(stitched.frames())
        index = [plan.bands.index(info.canonical(band)) for band in request.bands]
        window = whole_window(request.bins)
        step = plan.cloud_steps[-1] if relaxed or not stitched.valid.any() else plan.cloud_steps[0]
        provenance: dict[str, Json] = {
            "backend": self.name,
            "collection": info.name,
            "window": str(window),
            "images": [frame.n_images for frame in frames],
            "grid": {"epsg": request.grid.epsg, "transform": list(request.grid.transform)},
            "cloud_step": "none" if step is None else f"{step:g}",
            "mask": plan.mask,
            "resampling": plan.method,
            "units": info.unit,
            "requests": log.requests,
            "request_ids": log.ids,
            "bytes": log.n_bytes,
            "seconds": round(time.monotonic() - started, 3),
            "restricted": log.restricted,
        }
        if info.family == "sentinel-1":
            provenance |= _radar_notes(request.recipe, stitched.flags, found=bool(stitched.valid.any()))
        values, valid = stitched.values, stitched.valid
        if index != list(range(len(plan.bands))):
            values, valid = values[:, index], valid[:, index]
        return Patch(values, valid, request.bands, request.grid, frames, provenance)

    def close(self) -> None:
        """Nothing is held that other providers of this process might not use: the session stays."""

    def _ask(self, request: FetchRequest, plan: GraphPlan, log: _Log) -> Stitched:
        """Every piece of the request, put together; a piece that is too complex is halved.

        What was too complex once is not asked for again: later requests of its kind begin with smaller pieces.
        """
        from rsembed.providers.gee_graph import graph_json

        client = self._client()
        client.log_in()
        stitched = Stitched(request, plan.layout)
        grid = request.grid
        kind = (request.recipe, plan.bands, len(request.bins))
        waiting = first_pieces(plan.layout, grid.height, grid.width, self._too_complex.get(kind))[::-1]
        graphs: dict[range, str] = {}
        while waiting:
            piece: Piece = waiting.pop()
            if piece.bins not in graphs:
                graphs[piece.bins] = graph_json(request, plan, piece.bins)
            log.requests += 1
            try:
                answer = client.compute_pixels(graphs[piece.bins], piece.grid(grid), tag=self._tag)
            except TooComplexError as exc:
                parts = halves(piece)
                if not parts:
                    raise TooComplexError(
                        f"{exc}, even for {piece.height} x {piece.width} pixels of one bin; "
                        f"ask for a shorter window or fewer bands"
                    ) from exc
                logger.info("earth_engine_split", extra={"error": str(exc), "piece": str(piece)})
                if len(piece.bins) == len(request.bins):
                    size_px = piece.height * piece.width
                    self._too_complex[kind] = min(size_px, self._too_complex.get(kind, size_px))
                waiting += reversed(parts)
            else:
                stitched.add(piece, answer.pixels)
                log.add(answer)
        return stitched

    def _client(self) -> EarthEngineClient:
        with self._lock:
            if self._made is None:
                _require_client()
                from rsembed.providers.gee_client import EarthEngineClient, Login

                # A password must not travel in the clear; a server of one's own over http needs none.
                anonymous = self._credentials is None and urlsplit(self._url or "").scheme == "http"
                login = Login(self._project, self._url, self._credentials, anonymous, self._session)
                self._made = EarthEngineClient(login)
            return self._made


@dataclass
class _Log:
    """What the requests of one fetch told beside pixels."""

    requests: int = 0
    n_bytes: int = 0
    restricted: bool = False
    ids: list[str] = field(default_factory=list)

    def add(self, answer: Answer) -> None:
        self.n_bytes += answer.n_bytes
        self.restricted = answer.restricted
        if answer.request_id:
            self.ids.append(answer.request_id)


def _known(collection: str) -> CollectionInfo:
    info = collection_info(collection)
    if info.family == "unknown" or "/" not in info.name:
        names = [name for name in known_collections() if "/" in name]
        raise ProviderError(f"the backend gee does not know {collection}; it knows {', '.join(names)}")
    return info


def _require_client() -> None:
    if importlib.util.find_spec("ee") is None:
        raise ProviderError(
            "the backend gee needs earthengine-api; install it with: pip install 'rsembed[gee]', "
            "or use backend='stac', which needs no account"
        )


def _radar_notes(recipe: FetchRecipe, flags: int, *, found: bool) -> dict[str, Json]:
    notes: dict[str, Json] = {"orbit": recipe.orbit}
    if recipe.s1_require_iw:
        notes["iw"] = "relaxed" if flags & RELAXED_MODE else "required"
    if recipe.orbit == "most_images":
        notes["orbit"] = ("ASCENDING" if flags & ASCENDING else "DESCENDING") if found else "not stated"
    return notes


def _tag(text: str) -> str:
    """``text`` as a workload tag: lower case letters, digits, - and _, with a letter or digit at both ends."""
    return re.sub(r"[^a-z0-9_-]+", "-", text.lower())[:TAG_LENGTH].strip("-_") or "rsembed"
