"""Models whose network is written in torch: everything a model file does not have to repeat.

A model file declares its card and gives :meth:`TorchEmbedder.build`, ``forward`` and ``prepare``,
plus the rename table and the drop list of its checkpoint. Nothing here imports torch before
:meth:`TorchEmbedder.load`, so cards stay readable without it.
"""

from __future__ import annotations

import logging
import threading
from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from numpy.typing import NDArray

from rsembed.core.card import WeightsFile
from rsembed.core.errors import ModelError
from rsembed.core.settings import Settings
from rsembed.embedders.base import EmbedderBase, EmbedderConfig, Floats
from rsembed.embedders.options import check_output
from rsembed.embedders.roi import on_canvas
from rsembed.embedders.weights import WeightsHandle, WeightsPin, resolve_weights
from rsembed.tools.tiling import Box

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from rsembed.embedders.checkpoint import Rename
    from rsembed.embedders.nets.tokens import Tokens

logger = logging.getLogger(__name__)


class TorchEmbedder(EmbedderBase):
    """An embedder around a ``torch.nn.Module``."""

    wrap: tuple[str, ...] = ()
    """Keys under which the checkpoint keeps its tensors, outermost first; may differ by modality."""
    bare: ClassVar[bool] = False
    """Whether some releases keep the tensors at the top instead, without ``wrap``."""
    rename: ClassVar[Rename] = ()
    """(pattern, replacement) pairs from the checkpoint's names to the network's."""
    drop: ClassVar[tuple[str, ...]] = ()
    """Patterns of whole names in the checkpoint that the network does without."""
    safe_globals: ClassVar[tuple[type, ...]] = ()
    """Classes that the checkpoint file needs besides tensors."""
    net_options: ClassVar[tuple[str, ...]] = ("variant",)
    """Options that change the network itself (others change only its input); ``recipe`` may be among them."""

    def __init__(self, config: EmbedderConfig | None = None) -> None:
        super().__init__(config)
        check_output(self.card, self.config.output)
        self.weights: WeightsHandle | None = None
        self._net: nn.Module | None = None
        self._device: torch.device | None = None
        self._load_lock = threading.Lock()

    # Hooks of a model file -------------------------------------------------------------------

    @abstractmethod
    def build(self) -> nn.Module:
        """The network, without weights; called on the meta device when there is a checkpoint."""

    @abstractmethod
    def forward(self, net: nn.Module, tensors: Mapping[str, Tensor]) -> Tokens:
        """One forward pass over tensors with a batch axis, named as :meth:`prepare` named them.

        ``tensors["roi"]`` is the region of each input, float32 (B, 4), for a network that pools by itself.
        """

    def weights_file(self) -> WeightsFile | None:
        """The checkpoint in use; override where an option chooses it."""
        return self.card.weights.get(self.variant)

    def complete(self, state: dict[str, Tensor]) -> None:
        """Add the tensors that some releases of the file leave out (fixed codes, zero biases), under the file's names.

        Everything else that is missing is an error.
        """

    def canvas(self, height: int, width: int) -> tuple[int, int]:
        """Size of what :meth:`prepare` makes of a tile before resizing; the tile is its top-left part."""
        side = max(height, width)
        return side, side

    def region(self, roi: Box, height: int, width: int) -> Box:
        """See :meth:`EmbedderBase.region`: the tile is the canvas' top-left part; override where it is not."""
        return on_canvas(roi, height, width, *self.canvas(height, width))

    # Weights and device ------------------------------------------------------------------------

    def resolve(self, settings: Settings, pin: WeightsPin | None = None) -> WeightsHandle | None:
        """Find (or fetch) the checkpoint; remembered as ``weights``. None for a model without one."""
        self.weights = resolve_weights(self.card, self.variant, settings, pin=pin, file=self.weights_file())
        return self.weights

    def resolve_device(self, device: str) -> str:
        """``device`` made definite (``auto`` chosen); raises ModelError when it is not there."""
        if device == "cpu" and self.config.precision == "fp32":
            return device  # always there: a submitter need not load torch to know
        from rsembed.embedders import torch_runtime

        return str(torch_runtime.find_device(device, self.config.precision))

    def stated_device(self, device: str) -> str:
        """See :meth:`EmbedderBase.stated_device`; torch is not loaded."""
        kind = device.partition(":")[0]
        if kind not in ("cpu", "cuda", "mps"):
            raise ModelError(f"where a run is only planned, its device is stated: cpu or cuda; got {device!r}")
        if self.config.precision != "fp32" and kind != "cuda":
            raise ModelError(f"precision {self.config.precision!r} needs a CUDA device, got {device!r}")
        return kind

    def set_threads(self, threads: int) -> None:
        """Use ``threads`` CPU threads a forward pass; torch keeps the number per process."""
        from rsembed.embedders import torch_runtime

        torch_runtime.set_threads(threads)

    def load(self, device: str) -> None:
        """Build the network and load its weights on ``device``; idempotent and safe in threads.

        Raises ModelError for a device that is not there or computes wrong numbers, WeightsError for a file
        that is not right.
        """
        from rsembed.embedders import torch_runtime

        wanted = torch_runtime.find_device(device, self.config.precision)
        with self._load_lock:
            if self._net is not None and self._device == wanted:
                return
            torch_runtime.check_once(wanted, self.config.precision)
            if self.weights is None:
                self.resolve(Settings.from_environment())
            given = {"recipe": self.config.recipe, **self.config.options}
            shape = tuple((name, given[name]) for name in self.net_options if name in given)
            key = torch_runtime.NetKey(
                self.card.id,
                self.config.modality,
                shape,
                self.weights.sha256 if self.weights else "",
                str(wanted),
                self.config.precision,
            )
            self._net = torch_runtime.cached_net(key, lambda: self._loaded_net(wanted))
            self._device = wanted

    def unload(self) -> None:
        """See :meth:`EmbedderBase.unload`."""
        from rsembed.embedders import torch_runtime

        with self._load_lock:
            net, self._net, self._device = self._net, None, None
            if net is not None:
                torch_runtime.drop_net(net)

    def _loaded_net(self, device: torch.device) -> nn.Module:
        import torch

        from rsembed.embedders.checkpoint import fit, load_state_dict

        if self.weights is None:
            net = self.build()
        else:
            file = str(self.weights.path)
            state = load_state_dict(file, self.wrap, self.safe_globals, bare=self.bare)
            try:
                self.complete(state)
                with torch.device("meta"):
                    net = self.build()
                dropped = fit(state, net, rename=type(self).rename, drop=self.drop, file=file)
            finally:
                state.clear()  # the network has them now; where it has not, no traceback is to keep gigabytes alive
            logger.info("net_loaded", extra={"model": self.card.id, "device": str(device), "dropped": list(dropped)})
        return net.requires_grad_(False).eval().to(device)

    # One path for one input and for many ---------------------------------------------------------

    def embed_batch(self, arrays: Mapping[str, NDArray[Any]], roi: Floats) -> Floats:
        """See :meth:`EmbedderBase.embed_batch`; raises ModelError before :meth:`load`."""
        from rsembed.embedders import torch_runtime

        net, device = self._net, self._device
        if net is None or device is None:
            raise ModelError(f"{self.card.id} has no network yet; call load(device) first")
        return torch_runtime.run_batch(
            lambda tensors: self.forward(net, tensors),
            arrays,
            roi,
            device=device,
            precision=self.config.precision,
            output=self.config.output,
            use_vector=self.own_vector,
        )
