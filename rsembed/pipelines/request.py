"""What a user asks of a run, before anything is resolved."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field, replace
from numbers import Real
from typing import Literal

from rsembed.core.card import RECIPES, OptionValue, Recipe
from rsembed.core.errors import ArgumentError, ExportArgumentError, ModelError
from rsembed.core.specs import FetchSpec, InputPrepSpec, OutputSpec, SensorSpec
from rsembed.pipelines.targets import EXTENSIONS, CombinedTarget, DatasetTarget, ExportTarget, FileFormat, PerItemTarget
from rsembed.tools.tiling import Context

DEFAULT_SHARD_SIZE = 256
_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?|mps")
InputPrepMode = Literal["tile", "resize", "auto"]


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

    def __post_init__(self) -> None:
        if not isinstance(self.model_config, Mapping):
            raise ArgumentError(f"model_config must hold options by name, got {self.model_config!r}")
        for name in ("modality", "label"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise ArgumentError(f"{name} must be a name, got {value!r}")

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
class ExportConfig:
    """How a run is carried out.

    Part of what makes bytes agree (and so of the fingerprint): ``shard_size``,
    ``batch_size`` (None: the card's, by device class), ``threads`` (CPU threads a forward
    pass), ``precision``, ``recipe``, ``context``, ``input_prep`` (a mode or a spec; None: tiles),
    ``buffer_m`` (metres, half a side; None: native footprint), ``min_valid_fraction``, ``dtype``
    of the stored vectors, ``steps`` of a dataset in int8 (label -> step of each dimension; None: fixed
    from a sample of the rows before the first is written). ``context`` None: ``native`` for the
    authors' recipe, ``none`` for the reference's.
    Not part of it: ``fetch_workers`` (requests in flight), ``max_attempts`` (per row, for
    transient errors), ``retry_backoff_s`` (bound of the first wait; it doubles; None: 0.5),
    ``keep_inputs``, ``skip_bad_rows``, ``show_progress``.

    Of the layouts with one file an item or one for all: ``format``, ``save_inputs``,
    ``save_embeddings``, ``save_manifest``; ``fail_on_bad_input``: an item whose pixels look wrong
    counts as failed. Of every layout: ``continue_on_error`` False raises, once all that could be
    done is saved, when a row has no embedding; ``resume`` False begins anew, and what is there
    gives way only to what is finished. ``async_write`` and ``writer_workers`` are accepted: one
    writer suffices.

    Other names, from the reference system: ``chunk_size`` is ``shard_size``, ``infer_batch_size``
    is ``batch_size``, ``num_workers`` is ``fetch_workers``, ``max_retries`` is one less than
    ``max_attempts``. They can be given, not read. Raises ExportArgumentError (a SpecError).
    """

    shard_size: int = DEFAULT_SHARD_SIZE
    batch_size: int | None = None
    threads: int = 1
    precision: Literal["fp32", "bf16", "tf32"] = "fp32"
    recipe: Recipe = "authors"
    context: Context | None = None
    input_prep: InputPrepSpec | InputPrepMode | None = None
    buffer_m: float | None = None
    min_valid_fraction: float = 0.5
    dtype: Literal["float32", "float16", "int8"] = "float32"
    steps: Mapping[str, tuple[float, ...]] | None = None
    shards_per_part: int = 64
    fetch_workers: int = 8
    max_attempts: int = 4
    keep_inputs: bool = False
    skip_bad_rows: bool = False
    show_progress: bool = True
    format: FileFormat = "npz"
    save_inputs: bool = True
    save_embeddings: bool = True
    save_manifest: bool = True
    fail_on_bad_input: bool = False
    continue_on_error: bool = True
    resume: bool = True
    retry_backoff_s: float | None = None
    async_write: bool = True
    writer_workers: int = 1
    chunk_size: InitVar[int | None] = None
    infer_batch_size: InitVar[int | None] = None
    num_workers: InitVar[int | None] = None
    max_retries: InitVar[int | None] = None

    def __post_init__(
        self, chunk_size: int | None, infer_batch_size: int | None, num_workers: int | None, max_retries: int | None
    ) -> None:
        self._take("chunk_size", chunk_size, "shard_size")
        self._take("infer_batch_size", infer_batch_size, "batch_size")
        self._take("num_workers", num_workers, "fetch_workers")
        if max_retries is not None:
            _require_count("max_retries", max_retries, least=0)
            self._take("max_retries", max_retries + 1, "max_attempts")
        for name in ("shard_size", "threads", "shards_per_part", "fetch_workers", "max_attempts", "writer_workers"):
            _require_count(name, getattr(self, name))
        if self.batch_size is not None:
            _require_count("batch_size", self.batch_size)
        for name in _FLAGS:
            if not isinstance(getattr(self, name), bool):
                raise ExportArgumentError(f"{name} must be True or False, got {getattr(self, name)!r}")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                known = ", ".join(map(str, choices))
                raise ExportArgumentError(f"{name} must be one of {known}; got {getattr(self, name)!r}")
        if not (_is_number(self.min_valid_fraction) and 0 <= self.min_valid_fraction <= 1):
            raise ExportArgumentError(f"min_valid_fraction must lie in 0..1, got {self.min_valid_fraction!r}")
        if self.buffer_m is not None and not (_is_number(self.buffer_m) and 0 < self.buffer_m < float("inf")):
            raise ExportArgumentError(f"buffer_m must be a positive number of metres, got {self.buffer_m!r}")
        wait_s = self.retry_backoff_s
        if wait_s is not None and not (_is_number(wait_s) and 0 <= wait_s < float("inf")):
            raise ExportArgumentError(f"retry_backoff_s must be 0 or more seconds, got {wait_s!r}")
        self._check_steps()
        if isinstance(self.input_prep, str):
            InputPrepSpec(self.input_prep)  # raises for an unknown mode
        elif self.input_prep is not None and not isinstance(self.input_prep, InputPrepSpec):
            raise ExportArgumentError(
                f"input_prep must be tile, resize, auto or an InputPrepSpec, got {self.input_prep!r}"
            )

    def _take(self, other: str, value: int | None, name: str) -> None:
        """Let ``value``, given as ``other``, be the field ``name``."""
        if value is None:
            return
        standing, default = getattr(self, name), type(self).__dataclass_fields__[name].default
        if standing not in (default, value):
            raise ExportArgumentError(f"{other} is another name of {name}: give one of the two")
        object.__setattr__(self, name, value)

    def _check_steps(self) -> None:
        if self.steps is None:
            return
        if self.dtype != "int8":
            raise ExportArgumentError(f"steps are of dtype='int8', got dtype={self.dtype!r}")
        for label, steps in self.steps.items():
            if not all(_is_number(step) and 0 < step < float("inf") for step in steps):
                raise ExportArgumentError(f"the steps of {label} must be positive numbers")

    @property
    def prep(self) -> InputPrepSpec:
        """``input_prep`` as a spec."""
        given = self.input_prep
        return given if isinstance(given, InputPrepSpec) else InputPrepSpec(given or "tile")


_FLAGS = (
    "keep_inputs", "skip_bad_rows", "show_progress", "save_inputs", "save_embeddings", "save_manifest",
    "fail_on_bad_input", "continue_on_error", "resume", "async_write",
)  # fmt: skip
_CHOICES: dict[str, tuple[str | None, ...]] = {
    "precision": ("fp32", "bf16", "tf32"),
    "recipe": RECIPES,
    "context": (None, "native", "none"),
    "dtype": ("float32", "float16", "int8"),
    "format": tuple(EXTENSIONS),
}


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _require_count(name: str, value: object, *, least: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ExportArgumentError(f"{name} must be a whole number of at least {least}, got {value!r}")


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
        if not isinstance(self.output, OutputSpec):
            raise ArgumentError(f"output must be OutputSpec.pooled() or OutputSpec.grid(), got {self.output!r}")
        if not isinstance(self.device, str) or not _DEVICE.fullmatch(self.device):
            raise ArgumentError(f"device must be auto, cpu, cuda, cuda:N or mps; got {self.device!r}")

    def with_config(self, **changes: object) -> RunRequest:
        """The same request with some settings of its config changed."""
        return replace(self, config=replace(self.config, **changes))  # type: ignore[arg-type]  # checked by ExportConfig


__all__ = [
    "DEFAULT_SHARD_SIZE", "CombinedTarget", "DatasetTarget", "ExportConfig", "ExportModelRequest", "ExportTarget",
    "FileFormat", "InputPrepMode", "PerItemTarget", "RunRequest",
]  # fmt: skip
