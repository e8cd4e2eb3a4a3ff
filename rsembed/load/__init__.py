"""Read what an export wrote, whatever its layout; the large parts are read when they are asked for."""

from rsembed.load.opening import load_export
from rsembed.load.result import ExportResult, ModelResult, RunStatus

__all__ = ["ExportResult", "ModelResult", "RunStatus", "load_export"]
