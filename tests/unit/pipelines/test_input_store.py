from __future__ import annotations

import datetime as dt
import threading
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from rsembed.core.patch import Frame, Patch
from rsembed.core.specs import Window
from rsembed.pipelines.input_store import InputPack
from tests.builders import frame, grid, patch

FRAMES = (
    Frame(
        Window(dt.date(2022, 1, 1), dt.date(2022, 7, 1)),
        3,
        dt.date(2022, 3, 1),
        dt.date(2022, 1, 5),
        dt.date(2022, 6, 1),
        ("a", "b"),
    ),
    Frame(Window(dt.date(2022, 7, 1), dt.date(2023, 1, 1))),
)


def check_same(a: Patch | None, b: Patch) -> None:
    assert a is not None
    assert a.values_tchw.dtype == np.float32
    assert a.values_tchw.tobytes() == b.values_tchw.tobytes()
    np.testing.assert_array_equal(a.valid_tchw, b.valid_tchw)
    assert (a.bands, a.grid, a.frames, dict(a.provenance)) == (b.bands, b.grid, b.frames, dict(b.provenance))


def numbers(kind: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    random = np.random.default_rng(1)
    if kind == "uint16":
        return random.integers(0, 65536, shape).astype(np.float32)
    if kind == "float":
        return random.normal(-12, 3, shape).astype(np.float32)
    values = np.zeros(shape, np.float32)
    values.flat[:6] = {"minus zero": -0.0, "nan": np.nan, "large": 65536.0, "negative": -1.0}[kind]
    return values


@pytest.mark.parametrize("kind", ["uint16", "float", "minus zero", "nan", "large", "negative"])
@pytest.mark.parametrize("masked", [False, True])
def test_pack_when_a_patch_is_put_then_it_comes_back_to_the_bit(tmp_path: Path, kind: str, masked: bool) -> None:
    shape = (2, 3, 5, 7)
    valid = np.random.default_rng(2).random(shape) > 0.3 if masked else np.ones(shape, np.bool_)
    made = patch(
        bands=("B1", "B2", "VV"), on=grid(height=5, width=7, x_min=123.25), frames=FRAMES, values=numbers(kind, shape),
        valid=valid, provenance={"requests": 2, "relaxed": True, "steps": ["a", {"b": 1.5}]},
    )  # fmt: skip
    with InputPack(tmp_path / "a" / "unit.pack") as pack:
        assert pack.get("k") is None
        pack.put("k", made)
        check_same(pack.get("k"), made)
        assert "k" in pack
    with InputPack(tmp_path / "a" / "unit.pack") as again:
        assert "k" in again
        check_same(again.get("k"), made)


def filled(path: Path, n: int = 4) -> list[int]:
    """A pack of ``n`` patches; returns the file's size after each."""
    sizes = []
    with InputPack(path) as pack:
        for i in range(n):
            pack.put(f"k{i}", patch(seed=i))
            pack.flush()
            sizes.append(path.stat().st_size)
    return sizes


def test_pack_when_its_tail_is_torn_anywhere_then_the_earlier_records_stand_and_it_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "unit.pack"
    sizes = filled(path)
    whole = path.read_bytes()
    for length in (sizes[2], sizes[2] + 1, sizes[2] + 19, sizes[2] + 40, sizes[3] - 1):
        path.write_bytes(whole[:length])
        with InputPack(path) as pack:
            assert [f"k{i}" in pack for i in range(4)] == [True, True, True, False]
            pack.put("k3", patch(seed=3))
        with InputPack(path) as pack:
            for i in range(4):
                check_same(pack.get(f"k{i}"), patch(seed=i))


def test_pack_when_the_tail_was_longer_than_what_follows_then_old_bytes_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "unit.pack"
    filled(path, 1)
    with InputPack(path) as pack:
        pack.put("large", patch(on=grid(height=64, width=64)))
    path.write_bytes(path.read_bytes()[:-5])
    with InputPack(path) as pack:
        pack.put("small", patch(seed=9))
    with InputPack(path) as pack:
        assert "large" not in pack
        check_same(pack.get("small"), patch(seed=9))


@pytest.mark.parametrize("where", [0, 5, 30, 200, -1])
def test_pack_when_a_byte_is_damaged_then_none_and_it_can_be_put_again(tmp_path: Path, where: int) -> None:
    path = tmp_path / "unit.pack"
    sizes = filled(path, 2)
    with InputPack(path) as pack:
        at = sizes[0] + where if where >= 0 else sizes[1] - 1
        with path.open("r+b") as handle:
            handle.seek(at)
            byte = handle.read(1)
            handle.seek(at)
            handle.write(bytes([byte[0] ^ 0xFF]))
        assert pack.get("k1") is None
        assert "k1" not in pack
        check_same(pack.get("k0"), patch(seed=0))
        pack.put("k1", patch(seed=1))
        check_same(pack.get("k1"), patch(seed=1))


def test_pack_when_put_from_many_threads_then_nothing_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "unit.pack"
    pack = InputPack(path)
    made = {f"{t}-{i}": patch(seed=100 * t + i) for t in range(8) for i in range(20)}
    ready = threading.Barrier(8)

    def work(t: int) -> None:
        ready.wait()
        for i in range(20):
            pack.put(f"{t}-{i}", made[f"{t}-{i}"])
            if i % 5 == 0:
                check_same(pack.get(f"{t}-{i}"), made[f"{t}-{i}"])

    threads = [threading.Thread(target=work, args=(t,)) for t in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for key, each in made.items():
        check_same(pack.get(key), each)
    pack.close()
    with InputPack(path) as again:
        for key, each in made.items():
            check_same(again.get(key), each)


def test_pack_when_flushed_then_another_process_would_find_it(tmp_path: Path) -> None:
    path = tmp_path / "unit.pack"
    pack = InputPack(path)
    pack.put("a", patch())
    pack.put("b", patch(seed=1))
    pack.flush()
    with InputPack(path) as other:
        assert "a" in other
        assert "b" in other
    pack.close()
    pack.close()


def test_pack_when_deleted_then_the_file_is_gone(tmp_path: Path) -> None:
    pack = InputPack(tmp_path / "unit.pack")
    pack.put("a", patch(frames=(frame(),)))
    pack.delete()
    assert list(tmp_path.iterdir()) == []
