"""Which models there are: id -> (module, class). Nothing is imported before a model is asked for."""

from __future__ import annotations

_ONTHEFLY = "rsembed.embedders.onthefly"

MODEL_SPECS: dict[str, tuple[str, str]] = {
    "mosaiks": (f"{_ONTHEFLY}.mosaiks", "Mosaiks"),
    "prithvi": (f"{_ONTHEFLY}.prithvi", "Prithvi"),
    "remoteclip": (f"{_ONTHEFLY}.remoteclip", "RemoteClip"),
}

ALIASES: dict[str, str] = {
    "prithvi_eo_v2_s2_6b": "prithvi",
    "remoteclip_s2rgb": "remoteclip",
}
