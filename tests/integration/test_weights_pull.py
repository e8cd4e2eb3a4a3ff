"""Several processes that want one checkpoint at the same moment: a real server counts how often it is asked."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONTENT = bytes(range(256)) * 4000

# What a worker does before a run, in a process of its own; the models and options it needs come with the test.
PULL = """
import json, sys
from dataclasses import replace
from pathlib import Path
from rsembed.core.card import WeightsFile
from rsembed.core.settings import Settings
from rsembed.embedders.weights import pull
from rsembed.testing.null import NullEmbedder
url, cache = sys.argv[1:]
card = replace(NullEmbedder.card, weights={"": WeightsFile(None, "tiny.pt", url=url)})
print("ready", flush=True)
sys.stdin.readline()
handle = pull(card, "", Settings(cache_dir=Path(cache)))
print(json.dumps([handle.sha256, handle.origin, handle.path.stat().st_size]))
"""


@dataclass
class Server:
    """A slow file server. ``asked``: requests so far; ``half_sent``: set when the first half of an answer is out."""

    url: str = ""
    asked: int = 0
    half_sent: threading.Event = field(default_factory=threading.Event)
    pause_s: float = 0.5


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.asked += 1
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            half = len(CONTENT) // 2
            try:
                self.wfile.write(CONTENT[:half])
                self.wfile.flush()
                found.half_sent.set()
                time.sleep(found.pause_s)
                self.wfile.write(CONTENT[half:])
            except OSError:
                self.close_connection = True  # whoever asked was killed

        def log_message(self, *args: object) -> None:
            """Quiet."""

    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    found.url = f"http://127.0.0.1:{listening.server_port}/tiny.pt"
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    yield found
    listening.shutdown()
    listening.server_close()
    thread.join()


def start(server: Server, cache: Path) -> subprocess.Popen[str]:
    """A process that waits for a line before it pulls."""
    process = subprocess.Popen(
        [sys.executable, "-c", PULL, server.url, str(cache)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def answer(process: subprocess.Popen[str]) -> list[object]:
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return json.loads(out)


def test_pull_when_processes_ask_at_once_then_one_download_serves_all(server: Server, tmp_path: Path) -> None:
    processes = [start(server, tmp_path) for _ in range(4)]
    for process in processes:
        go(process)
    answers = [answer(process) for process in processes]
    assert server.asked == 1
    assert {tuple(each) for each in answers} == {(answers[0][0], "url", len(CONTENT))}
    assert (tmp_path / "weights/null/tiny.pt").read_bytes() == CONTENT


def test_pull_when_the_downloading_process_is_killed_then_the_next_one_fetches(server: Server, tmp_path: Path) -> None:
    server.pause_s = 30.0
    first, second = start(server, tmp_path), start(server, tmp_path)
    go(first)
    assert server.half_sent.wait(timeout=30)
    go(second)
    time.sleep(0.3)  # it waits for its turn
    assert server.asked == 1
    server.pause_s = 0.0
    first.kill()
    first.communicate()
    assert answer(second)[1:] == ["url", len(CONTENT)]
    assert server.asked == 2
    left = {path.name for path in (tmp_path / "weights/null").iterdir()}
    assert left == {"tiny.pt", ".tiny.pt.lock"}
