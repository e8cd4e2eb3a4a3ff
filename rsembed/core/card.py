"""The facts of a model: what it eats, what it gives, where its weights are, whose they are.

A card is plain data and needs no torch, so a submitter or an IO worker can plan with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from rsembed.core.fetching import CloudPolicy, FramePolicy

OptionValue = str | int | float | bool | None
Recipe = Literal["authors", "rs-embed"]
RECIPES: tuple[Recipe, ...] = ("authors", "rs-embed")


@dataclass(frozen=True)
class Option:
    """A setting of a model, given by keyword: its type, default and accepted values."""

    name: str
    kind: Literal["str", "int", "float", "bool"]
    default: OptionValue
    help: str
    choices: tuple[OptionValue, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Other spellings of a choice -> the choice."""


@dataclass(frozen=True)
class Step:
    """One step from raw pixels to the network, and how sure we are of it."""

    text: str
    status: Literal["verified", "documented", "inferred"]


@dataclass(frozen=True)
class InputContract:
    """What a model (in one modality) has to be given.

    ``bands`` in the order of the network; ``scale_m`` metres per pixel; ``image_size`` the
    native input in pixels. ``any_size``: inputs of other sizes go in as they are, instead of
    being resized to ``image_size``. ``composite`` and ``clouds`` are the authors'; the recipe
    ``rs-embed`` has its own.
    """

    collection: str
    bands: tuple[str, ...]
    scale_m: float
    image_size: int
    frames: FramePolicy = FramePolicy()
    composite: Literal["median", "mosaic"] = "median"
    clouds: CloudPolicy = CloudPolicy()
    orbit: Literal["ASCENDING", "DESCENDING", "most_images", "any"] = "any"
    any_size: bool = False
    fill_value: float = 0.0
    reference_collection: str | None = None
    """What the recipe ``rs-embed`` reads in the place of ``collection``, where that differs."""

    @property
    def extent_m(self) -> float:
        """Native footprint: metres a side."""
        return self.image_size * self.scale_m


@dataclass(frozen=True)
class WeightsFile:
    """Where a checkpoint lies: a file in a hub repository, or behind a plain URL.

    ``revision``: commit the facts were taken from (None: not pinned by the authors; resolved
    and written to ``weights.lock`` when a run is planned). ``size_bytes`` is approximate.
    """

    repo: str | None
    file: str
    revision: str | None = None
    url: str | None = None
    sha256: str | None = None
    size_bytes: int | None = None
    other_files: tuple[str, ...] = ()
    """Other names under which people keep the same tensors; looked for in the weights folder only."""


@dataclass(frozen=True)
class Licence:
    """Terms of the weights, as far as they are known."""

    name: str
    commercial: Literal["yes", "no", "unknown"]
    attribution: str


@dataclass(frozen=True)
class ModelCard:
    """Everything about a model that planning, describing and documenting need."""

    id: str
    title: str
    summary: str
    paper: str
    source: str
    kind: Literal["onthefly", "precomputed"]
    inputs: Mapping[str, InputContract]
    """Modality -> contract; the first one is the default."""
    outputs: tuple[str, ...]
    pooling: Literal["tokens", "vector"]
    """``tokens``: the pooled vector is a mean/max of ground cells; ``vector``: the network's own."""
    dims: Mapping[str, int]
    """Variant (or ``""`` where there are none) -> length of the pooled vector."""
    licence: Licence
    steps: Mapping[str, tuple[Step, ...]]
    """Recipe -> steps from raw pixels to the vector."""
    options: tuple[Option, ...] = ()
    variant_option: str = "variant"
    """Name of the option that chooses the variant, where there is one."""
    weights: Mapping[str, WeightsFile] = field(default_factory=dict)
    """Variant (or ``""``) -> file; empty for a model without weights."""
    backends: tuple[str, ...] = ()
    """Backends under which the model runs, where they are not those of its kind."""
    batch_size: Mapping[str, int] = field(default_factory=lambda: {"cpu": 8, "cuda": 64})
    numerics_version: int = 1
    """Raised whenever the same input would give other numbers than before."""
    notes: tuple[str, ...] = ()

    @property
    def default_modality(self) -> str:
        """The modality used when none is asked for."""
        return next(iter(self.inputs))
