"""RemoteCLIP (ViT-B/32): CLIP fine-tuned on captions of remote-sensing images; RGB at 224 pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from rsembed.core.card import InputContract, Licence, ModelCard, Option, Step, WeightsFile
from rsembed.embedders import preprocess
from rsembed.embedders.base import View
from rsembed.embedders.renames import TORCH_ATTENTION
from rsembed.embedders.sentinel import RGB, S2_L2A, SQUARE
from rsembed.embedders.torch_model import TorchEmbedder

if TYPE_CHECKING:
    from torch import Tensor, nn

    from rsembed.embedders.nets.tokens import Tokens

# The pixel statistics of OpenAI's CLIP, which open_clip applies to every ViT-B-32.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
IMAGE_PX = 224
DEFAULT_REPO = "MVRL/remote-clip-vit-base-patch32"
AUTHORS_REPO = "chendelong/RemoteCLIP"
FILES = {AUTHORS_REPO: "RemoteCLIP-ViT-B-32.pt"}
"""Repositories whose file is not called model.safetensors; the same tensors, names without ``model.``."""

_STEPS = (
    Step(
        "DN / 10000, clipped to 0..1, times 255, decimals cut off, bytes; invalid pixels 0. The authors worked on "
        "8-bit aerial images and give no rule for Sentinel-2",
        "inferred",
    ),
    SQUARE,
    Step("bicubic with antialias on bytes to 224 (Pillow)", "verified"),
    Step("/ 255, then CLIP's mean and std", "verified"),
    Step("pooled: projected class token, not normalised to length one", "verified"),
    Step("grid: patch tokens of block 12 before ln_post and projection, 768 channels", "inferred"),
)

CARD = ModelCard(
    id="remoteclip",
    title="RemoteCLIP ViT-B/32",
    summary="CLIP image tower fine-tuned on remote-sensing image-text pairs; one RGB composite",
    paper="arXiv:2306.11029",
    source="https://github.com/ChenDelong1999/RemoteCLIP",
    kind="onthefly",
    inputs={"s2": InputContract(S2_L2A, RGB, scale_m=10, image_size=IMAGE_PX)},
    outputs=("pooled", "grid"),
    pooling="vector",
    dims={"": 512},
    licence=Licence(
        "code Apache-2.0; no separate licence of the weights seen",
        "unknown",
        "RemoteCLIP by Liu et al. 2024 (arXiv:2306.11029)",
    ),
    steps={"authors": _STEPS, "rs-embed": _STEPS},
    options=(
        Option(
            "model_id",
            "str",
            DEFAULT_REPO,
            f"hub repository, or a folder (starting with / or ./), that holds a ViT-B/32; also {AUTHORS_REPO}",
        ),
    ),
    weights={"": WeightsFile(repo=DEFAULT_REPO, file="model.safetensors", size_bytes=605_000_000)},
    notes=(
        "the pooled vector (512, projected) and the grid (768, not projected) live in different spaces",
        "a region smaller than 2240 m gets the vector of the whole native footprint",
    ),
)


class RemoteClip(TorchEmbedder):
    """See :data:`CARD`. Input: ``pixels`` (3, 224, 224)."""

    card = CARD
    rename = (
        (r"^(model\.)?visual\.", ""),
        (r"^conv1\.", "patch_embed.proj."),
        (r"^transformer\.resblocks\.", "blocks."),
        (r"\.ln_([12])\.", r".norm\1."),
        *TORCH_ATTENTION,
        (r"\.mlp\.c_fc\.", ".mlp.fc1."),
        (r"\.mlp\.c_proj\.", ".mlp.fc2."),
    )
    # The text tower.
    drop = (
        r"(model\.)?(token_embedding|transformer|ln_final)\..*",
        r"(model\.)?(positional_embedding|text_projection|logit_scale)",
    )
    net_options = ()

    def weights_file(self) -> WeightsFile:
        """The default file, or the one of ``model_id``."""
        repo = str(self.config.options["model_id"])
        default = self.card.weights[""]
        if repo == default.repo:
            return default
        return replace(default, repo=repo, file=FILES.get(repo, default.file), revision=None, size_bytes=None)

    def prepare(self, view: View) -> Mapping[str, NDArray[Any]]:
        """Network input of one tile."""
        square = preprocess.square_frame(view.values_tchw, view.valid_tchw, fill=self.contract.fill_value)
        return {"pixels": preprocess.photograph(square, IMAGE_PX, MEAN, STD)}

    def build(self) -> nn.Module:
        """The image tower."""
        from rsembed.embedders.nets.clip_vision import ClipVision

        return ClipVision(768, 12, heads=12, patch_px=32, image_px=IMAGE_PX, out_dim=512)

    def forward(self, net: nn.Module, tensors: Mapping[str, Tensor]) -> Tokens:
        """Projected vector and the last block's patch tokens."""
        tokens: Tokens = net(tensors["pixels"])
        return tokens
