"""OlmoEarth: a ViT over series of monthly Sentinel-2 or Sentinel-1 images, in three versions and five sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rsembed.core.card import InputContract, Licence, ModelCard, Option, Step, WeightsFile
from rsembed.core.errors import ModelError
from rsembed.core.fetching import CloudPolicy, FramePolicy
from rsembed.embedders import preprocess
from rsembed.embedders.base import View
from rsembed.embedders.onthefly.olmoearth_variants import ALIASES, BANDS, SENSORS, VARIANTS, band_sets
from rsembed.embedders.sentinel import S1_DECIBEL, S1_POWER, S2_L2A
from rsembed.embedders.snapping import central_square, roi_in_square
from rsembed.embedders.torch_model import TorchEmbedder
from rsembed.tools.temporal import bins_in_hand
from rsembed.tools.tiling import Box

if TYPE_CHECKING:
    from torch import Tensor, nn

    from rsembed.embedders.nets.tokens import Tokens

AUTHORS_PX, REFERENCE_PX, LONGEST, DAYS = 128, 256, 12, 30

_EVERY_SCENE = CloudPolicy("none", None, None)
_BINS = FramePolicy("auto", frame_days=DAYS, max_frames=LONGEST, bins="fixed")
_COMMON = (
    Step("(x - (mean - 2 std)) / (4 std) per band, not clipped", "verified"),
    Step("mirrored at the bottom or right to a square, or its middle cut out (shape_adjust=crop)", "inferred"),
    Step("other sizes: bilinear to image_size without antialias", "inferred"),
    Step("other patch sizes than 8: the image resized to 8 px a patch, bicubic and antialiased", "verified"),
    Step("pooled: mean (or max) over all tokens after the final norm; grid: over dates and sets of bands", "verified"),
)

CARD = ModelCard(
    id="olmoearth",
    title="OlmoEarth",
    summary="Ai2's ViT over up to 12 monthly images, trained on many sensors and maps; here Sentinel-2 or Sentinel-1",
    paper="arXiv:2511.13655",
    source="https://github.com/allenai/olmoearth_pretrain",
    kind="onthefly",
    inputs={
        "s2": InputContract(S2_L2A, tuple(BANDS["s2"]), 10, AUTHORS_PX, _BINS, "mosaic", _EVERY_SCENE),
        "s1": InputContract(S1_DECIBEL, tuple(BANDS["s1"]), 10, AUTHORS_PX, _BINS, "mosaic", orbit="most_images"),
    },
    outputs=("pooled", "grid"),
    pooling="tokens",
    dims={name: variant.dim for name, variant in VARIANTS.items()},
    licence=Licence("OlmoEarth Artifact License", "unknown", "OlmoEarth by Ai2 (OlmoEarth Artifact License)"),
    steps={
        "authors": (
            Step("s2: every scene, no mask; the least cloudy of the bin on top (Pretraining-Dataset.md)", "documented"),
            Step("s1: mode IW, decibels, a mosaic of the bin, earliest on top", "documented"),
            Step("s1: ground range detected, one orbit pass; the authors' tool reads terrain-corrected images of both "
                 "passes", "inferred"),
            Step("frames: bins of 30 days from the window's first day, a shorter rest left out, 12 at most; longer "
                 "windows in 12 equal parts. The authors' tool counts from the last day", "inferred"),
            Step("an empty bin's tokens are left out; the others keep their place in the series", "documented"),
            Step("date of a frame: its median acquisition (Inference-Quickstart.md: the image's day)", "documented"),
            Step("invalid pixels: s2 DN 0, as in the authors' mosaics; s1 0 after normalisation", "inferred"),
            Step("native size 128 px, the largest that the authors recommend", "documented"),
            Step("a token is told the ground it covers, also where the image was resized", "documented"),
            *_COMMON,
        ),
        "rs-embed": (
            Step("median composite of scenes up to 30 % cloud; s1 orbit passes mixed", "verified"),
            Step("frames: bins of 30 days begun from the window's first day, 12 at most; where that would lose 30 "
                 "days, 12 equal parts", "verified"),
            Step("empty bins are dropped, and the others move up in the series", "verified"),
            Step("date of a frame: its bin's first day, or the middle of the window for a single frame", "verified"),
            Step("invalid pixels 0 before normalisation; a token is told to have 10 m pixels", "verified"),
            Step("native size 256 px", "verified"),
            *_COMMON,
        ),
    },
    options=(
        Option("variant", "str", "base_v1_2", "version and size", choices=tuple(VARIANTS), aliases=ALIASES),
        Option("temporal_mode", "str", "auto", "auto, multi: a frame per 30 days; single: one composite",
               choices=("auto", "single", "multi")),
        Option("patch_size", "int", 4, "pixels a side of a token; smaller is finer and slower", minimum=1, maximum=8),
        Option("image_size", "int", None, f"input pixels, a multiple of patch_size; by default {AUTHORS_PX}, in the "
               f"recipe rs-embed {REFERENCE_PX}", minimum=1, maximum=1024),
        Option("shape_adjust", "str", "pad", "what becomes of a rectangle", choices=("pad", "crop")),
    ),
    weights={
        name: WeightsFile(variant.repo, "weights.pth", size_bytes=variant.file_bytes)
        for name, variant in VARIANTS.items()
    },
    batch_size={"cpu": 2, "cuda": 16},
    notes=(
        "at 128 px and patches of 4 px: grids of 32 x 32 cells of 40 m",
        "the licence forbids military and some other uses; read it before use",
        "version 1.2 knows time between frames and months, not the year",
    ),
)  # fmt: skip


class OlmoEarth(TorchEmbedder):
    """See :data:`CARD`. Inputs: ``pixels`` (T, C, n, n), ``timestamps`` (T, 3), ``slots`` (T,), ``step`` ()."""

    card = CARD
    rename = (
        (r"^encoder\.patch_embeddings\.per_modality_embeddings\.\w+\.", "patch_embeds."),
        (r"^encoder\.composite_encodings\.per_modality_channel_embeddings\.", "set_codes."),
        (r"^encoder\.composite_encodings\.", ""),
        (r"\.rope_mixed_freqs$", ".freqs"),
        (r"^encoder\.", ""),
    )
    # Decoder and teacher, heads, a fixed table, the projection of training, and sensors that are not offered.
    drop = (
        r"(?!encoder\.).*",
        r"encoder\.composite_encodings\.pos_embed",
        r"encoder\.project_and_aggregate\..*",
        r"encoder\.[a-z_]+\.per_modality_(channel_)?embeddings\.(?!sentinel2_l2a\b|sentinel1\b).*",
    )

    @property
    def contract(self) -> InputContract:
        """The card's contract with the frames and the size of the recipe and the options."""
        contract, options = super().contract, self.config.options
        reference = self.config.recipe == "rs-embed"
        size, patch = options["image_size"], int(options["patch_size"] or 1)
        pixels = int(size) if size is not None else REFERENCE_PX if reference else AUTHORS_PX
        if pixels % patch:
            raise ModelError(f"olmoearth: image_size must be a multiple of patch_size {patch}, got {pixels}")
        frames = replace(contract.frames, round_up=reference)
        if options["temporal_mode"] == "single":
            frames = FramePolicy()
        return replace(contract, frames=frames, image_size=pixels)

    def region(self, roi: Box, height: int, width: int) -> Box:
        """``roi`` in the square that the tile is padded or cut to."""
        if self.config.options["shape_adjust"] == "pad":
            return super().region(roi, height, width)
        return roi_in_square(roi, height, width, min(height, width))

    def prepare(self, view: View) -> Mapping[str, NDArray[Any]]:
        """Network inputs of one tile."""
        contract, options, reference = self.contract, self.config.options, self.config.recipe == "rs-embed"
        if len(view.dates) > LONGEST:
            raise ModelError(f"olmoearth takes at most {LONGEST} frames, got {len(view.dates)}; widen the bins")
        values = preprocess.decibels(view.values_tchw) if contract.collection == S1_POWER else view.values_tchw
        bands = BANDS[self.config.modality].values()
        filled = preprocess.fill_invalid(values, view.valid_tchw, contract.fill_value)
        frames = preprocess.spread_to_unit(filled, [band.mean for band in bands], [band.std for band in bands])
        if self.config.modality == "s1" and not reference:
            frames = preprocess.fill_invalid(frames, view.valid_tchw)
        if options["shape_adjust"] == "crop":
            frames = central_square(frames, min(frames.shape[-2:]))
        frames = preprocess.pad_to_square(frames)
        ground_m = 10.0 if reference else view.scale_m * frames.shape[-1] / contract.image_size
        days, slots = view.dates, view.slots
        if reference:
            bins = bins_in_hand(view.window, contract.frames, view.n_bins)
            days, slots = tuple(bins[slot].start for slot in slots), tuple(range(len(days)))
            if view.n_bins == 1 and options["temporal_mode"] != "multi":
                days = (view.window.midpoint,)
        return {
            "pixels": np.ascontiguousarray(preprocess.resize_bilinear(frames, contract.image_size)),
            "timestamps": np.array([(day.day, day.month - 1, day.year) for day in days], dtype=np.int64),
            "slots": np.array(slots, dtype=np.int64),
            "step": np.array(int(options["patch_size"] or 1) * ground_m / 10.0, dtype=np.float32),
        }

    def build(self) -> nn.Module:
        """The encoder of the variant, for both sensors."""
        from rsembed.embedders.nets.olmoearth_net import OlmoEarthEncoder

        spec = VARIANTS[self.variant]
        return OlmoEarthEncoder(
            spec.dim,
            spec.depth,
            heads=spec.heads,
            band_sets=band_sets(spec),
            pixel_hidden=spec.pixel_hidden,
            rotary=spec.version == "v1_2",
        )

    def forward(self, net: nn.Module, tensors: Mapping[str, Tensor]) -> Tokens:
        """Every date and set of bands as a frame of its own."""
        tokens: Tokens = net(
            tensors["pixels"],
            SENSORS[self.config.modality],
            timestamps_bt3=tensors["timestamps"],
            slots_bt=tensors["slots"],
            step_b=tensors["step"],
            patch_px=int(self.config.options["patch_size"] or 1),
        )
        return tokens
