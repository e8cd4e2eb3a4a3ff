"""What every model shares: from a patch to vectors, one path for one row and for many.

A model file declares its :class:`~rsembed.core.card.ModelCard` and overrides only what
differs: :meth:`EmbedderBase.prepare` (pixels to network input) and how the network is built
and run (:class:`~rsembed.embedders.torch_model.TorchEmbedder` for networks in torch).
"""

from __future__ import annotations

import datetime as dt
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from rsembed.core.card import InputContract, ModelCard, OptionValue, Recipe
from rsembed.core.errors import ModelError
from rsembed.core.fetching import CloudPolicy, FetchRecipe
from rsembed.core.patch import Patch
from rsembed.core.settings import Settings
from rsembed.core.specs import FetchSpec, InputPrepSpec, OutputSpec, SensorSpec, Window
from rsembed.embedders.prepared import Prepared
from rsembed.embedders.roi import canvas_box
from rsembed.embedders.stitching import Stitched, pool_tiles, stitch
from rsembed.tools.tiling import FULL, Box, Context, Footprint, Tile

if TYPE_CHECKING:
    from rsembed.embedders.weights import WeightsHandle, WeightsPin

Precision = Literal["fp32", "bf16", "tf32"]
Floats = NDArray[np.float32]

REFERENCE_CLOUDS = CloudPolicy(mask="none", scene_pct=30.0, relax_pct=None)
"""The reference system filters scenes at 30 % and masks no pixel."""


@dataclass(frozen=True)
class EmbedderConfig:
    """How a model is to be run, resolved against its card (``embedders/options.py``)."""

    options: Mapping[str, OptionValue] = field(default_factory=dict)
    recipe: Recipe = "authors"
    modality: str = ""
    output: OutputSpec = OutputSpec()
    precision: Precision = "fp32"
    context: Context = "native"
    input_prep: InputPrepSpec = InputPrepSpec()
    sensor: SensorSpec | None = None
    fetch: FetchSpec | None = None

    def __post_init__(self) -> None:
        if self.sensor is not None and self.fetch is not None:
            raise ModelError("give sensor or fetch, not both: sensor says everything, fetch overrides single settings")


@dataclass(frozen=True)
class View:
    """What :meth:`EmbedderBase.prepare` sees of one tile: only frames that have imagery.

    ``values_tchw``: float32 raw provider values, ``valid_tchw``: bool. ``dates``: one per frame.
    ``lon``, ``lat``: centre of the row, degrees. ``scale_m``: ground size of a pixel. The window has ``n_bins``
    bins, of which the frames are those at ``slots``; left out, there is no empty one.
    """

    values_tchw: Floats
    valid_tchw: NDArray[np.bool_]
    dates: tuple[dt.date, ...]
    lon: float
    lat: float
    scale_m: float
    window: Window
    slots: tuple[int, ...] = ()
    n_bins: int = 0

    def __post_init__(self) -> None:
        if not self.slots:
            object.__setattr__(self, "slots", tuple(range(len(self.dates))))
        if not self.n_bins:
            object.__setattr__(self, "n_bins", len(self.dates))


