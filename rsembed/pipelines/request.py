"""What a user asks of a run, before anything is resolved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from rsembed.core.card import OptionValue, Recipe
from rsembed.core.errors import ModelError, SpecError
from rsembed.core.specs import FetchSpec, InputPrepSpec, OutputSpec, SensorSpec
from rsembed.tools.tiling import Context

DEFAULT_SHARD_SIZE = 256


@dataclass(frozen=True)
class ExportModelRequest:
    """One model of a run: its name, options and overrides, and the label its output goes by.

    Two requests for the same model need different labels.
    """

    name: str
    sensor: SensorSpec | None = None
    fetch: FetchSpec | None = None
    modality: str | None = None
    model_config: Mapping[str, OptionValue] = field(default_factory=dict)
    label: str | None = None

    @classmethod
    def configure(
        cls,
        name: str,
        *,
        sensor: SensorSpec | None = None,
        fetch: FetchSpec | None = None,
        modality: str | None = None,
        label: str | None = None,
        **options: OptionValue,
    ) -> ExportModelRequest:
        """A request with model options given by keyword."""
        return cls(name, sensor, fetch, modality, options, label)

    @classmethod
    def parse(cls, text: str) -> ExportModelRequest:
        """``name[:option=value,...][@label]``, as the command line takes it.

        Values stay text here; the model's card turns them into numbers and flags.
        """
        head, _, label = text.partition("@")
        name, _, tail = head.partition(":")
        options: dict[str, OptionValue] = {}
        for part in filter(None, (p.strip() for p in tail.split(","))):
            key, equals, value = part.partition("=")
            if not equals:
                raise ModelError(f"model options are written name:option=value,...; got {part!r} in {text!r}")
            if key.strip() in options:
                raise ModelError(f"option {key.strip()!r} is given twice in {text!r}")
            options[key.strip()] = value.strip()
        modality = options.pop("modality", None)
        chosen = None if modality is None else str(modality)
        return cls(name.strip(), modality=chosen, model_config=options, label=label or None)


@dataclass(frozen=True)
class ExportTarget:
    """Where a run's output goes: a folder with one GeoParquet dataset per model.

    ``npz``: also one ``<label>.npz`` per model, rows in the order of the input.
    """

    out: Path
    npz: bool = False

    @classmethod
    def dataset(cls, out: str | Path, *, npz: bool = False) -> ExportTarget:
        """A dataset folder."""
        return cls(Path(out), npz)


@dataclass(frozen=True)
class ExportConfig:
    """How a run is carried out.

    Part of what makes bytes agree (and so of the fingerprint): ``shard_size``,
    ``batch_size`` (None: the card's, by device class), ``threads`` (CPU threads a forward
    pass), ``precision``, ``recipe``, ``context``, ``input_prep``, ``buffer_m`` (metres, half
    a side; None: native footprint), ``min_valid_fraction``, ``dtype`` of the stored vectors.
    ``context`` None: ``native`` for the authors' recipe, ``none`` for the reference's.
    Not part of it: ``fetch_workers`` (requests in flight), ``max_attempts`` (per row, for
    transient errors), ``keep_inputs``, ``skip_bad_rows``, ``show_progress``.
    """

    shard_size: int = DEFAULT_SHARD_SIZE
    batch_size: int | None = None
    threads: int = 1
    precision: Literal["fp32", "bf16", "tf32"] = "fp32"
    recipe: Recipe = "authors"
    context: Context | None = None
    input_prep: InputPrepSpec = InputPrepSpec()
    buffer_m: float | None = None
    min_valid_fraction: float = 0.5
    dtype: Literal["float32", "float16"] = "float32"
    shards_per_part: int = 64
    fetch_workers: int = 8
    max_attempts: int = 4
    keep_inputs: bool = False
    skip_bad_rows: bool = False
    show_progress: bool = True

    def __post_init__(self) -> None:
        for name in ("shard_size", "threads", "shards_per_part", "fetch_workers", "max_attempts"):
            _require_count(name, getattr(self, name))
        if self.batch_size is not None:
            _require_count("batch_size", self.batch_size)
        if not 0 <= self.min_valid_fraction <= 1:
            raise SpecError(f"min_valid_fraction must lie in 0..1, got {self.min_valid_fraction}")
        if self.buffer_m is not None and not 0 < self.buffer_m < float("inf"):
            raise SpecError(f"buffer_m must be a positive number of metres, got {self.buffer_m}")
        if self.dtype not in ("float32", "float16"):
            raise SpecError(f"dtype must be float32 or float16, got {self.dtype!r}")
        if not isinstance(self.input_prep, InputPrepSpec):
            raise SpecError(f"input_prep must be an InputPrepSpec, got {self.input_prep!r}")


def _require_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise SpecError(f"{name} must be a whole number of at least 1, got {value!r}")


@dataclass(frozen=True)
class RunRequest:
    """Everything a run's result depends on apart from the rows and the provider."""

    models: tuple[ExportModelRequest, ...]
    output: OutputSpec = OutputSpec()
    config: ExportConfig = ExportConfig()
    device: str = "auto"

    def __post_init__(self) -> None:
        if not self.models:
            raise ModelError("name at least one model")

    def with_config(self, **changes: object) -> RunRequest:
        """The same request with some settings of its config changed."""
        return replace(self, config=replace(self.config, **changes))  # type: ignore[arg-type]  # checked by ExportConfig
