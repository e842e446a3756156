"""Arrays in pickles, HDF5, zarr and safetensors: read without running code, damage named."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crfrnn.io.array_files import opened_arrays, read_store, split_member
from crfrnn.io.pickled import class_maps, read_pickled
from tests.cases import needs_torch

RNG = np.random.default_rng(0)
MAPS = RNG.random((2, 4, 5)).astype(np.float32)


def test_maps_by_class_are_read_from_the_npy_of_affinitynet(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", {14: MAPS[0], np.int64(7): MAPS[1]}, allow_pickle=True)
    arrays = read_pickled(tmp_path / "a.npy")
    np.testing.assert_array_equal(arrays["cam"], MAPS)
    assert arrays["keys"].tolist() == [14, 7]
    probs = class_maps(arrays["cam"], arrays["keys"], 4)
    assert probs.shape == (16, 4, 5)
    background = (1 - MAPS.max(0)) ** 4
    total = background + MAPS.sum(0)
    np.testing.assert_allclose(probs[0], background / total, rtol=1e-5)
    np.testing.assert_allclose(probs[15], MAPS[0] / total, rtol=1e-5)
    np.testing.assert_allclose(probs[8], MAPS[1] / total, rtol=1e-5)
    assert not np.delete(probs, [0, 8, 15], axis=0).any()


def test_a_background_of_its_own_and_pixels_without_any_score() -> None:
    maps = np.zeros((2, 1, 2), np.float32)
    maps[:, 0, 0] = [0.25, 0.5]
    probs = class_maps(maps, np.array([0, 3]), 0)
    np.testing.assert_allclose(probs[:, 0, 0], [1 / 3, 0, 0, 2 / 3], rtol=1e-6)
    assert probs[:, 0, 1].tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize(
    ("maps", "keys", "why"),
    [
        (MAPS * 3, [0, 1], "must lie in 0..1"),
        (MAPS, [0], "with K keys"),
        (MAPS, [1, 1], "different classes"),
        (MAPS, [-2, 1], "different classes"),
        (np.broadcast_to(MAPS[:, :1, :1], (2, 300, 300)), [2, 60_000], "number the classes"),
        (np.full_like(MAPS, np.nan), [0, 1], "finite"),
    ],
)
def test_maps_that_cannot_be_meant_are_refused(maps: Any, keys: list[int], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        class_maps(maps, np.array(keys), 4)


@needs_torch
def test_the_npy_of_irnet_with_tensors_is_read(tmp_path: Path) -> None:
    import torch

    low = torch.from_numpy(MAPS[:, :2, :2].copy())
    table = {"keys": torch.tensor([3, 11]), "cam": low.transpose(1, 2), "high_res": MAPS}
    np.save(tmp_path / "a.npy", table, allow_pickle=True)
    arrays = read_pickled(tmp_path / "a.npy")
    np.testing.assert_array_equal(arrays["cam"], MAPS)
    assert arrays["keys"].tolist() == [3, 11]
    del table["high_res"]
    np.save(tmp_path / "a.npy", table, allow_pickle=True)
    np.testing.assert_array_equal(
        read_pickled(tmp_path / "a.npy")["cam"], MAPS[:, :2, :2].swapaxes(1, 2)
    )


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_plain_pickles_of_every_protocol_are_read(tmp_path: Path, protocol: int) -> None:
    table = {"logits": MAPS, "classes": [1, 2], "scale": np.float32(0.5), "flags": MAPS > 0.5}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(table, protocol=protocol))
    arrays = read_pickled(tmp_path / "a.pkl")
    for name, value in table.items():
        np.testing.assert_array_equal(arrays[name], value)


class Calls:
    """A pickle that calls any function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        return self.function, self.arguments


def _hostile(canary: Path) -> dict[str, Any]:
    import os
    import subprocess

    touch = f"__import__('pathlib').Path({str(canary)!r}).touch()"
    return {
        "system": Calls(os.system, f"touch {canary}"),
        "popen": Calls(subprocess.Popen, ["touch", str(canary)]),
        "eval": Calls(eval, touch),
        "getattr": Calls(getattr, Path(canary), "touch"),
        "path": Calls(Path.touch, canary),
        "load": Calls(pickle.loads, pickle.dumps(Calls(eval, touch))),
        "numpy": Calls(np.load, str(canary)),
        "memmap": Calls(np.memmap, str(canary), "u1", "w+", 0, (4,)),
        "partial": Calls(__import__("functools").partial, eval, touch),
    }