class EmbedderBase(ABC):
    """A model with its configuration. Cheap to make; the network is loaded by :meth:`load`."""

    card: ClassVar[ModelCard]
    any_bands: ClassVar[bool] = False
    """Whether a sensor may name any of the card's bands in any order; else it names one for each of them."""
    holes: ClassVar[bool] = False
    """Whether NaN in a map is an answer: there is nothing at that place. Elsewhere it fails the row."""

    seamless: ClassVar[bool] = False
    """Whether each cell of a map depends on its own ground alone, so that tiles join without a seam."""

    def __init__(self, config: EmbedderConfig | None = None) -> None:
        config = config or EmbedderConfig()
        defaults = {option.name: option.default for option in self.card.options}
        modality = config.modality or self.card.default_modality
        self.config = replace(config, options={**defaults, **config.options}, modality=modality)

    # What is asked of a provider -------------------------------------------------------------

    @property
    def variant(self) -> str:
        """Key into the card's ``dims`` and ``weights``."""
        return str(self.config.options.get(self.card.variant_option, ""))

    @property
    def contract(self) -> InputContract:
        """The input contract in force; override (calling super) where an option changes it.

        A sensor or fetch given by the user replaces the card's collection, bands and settings.
        """
        contract = self.card.inputs[self.config.modality]
        if self.config.recipe == "rs-embed":
            contract = replace(
                contract,
                collection=contract.reference_collection or contract.collection,
                orbit="any" if contract.orbit == "most_images" else contract.orbit,  # it mixes passes
                composite="median",
            )
        sensor, fetch = self.config.sensor, self.config.fetch
        if sensor is not None:
            self._check_bands(contract.bands, sensor.bands)
            return replace(
                contract,
                collection=sensor.collection,
                bands=sensor.bands,
                scale_m=sensor.scale_m,
                composite=sensor.composite,
                fill_value=sensor.fill_value,
                orbit=sensor.orbit or contract.orbit,
            )
        if fetch is not None:
            given = {
                name: value
                for name in ("scale_m", "composite", "fill_value")
                if (value := getattr(fetch, name)) is not None
            }
            return replace(contract, **given)
        return contract

    def _check_bands(self, known: Sequence[str], asked: Sequence[str]) -> None:
        if self.any_bands:
            wrong = [band for i, band in enumerate(asked) if band not in known or band in asked[:i]]
            if wrong:
                raise ModelError(
                    f"{self.card.id} takes any of the bands {', '.join(known)}, each at most once; "
                    f"got {', '.join(asked)}"
                )
        elif len(asked) != len(known):
            raise ModelError(
                f"{self.card.id} takes {len(known)} bands ({', '.join(known)}), "
                f"the sensor names {len(asked)}: {', '.join(asked)}"
            )

    @property
    def dim(self) -> int:
        """Length of the pooled vector."""
        return self.card.dims[self.variant]

    @property
    def own_vector(self) -> bool:
        """Whether the pooled answer is the network's own vector of its whole input, whatever part was asked.

        Override where the recipe decides it.
        """
        return self.card.pooling == "vector"

    def fetch_recipe(self) -> FetchRecipe:
        """How the recipe in force wants its imagery; override where the authors differ from the rule."""
        contract = self.contract
        common = FetchRecipe(
            contract.collection,
            contract.scale_m,
            contract.composite,
            contract.frames,
            contract.clouds,
            orbit=contract.orbit,
        )
        if self.config.recipe == "rs-embed":
            common = replace(
                common, clouds=REFERENCE_CLOUDS, resampling="nearest", grid="web_mercator", frame_date="midpoint"
            )
        sensor, fetch = self.config.sensor, self.config.fetch
        if sensor is not None:
            common = replace(
                common, s1_require_iw=sensor.s1_require_iw, s1_relax_iw_on_empty=sensor.s1_relax_iw_on_empty
            )
        # A filter that the user names is obeyed to the letter, never relaxed.
        asked = sensor.cloudy_pct if sensor is not None else fetch.cloudy_pct if fetch is not None else None
        if asked != "recipe" and (sensor is not None or asked is not None):
            common = replace(common, clouds=replace(common.clouds, scene_pct=asked, relax_pct=None))
        return common

    # From a patch to the network's input -------------------------------------------------------

    def prepare_patch(
        self, patch: Patch, footprint: Footprint, *, lon: float, lat: float, window: Window
    ) -> list[Prepared]:
        """The network inputs of one row, one per tile; empty frames are left out.

        Raises ModelError when no frame has imagery.
        """
        kept = [t for t, frame in enumerate(patch.frames) if frame.n_images]
        if not kept:
            raise ModelError("no frame of this row has imagery; nothing can be embedded")
        contract = self.contract
        values, valid = patch.values_tchw, patch.valid_tchw
        if len(kept) < len(patch.frames):
            values, valid = values[kept], valid[kept]
        dates = tuple(patch.frames[t].date or patch.frames[t].window.midpoint for t in kept)
        made = []
        for tile in footprint.tiles:
            rows, cols = slice(tile.row, tile.row + tile.height), slice(tile.col, tile.col + tile.width)
            view = View(
                values[..., rows, cols],
                valid[..., rows, cols],
                dates,
                lon,
                lat,
                contract.scale_m,
                window,
                tuple(kept),
                len(patch.frames),
            )
            roi = self.region(tile.roi, tile.height, tile.width)
            made.append(Prepared(self.prepare(view), roi, tile.area_px, self._covers(tile)))
        return made

    def _covers(self, tile: Tile) -> Box:
        """What the network sees of ``tile``, in pixels of the fetched image; only maps need to know."""
        if self.config.output.mode == "pooled":
            return FULL
        left, top, right, bottom = canvas_box(self.region, tile.height, tile.width)
        return (tile.col + left, tile.row + top, tile.col + right, tile.row + bottom)

    def region(self, roi: Box, height: int, width: int) -> Box:
        """Where ``roi`` of a tile lies in what :meth:`prepare` makes of it, as fractions; the same unless overridden.

        Scaled and shifted only, and cut where the network does not see it.
        """
        return roi

    @abstractmethod
    def prepare(self, view: View) -> Mapping[str, NDArray[Any]]:
        """Network inputs of one tile (hook): name -> array without a batch axis."""

    # The network ---------------------------------------------------------------------------------

    def resolve(self, settings: Settings, pin: WeightsPin | None = None) -> WeightsHandle | None:
        """The weights file this model would load, found and hashed; None for a model without weights.

        ``pin`` (from a run's ``weights.lock``) must be obeyed. Raises WeightsError.
        """
        return None

    def resolve_device(self, device: str) -> str:
        """``device`` made definite (``auto`` chosen); raises ModelError when it is not there."""
        if self.card.kind == "precomputed":
            return "cpu"  # whatever the other models of a run compute on
        if device not in ("auto", "cpu"):
            raise ModelError(f"{self.card.id} runs on the CPU only; got device={device!r}")
        return "cpu"

    def stated_device(self, device: str) -> str:
        """The class of ``device`` taken at its word, for a machine that only plans; nothing is looked for.

        ModelError when this model, or its precision, could not run there.
        """
        return "cpu" if self.card.kind == "precomputed" else self.resolve_device(device)

    def set_threads(self, threads: int) -> None:
        """Use ``threads`` CPU threads a forward pass; the count is part of what makes bytes agree."""

    @abstractmethod
    def load(self, device: str) -> None:
        """Build the network and load its weights on ``device`` (``cpu``, ``cuda``, ``cuda:1``); idempotent."""

    def unload(self) -> None:
        """Forget the network, to make room for another; :meth:`load` brings it back."""

    @abstractmethod
    def embed_batch(self, arrays: Mapping[str, NDArray[Any]], roi: Floats) -> Floats:
        """One forward pass. ``arrays``: with a batch axis B, to be read during the call only; ``roi``: float32 (B, 4).

        Returns float32 (B, D) pooled over each roi, or (B, D, h, w) for a grid output.
        """

    def combine(self, parts: Sequence[Floats], prepared: Sequence[Prepared]) -> Stitched:
        """The row's answer from its tiles' answers: every ground cell counted once."""
        if self.config.output.mode == "grid":
            return stitch(parts, [one.covers for one in prepared], [one.roi for one in prepared])
        return Stitched(pool_tiles(parts, [one.area_px for one in prepared], self.config.output.pooling))
