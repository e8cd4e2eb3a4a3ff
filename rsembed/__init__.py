"""Places to embeddings: any remote-sensing foundation model, any place, any time.

Importing this package loads neither torch nor a provider's client; the functions below are
fetched from their modules on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from rsembed.core.embedding import Embedding, RowStatus
from rsembed.core.errors import (
    ExportArgumentError,
    ExportError,
    ModelError,
    ProviderError,
    RowError,
    RSEmbedError,
    SpecError,
    UnknownModelError,
    WeightsError,
)
from rsembed.core.specs import BBox, FetchSpec, InputPrepSpec, OutputSpec, PointBuffer, SensorSpec, TemporalSpec
from rsembed.version import __version__

if TYPE_CHECKING:
    from rsembed.api import (
        describe_model,
        get_embedding,
        get_embeddings_batch,
        get_provider,
        list_models,
        reset_runtime,
    )
    from rsembed.exporting import export_batch
    from rsembed.inspection import inspect_model_input, inspect_provider_patch
    from rsembed.load import ExportResult, ModelResult, load_export
    from rsembed.model import Model
    from rsembed.pipelines.exporter import ExportSummary
    from rsembed.pipelines.request import ExportConfig, ExportModelRequest, ExportTarget
    from rsembed.pipelines.targets import CombinedTarget, DatasetTarget, PerItemTarget
    from rsembed.plots import PcaRgb, cosine_similarity, fit_pca_rgb, plot_map, plot_points, plot_similarity
    from rsembed.saved import load_embedding
    from rsembed.tables import embed

_LAZY = {
    "describe_model": "rsembed.api",
    "export_batch": "rsembed.exporting",
    "get_embedding": "rsembed.api",
    "get_embeddings_batch": "rsembed.api",
    "get_provider": "rsembed.api",
    "list_models": "rsembed.api",
    "reset_runtime": "rsembed.api",
    "embed": "rsembed.tables",
    "Model": "rsembed.model",
    "load_export": "rsembed.load",
    "ExportResult": "rsembed.load",
    "ModelResult": "rsembed.load",
    "CombinedTarget": "rsembed.pipelines.targets",
    "DatasetTarget": "rsembed.pipelines.targets",
    "PerItemTarget": "rsembed.pipelines.targets",
    "load_embedding": "rsembed.saved",
    "PcaRgb": "rsembed.plots",
    "cosine_similarity": "rsembed.plots",
    "fit_pca_rgb": "rsembed.plots",
    "plot_map": "rsembed.plots",
    "plot_points": "rsembed.plots",
    "plot_similarity": "rsembed.plots",
    "inspect_model_input": "rsembed.inspection",
    "inspect_provider_patch": "rsembed.inspection",
    "ExportConfig": "rsembed.pipelines.request",
    "ExportModelRequest": "rsembed.pipelines.request",
    "ExportTarget": "rsembed.pipelines.request",
    "ExportSummary": "rsembed.pipelines.exporter",
}

__all__ = [
    "BBox", "CombinedTarget", "DatasetTarget", "Embedding", "ExportArgumentError", "ExportConfig", "ExportError",
    "ExportModelRequest", "ExportResult", "ExportSummary", "ExportTarget", "FetchSpec", "InputPrepSpec", "Model",
    "ModelError", "ModelResult", "OutputSpec", "PcaRgb", "PerItemTarget", "PointBuffer", "ProviderError",
    "RSEmbedError", "RowError", "RowStatus", "SensorSpec", "SpecError", "TemporalSpec", "UnknownModelError",
    "WeightsError", "__version__", "cosine_similarity", "describe_model", "embed", "export_batch", "fit_pca_rgb",
    "get_embedding", "get_embeddings_batch", "get_provider", "inspect_model_input", "inspect_provider_patch",
    "list_models", "load_embedding", "load_export", "plot_map", "plot_points", "plot_similarity", "reset_runtime",
]  # fmt: skip


if not TYPE_CHECKING:  # a checker that saw it would take every misspelt name for Any

    def __getattr__(name: str) -> Any:
        if name not in _LAZY:
            raise AttributeError(f"module 'rsembed' has no attribute {name!r}")
        value = getattr(importlib.import_module(_LAZY[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
