"""What ``rsembed export`` says of files of items and combined files."""

from __future__ import annotations

from pathlib import Path

from rsembed.cli.quantities import count, size
from rsembed.core.embedding import RowStatus
from rsembed.core.patch import Json
from rsembed.pipelines.layouts.job import LayoutResult
from rsembed.progress_bars import duration


def files_lines(result: LayoutResult, layout: str, seconds: float) -> list[str]:
    """How the export ended and where things are."""
    work = f"{count(result.n_items, 'place')}, {count(len(result.counts), 'model')}"
    lines = [f"done in {duration(seconds)}: {work}, {count(result.requests, 'remote request')}"]
    if result.cached:
        lines.append(f"cached: {count(result.cached, 'request')} spared by what earlier runs had fetched")
    for label, counts in result.counts.items():
        lines.append(f"  {label}: " + ", ".join(f"{counts.get(s.value, 0):,} {s.value}" for s in RowStatus))
    if result.skipped:
        lines.append(f"there already: {count(result.skipped, 'place')} of the same request, left as they were")
    reason = _first_reason(result)
    if reason is not None:
        lines += [f"failed: {reason[:300]}", "  the same command tries them again"]
    lines += [f"files: {where(result, layout)}", *_open_lines(result, layout)]
    return lines


def where(result: LayoutResult, layout: str) -> str:
    """The files, in words."""
    first = result.files[0]
    total = size(sum(path.stat().st_size for path in result.files if path.exists()))
    if layout == "combined":
        return f"{first} ({total}) and {first.with_suffix('.json').name}"
    last = "" if len(result.files) == 1 else f" .. {result.files[-1].name}"
    return f"{first}{last} ({count(len(result.files), 'file')}, {total}), each with a .json"


def _first_reason(result: LayoutResult) -> str | None:
    """Why the first item failed that is to be tried again."""
    if not result.n_failed:
        return None
    for manifest in result.manifests:
        for entry in manifest["models"]:
            texts = [entry.get("error"), *entry.get("errors_by_index", {}).values()]
            if any(texts):
                return f"{entry['model']}: {next(text for text in texts if text)}"
    return None


def _open_lines(result: LayoutResult, layout: str) -> list[str]:
    path: Path = result.files[0] if layout == "combined" else result.files[0].parent
    label = next(iter(result.counts))
    return [f'open:  python -c "import rsembed; print(rsembed.load_export({str(path)!r}).embedding({label!r}))"']


def files_json(result: LayoutResult, layout: str, seconds: float) -> dict[str, Json]:
    """The same for programs."""
    path = result.files[0] if layout == "combined" else result.files[0].parent
    return {
        "layout": layout,
        "out": str(path),
        "items": result.n_items,
        "counts": {label: {s.value: n.get(s.value, 0) for s in RowStatus} for label, n in result.counts.items()},
        "skipped": result.skipped,
        "requests": result.requests,
        "cached": result.cached,
        "seconds": round(seconds, 3),
        "exit_code": 3 if result.n_failed else 0,
    }
