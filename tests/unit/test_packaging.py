"""What is declared, pinned and imported agree."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
CONSTRAINTS = [
    line
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]
BUILDS_OF_TORCH = re.compile(r"nvidia|cuda|triton")


def normalised(requirement: str) -> str:
    """Name of a requirement, as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^A-Za-z0-9_.-]", requirement.strip())[0]).lower()


def version_key(text: str) -> tuple[int, ...]:
    """A version as numbers, good enough to compare a floor with a pin."""
    return tuple(int(part) for part in re.findall(r"\d+", text))


PINS = {normalised(line): line.partition("==")[2] for line in CONSTRAINTS}
PINNED = [*PROJECT["dependencies"], *(d for name in EXTRAS if name != "all" for d in EXTRAS[name])]


@pytest.mark.parametrize("line", CONSTRAINTS)
def test_constraint_when_read_then_it_is_one_exact_public_version(line: str) -> None:
    assert re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line), "expected name==version, without a local label"
    assert not BUILDS_OF_TORCH.search(line), "torch itself says which of these it needs"


def test_constraints_when_read_then_sorted_and_without_duplicates() -> None:
    names = [normalised(line) for line in CONSTRAINTS]
    assert names == sorted(set(names))


@pytest.mark.parametrize("requirement", PINNED)
def test_dependency_when_declared_then_pinned_at_or_above_its_floor(requirement: str) -> None:
    name, _, floor = requirement.partition(">=")
    pin = PINS.get(normalised(name))
    assert pin, f"{name} has no line in constraints.txt; make that file again"
    assert version_key(pin) >= version_key(floor)


def test_extras_when_all_is_asked_for_then_it_is_the_six_that_run_on_one_machine() -> None:
    (everything,) = EXTRAS["all"]
    named = re.fullmatch(r"rsembed\[([a-z,]+)\]", everything)
    assert named
    assert sorted(named.group(1).split(",")) == ["formats", "gee", "grids", "plot", "stac", "torch"]


def test_extras_when_read_then_no_package_is_declared_twice() -> None:
    names = [normalised(d) for group in [PROJECT["dependencies"], *EXTRAS.values()] for d in group]
    assert sorted(names) == sorted(set(names))


def test_base_when_installed_alone_then_it_brings_nothing_heavy() -> None:
    base = {normalised(d) for d in PROJECT["dependencies"]}
    assert base == {"click", "numpy", "pyarrow", "pyproj", "shapely", "tqdm"}


def _third_party(folder: str) -> dict[str, str]:
    """Top-level module -> first file that imports it, for all that is neither ours nor the standard library's."""
    ours = {"rsembed", "workers", "migrations", *sys.stdlib_module_names}
    found: dict[str, str] = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names = [node.module]
            for name in names:
                if name.split(".")[0] not in ours:
                    found.setdefault(name.split(".")[0], str(path.relative_to(ROOT)))
    return found


@pytest.mark.parametrize(
    ("folder", "extras"), [("rsembed", set(EXTRAS) - {"dev", "fleet"}), ("workers", set(EXTRAS) - {"dev"})]
)
def test_package_when_it_imports_a_third_party_then_that_is_declared(folder: str, extras: set[str]) -> None:
    # Buckets are the fleet's; the library writes to them where their client is installed.
    declared = {"obstore"} if folder == "rsembed" else set()
    declared |= {normalised(d) for d in PROJECT["dependencies"]} | {normalised(d) for e in extras for d in EXTRAS[e]}
    installed = importlib.metadata.packages_distributions()
    missing = {
        module: where
        for module, where in _third_party(folder).items()
        if not {normalised(d) for d in installed.get(module, [module])} & declared
    }
    assert not missing, f"imported but not declared for users: {missing}"


def test_scripts_when_the_command_is_installed_then_its_function_exists() -> None:
    module, _, function = PROJECT["scripts"]["rsembed"].partition(":")
    source = (ROOT / Path(*module.split("."))).with_suffix(".py")
    names = {getattr(node, "name", "") for node in ast.parse(source.read_text(encoding="utf-8")).body}
    assert function in names


def test_package_when_installed_then_it_is_marked_as_typed() -> None:
    assert (ROOT / "rsembed" / "py.typed").is_file()


@pytest.mark.parametrize("package", ["rsembed", "workers", "migrations"])
def test_package_when_it_ships_then_it_has_an_init(package: str) -> None:
    assert (ROOT / package / "__init__.py").is_file()


def test_version_when_the_package_says_one_then_the_project_says_the_same() -> None:
    text = (ROOT / "rsembed" / "version.py").read_text(encoding="utf-8")
    assert f'__version__ = "{PROJECT["version"]}"' in text
