"""Files that somebody prepared: nothing runs, nothing is believed, nothing leaves its folder.

Each canary is a file that exists only if code from a file ran, or if a result went astray.
"""

import json
import os
import pickle
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crfrnn.cli import main
from crfrnn.io.arrays import read_arrays
from crfrnn.io.files import open_image
from crfrnn.io.score_pack import read_pack
from crfrnn.io.trees import read_json, read_yaml
from crfrnn.presets import find_preset
from tests.cases import needs_torch, torch

SIZE = (6, 8)


class Canary:
    """Writes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (os.system, (f"touch {self.mark}",))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a photograph; afterwards no canary may be there."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save("a.png")
    np.save("good.npy", np.random.default_rng(0).normal(size=(3, *SIZE)))
    return tmp_path


def refuse(call: Callable[[], object], *parts: str) -> None:
    with pytest.raises((ValueError, OSError)) as caught:
        call()
    text = str(caught.value)
    assert all(part in text for part in parts), text
    assert not Path("canary").exists()


# Pickles, in every place where arrays, weights or states are read


def pickled() -> bytes:
    return pickle.dumps(Canary(Path("canary").absolute()))


def object_array(path: str) -> None:
    np.save(path, np.array([Canary(Path("canary").absolute())], object), allow_pickle=True)


def object_archive(path: str) -> None:
    values = np.array([Canary(Path("canary").absolute())], object)
    np.savez(path, ids=values, logits=values)


WRITERS: dict[str, Callable[[str], Any]] = {
    "array.npy": object_array,
    "dictionary.npy": lambda path: np.save(
        path,
        {1: np.zeros((2, 2)), 2: Canary(Path("canary").absolute())},  # type: ignore[arg-type]
        allow_pickle=True,
    ),
    "bare.npy": lambda path: Path(path).write_bytes(pickled()),
    "archive.npz": object_archive,
    "bare.npz": lambda path: Path(path).write_bytes(pickled()),
}


@pytest.mark.parametrize("name", list(WRITERS))
def test_pickled_arrays_are_refused_with_what_to_save(folder: Path, name: str) -> None:
    WRITERS[name](name)
    refuse(lambda: read_arrays(Path(name)), name, "pickled Python objects", "np.savez")
    assert main(["refine", "a.png", name, "-o", "o.png"]) == 2
    assert main(["refine", "a.png", "good.npy", "-o", "o.png", "--compatibility", name]) == 2
    assert not Path("canary").exists()
    assert not Path("o.png").exists()


def test_pickled_packs_are_refused(folder: Path) -> None:
    object_archive("p.npz")
    refuse(lambda: read_pack("p.npz"), "pickled")


@needs_torch
def test_pickled_weights_and_states_are_refused(folder: Path) -> None:
    from crfrnn import CRFRNN
    from crfrnn.models.checkpoint import load_checkpoint
    from crfrnn.models.fcn8s import FCN8s
    from crfrnn.training.run import _state_dict
    from crfrnn.training.state import load_state

    canary = Canary(Path("canary").absolute())
    for name, value in (("state.pt", {"format": 1, "x": canary}), ("bare.pt", None)):
        if value is None:
            Path(name).write_bytes(pickled())
        else:
            torch.save(value, name)
        refuse(lambda name=name: load_state(Path(name)), name)
        refuse(lambda name=name: _state_dict(Path(name)), name)
        for read in (CRFRNN.from_crfasrnn, FCN8s(21, width=2, hidden=4).load_crfasrnn):
            with pytest.raises(Exception) as caught:  # noqa: PT011 - whatever, but nothing runs
                read(Path(name))
            assert not Path("canary").exists(), caught
    Path("m").mkdir()
    Path("m/config.json").write_text(json.dumps({"library": "crfrnn", "format": 2}))
    Path("m/model.safetensors").write_bytes(pickled())
    refuse(lambda: load_checkpoint("m"), "model.safetensors")
    Path("m/model.safetensors").write_bytes(struct.pack("<Q", 1 << 60) + b"{}")  # a lying header
    refuse(lambda: load_checkpoint("m"), "model.safetensors")


# Configurations

TAGS = [
    "!!python/object/apply:os.system ['touch canary']",
    "kernels: !!python/object/new:os.system ['touch canary']",
    "!!python/name:os.system ''",
    "!!python/module:os ''",
]
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize("text", [*TAGS, BOMB, "a: &a [*a]", "[" * 5000, "{a: " * 3000])
def test_configurations_are_plain_and_bounded(folder: Path, text: str) -> None:
    refuse(lambda: read_yaml(text))
    Path("c.yaml").write_text(text)
    refuse(lambda: find_preset("c.yaml"), "c.yaml")
    assert main(["refine", "a.png", "good.npy", "-o", "o.png", "--preset", "c.yaml"]) == 2
    for command in (["train", "c.yaml"], ["tune", "c.yaml"], ["ablate", "c.yaml"]):
        assert main(command) == 2
        assert not Path("canary").exists()


def test_aliases_that_are_few_are_fine() -> None:
    assert read_yaml("a: &a [1, 2]\nb: [*a, *a]") == {"a": [1, 2], "b": [[1, 2], [1, 2]]}


def test_deep_json_is_refused(folder: Path) -> None:
    refuse(lambda: read_json("[" * 100_000 + "]" * 100_000), "nested too deeply")
    Path("p.json").write_text("[" * 100_000)
    refuse(lambda: find_preset("p.json"), "p.json")


@needs_torch
def test_models_of_the_old_format_are_read_without_tags(folder: Path) -> None:
    from crfrnn.models.checkpoint import load_checkpoint

    Path("m").mkdir()
    for text in (TAGS[0], BOMB):
        Path("m/config.yaml").write_text(text)
        Path("m/weights.safetensors").write_bytes(b"")
        refuse(lambda: load_checkpoint("m"), "config.yaml")


# Headers that lie, and bombs


def npy(shape: str, data: bytes = b"", descr: str = "'<f8'") -> bytes:
    head = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + data


@pytest.mark.parametrize(
    "data",
    [
        npy("(3, 1000000, 1000000)", b"\0" * 64),
        npy("(9223372036854775807, 9223372036854775807)", b"\0" * 64),
        npy("(-1, 8)", b"\0" * 64),
        npy("(8, 9)", b"\0" * 64),
        npy("(8,)", b"\0" * 64, "'|O'"),
        npy("(8,)", b"\0" * 64, "__import__('os').system('touch canary')"),
        npy("(" * 300 + ")" * 300),
        b"\x93NUMPY\x02\x00" + struct.pack("<I", 0xFFFFFFFF) + b"{}",
        b"\x93NUMPY\x09\x00" + b"\0" * 99,
    ],
)
def test_headers_of_arrays_are_not_believed(folder: Path, data: bytes) -> None:
    Path("x.npy").write_bytes(data)
    refuse(lambda: read_arrays(Path("x.npy")), "x.npy")
    with zipfile.ZipFile("x.npz", "w") as archive:
        archive.writestr("logits.npy", data)
    refuse(lambda: read_arrays(Path("x.npz")), "x.npz")


def test_an_archive_that_unpacks_to_far_more_is_refused(folder: Path) -> None:
    with (
        zipfile.ZipFile("x.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("logits.npy", "w", force_zip64=True) as part,
    ):
        part.write(npy("(100, 100, 200000)"))
        for _ in range(160):
            part.write(b"\0" * 10_000_000)
    assert Path("x.npz").stat().st_size < 2e6
    refuse(lambda: read_arrays(Path("x.npz")), "decompression bomb", "np.savez")


def png_of(width: int, height: int) -> bytes:
    """A PNG that claims a size, and holds one row."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 9))


