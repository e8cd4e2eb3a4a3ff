"""What docs/extending.md says beside its code, which test_docs_code.py runs."""

from __future__ import annotations

import re
from pathlib import Path

from tests.doc_blocks import blocks_of

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
FILES = {block.title: block.text for block in blocks_of(PAGE, "python")}
MODEL_LINES = 200


def test_page_when_read_then_its_files_are_there_and_short() -> None:
    assert list(FILES) == ["tinyvit.py", "tinyvit_net.py", "seed_tinyvit.py", "try_tinyvit.py"]
    assert len((FILES["tinyvit.py"] + FILES["tinyvit_net.py"]).splitlines()) < MODEL_LINES


def test_page_when_it_says_what_is_printed_then_vectors_maps_and_the_model_s_page_are_among_it() -> None:
    [said] = [block.text for block in blocks_of(PAGE) if block.title == "prints"]
    assert {"(32,) ok authors", "(32, 8, 8) True", "2 (32,)", "tinyvit: TinyViT"} <= set(said.splitlines())


def test_page_when_it_names_files_of_ours_then_they_are_there() -> None:
    named = set(re.findall(r"`((?:rsembed|tests|docs)/[\w/.]+)`", PAGE))
    assert named
    made_here = {"tests/unit/embedders/test_tinyvit.py"}
    assert [path for path in sorted(named - made_here) if not (ROOT / path).exists()] == []
