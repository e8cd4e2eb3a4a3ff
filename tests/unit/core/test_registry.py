from __future__ import annotations

import sys
from pathlib import Path

import pytest

from rsembed.core.errors import ModelError, UnknownModelError
from rsembed.core.registry import LazyRegistry


def registry(**table: tuple[str, str]) -> LazyRegistry[object]:
    return LazyRegistry("model", table or {"thing": ("fractions", "Fraction")}, {"Other": "thing"})


@pytest.mark.parametrize("name", ["thing", " THING ", "other", "Other"])
def test_get_when_asked_by_any_name_then_the_class_is_imported(name: str) -> None:
    assert registry().get(name).__name__ == "Fraction"


def test_get_when_the_name_is_unknown_then_near_names_are_suggested() -> None:
    with pytest.raises(UnknownModelError, match=r"no model named 'thinng'; did you mean thing.*known: thing"):
        registry().get("thinng")


def test_get_when_nothing_is_near_then_the_known_ones_are_named() -> None:
    with pytest.raises(UnknownModelError, match=r"no model named 'zzz'; known: thing"):
        registry().get("zzz")


def test_names_when_asked_then_nothing_is_imported() -> None:
    found = registry(thing=("a_module_that_is_not_there", "X"))
    assert found.names() == ["thing"]
    assert found.names(include_aliases=True) == ["other", "thing"]


def test_get_when_the_import_fails_then_its_cause_is_kept() -> None:
    with pytest.raises(ModelError, match="a_module_that_is_not_there") as caught:
        registry(thing=("a_module_that_is_not_there", "X")).get("thing")
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_get_when_the_class_is_missing_then_it_says_so() -> None:
    with pytest.raises(ModelError, match="Nothing") as caught:
        registry(thing=("fractions", "Nothing")).get("thing")
    assert isinstance(caught.value.__cause__, AttributeError)


def test_get_when_a_failed_import_is_mended_then_the_next_call_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    name = "rsembed_test_mended_model"
    (tmp_path / f"{name}.py").write_text("import a_module_that_is_not_there\n")
    found = registry(thing=(name, "Mended"))
    with pytest.raises(ModelError):
        found.get("thing")
    (tmp_path / f"{name}.py").write_text("class Mended:\n    'Another length than before.'\n")
    assert found.get("thing").__name__ == "Mended"
    sys.modules.pop(name, None)


def test_register_when_a_name_is_taken_then_the_later_class_wins_and_forget_keeps_it() -> None:
    found = registry()
    assert found.get("thing").__name__ == "Fraction"
    assert found.forget() == 1

    @found.register(" New ")
    class New:
        pass

    assert found.get("new") is New
    assert found.forget() == 0
    assert found.names() == ["new", "thing"]
