"""How much of a network's own speed is left from patch to row: images/s end to end beside the bare forward pass.

    python -m benchmarks.inference [--models A,B:variant=tiny] [--batches 1,8,32] [--device cpu] [--precision fp32,bf16]
                                   [--output grid] [--repeats 3] [--quick] [--json]

``bare``: the network alone over tensors that lie on the device already. ``row``: the engine of a run
(patch to prepared input, batch, device, forward pass, pooling, finite check, row's record) over the
same number of rows with the very same network. ``of bare`` is row / bare.

On the CPU everything runs in one thread, and a second is a second of its processor time; ``wall`` is ``of bare``
by the clock on the wall, which others on the machine disturb. Before each batch of rows the bare pass is run, so
that both meet the same neighbours, and the median of the pairs counts. ``net share``: of the time of a batch, the
part inside the network's own forward call. ``rest ms``: what an image costs outside that call; ``prepare ms``: the
part of it that is spent on pixels.

On a GPU a second is one of the clock, batches of rows follow one another as in a run, and the best of the
repeats counts. Weights are seeded numbers, made here: the speed of a network does not depend on them, and nothing
is downloaded. ``peak MB`` on a GPU is the most that torch had allocated, weights included; on the CPU the process's
peak so far.

A measurement is not repeated once it has taken ``--seconds``, so the largest models run once.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import resource
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn

from rsembed.api import list_models
from rsembed.core.embedding import RowStatus
from rsembed.core.errors import RSEmbedError
from rsembed.core.fetching import Grid
from rsembed.core.patch import Frame, Patch
from rsembed.core.settings import Settings
from rsembed.core.specs import OutputSpec, TemporalSpec
from rsembed.embedders import torch_runtime
from rsembed.embedders.base import Prepared
from rsembed.embedders.registry import REGISTRY
from rsembed.embedders.torch_model import TorchEmbedder
from rsembed.embedders.weights import WeightsHandle, WeightsPin
from rsembed.pipelines.inference import InferenceEngine, RowInput, RowSource
from rsembed.pipelines.plan import ModelPlan, plan_model
from rsembed.pipelines.request import ExportConfig, ExportModelRequest, RunRequest
from rsembed.tools.temporal import frame_bins

Moment = tuple[float, float]
"""Seconds of processor time, and of the clock on the wall."""
WINDOW = TemporalSpec.year(2023).window
TARGET = 0.9
TARGET_BATCH = 32
LON, LAT = 8.5, 47.4
PASSES = 4
"""Batches in a row, as in a shard: their memory is used again, and for an accelerator pixels are prepared ahead."""
COLUMNS = (
    "model", "device", "precision", "batch", "bare/s", "row/s", "of bare", "wall", "net share", "rest ms",
    "prepare ms", "peak MB",
)  # fmt: skip


# A model with seeded weights --------------------------------------------------------------------


def seeded(net: nn.Module) -> nn.Module:
    """Fill every tensor of ``net`` with numbers that follow from its name and keep activations near one."""
    for name, tensor in net.state_dict().items():
        if not tensor.is_floating_point():
            continue
        noise = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        scale = 1 / math.sqrt(max(1, tensor[0].numel())) if tensor.dim() > 1 else 0.05
        tensor.uniform_(-scale, scale, generator=noise)
        if tensor.dim() <= 1 and name.endswith(("weight", "running_var", "gamma")):
            tensor.add_(1.0)
    return net


def with_seeded_net(plan: ModelPlan) -> ModelPlan:
    """``plan`` with an embedder of the same class and settings that needs no file."""
    given = plan.embedder
    assert isinstance(given, TorchEmbedder)
    cls: Any = type(given)

    class Seeded(cls):  # type: ignore[misc]  # the model's class is known at run time only
        net: nn.Module

        def resolve(self, settings: Settings, pin: WeightsPin | None = None) -> WeightsHandle | None:
            return None

        def build(self) -> nn.Module:
            self.net = seeded(super().build())
            return self.net

    return replace(plan, embedder=Seeded(given.config))


def plans(asked: str, *, smallest: bool, device: str, precision: str, output: OutputSpec) -> Iterator[ModelPlan]:
    """The models to measure; ``smallest``: in their smallest variant, unless one is named."""
    settings = Settings()
    for text in list_models() if asked == "all" else asked.split(","):
        request = ExportModelRequest.parse(text.replace(";", ","))
        card = REGISTRY.get(request.name).card
        if card.kind != "onthefly" or output.mode not in card.outputs:
            continue
        variants = {str(choice) for option in card.options for choice in option.choices} & set(card.dims)
        if smallest and variants and not request.model_config:
            least = min(variants, key=lambda name: card.dims[name])
            request = replace(request, model_config={card.variant_option: least})
        run = RunRequest((request,), output, ExportConfig(precision=precision), device)  # type: ignore[arg-type]  # checked by the card
        plan = plan_model(request, run, settings)
        if isinstance(plan.embedder, TorchEmbedder):
            yield with_seeded_net(replace(plan, label=text))


# What is measured ---------------------------------------------------------------------------------


def row_of(plan: ModelPlan, seed: int) -> RowInput:
    """A row of noise in the model's own footprint, a few pixels of it cloudy."""
    contract = plan.embedder.contract
    bins = frame_bins(WINDOW, contract.frames)
    side = contract.image_size
    shape = (len(bins), len(contract.bands), side, side)
    values = np.random.default_rng(seed).uniform(200, 4000, shape).astype(np.float32)
    if contract.orbit != "any":  # radar, in linear power
        values /= np.float32(8000)
    valid = np.ones(shape, np.bool_)
    valid[..., :7, :11] = False
    frames = tuple(Frame(w, 1, w.midpoint, w.midpoint, w.midpoint, ("scene",)) for w in bins)
    patch = Patch(values, valid, plan.bands, Grid(32632, 0.0, 0.0, contract.scale_m, side, side), frames)
    return RowInput(patch, plan.footprint(side, side), LON, LAT, WINDOW)


