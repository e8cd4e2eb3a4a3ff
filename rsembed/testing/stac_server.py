"""A small STAC API over local HTTP, beside the files that its items name."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from rsembed.testing.file_server import FileHandler, FileServer

CORE = "https://api.stacspec.org/v1.0.0/"
Item = Mapping[str, Any]
"""A STAC item; hrefs that begin with ``./`` are made absolute under the server's address."""


class StacServer(FileServer):
    """A :class:`FileServer` that answers searches of ``items`` by collection, box and time.

    ``searches`` lists what was asked; they are answered with ``status``. ``GET /counts`` gives the numbers
    of searches, of requests for files and of bytes sent since it was last asked.
    """

    def __init__(self, folder: Path, items: Sequence[Item], *, latency_s: float = 0.0, page: int = 10_000) -> None:
        self.searches: list[Mapping[str, Any]] = []
        self.items: list[Item] = []
        self.page = page
        self.status = 200
        super().__init__(folder, latency_s=latency_s, handler=_StacHandler)
        self.items = [_absolute(item, self.url) for item in items]


def _absolute(item: Item, root: str) -> Item:
    def link(href: str) -> str:
        return f"{root}/{href.removeprefix('./')}" if href.startswith("./") else href

    return {**item, "assets": {key: {**a, "href": link(a["href"])} for key, a in item["assets"].items()}}


class _StacHandler(FileHandler):
    @property
    def _stac(self) -> StacServer:
        return cast("StacServer", self.server_of)

    def do_GET(self) -> None:
        server = self._stac
        if self.path == "/counts":
            self._reply({"searches": len(server.searches), "requests": len(server.asked), "bytes": server.sent})
            server.searches.clear()
            server.asked.clear()
            server.sent = 0
        elif self.path.rstrip("/") == "":
            links = [
                {"rel": "self", "href": server.url}, {"rel": "root", "href": server.url},
                {"rel": "data", "href": f"{server.url}/collections"},
                {"rel": "search", "href": f"{server.url}/search", "type": "application/geo+json", "method": "POST"},
            ]  # fmt: skip
            about = {"type": "Catalog", "id": "local", "stac_version": "1.0.0", "description": "made", "links": links}
            self._reply({**about, "conformsTo": [f"{CORE}{name}" for name in ("core", "item-search", "collections")]})
        elif self.path == "/collections":
            names = sorted({str(item["collection"]) for item in server.items})
            self._reply({"collections": [_collection(name) for name in names], "links": []})
        elif self.path.startswith("/collections/"):
            self._reply(_collection(self.path.rsplit("/", 1)[1]))
        else:
            super().do_GET()

    def do_POST(self) -> None:
        server = self._stac
        query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server.searches.append(query)
        first = int(query.get("token", 0))
        hits = [item for item in server.items if _meets(item, query)]
        links: list[dict[str, Any]] = []
        size = min(server.page, int(query.get("limit", server.page)))
        if first + size < len(hits):
            body = {**query, "token": str(first + size)}
            links = [{"rel": "next", "href": f"{server.url}/search", "method": "POST", "body": body}]
        found = {"type": "FeatureCollection", "features": hits[first : first + size], "links": links}
        self._reply(found if server.status == 200 else {"message": "no"}, server.status)

    def _reply(self, body: Mapping[str, Any], status: int = 200) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _collection(name: str) -> dict[str, Any]:
    extent = {"spatial": {"bbox": [[-180, -90, 180, 90]]}, "temporal": {"interval": [[None, None]]}}
    return {
        "type": "Collection", "id": name, "stac_version": "1.0.0", "description": name, "license": "other",
        "links": [], "summaries": {"constellation": [name[:10]]}, "extent": extent,
    }  # fmt: skip


def _meets(item: Item, query: Mapping[str, Any]) -> bool:
    west, south, east, north = query["bbox"]
    left, bottom, right, top = item["bbox"]
    first, last = query["datetime"].split("/")
    beside = left <= east and right >= west if left <= right else left <= east or right >= west
    there = beside and bottom <= north and top >= south
    return item["collection"] in query["collections"] and there and first <= item["properties"]["datetime"] <= last
