"""The parity cases on disk, and what is needed to run one: its patch, window, configuration, weights file."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from seeded import seeded_image, write_checkpoint

from rsembed.core.card import ModelCard
from rsembed.core.fetching import Grid
from rsembed.core.patch import Frame, Patch
from rsembed.core.settings import Settings
from rsembed.core.specs import FetchSpec, OutputSpec, TemporalSpec
from rsembed.embedders import torch_runtime
from rsembed.embedders.base import EmbedderBase, EmbedderConfig
from rsembed.embedders.options import make_config
from rsembed.embedders.registry import REGISTRY
from rsembed.tools.temporal import bins_in_hand

FOLDER = Path(__file__).parent / "cases"
SLOW = frozenset(("olmoearth",))
"""Minutes long, and others cover the same code: run with RSEMBED_PARITY_SLOW set."""


@dataclass(frozen=True)
class Case:
    """One folder."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @cached_property
    def facts(self) -> dict[str, Any]:
        return json.loads((self.folder / "case.json").read_text())

    @cached_property
    def expected(self) -> dict[str, np.ndarray]:
        with np.load(self.folder / "expected.npz") as stored:
            return dict(stored)

    @property
    def model(self) -> type[EmbedderBase]:
        return REGISTRY.get(self.facts["model"])

    @property
    def weights_key(self) -> str:
        """Equal for cases that can share a checkpoint file."""
        path = self.folder / "weights.json"
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""

    @property
    def window(self):
        temporal = self.facts["temporal"]
        return TemporalSpec(temporal["mode"], temporal["start"], temporal["end"]).window

    def config(self, output: OutputSpec) -> EmbedderConfig:
        card: ModelCard = self.model.card
        names = {option.name for option in card.options}
        # Smaller than published: the sizes are options, counts of stages a text.
        size = {
            k: ",".join(map(str, v)) if isinstance(v, list) else v for k, v in self.facts.get("reduced", {}).items()
        }
        resolved = {k: v for k, v in {**self.facts["resolved_options"], **size}.items() if k in names}
        modality = self.facts["sensor"].get("modality")
        return make_config(
            card,
            recipe=self.facts["recipe"],
            modality=modality if modality in card.inputs else None,
            output=output,
            context="none",
            options={**resolved, **self.facts["model_config"]},
            fetch=FetchSpec(scale_m=self.facts["sensor"].get("scale_m")),
        )

    def patch(self, embedder: EmbedderBase) -> Patch:
        """The seeded image as a patch: every pixel valid, frames are the model's bins of the window."""
        given = self.facts["input"]
        image = seeded_image(given["shape"], given["seed"], given["low"], given["high"])
        frames_tchw = image if image.ndim == 4 else image[None]
        bins = bins_in_hand(self.window, embedder.contract.frames, len(frames_tchw))
        frames = tuple(Frame(window, n_images=1, date=window.midpoint) for window in bins)
        grid = Grid(3857, 0.0, 0.0, embedder.contract.scale_m, *frames_tchw.shape[-2:])
        return Patch(frames_tchw, np.ones(frames_tchw.shape, bool), embedder.contract.bands, grid, frames)


class WeightsFolder:
    """Holds the checkpoint of one ``weights.json`` at a time, in the layout of RSEMBED_WEIGHTS_DIR."""

    def __init__(self, root: Path) -> None:
        self.settings = Settings(weights_dir=root / "weights", cache_dir=root / "cache", offline=True)
        self._root = root / "weights"
        self._key = ""
        self._file: Path | None = None

    def hold(self, case: Case) -> Settings:
        if case.weights_key != self._key:
            self.clear()
            self._key = case.weights_key
            if self._key:
                weights = json.loads((case.folder / "weights.json").read_text())
                repo = weights.get("repo") or ""
                # A file behind a plain URL lies in the folder of its model.
                folder = repo if repo and "://" not in repo else case.facts["model"]
                self._file = self._root / folder / weights["file"]
                self._file.parent.mkdir(parents=True, exist_ok=True)
                write_checkpoint(weights, self._file)
        return self.settings

    def clear(self) -> None:
        torch_runtime.reset_cache()
        if self._file is not None:
            self._file.unlink(missing_ok=True)
        self._key, self._file = "", None


def all_cases() -> list[Case]:
    """Every case of a network that is not slow, those that share a checkpoint next to each other."""
    left_out = frozenset() if os.environ.get("RSEMBED_PARITY_SLOW") else SLOW
    found = (folder for folder in sorted(FOLDER.iterdir()) if folder.name not in left_out)
    cases = [Case(folder) for folder in found if (folder / "case.json").exists()]
    cases = [case for case in cases if "input" in case.facts]  # for products see test_products.py
    first_use = {case.weights_key: case.name for case in reversed(cases)}
    return sorted(cases, key=lambda case: (first_use[case.weights_key], case.name))