def test_an_image_of_many_pixels_is_refused_before_it_is_decoded(folder: Path) -> None:
    Path("b.png").write_bytes(png_of(60_000, 50_000))
    limit = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refuse(lambda: open_image(Path("b.png")), "3000 million pixels", "--max-pixels 3000000000")
    assert limit == Image.MAX_IMAGE_PIXELS
    assert main(["refine", "b.png", "good.npy", "-o", "o.png"]) == 2
    Path("c.png").write_bytes(png_of(12_000, 10_000))  # where Pillow would only warn
    refuse(lambda: open_image(Path("c.png"), max_pixels=10_000_000), "--max-pixels 120000000")


# Names and links


def test_a_list_leads_to_no_file_outside_its_folders(folder: Path) -> None:
    from crfrnn.data import open_folder

    for name in ("images", "masks", "secret"):
        Path(name).mkdir()
        Image.fromarray(np.zeros(SIZE, np.uint8)).save(f"{name}/a.png")
    Image.fromarray(np.ones(SIZE, np.uint8)).save("secret/b.png")
    Path("ids.txt").write_text("../secret/b\n")
    with pytest.raises(FileNotFoundError, match=r"images are missing: images.b\.jpg"):
        open_folder("images", "masks", num_classes=2, ids="ids.txt")