@pytest.mark.parametrize("name", list(_hostile(Path("x"))))
@pytest.mark.parametrize("inside", [False, True])
def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, name: str, inside: bool) -> None:
    canary = tmp_path / "canary"
    hostile = _hostile(canary)[name]
    value = {1: np.array([[hostile]], object)} if inside else {1: hostile}
    for path in (tmp_path / "a.npy", tmp_path / "a.pkl"):
        if path.suffix == ".npy":
            np.save(path, value, allow_pickle=True)
        else:
            path.write_bytes(pickle.dumps(value))
        with pytest.raises(
            ValueError, match=rf"{path.name}: its pickled Python objects ask for .*run code"
        ):
            read_pickled(path)
    assert not canary.exists()


class Lies(Calls):
    """A type of structures with an object each, whose flags deny it: bytes become addresses."""

    def __init__(self) -> None:
        super().__init__(np.dtype, "V8", False, True)

    def __reduce__(self) -> Any:
        fields = {"a": (np.dtype(object), 0)}
        return self.function, self.arguments, (3, "|", None, ("a",), fields, 8, 1, 0)


class OfLies:
    """An array of such structures."""

    def __reduce__(self) -> Any:
        make, _, _ = np.zeros(1).__reduce__()
        return make, (np.ndarray, (0,), b"b"), (1, (2,), Lies(), False, b"A" * 16)


def test_a_pickled_type_cannot_turn_bytes_into_addresses(tmp_path: Path) -> None:
    scalar, _ = np.float64(1).__reduce__()
    hostile = {"array": OfLies(), "scalar": Calls(scalar, Lies(), b"A" * 8)}
    buffer = np.zeros(1).__reduce_ex__(5)[0]
    hostile["buffer"] = Calls(buffer, b"A" * 16, Lies(), (2,), "C")
    for value in hostile.values():
        (tmp_path / "a.pkl").write_bytes(pickle.dumps({"logits": [value, value]}))
        with pytest.raises(
            ValueError, match=r"a\.pkl: its pickled Python objects ask for the type"
        ):
            read_pickled(tmp_path / "a.pkl")


@needs_torch
def test_a_pickled_tensor_has_no_more_numbers_than_its_storage(tmp_path: Path) -> None:
    import torch

    rebuild, (storage, *_), *_ = torch.arange(4.0).__reduce_ex__(2)
    value = Calls(rebuild, storage, 1, (4,), (1,), False, {})
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"logits": value}))
    with pytest.raises(ValueError, match="ask for more numbers than a tensor has"):
        read_pickled(tmp_path / "a.pkl")


def test_links_in_circles_are_followed_once(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["deep/logits"] = MAPS
        for name in ("one", "two", "deep/three"):
            file[name] = h5py.SoftLink("/")
    with opened_arrays(tmp_path / "a.h5") as arrays:
        assert list(arrays) == ["logits"]


@needs_torch
def test_a_storage_that_would_run_code_is_refused(tmp_path: Path) -> None:
    from torch.storage import _load_from_bytes

    canary = tmp_path / "canary"
    inner = pickle.dumps(Calls(eval, f"open({str(canary)!r}, 'w')"))
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({1: Calls(_load_from_bytes, inner)}))
    with pytest.raises(ValueError, match=r"a\.pkl: not a readable pickle"):
        read_pickled(tmp_path / "a.pkl")
    assert not canary.exists()


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps({}),
        pickle.dumps([MAPS]),
        pickle.dumps({1: MAPS[0], 2: MAPS[0, :2]}),
        pickle.dumps({"a": "text"}),
        pickle.dumps({1: MAPS})[:-60],
        b"\x80\x04",
        b"",
        b"\x93NUMPY\x01\x00\xff\xff",
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",  # bytes of 2^63
        b"Pid\n.",
    ],
)
def test_a_damaged_or_other_pickle_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.npy: "):
        read_pickled(tmp_path / "a.npy")


def test_an_array_in_a_pickle_cannot_ask_for_memory(tmp_path: Path) -> None:
    """The shape that it starts with is not believed; the one that it ends with needs its bytes."""
    start = Calls(np._core.multiarray._reconstruct, np.ndarray, (1 << 50,), b"b")
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"x": start}))
    assert read_pickled(tmp_path / "a.pkl")["x"].size == 0


def write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    if path.suffix == ".h5":
        module = pytest.importorskip("h5py", reason="needs the extra `hdf5`")
        with module.File(path, "w") as file:
            for name, array in arrays.items():
                file.create_dataset(name, data=array, compression="gzip")
    elif path.suffix == ".zarr":
        module = pytest.importorskip("zarr", reason="needs the extra `zarr`")
        group = module.open_group(str(path), mode="w")
        for name, array in arrays.items():
            stored = group.create_array(
                name, shape=array.shape, dtype=array.dtype, chunks=(1, 2, 2)
            )
            stored[...] = array
    else:
        module = pytest.importorskip("safetensors.numpy", reason="needs safetensors")
        module.save_file(arrays, path)


