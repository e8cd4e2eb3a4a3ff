"""The documentation site builds without a warning, holds what it promises, and asks other servers for nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import click
import pytest

import rsembed
from rsembed.cli.main import cli

ROOT = Path(__file__).resolve().parents[2]
LOADED = {"script": "src", "img": "src", "iframe": "src", "link": "href", "source": "src"}
"""Elements that make a browser ask for a file, and the attribute that names it."""


class Page(HTMLParser):
    """What a page is called by, points at and loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value for name, value in attrs if value is not None}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag in LOADED and LOADED[tag] in given and given.get("rel") not in ("canonical", "prev", "next"):
            self.loaded.append(given[LOADED[tag]])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Page]:
    """Every page of the site, built in strict mode with a proxy that leads nowhere."""
    folder = tmp_path_factory.mktemp("site")
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    environ |= dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return {path: Page(path.read_text(encoding="utf-8")) for path in sorted(folder.rglob("*.html"))}


def test_site_when_built_then_every_link_inside_it_leads_somewhere(site: dict[Path, Page]) -> None:
    dead = []
    for path, each in site.items():
        if path.name == "404.html":
            continue  # its links start at the root of a server
        for link in each.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            known = site.get(target)
            found = target.exists() if known is None or not parts.fragment else unquote(parts.fragment) in known.ids
            if not found:
                dead.append(f"{path.name}: {link}")
    assert dead == []


def test_site_when_opened_then_nothing_is_loaded_from_elsewhere(site: dict[Path, Page]) -> None:
    loaded = {url for each in site.values() for url in each.loaded}
    assert loaded
    assert [url for url in sorted(loaded) if urlsplit(url).netloc] == []


def test_reference_when_built_then_it_has_every_public_name(site: dict[Path, Page]) -> None:
    ids = {name for path, each in site.items() if path.parent.name == "reference" for name in each.ids}
    public = {f"rsembed.{name}" for name in rsembed.__all__ if not name.startswith("__")}
    assert public - ids == set()


def commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    """``command`` and all below it, by what is typed."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            if found is not None and not found.hidden:
                yield from commands(found, f"{path} {name}")


def test_commands_when_built_then_each_is_there_with_all_its_options(site: dict[Path, Page]) -> None:
    [path] = [path for path in site if path.as_posix().endswith("reference/commands.html")]
    text = re.sub(r"<[^>]+>", "", path.read_text(encoding="utf-8"))
    for name, command in commands(cli, "rsembed"):
        assert name.replace(" ", "-") in site[path].ids, name
        shown = [each for each in command.params if isinstance(each, click.Option) and not each.hidden]
        assert [each.opts[0] for each in shown if each.opts[0] not in text] == [], name