def test_results_replace_a_link_and_not_what_it_leads_to(folder: Path) -> None:
    for name in ("images", "scores", "out"):
        Path(name).mkdir()
    Path("a.png").rename("images/a.png")
    Path("good.npy").rename("scores/a.npy")
    Path("secret.txt").write_text("precious")
    for name in ("a.png", "crfrnn-refine.json", ".crfrnn-refine.1-of-1.lock"):
        Path("out", name).symlink_to(folder / "secret.txt")
    command = ["refine", "images", "scores", "-o", "out", "--kind", "logits", "--probs", "probs"]
    Path("probs").mkdir()
    Path("probs/a.npy").symlink_to(folder / "secret.txt")
    os.utime("secret.txt", (0, 0))
    assert main([*command, "--overwrite"]) == 0
    assert Path("secret.txt").read_text() == "precious"
    for path in (Path("out/a.png"), Path("out/crfrnn-refine.json"), Path("probs/a.npy")):
        assert not path.is_symlink()


# Characters that a terminal obeys

ESCAPES = ["\x1b[2J", "\x1b]0;owned\x07", "\r", "\x08\x08", "\u202e", "\x9b31m", "\n"]


@pytest.mark.parametrize("evil", ESCAPES)
def test_names_do_not_reach_the_terminal_as_they_are(
    folder: Path, capsys: pytest.CaptureFixture[str], evil: str
) -> None:
    for name in ("images", "scores"):
        Path(name).mkdir()
    for index in range(3):
        Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(f"images/{index}{evil}.png")
    np.save(f"scores/0{evil}.npy", np.random.default_rng(0).normal(size=(3, *SIZE)))
    Path(f"scores/1{evil}.npy").write_bytes(b"broken")
    np.save(f"scores/9{evil}.npy", np.zeros((3, *SIZE)))
    out = f"out{evil}"
    main(["refine", "images", "scores", "-o", out, "--kind", "logits"])
    main(["refine", "images", "scores", "-o", out, "--kind", "logits", "--iterations", "1"])
    main(["refine", f"images/0{evil}.png", f"scores/0{evil}.npy", "-o", f"x{evil}.png"])
    main(["refine", f"missing{evil}.png", "good.npy", "-o", "x.png"])
    main(["refine", "a.png", "good.npy", "-o", "x.png", f"--nothing{evil}"])
    main([f"nothing{evil}"])
    main(["refine", "a.png", "good.npy", "-o", "x.png", "--preset", f"none{evil}"])
    main(["info", f"{evil}"])
    said = "".join(capsys.readouterr())
    assert "failed: 1" in said
    letters = {letter for letter in said if not letter.isprintable()}
    assert letters <= {"\n"}
    if evil == "\n":
        starts = ("crfrnn", "usage", "scores:", "classes:", "image:", "out", "x", " ")
        assert all(line.startswith(starts) for line in said.splitlines() if line)
