"""Which models there are: id -> (module, class). Nothing is imported before a model is asked for."""

from __future__ import annotations

_ONTHEFLY = "rsembed.embedders.onthefly"

MODEL_SPECS: dict[str, tuple[str, str]] = {
    "clay": (f"{_ONTHEFLY}.clay", "Clay"),
    "dofa": (f"{_ONTHEFLY}.dofa", "Dofa"),
    "mosaiks": (f"{_ONTHEFLY}.mosaiks", "Mosaiks"),
    "prithvi": (f"{_ONTHEFLY}.prithvi", "Prithvi"),
    "remoteclip": (f"{_ONTHEFLY}.remoteclip", "RemoteClip"),
    "satmae": (f"{_ONTHEFLY}.satmae", "SatMae"),
    "satmaepp": (f"{_ONTHEFLY}.satmaepp", "SatMaePP"),
    "scalemae": (f"{_ONTHEFLY}.scalemae", "ScaleMae"),
    "terrafm": (f"{_ONTHEFLY}.terrafm", "TerraFm"),
    "terramind": (f"{_ONTHEFLY}.terramind", "TerraMind"),
    "thor": (f"{_ONTHEFLY}.thor", "Thor"),
    "wildsat": (f"{_ONTHEFLY}.wildsat", "WildSat"),
}

ALIASES: dict[str, str] = {
    "prithvi_eo_v2_s2_6b": "prithvi",
    "remoteclip_s2rgb": "remoteclip",
    "satmae++": "satmaepp",
    "satmae_rgb": "satmae",
    "satmaepp_rgb": "satmaepp",
    "scalemae_rgb": "scalemae",
    "terrafm_b": "terrafm",
    "thor_1_0_base": "thor",
}
