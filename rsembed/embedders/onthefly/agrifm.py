"""AgriFM: a video Swin Transformer for crops, over up to 32 dates of ten Sentinel-2 bands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from numpy.typing import NDArray

from rsembed.core.card import InputContract, Licence, ModelCard, Option, Step, WeightsFile
from rsembed.core.errors import ModelError
from rsembed.core.fetching import CloudPolicy, FramePolicy
from rsembed.embedders import preprocess, series
from rsembed.embedders.base import View
from rsembed.embedders.sentinel import S2_L2A, SQUARE
from rsembed.embedders.torch_model import TorchEmbedder

if TYPE_CHECKING:
    from torch import Tensor, nn

    from rsembed.embedders.nets.tokens import Tokens


class Band(NamedTuple):
    """Mean and std in DN."""

    mean: float
    std: float


# configs/cropland_mapping.py, which lists the numbers without the bands' names; this order is the reference's.
BANDS = {
    "B2": Band(4179.192015478227, 4041.5212325268735),
    "B3": Band(4065.9106675194444, 3691.003119315892),
    "B4": Band(3957.274910960156, 3629.331318356375),
    "B5": Band(5207.452475253116, 2973.5178530908756),
    "B6": Band(4327.12234687, 3569.73343885),
    "B7": Band(4873.16102239, 3085.9151435),
    "B8": Band(5049.1637925, 2937.56005119),
    "B8A": Band(5111.07806856, 2806.04462314),
    "B11": Band(3056.86349163, 1808.30013156),
    "B12": Band(2490.9675032, 1694.20220774),
}
LONGEST = 32
"""More frames than this would leave two at the end, and a vector of twice the length."""
REFERENCE_FRAMES, REFERENCE_PX = 8, 224

_COMMON = (
    Step("(DN - mean) / std per band, the statistics taken to be in the order B2, B3, B4, B5 ...: the authors name no "
         "bands, and the fourth numbers look like those of B8", "inferred"),
    SQUARE,
    Step("dates as such do not enter, only the order of the frames; what is missing to a multiple of four frames is 0 "
         "after normalisation", "verified"),
    Step("frames and sides are halved together, down to one map of a sixteenth of the pixels", "verified"),
    Step("pooled: mean (or max) over the last map after the final norm; grid: that map", "inferred"),
)  # fmt: skip

CARD = ModelCard(
    id="agrifm",
    title="AgriFM",
    summary="Video Swin-B for crop mapping: a series of ten-band Sentinel-2 images becomes one map of features",
    paper="arXiv:2505.21357",
    source="https://github.com/flyakon/AgriFM",
    kind="onthefly",
    inputs={
        "s2": InputContract(
            S2_L2A, tuple(BANDS), scale_m=10, image_size=256,
            frames=FramePolicy("auto", frame_days=11, max_frames=LONGEST),
            clouds=CloudPolicy("none", scene_pct=None, relax_pct=None),
        )
    },
    outputs=("pooled", "grid"),
    pooling="tokens",
    dims={"": 1024},
    licence=Licence(
        "code Apache-2.0; no separate licence of the weights seen", "unknown", "AgriFM by Li et al. 2026 (Apache-2.0)"
    ),
    steps={
        "authors": (
            Step("Sentinel-2 Level-2A with its clouds: the authors' statistics are those of cloudy series (means about "
                 "DN 4000 in visible light)", "documented"),
            Step("frames: equal parts of the window, one per 11 days as 32 make a year (num_frames of their "
                 "configuration), 32 at most; empty ones left out", "documented"),
            Step("invalid pixels DN 0; not clipped (MapNormalize)", "documented"),
            Step("other sizes: bilinear without antialias to 256, after normalisation (MapResize)", "documented"),
            *_COMMON,
        ),
        "rs-embed": (
            Step("Sentinel-2 Level-2A, scenes of at most 30 % cloud", "verified"),
            Step("frames: 8 equal parts of the window; one image in hand is repeated", "verified"),
            Step("an empty part takes the median of the other frames, where the reference has the composite of the "
                 "whole window", "inferred"),
            Step("invalid pixels DN 0; clipped to 0..10000", "verified"),
            Step("other sizes: bilinear without antialias to 224, after normalisation", "verified"),
            *_COMMON,
        ),
    },
    options=(
        Option("n_frames", "int", None, "so many equal parts of the window; left out: as the recipe has it", minimum=1,
               maximum=LONGEST),
        Option("image_size", "int", None, "input pixels; left out: 256, or the reference's 224", minimum=16,
               maximum=1024),
        Option("norm_mode", "str", "agrifm_stats", "agrifm_stats: by mean and std; unit_scale: DN / 10000; none: DN",
               choices=("agrifm_stats", "unit_scale", "none")),
    ),
    weights={
        "": WeightsFile(None, "AgriFM.pth", url="https://glass.hku.hk/casual/AgriFM/AgriFM.pth", size_bytes=351_000_000)
    },
    batch_size={"cpu": 1, "cuda": 8},
    notes=(
        "the authors give no checksum; the one of the first download is written into a run's weights.lock",
        "cells are 16 px: a grid of 16 x 16 cells of 160 m at 256 px",
        "32 frames of 256 px take eight times the work of 8 frames: n_frames and image_size make it cheaper",
        "for series without clouds: cloudy_pct in the fetch settings filters scenes",
    ),
)  # fmt: skip


class AgriFm(TorchEmbedder):
    """See :data:`CARD`. Input: ``pixels`` (T, 10, n, n)."""

    card = CARD
    wrap, bare = ("state_dict",), True
    rename = (
        (r"^module\.", ""),
        (r"^(S2_)?patch_emd\.", "patch_embed."),
        (r"^backbone\.", ""),
        (r"^layers\.(\d+)\.blocks\.", r"stages.\1."),
        (r"^layers\.(\d+)\.downsample\.", r"merges.\1."),
        (r"\.relative_position_bias_table$", ".bias_table"),
    )
    # Stems of the other sensors, and an index that is computed.
    drop = (r"(module\.)?(HLSL30|Modis)_patch_emd\..*", r".*\.relative_position_index")

    @property
    def contract(self) -> InputContract:
        """The card's contract with the frames and the size of the recipe or of the options."""
        contract, options = super().contract, self.config.options
        frames, size = contract.frames, contract.image_size
        if self.config.recipe == "rs-embed":
            frames, size = FramePolicy("multi", n_frames=REFERENCE_FRAMES), REFERENCE_PX
        if options["n_frames"] is not None:
            frames = FramePolicy("multi", n_frames=int(options["n_frames"]))
        return replace(contract, frames=frames, image_size=int(options["image_size"] or size))

    def prepare(self, view: View) -> Mapping[str, NDArray[Any]]:
        """Network input of one tile."""
        if len(view.values_tchw) > LONGEST:
            raise ModelError(f"agrifm takes at most {LONGEST} frames, got {len(view.values_tchw)}; give fewer")
        contract = self.contract
        frames = preprocess.fill_invalid(view.values_tchw, view.valid_tchw, contract.fill_value)
        if self.config.recipe == "rs-embed":
            wanted = contract.frames.count(view.window)
            frames = series.every_bin(frames, view.slots, view.n_bins, wanted=wanted)
            frames = preprocess.clip_dn(frames)
        square = preprocess.pad_to_square(self._normalised(frames))
        return {"pixels": preprocess.resize_bilinear(square, contract.image_size)}

    def _normalised(self, frames: preprocess.Floats) -> preprocess.Floats:
        mode = self.config.options["norm_mode"]
        if mode == "agrifm_stats":
            mean, std = zip(*BANDS.values(), strict=True)
            return preprocess.standardise(frames, mean, std)
        return preprocess.reflectance(frames) if mode == "unit_scale" else frames

    def build(self) -> nn.Module:
        """The encoder with its stem for Sentinel-2."""
        from rsembed.embedders.nets.video_swin import VideoSwin

        sizes, heads = (2, 2, 18, 2), (4, 8, 16, 32)
        return VideoSwin(len(BANDS), 128, sizes, heads=heads, window=(8, 7, 7), patch=(4, 2, 2))

    def forward(self, net: nn.Module, tensors: Mapping[str, Tensor]) -> Tokens:
        """The last map."""
        tokens: Tokens = net(tensors["pixels"].transpose(1, 2))
        return tokens