def prepared_rows(plan: ModelPlan, rows: Sequence[RowInput]) -> list[Prepared]:
    """The network's input of each row."""
    made = []
    for row in rows:
        [prepared] = plan.embedder.prepare_patch(row.patch, row.footprint, lon=row.lon, lat=row.lat, window=row.window)
        made.append(prepared)
    return made


def bare_pass(plan: ModelPlan, prepared: Sequence[Prepared]) -> Callable[[], None]:
    """One forward pass of the network alone: its own arguments, on the device already."""
    embedder: Any = plan.embedder
    net: nn.Module = embedder.net
    taken: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    hook = net.register_forward_pre_hook(lambda _, args, kwargs: taken.append((args, kwargs)), with_kwargs=True)
    arrays = {name: np.stack([one.arrays[name] for one in prepared]) for name in prepared[0].arrays}
    embedder.embed_batch(arrays, np.array([one.roi for one in prepared], np.float32))
    hook.remove()
    [(args, kwargs)] = taken
    device, precision = torch.device(plan.device), embedder.config.precision

    def run() -> None:
        with torch_runtime.arithmetic(device, precision):
            net(*args, **kwargs)
        _wait(device)

    return run


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(plan: ModelPlan, batch: int, *, repeats: int, most_s: float) -> dict[str, object]:
    """Both speeds of ``plan`` at ``batch``."""
    device = torch.device(plan.device)
    plan = replace(plan, batch_size=batch)
    few = [row_of(plan, seed) for seed in range(min(batch, 8))]
    rows = [few[slot % len(few)] for slot in range(PASSES * batch)]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    plan.embedder.set_threads(1)
    bare = bare_pass(plan, prepared_rows(plan, rows[:batch]))  # runs once: what happens on first use is over
    timed = in_turn if device.type == "cpu" else one_after_the_other
    found = {
        "model": plan.label,
        "device": plan.device,
        "precision": plan.embedder.config.precision,
        "batch": batch,
        "prepare ms": 1e3 * _seconds(time.process_time, lambda: prepared_rows(plan, rows[:batch])) / batch,
        **timed(plan, rows, bare, repeats=repeats, most_s=most_s),
    }
    return {**found, "peak MB": _peak_mb(device)}


def _embed(plan: ModelPlan, count: int, source: RowSource) -> None:
    outcome = InferenceEngine(threads=1, min_valid_fraction=0.5).run(plan, count, source)
    if any(record.status is not RowStatus.OK for record in outcome.records):
        raise SystemExit(f"{plan.label}: rows went wrong: {outcome.records[0]}")


def in_turn(
    plan: ModelPlan, rows: Sequence[RowInput], bare: Callable[[], None], *, repeats: int, most_s: float
) -> dict[str, object]:
    """A bare pass before each batch of rows; the median of the pairs counts."""
    net: nn.Module = plan.embedder.net  # type: ignore[attr-defined]  # see with_seeded_net
    batch = plan.batch_size
    pairs: list[tuple[Moment, Moment, float]] = []  # seconds of a bare pass, of the rows after it, and of their net
    while len(pairs) < repeats and (sum(b[1] + r[1] for b, r, _ in pairs) < most_s or not pairs):
        # Several batches in a row once they are known to be quick.
        count = len(rows) if pairs and pairs[0][0][1] * PASSES * 2 < most_s else batch
        moments: list[Moment] = []

        def source(slot: int) -> RowInput:
            if slot % batch == 0:
                moments.append(_now())  # noqa: B023 - called in this round only
                bare()
                moments.append(_now())  # noqa: B023 - the same
            return rows[slot]

        with inside(net) as in_net:
            _embed(plan, count, source)
        moments.append(_now())
        spans = [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(moments)]
        pairs += zip(spans[0::2], spans[1::2], in_net[1::2], strict=True)
    row_s = median(row[0] for _, row, _ in pairs)
    rest_s = median(row[0] - in_net_s for _, row, in_net_s in pairs)
    return {
        "bare/s": batch / median(b[0] for b, _, _ in pairs),
        "row/s": batch / row_s,
        "of bare": median(b[0] / row[0] for b, row, _ in pairs),
        "wall": median(b[1] / row[1] for b, row, _ in pairs),
        "net share": 1 - rest_s / row_s,
        "rest ms": 1e3 * rest_s / batch,
        "repeats": len(pairs),
    }


