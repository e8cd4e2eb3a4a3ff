"""Which models there are: id -> (module, class). Nothing is imported before a model is asked for."""

from __future__ import annotations

_ONTHEFLY = "rsembed.embedders.onthefly"
_PRECOMPUTED = "rsembed.embedders.precomputed"

MODEL_SPECS: dict[str, tuple[str, str]] = {
    "agrifm": (f"{_ONTHEFLY}.agrifm", "AgriFm"),
    "anysat": (f"{_ONTHEFLY}.anysat", "AnySat"),
    "clay": (f"{_ONTHEFLY}.clay", "Clay"),
    "copernicus": (f"{_PRECOMPUTED}.copernicus", "Copernicus"),
    "dofa": (f"{_ONTHEFLY}.dofa", "Dofa"),
    "fomo": (f"{_ONTHEFLY}.fomo", "Fomo"),
    "galileo": (f"{_ONTHEFLY}.galileo", "Galileo"),
    "gse": (f"{_PRECOMPUTED}.gse", "Gse"),
    "mosaiks": (f"{_ONTHEFLY}.mosaiks", "Mosaiks"),
    "olmoearth": (f"{_ONTHEFLY}.olmoearth", "OlmoEarth"),
    "prithvi": (f"{_ONTHEFLY}.prithvi", "Prithvi"),
    "remoteclip": (f"{_ONTHEFLY}.remoteclip", "RemoteClip"),
    "satmae": (f"{_ONTHEFLY}.satmae", "SatMae"),
    "satmaepp": (f"{_ONTHEFLY}.satmaepp", "SatMaePP"),
    "satvision": (f"{_ONTHEFLY}.satvision", "SatVision"),
    "scalemae": (f"{_ONTHEFLY}.scalemae", "ScaleMae"),
    "terrafm": (f"{_ONTHEFLY}.terrafm", "TerraFm"),
    "terramind": (f"{_ONTHEFLY}.terramind", "TerraMind"),
    "tessera": (f"{_PRECOMPUTED}.tessera", "Tessera"),
    "thor": (f"{_ONTHEFLY}.thor", "Thor"),
    "wildsat": (f"{_ONTHEFLY}.wildsat", "WildSat"),
}

ALIASES: dict[str, str] = {
    "copernicus_embed": "copernicus",
    "gse_annual": "gse",
    "prithvi_eo_v2_s2_6b": "prithvi",
    "remoteclip_s2rgb": "remoteclip",
    "satmae++": "satmaepp",
    "satmae_rgb": "satmae",
    "satmaepp_rgb": "satmaepp",
    "satvision_toa": "satvision",
    "scalemae_rgb": "scalemae",
    "terrafm_b": "terrafm",
    "thor_1_0_base": "thor",
}
