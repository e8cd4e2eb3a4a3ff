"""Finding, fetching, pinning a checkpoint file."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rsembed.core.card import InputContract, Licence, ModelCard, WeightsFile
from rsembed.core.errors import WeightsError, is_transient
from rsembed.core.settings import Settings
from rsembed.embedders.checksums import checksum
from rsembed.embedders.weights import WeightsPin, WeightsUnreachableError, pull, resolve_weights

CONTENT = b"forty-two tensors"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def card(file: WeightsFile | None = None) -> ModelCard:
    """A card with one weights file."""
    return ModelCard(
        id="tiny",
        title="Tiny",
        summary="",
        paper="",
        source="",
        kind="onthefly",
        inputs={"s2": InputContract("COLLECTION", ("B4",), 10, 32)},
        outputs=("pooled",),
        pooling="tokens",
        dims={"": 4},
        licence=Licence("MIT", "yes", ""),
        steps={"authors": ()},
        weights={"": file or WeightsFile("owner/tiny", "tiny.pt", revision="abc")},
    )


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return Settings(weights_dir=tmp_path / "weights", cache_dir=tmp_path / "cache", offline=True)


def put(path: Path, content: bytes = CONTENT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_resolve_weights_when_in_the_folder_then_that_file_without_a_revision(settings: Settings) -> None:
    path = put(settings.weights_dir / "owner/tiny/tiny.pt")
    handle = resolve_weights(card(), "", settings)
    assert (handle.path, handle.sha256, handle.revision, handle.origin) == (path, SHA256, None, "folder")


def test_resolve_weights_when_the_file_has_a_url_then_the_folder_is_named_after_the_model(settings: Settings) -> None:
    path = put(settings.weights_dir / "tiny/tiny.pt")
    file = WeightsFile(None, "tiny.pt", url="https://example.org/tiny.pt")
    assert resolve_weights(card(file), "", settings).path == path


def test_resolve_weights_when_a_repo_is_a_folder_then_its_file(settings: Settings, tmp_path: Path) -> None:
    path = put(tmp_path / "mine/tiny.pt")
    assert resolve_weights(card(WeightsFile(str(tmp_path / "mine"), "tiny.pt")), "", settings).path == path


def test_resolve_weights_when_in_the_hubs_cache_then_no_network_and_the_commit_is_known(
    settings: Settings, tmp_path: Path
) -> None:
    folder = tmp_path / "hub/models--owner--tiny"
    put(folder / "snapshots/0123456789abcdef0123456789abcdef01234567/tiny.pt")
    put(folder / "refs/main", b"0123456789abcdef0123456789abcdef01234567")
    handle = resolve_weights(card(WeightsFile("owner/tiny", "tiny.pt")), "", settings)
    assert (handle.revision, handle.origin) == ("0123456789abcdef0123456789abcdef01234567", "hub_cache")


def test_resolve_weights_when_nowhere_then_error_says_where_it_looked_and_how_to_pull(settings: Settings) -> None:
    with pytest.raises(WeightsError) as caught:
        resolve_weights(card(), "", settings)
    message = str(caught.value)
    for part in (
        str(settings.weights_dir / "owner/tiny/tiny.pt"),
        "rsembed weights pull tiny",
        "RSEMBED_WEIGHTS_DIR",
        "RSEMBED_OFFLINE",
    ):
        assert part in message


def test_resolve_weights_when_the_variant_is_unknown_then_error(settings: Settings) -> None:
    with pytest.raises(WeightsError, match="no weights for variant 'large'"):
        resolve_weights(card(), "large", settings)


def test_resolve_weights_when_pinned_then_the_checksum_must_match(settings: Settings) -> None:
    put(settings.weights_dir / "owner/tiny/tiny.pt")
    pin = WeightsPin("owner/tiny", "tiny.pt", "abc", SHA256)
    assert resolve_weights(card(), "", settings, pin=pin).pin == pin
    with pytest.raises(WeightsError, match=r"weights\.lock"):
        resolve_weights(card(), "", settings, pin=WeightsPin("owner/tiny", "tiny.pt", "abc", "0" * 64))


def test_pin_when_written_as_json_then_it_reads_back(settings: Settings) -> None:
    put(settings.weights_dir / "owner/tiny/tiny.pt")
    handle = resolve_weights(card(), "", settings)
    assert WeightsPin.from_json(json.loads(json.dumps(handle.to_json()))) == handle.pin
    with pytest.raises(WeightsError, match="needs 'file'"):
        WeightsPin.from_json({"repo": "owner/tiny"})


def test_checksum_when_a_file_changes_then_it_is_computed_again(settings: Settings, tmp_path: Path) -> None:
    path = put(tmp_path / "file")
    assert checksum(path, settings) == SHA256
    stored = json.loads((settings.cache_dir / "sha256.json").read_text())
    assert stored[str(path)][2] == SHA256
    put(path, b"other")
    os.utime(path, ns=(1, 1))
    assert checksum(path, settings) == hashlib.sha256(b"other").hexdigest()


def test_checksum_when_the_store_is_damaged_then_it_is_replaced(settings: Settings, tmp_path: Path) -> None:
    put(settings.cache_dir / "sha256.json", b"{half")
    assert checksum(put(tmp_path / "file"), settings) == SHA256
    assert len(json.loads((settings.cache_dir / "sha256.json").read_text())) == 1


class _Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path.endswith("missing.pt"):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT) + (5 if "short" in self.path else 0)))
        if "page" in self.path:
            self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(CONTENT)

    def log_message(self, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def address() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Answers)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def kept(settings: Settings) -> list[str]:
    """Names of the files in the download cache, its locks aside."""
    names = [path.name for path in (settings.cache_dir / "weights/tiny").iterdir()]
    return [name for name in names if not name.endswith(".lock")]


def online(settings: Settings) -> Settings:
    return Settings(weights_dir=settings.weights_dir, cache_dir=settings.cache_dir)


def test_pull_when_at_a_url_then_fetched_once_and_checked(settings: Settings, address: str) -> None:
    tiny = card(WeightsFile(None, "tiny.pt", url=f"{address}/tiny.pt", sha256=SHA256))
    assert pull(tiny, "", online(settings)).origin == "url"
    assert resolve_weights(tiny, "", settings).origin == "url_cache"


def test_pull_when_the_url_gives_another_file_then_error_and_nothing_is_kept(settings: Settings, address: str) -> None:
    tiny = card(WeightsFile(None, "tiny.pt", url=f"{address}/tiny.pt", sha256="0" * 64))
    with pytest.raises(WeightsError, match="another file"):
        pull(tiny, "", online(settings))
    assert kept(settings) == []


@pytest.mark.parametrize(("name", "transient"), [("missing.pt", False), ("short.pt", True)])
def test_pull_when_a_download_fails_then_error_says_whether_to_try_again(
    settings: Settings, address: str, name: str, transient: bool
) -> None:
    tiny = card(WeightsFile(None, name, url=f"{address}/{name}"))
    with pytest.raises(WeightsError) as caught:
        pull(tiny, "", online(settings))
    assert is_transient(caught.value) is transient
    assert kept(settings) == []


def test_pull_when_the_server_sends_a_web_page_then_error_and_nothing_is_kept(settings: Settings, address: str) -> None:
    tiny = card(WeightsFile(None, "page.pt", url=f"{address}/page.pt"))
    with pytest.raises(WeightsError, match="sent a web page instead"):
        pull(tiny, "", online(settings))
    assert kept(settings) == []


def test_resolve_weights_when_they_are_not_published_then_error_says_so(settings: Settings) -> None:
    with pytest.raises(WeightsError, match=r"not published: looked in .*Set RSEMBED_WEIGHTS_DIR to a folder"):
        resolve_weights(card(WeightsFile(None, "tiny.pt")), "", settings)


def test_pull_when_the_server_is_gone_then_a_transient_error(settings: Settings) -> None:
    tiny = card(WeightsFile(None, "tiny.pt", url="http://127.0.0.1:9/tiny.pt"))
    with pytest.raises(WeightsUnreachableError, match="download broke off"):
        pull(tiny, "", online(settings))


def test_resolve_weights_when_the_folder_has_it_under_another_name_then_that_file(settings: Settings) -> None:
    spec = WeightsFile("owner/tiny", "tiny.pt", other_files=("tiny.safetensors",))
    path = put(settings.weights_dir / "owner/tiny/tiny.safetensors")
    handle = resolve_weights(card(spec), "", settings)
    assert (handle.path, handle.pin.file) == (path, "tiny.safetensors")
    assert resolve_weights(card(spec), "", settings, pin=handle.pin).path == path
    published = put(settings.weights_dir / "owner/tiny/tiny.pt")
    assert resolve_weights(card(spec), "", settings).path == published