@pytest.mark.parametrize("suffix", [".h5", ".zarr", ".safetensors"])
def test_arrays_are_read_by_name_whole_and_in_parts(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"scores{suffix}"
    write(path, {"logits": MAPS, "fold0/probs": MAPS.astype(np.float16)})
    arrays = read_store(path)
    assert set(arrays) == {"logits", "probs"}
    np.testing.assert_array_equal(arrays["logits"], MAPS)
    one = read_store(Path(f"{path}:fold0/probs"))
    assert list(one) == ["probs"]
    np.testing.assert_array_equal(one["probs"], MAPS.astype(np.float16))
    assert list(read_store(Path(f"{path}:fold0"))) == ["probs"]
    with opened_arrays(Path(f"{path}:logits")) as opened:
        lazy = opened["logits"]
        assert (lazy.shape, lazy.dtype) == (MAPS.shape, np.float32)
        part = np.asarray(lazy[:, 1:3, 2:5])
    np.testing.assert_array_equal(part, MAPS[:, 1:3, 2:5])
    with pytest.raises(ValueError, match=r"scores.*expected an array 'labels'; it has .*logits"):
        read_store(Path(f"{path}:labels"))


@pytest.mark.parametrize("suffix", [".h5", ".safetensors"])
def test_a_damaged_store_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"scores{suffix}"
    write(path, {"logits": MAPS})
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"nothing" * 50):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"scores.*not readable"):
            read_store(path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="scores"):
        read_store(path)


def test_a_store_that_asks_for_more_than_the_memory_is_refused(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="needs the extra `hdf5`")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", (1 << 20, 1 << 20, 8), "f4", chunks=(1, 1024, 8))
    with pytest.raises(ValueError, match=r"a\.h5: its header asks for 32 TiB, more than the"):
        read_store(tmp_path / "a.h5")


def test_a_missing_package_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    (tmp_path / "a.h5").touch()
    monkeypatch.setitem(sys.modules, "h5py", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(ImportError, match=r"a\.h5 needs h5py; install it with pip install h5py"):
        read_store(tmp_path / "a.h5")


def test_only_known_files_have_members(tmp_path: Path) -> None:
    assert split_member(Path("C:/x/a.npy")) == (Path("C:/x/a.npy"), None)
    assert split_member(Path("C:/x/a.h5:b/c")) == (Path("C:/x/a.h5"), "b/c")
    (tmp_path / "a.npz:b").touch()
    assert split_member(tmp_path / "a.npz:b") == (tmp_path / "a.npz:b", None)


def write_safetensors(path: Path, tensors: dict[str, tuple[str, tuple[int, ...], bytes]]) -> None:
    """Write types that NumPy lacks."""
    header: dict[str, Any] = {}
    data = b""
    for name, (kind, shape, content) in tensors.items():
        ends = [len(data), len(data) + len(content)]
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": ends}
        data += content
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def test_bfloat16_is_read_as_the_same_numbers(tmp_path: Path) -> None:
    pytest.importorskip("safetensors", reason="needs safetensors")
    path = tmp_path / "a.safetensors"
    bits = (MAPS.view(np.uint32) >> 16).astype("<u2")
    want = (bits.astype(np.uint32) << 16).view(np.float32)
    assert 0 < abs(want - MAPS).max() < 0.01
    first = np.arange(3, dtype="<f4")
    write_safetensors(
        path,
        {
            "first": ("F32", first.shape, first.tobytes()),
            "logits": ("BF16", MAPS.shape, bits.tobytes()),
            "none": ("BF16", (0, 4), b""),
        },
    )
    arrays = read_store(path)
    assert arrays["logits"].dtype == np.float32
    np.testing.assert_array_equal(arrays["logits"], want)
    np.testing.assert_array_equal(arrays["first"], first)
    assert arrays["none"].shape == (0, 4)
    with opened_arrays(Path(f"{path}:logits")) as opened:
        np.testing.assert_array_equal(opened["logits"][:, 1:3, 2:5], want[:, 1:3, 2:5])


def test_other_types_of_safetensors_name_those_that_are_read(tmp_path: Path) -> None:
    pytest.importorskip("safetensors", reason="needs safetensors")
    write_safetensors(tmp_path / "a.safetensors", {"x": ("F8_E4M3", (2,), b"12")})
    with pytest.raises(ValueError, match=r"'x' is F8_E4M3; save it as F32, F16 or BF16"):
        read_store(tmp_path / "a.safetensors")