@contextmanager
def inside(net: nn.Module) -> Iterator[list[float]]:
    """Processor seconds of each call of ``net`` meanwhile."""
    began, spent = [], []
    hooks = (
        net.register_forward_pre_hook(lambda *_: began.append(time.process_time())),
        net.register_forward_hook(lambda *_: spent.append(time.process_time() - began.pop())),
    )
    yield spent
    for hook in hooks:
        hook.remove()


def _now() -> Moment:
    return time.process_time(), time.perf_counter()


def one_after_the_other(
    plan: ModelPlan, rows: Sequence[RowInput], bare: Callable[[], None], *, repeats: int, most_s: float
) -> dict[str, object]:
    """Bare passes and then as many batches of rows, whose pixels are prepared meanwhile; the best of each counts."""

    def several() -> None:
        for _ in range(PASSES):
            bare()

    bare_s: list[float] = []
    row_s: list[float] = []
    while len(row_s) < repeats and (sum(bare_s) + sum(row_s) < most_s or not row_s):
        bare_s.append(_seconds(time.perf_counter, several))
        row_s.append(_seconds(time.perf_counter, lambda: _embed(plan, len(rows), rows.__getitem__)))
    ratio = min(bare_s) / min(row_s)
    return {
        "bare/s": len(rows) / min(bare_s),
        "row/s": len(rows) / min(row_s),
        "of bare": ratio,
        "wall": ratio,
        "net share": None,
        "rest ms": None,
        "repeats": len(row_s),
    }


def _seconds(clock: Callable[[], float], run: Callable[[], object]) -> float:
    began = clock()
    run()
    return clock() - began


def _peak_mb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


# Tables ---------------------------------------------------------------------------------------------


def table(rows: Sequence[Mapping[str, object]], names: Sequence[str]) -> str:
    """Aligned columns."""
    cells = [list(names), *([_text(row[name]) for name in names] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in cells)


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
    return "-" if value is None else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", default="all", help="by commas, written MODEL:option=value;option=value")
    parser.add_argument("--batches", default="1,8,32", help="batch sizes")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1")
    parser.add_argument("--precision", default="fp32", help="fp32, bf16, tf32, by commas")
    parser.add_argument("--output", choices=("pooled", "grid"), default="pooled")
    parser.add_argument("--repeats", type=int, default=3, help="of each measurement, at most")
    parser.add_argument("--seconds", type=float, default=30.0, help="a measurement is not repeated beyond these")
    parser.add_argument("--quick", action="store_true", help="smallest variants, batches of 1 and 2, once")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    try:
        run(parser.parse_args())
    except RSEmbedError as exc:
        raise SystemExit(f"error: {exc}") from exc


def run(asked: argparse.Namespace) -> None:
    """Measure and print what was asked for."""
    torch.set_num_threads(1)
    batches = [1, 2] if asked.quick else [int(text) for text in asked.batches.split(",")]
    repeats = 1 if asked.quick else asked.repeats
    output = OutputSpec.grid() if asked.output == "grid" else OutputSpec.pooled()
    found: list[dict[str, object]] = []
    for precision in asked.precision.split(","):
        given = {"smallest": asked.quick, "device": asked.device, "precision": precision, "output": output}
        for plan in plans(asked.models, **given):
            plan.embedder.load(plan.device)
            for batch in batches:
                found.append(measure(plan, batch, repeats=repeats, most_s=asked.seconds))
                if not asked.json:
                    print(table(found[-1:], COLUMNS[3:9]).splitlines()[-1], plan.label, file=sys.stderr)
            plan.embedder.unload()
            torch_runtime.reset_cache()
            gc.collect()
    below = [row for row in found if row["batch"] == TARGET_BATCH and float(str(row["of bare"])) < TARGET]
    if asked.json:
        print(json.dumps({"runs": found, "target": TARGET, "below": [row["model"] for row in below]}, indent=1))
    else:
        print(table(found, COLUMNS))
        names = ", ".join(str(row["model"]) for row in below) or "none"
        print(f"\nbelow {TARGET:.0%} of bare at batch {TARGET_BATCH}: {names}")


if __name__ == "__main__":
    main()
