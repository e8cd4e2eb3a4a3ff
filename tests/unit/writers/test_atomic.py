from __future__ import annotations

import hashlib
import math
from pathlib import Path

import pytest

from rsembed.core.errors import ExportError
from rsembed.writers.atomic import json_text, safe_label, sha256_file


@pytest.mark.parametrize("label", ["prithvi", "p600", "a.b_c+d=e-f", "0", "x" * 100])
def test_safe_label_when_plain_then_it_is_kept(label: str) -> None:
    assert safe_label(label) == label


@pytest.mark.parametrize(
    "label",
    ["", ".", "..", "../x", "a/b", "a\\b", "a..b", "-x", "_tmp", "a b", "é", "a\n", "x" * 101, "manifest.json",
     "parts.parquet",
     "A.NPZ"],
)  # fmt: skip
def test_safe_label_when_it_could_leave_its_place_or_take_anothers_then_refused(label: str) -> None:
    with pytest.raises(ExportError, match="cannot name a folder"):
        safe_label(label)


def test_json_text_when_order_differs_then_bytes_do_not() -> None:
    text = json_text({"b": [1], "a": "é"})
    assert text == json_text({"a": "é", "b": [1]})
    assert text.endswith("}\n")
    assert "é" in text


def test_json_text_when_a_value_is_nan_then_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        json_text({"a": math.nan})


def test_sha256_when_asked_then_it_is_the_files(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc" * 1000)
    assert sha256_file(tmp_path / "x") == hashlib.sha256(b"abc" * 1000).hexdigest()
