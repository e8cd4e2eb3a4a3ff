"""Shared by every tier: pinned threads, marks from folders, the folder of real imagery."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

# Before numpy or torch are imported: the same sums in the same order on every machine.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

# A test must not find what another one fetched, and leaves nothing in the user's folders.
os.environ.setdefault("RSEMBED_INPUT_CACHE_GB", "0")

import pytest  # noqa: E402 - threads come first

from tests.s3_server import CREDENTIALS, make_bucket, s3_server  # noqa: E402 - threads come first

TESTS = Path(__file__).resolve().parent
TIERS = frozenset({"unit", "contract", "parity", "integration", "acceptance", "online"})


@pytest.hookimpl(tryfirst=True)  # before -m looks at the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with the tier whose folder it lies in."""
    for item in items:
        tier = item.path.relative_to(TESTS).parts[0] if item.path.is_relative_to(TESTS) else ""
        if tier in TIERS:
            item.add_marker(tier)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real satellite imagery: RSEMBED_TEST_DATA, else the data folder shared beside the checkout."""
    named = os.environ.get("RSEMBED_TEST_DATA")
    folder = Path(named) if named else TESTS.parents[1] / "shared" / "data"
    if not folder.is_dir():
        if named:
            pytest.fail(f"RSEMBED_TEST_DATA names {folder}, which is not a folder")
        pytest.skip("no real imagery here: set RSEMBED_TEST_DATA to a folder that has some")
    return folder


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """A real S3 API server, empty at first; a skip where its wheel (extra `dev`) is not installed."""
    pytest.importorskip("moto", reason="the S3 server for tests is not installed: pip install 'rsembed[dev]'")
    pytest.importorskip("obstore", reason="buckets need obstore: pip install 'rsembed[fleet]'")
    with s3_server() as endpoint:
        yield endpoint


@pytest.fixture
def bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of a new, empty bucket, with the environment that leads to it."""
    for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": s3_endpoint}.items():
        monkeypatch.setenv(name, value)
    name = f"test-{uuid.uuid4().hex}"
    make_bucket(s3_endpoint, name)
    return f"s3://{name}"


@pytest.fixture(scope="session")
def database_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An empty Postgres database: on the server that DATABASE_URL names, else on one of our own."""
    pytest.importorskip("psycopg2", reason="the fleet is not installed: pip install 'rsembed[fleet]'")
    from tests.ledger_parts import fresh_database

    with fresh_database(tmp_path_factory.mktemp("postgres") / "pg") as url:
        yield url
