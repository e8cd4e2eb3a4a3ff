"""The seam between this project and a source of imagery."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from rsembed.core.fetching import FetchRecipe, FetchRequest
from rsembed.core.patch import Json, Patch


@runtime_checkable
class ProviderBase(Protocol):
    """A source of imagery; safe to call from many threads at once.

    ``name`` is the backend's id (``gee``, ``stac``, ``raster``).
    """

    name: str

    def describe(self) -> Mapping[str, Json]:
        """Plain JSON that identifies the source; part of a run's fingerprint."""
        ...

    def check(self, recipe: FetchRecipe, bands: Sequence[str]) -> None:
        """Raise ProviderError when this source can never serve ``recipe`` and ``bands``.

        Called while a run is planned, before any pixel is asked for.
        """
        ...

    def fetch(self, request: FetchRequest) -> Patch:
        """The imagery of one row: every bin and band of ``request`` on exactly its grid.

        A bin without imagery is a frame with ``n_images`` 0 and nothing valid, not an error.
        Values are in Earth Engine's units for the collection; ``provenance["requests"]`` counts
        the remote requests made. Raises ProviderError (see ``core/errors.py``) for the rest.
        """
        ...

    def close(self) -> None:
        """Release connections and open files."""
        ...
