"""The command line: results, exit codes, one line on stderr, and never a partial file."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import crfrnn
from crfrnn._extras import install
from crfrnn.cli import COMMANDS, main
from crfrnn.io.files import PART_SUFFIX
from crfrnn.jobs import files
from crfrnn.offline.verdict import Changed
from crfrnn.presets import PRESETS
from tests.cases import needs_torch, torch
from tests.cli.scene import SIZE, logits, photograph

HEIGHT, WIDTH = SIZE


def probabilities() -> np.ndarray:
    e = np.exp(logits())
    return e / e.sum(axis=0)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a photograph and its logits."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(photograph()).save("a.png")
    np.save("a.npy", logits())
    return tmp_path


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def refine(*arguments: str, image: str = "a.png", scores: str = "a.npy", out: str = "o.png") -> int:
    return main(["refine", image, scores, "-o", out, *arguments])


def read(path: str) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image).astype(np.int64)


UNDERSTOOD = (
    "crfrnn refine: scores: logits, because {}; (C, h, w) = (3, 24, 32), values -3 to 1{}\n"
    "crfrnn refine: classes: 3\n"
    "crfrnn refine: image: 24x32 (height x width), 8 bits, values 40 to 200\n"
)


def expected(**options: Any) -> np.ndarray:
    """What the Python function gives."""
    return crfrnn.refine(photograph(), logits=logits(), **options).labels


# One photograph


def test_scores_become_sharp_labels(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refine("--kind", "logits") == 0
    labels = read("o.png")
    np.testing.assert_array_equal(labels, expected())
    np.testing.assert_array_equal(labels, np.where(np.arange(WIDTH) < 14, 0, 1)[None].repeat(24, 0))
    with Image.open("o.png") as image:
        assert image.mode == "P"
        assert image.getpalette()[:6] == [0, 0, 0, 128, 0, 0]
    out, err = capsys.readouterr()
    assert out.startswith("o.png: 72 of 768 pixels relabeled (9.4%)")
    assert err == UNDERSTOOD.format("--kind says so", "")
    assert names(folder) == ["a.npy", "a.png", "o.png"]


def speckled() -> np.ndarray:
    """The usual logits with a fourth class, certain at one pixel, which the CRF removes."""
    scores = np.concatenate([logits(), np.full((1, 24, WIDTH), -9, np.float32)])
    scores[:, 12, 24] = -3, 0, -9, 4
    return scores


STRONG = ("--kind", "logits", "--gaussian-weight", "40")


def test_a_vanished_class_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save("a.npy", speckled())
    assert refine(*STRONG) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert "% of confident ones flipped, in " in first
    assert lines == ["o.png: class 3 vanished", "o.png: most of class 3 became 1"]
    assert refine(*STRONG, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    want = crfrnn.refine(photograph(), logits=speckled(), kernels=strong()).changed
    assert isinstance(want, Changed)
    assert want.flipped >= 1
    names = ("pixels", "relabeled", "confident", "flipped")
    assert {name: report[name] for name in names} == {n: getattr(want, n) for n in names}
    assert (report["vanished"], report["appeared"], report["swapped"]) == ([3], [], [[3, 1]])
    assert (report["kept_input"], report["reverted"]) == (False, 0)


def strong() -> list[crfrnn.Kernel]:
    return [
        crfrnn.Bilateral(position=67, color=3, weight=4),
        crfrnn.Gaussian(position=1, weight=40),
    ]


def test_the_guard_says_what_it_did(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save("a.npy", speckled())
    assert refine(*STRONG, "--guard", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    want = crfrnn.refine(photograph(), logits=speckled(), kernels=strong(), guard=True)
    assert vars(want.guarded).items() <= report.items()
    assert want.guarded.reverted > 0
    np.testing.assert_array_equal(read("o.png"), want.labels)
    assert read("o.png")[12, 24] == 3
    assert refine(*STRONG, "--guard") == 0
    lines = capsys.readouterr().out.splitlines()
    done = f"gave {want.guarded.reverted} pixels their label back"
    done = "kept the input" if want.guarded.kept_input else done
    assert lines[1:] == [f"o.png: the guard {done}"]


def test_the_guess_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refine() == 0
    assert capsys.readouterr().err == UNDERSTOOD.format("it has negative values", "")


def test_json_tells_everything(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refine("--json", "--probs", "p.npy", "--overlay", "v.png", "--preset", "crfasrnn") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["engine"] == crfrnn.refine(photograph(), logits=logits()).engine
    assert report["seconds"] > 0
    assert report["relabeled"] == int((read("o.png") != logits().argmax(axis=0)).sum())
    assert report["outputs"] == {"labels": "o.png", "probs": "p.npy", "overlay": "v.png"}
    assert report["parameters"]["normalization"] == "after"
    assert report["parameters"]["kernels"][0]["kind"] == "Bilateral"
    assert report["parameters"]["kernels"][0]["position"] == 160
    probs = np.load("p.npy")
    assert probs.dtype == np.float32
    np.testing.assert_allclose(probs.sum(axis=0), 1, atol=1e-5)
    np.testing.assert_array_equal(probs.argmax(axis=0), read("o.png"))
    with Image.open("v.png") as image:
        assert image.size == (WIDTH, HEIGHT)


@needs_torch
def test_every_parameter_reaches_the_crf(folder: Path) -> None:
    penalty = np.ones((3, 3)) - np.eye(3)
    penalty[0, 1] = 0.5
    np.save("c.npy", penalty)
    # Not "the same labels" but the same probabilities: any parameter lost on the way shows.
    options = (
        "--bilateral-position 20 --bilateral-color 9 --bilateral-weight 2 --gaussian-position 2,1 "
        "--gaussian-weight 0.5 --iterations 3 --normalization before --filter exact "
        "--tol 0.02 --engine reference --compatibility c.npy --probs p.npy"
    )
    assert refine(*options.split()) == 0
    want = crfrnn.refine(
        photograph(),
        logits=logits(),
        kernels=(
            crfrnn.Bilateral(position=20, color=9, weight=2),
            crfrnn.Gaussian(position=(2, 1), weight=0.5),
        ),
        iterations=3,
        normalization="before",
        tol=0.02,
        filter="exact",
        engine="reference",
        compatibility=penalty,
    )
    np.testing.assert_allclose(np.load("p.npy"), want.probs, atol=1e-6)
    assert np.abs(want.probs - crfrnn.refine(photograph(), logits=logits()).probs).max() > 0.01


@needs_torch
def test_the_precision_reaches_the_crf(folder: Path) -> None:
    assert refine("--precision", "half", "--engine", "reference", "--probs", "p.npy") == 0
    full, half = (
        crfrnn.refine(photograph(), logits=logits(), engine="reference", precision=precision).probs
        for precision in ("full", "half")
    )
    np.testing.assert_array_equal(np.load("p.npy"), half)
    assert (full != half).any()


@pytest.mark.parametrize("preset", list(PRESETS))
def test_presets_by_name(folder: Path, preset: str) -> None:
    assert refine("--preset", preset) == 0
    np.testing.assert_array_equal(read("o.png"), expected(preset=preset))


@needs_torch
def test_coarse_half_precision_channels_last(folder: Path) -> None:
    coarse = logits()[:, ::4, ::4].astype(np.float16)
    np.savez("c.npz", scores=np.moveaxis(coarse, 0, -1))
    assert refine(scores="c.npz") == 0
    full = torch.nn.functional.interpolate(
        torch.tensor(coarse).float()[None], SIZE, mode="bilinear"
    )
    want = crfrnn.refine(photograph(), logits=full[0].numpy()).labels
    np.testing.assert_array_equal(read("o.png"), want)


def test_labels_keep_their_palette_and_fill_the_unknown(folder: Path) -> None:
    labels = logits().argmax(axis=0).astype(np.uint8)
    labels[:, 10:20] = 255
    image = Image.fromarray(labels)
    image.putpalette([0, 0, 0, 1, 2, 3])
    image.save("l.png")
    assert refine(scores="l.png") == 0
    want = crfrnn.refine(photograph(), labels=labels).labels
    np.testing.assert_array_equal(read("o.png"), want)
    assert read("o.png").max() == 1
    with Image.open("o.png") as image:
        assert image.getpalette()[3:6] == [1, 2, 3]


def test_every_parameter_of_labels_counts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = logits().argmax(axis=0)
    labels[:, 10:20] = 9
    np.save("l.npy", labels)
    options = "--ignore-index 9 --confidence 0.9 --num-classes 4 --json --probs p.npy"
    assert refine(*options.split(), scores="l.npy") == 0
    want = crfrnn.refine(photograph(), labels=labels, ignore_index=9, confidence=0.9, num_classes=4)
    np.testing.assert_allclose(np.load("p.npy"), want.probs, atol=1e-6)
    # What was unknown is filled, not relabeled.
    assert json.loads(capsys.readouterr().out)["relabeled"] == 0
    assert set(np.unique(read("o.png"))) == {0, 1}


def test_a_mask_comes_out_as_a_mask(folder: Path) -> None:
    mask = np.where(np.arange(WIDTH) < 17, 10, 200).astype(np.uint8)[None].repeat(HEIGHT, 0)
    Image.fromarray(mask).save("m.png")
    assert refine("--kind", "mask", scores="m.png") == 0
    want = crfrnn.refine(photograph(), probs=(mask / 255).astype(np.float32)[None]).labels
    np.testing.assert_array_equal(read("o.png"), want)
    with Image.open("o.png") as image:
        assert set(np.unique(image.convert("L"))) == {0, 255}


def test_more_than_256_classes_are_16_bit_grey(folder: Path) -> None:
    np.save("l.npy", np.full(SIZE, 300))
    assert refine(scores="l.npy") == 0
    with Image.open("o.png") as image:
        assert image.mode.startswith("I")
    np.testing.assert_array_equal(read("o.png"), np.full(SIZE, 300))


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1)])
def test_one_pixel_and_one_row(folder: Path, size: tuple[int, int]) -> None:
    Image.fromarray(np.full((*size, 3), 7, np.uint8)).save("s.png")
    scores = np.random.default_rng(0).normal(size=(4, *size))
    np.save("s.npy", scores)
    assert refine("--probs", "p.npy", image="s.png", scores="s.npy") == 0
    assert read("o.png").shape == size
    assert np.isfinite(np.load("p.npy")).all()


def test_16_bit_grey_keeps_its_colors_in_the_overlay(folder: Path) -> None:
    Image.fromarray(photograph()[..., 0].astype(np.uint16) * 257).save("d.png")
    assert refine("--overlay", "v.jpg", image="d.png") == 0
    np.testing.assert_array_equal(read("o.png"), expected())


# Bad input: exit code 2, one line, nothing written


def save_png(name: str, values: np.ndarray) -> None:
    Image.fromarray(values).save(name)


BAD: dict[str, tuple[Callable[[], Any], dict[str, Any], str]] = {
    "image missing": (lambda: None, {"image": "b.png"}, "b.png: expected an image, but it is mis"),
    "scores missing": (lambda: None, {"scores": "b.npy"}, "b.npy: expected a NumPy file"),
    "image truncated": (
        lambda: Path("a.png").write_bytes(Path("a.png").read_bytes()[:60]),
        {},
        "a.png: not a readable image",
    ),
    "image empty": (lambda: Path("a.png").write_bytes(b""), {}, "a.png: not a readable image"),
    "scores truncated": (
        lambda: Path("a.npy").write_bytes(Path("a.npy").read_bytes()[:900]),
        {},
        "a.npy: not a readable NumPy file",
    ),
    "npz truncated": (
        lambda: (np.savez("b.npz", logits()), Path("b.npz").write_bytes(b"PK\3\4junk")),
        {"scores": "b.npz"},
        "b.npz: not a readable NumPy file",
    ),
    "scores no array": (
        lambda: Path("a.npy").write_text("nothing"),
        {},
        "a.npy: not a readable NumPy file",
    ),
    "scores NaN": (lambda: np.save("a.npy", logits() * np.nan), {}, "2304 of 2304 values are NaN"),
    "scores inf": (lambda: np.save("a.npy", logits() / 0.0), {}, "NaN or infinite"),
    "scores empty": (lambda: np.save("a.npy", np.zeros((3, 0, 0))), {}, "the array is empty"),
    "scores rank": (lambda: np.save("a.npy", np.zeros((2, 2, 3, 4))), {}, "got shape (2, 2, 3, 4)"),
    "logits integer": (
        lambda: np.save("a.npy", logits().astype(int)),
        {},
        "quantized logits? Give --kind masks; or dequantize",
    ),
    "swapped": (
        lambda: np.save("a.npy", np.swapaxes(logits(), 1, 2)),
        {},
        "height and width of the scores look swapped: they are 32x24 for an image of 24x32",
    ),
    "labels of another size": (
        lambda: np.save("a.npy", np.zeros((12, 16), int)),
        {},
        "labels must have the size of the image, 24x32 (height x width); got 12x16",
    ),
    "probs not summing to one": (
        lambda: np.save("a.npy", probabilities() * 1.2),
        {"options": ["--kind", "probs"]},
        "probs must sum to 1",
    ),
    "probs all zero": (
        lambda: np.save("a.npy", probabilities() * (np.arange(WIDTH) > 0)),
        {"options": ["--kind", "probs"]},
        "all-zero",
    ),
    "one class": (
        lambda: np.save("a.npy", np.zeros(SIZE, int)),
        {"options": ["--num-classes", "1"]},
        "at least 2",
    ),
    "output nowhere": (lambda: None, {"out": "no/where/o.png"}, "no/where is missing; create it"),
    "output under a file": (lambda: None, {"out": "a.npy/o.png"}, "a.npy is not a folder"),
    "output a folder": (
        lambda: Path("d.png").mkdir(),
        {"out": "d.png"},
        "name of a file to write; got a folder",
    ),
    "output not png": (lambda: None, {"out": "o.jpg"}, "--output must be a .png file; got o.jpg"),
    "output the image": (
        lambda: None,
        {"out": "./a.png"},
        "a.png is an input; write the labels",
    ),
    "probs nowhere": (lambda: None, {"options": ["--probs", "no/p.npy"]}, "no is missing"),
    "preset": (lambda: None, {"options": ["--preset", "best"]}, "unknown preset 'best'"),
    "kind": (lambda: None, {"options": ["--kind", "guess"]}, "argument --kind: invalid choice"),
    "filter": (lambda: None, {"options": ["--filter", "fft"]}, "argument --filter: invalid choice"),
    "precision": (lambda: None, {"options": ["--precision", "8"]}, "--precision: invalid choice"),
    "tol": (lambda: None, {"options": ["--tol", "0"]}, "tol is a mean change and must be positive"),
    "engine": (lambda: None, {"options": ["--engine", "warp"]}, "warp"),
    "bandwidth zero": (
        lambda: None,
        {"options": ["--bilateral-color", "0"]},
        "Bilateral color",
    ),
    "bandwidth negative": (
        lambda: None,
        {"options": ["--gaussian-position", "-3"]},
        "Gaussian position",
    ),
    "bandwidth NaN": (lambda: None, {"options": ["--bilateral-position", "nan"]}, "got nan"),
    "bandwidth 1e-9": (lambda: None, {"options": ["--bilateral-position", "1e-9"]}, "too small"),
    "bandwidth text": (lambda: None, {"options": ["--bilateral-color", "x"]}, "expected a number"),
    "weight infinite": (lambda: None, {"options": ["--gaussian-weight", "inf"]}, "must be finite"),
    "iterations": (lambda: None, {"options": ["--iterations", "-1"]}, "must not be negative"),
    "canvas": (lambda: None, {"options": ["--canvas", "0x9"]}, "expected WIDTHxHEIGHT"),
    "compatibility": (
        lambda: np.save("c.npy", np.eye(2)),
        {"options": ["--compatibility", "c.npy"]},
        "compatibility must be (3, 3)",
    ),
    "file and folder": (lambda: None, {"scores": "."}, "two files or two folders"),
    "misspelled option": (
        lambda: None,
        {"options": ["--presett", "deeplab"]},
        "crfrnn refine: error: unrecognized arguments: --presett deeplab (did you mean --preset?)",
    ),
}


@pytest.mark.parametrize("case", list(BAD))
def test_bad_input(folder: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    make, where, message = BAD[case]
    with np.errstate(all="ignore"):
        make()
    before = names(folder)
    files = {name: value for name, value in where.items() if name != "options"}
    assert refine(*where.get("options", ()), **files) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("crfrnn refine: error: ")
    assert message in err
    assert err.count("\n") == 1
    assert names(folder) == before


def test_an_interrupted_run_says_so_and_leaves_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", interrupt)
    assert refine() == 130
    assert capsys.readouterr().err == "crfrnn refine: interrupted\n"
    assert names(folder) == ["a.npy", "a.png"]


def test_a_full_disk_leaves_no_partial_file(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert refine() == 2
    assert "error: o.png: No space left on device\n" in capsys.readouterr().err
    assert names(folder) == ["a.npy", "a.png"]


# Folders


@pytest.fixture
def folders(folder: Path) -> Path:
    """Five photographs, scores for the last four of them, and scores without a photograph."""
    Path("images").mkdir()
    Path("scores").mkdir()
    for index, stem in enumerate("abcde"):
        save_png(f"images/{stem}.png", np.roll(photograph(), index, axis=0))
        if stem != "a":
            np.save(f"scores/{stem}.npy", np.roll(logits(), index, axis=1))
    np.savez("scores/z.npz", logits())
    return folder


def refine_folders(*arguments: str, out: str = "out") -> int:
    return main(["refine", "images", "scores", "-o", out, "--kind", "logits", *arguments])


def test_a_folder_is_matched_by_stem(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch and torch.get_num_threads()
    assert refine_folders("--json", "--workers", "2", "--overlay", "seen") == 0
    assert names(folders / "out") == ["b.png", "c.png", "crfrnn-refine.json", "d.png", "e.png"]
    assert names(folders / "seen") == ["b.png", "c.png", "d.png", "e.png"]
    np.testing.assert_array_equal(read("out/b.png"), expected())
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert (report["refined"], report["skipped"], report["failed"]) == (4, 0, 0)
    assert report["unmatched"] == {"images": ["a"], "scores": ["z"]}
    assert [file["stem"] for file in report["files"]] == list("bcde")
    assert {file["relabeled"] for file in report["files"]} == {72}
    assert err == UNDERSTOOD.format("--kind says so", " (first of 4 files: b.npy)") + (
        "crfrnn refine: note: images without scores (1): a\n"
        "crfrnn refine: note: scores without images (1): z\n"
    )
    assert (torch and torch.get_num_threads()) == threads


def test_a_folder_names_the_files_where_a_class_vanished(
    folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for stem in "bd":
        np.save(f"scores/{stem}.npy", speckled())
    assert refine_folders(*STRONG[2:], "--json") == 0
    report = json.loads(capsys.readouterr().out)
    changed = report["changed"]
    assert changed["vanished"] == {"3": ["b", "d"]}
    assert changed["swapped"] == {"3 to 1": ["b", "d"]}
    assert (changed["appeared"], changed["kept_input"]) == ({}, [])
    for name in ("pixels", "relabeled", "confident", "flipped"):
        assert changed[name] == sum(file[name] for file in report["files"])
    assert refine_folders(*STRONG[2:], out="again") == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert " of confident ones flipped, " in first
    assert lines == [
        "again: class 3 vanished in 2 files: b, d",
        "again: most of class 3 became 1 in 2 files: b, d",
    ]
    assert refine_folders(*STRONG[2:], "--guard", out="kept") == 0
    assert "kept: the guard " in capsys.readouterr().out


def test_one_bad_file_does_not_stop_the_rest(
    folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("scores/c.npy").write_bytes(b"")
    assert refine_folders() == 1
    assert names(folders / "out") == ["b.png", "crfrnn-refine.json", "d.png", "e.png"]
    out, err = capsys.readouterr()
    assert "3 refined, 0 already there, 1 failed" in out
    last = err.splitlines()[-1]
    assert last.startswith("crfrnn refine: failed: c: scores/c.npy: not a readable NumPy file")
    np.save("scores/c.npy", logits())
    assert refine_folders() == 0
    assert "1 refined, 3 already there, 0 failed" in capsys.readouterr().out


def test_an_interrupted_folder_goes_on_where_it_stopped(
    folders: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    original = files.refine_on

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls >= 3:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(files, "refine_on", interrupted)
        assert refine_folders("--workers", "1") == 130
    *notes, last = capsys.readouterr().err.splitlines()
    assert last == "crfrnn refine: interrupted"
    # Notes were said before it, since they come when they come up.
    assert "crfrnn refine: note: images without scores (1): a" in notes
    assert all(line.startswith("crfrnn refine: note: ") for line in notes[3:])
    done = names(folders / "out")
    assert done == ["b.png", "c.png", "crfrnn-refine.json"]
    # What kill -9 would leave: a partial file of long ago, and one that another run is writing.
    old, new = (Path("out") / f".d.png.{name}{PART_SUFFIX}" for name in ("0000abcd", "0000abce"))
    old.write_bytes(b"half")
    new.write_bytes(b"half")
    os.utime(old, (time.time() - 3600,) * 2)
    kept = Path("out/b.png").stat().st_mtime_ns
    assert refine_folders() == 0
    assert "2 refined, 2 already there, 0 failed" in capsys.readouterr().out
    assert Path("out/b.png").stat().st_mtime_ns == kept
    assert names(folders / "out") == [new.name, *done[:2], done[2], "d.png", "e.png"]
    np.testing.assert_array_equal(read("out/d.png"), expected())


def test_other_parameters_are_not_mixed_in(
    folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refine_folders() == 0
    before = read("out/b.png")
    capsys.readouterr()
    assert refine_folders("--iterations", "0") == 2
    err = capsys.readouterr().err
    assert "iterations was 10, is now 0" in err
    assert "--overwrite" in err
    assert err.count("\n") == 1
    np.testing.assert_array_equal(read("out/b.png"), before)
    assert refine_folders("--iterations", "0", "--overwrite") == 0
    np.testing.assert_array_equal(read("out/b.png"), logits().argmax(axis=0))
    assert refine_folders("--iterations", "0") == 0
    assert "0 refined, 4 already there" in capsys.readouterr().out


def test_a_folder_of_an_earlier_version_goes_on(
    folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which spelled the kind of a kernel `kernel`."""
    assert refine_folders() == 0
    manifest = Path("out/crfrnn-refine.json")
    times = manifest.stat()
    text = manifest.read_text()
    assert text.count('"kind": "Bilateral"') == 1
    manifest.write_text(re.sub(r'"kind": "(Bilateral|Gaussian)"', r'"kernel": "\1"', text))
    os.utime(manifest, ns=(times.st_atime_ns, times.st_mtime_ns))
    capsys.readouterr()
    assert refine_folders() == 0
    assert "0 refined, 4 already there" in capsys.readouterr().out
    assert refine_folders("--bilateral-color", "9") == 2
    assert "kernels was" in capsys.readouterr().err


def test_an_interrupted_overwrite_leaves_no_old_result_for_done(
    folders: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refine_folders() == 0
    for folder, age in (("images", 120), ("scores", 120), ("out", 60)):
        for path in Path(folder).iterdir():
            os.utime(path, (time.time() - age,) * 2)

    def interrupt(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(files, "refine_on", interrupt)
        assert refine_folders("--iterations", "0", "--overwrite") == 130
    capsys.readouterr()
    assert refine_folders("--iterations", "0") == 0
    assert "4 refined, 0 already there" in capsys.readouterr().out


def test_newer_scores_are_refined_again(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refine_folders() == 0
    later = time.time() + 60
    np.save("scores/b.npy", logits()[[1, 0, 2]])
    os.utime("scores/b.npy", (later, later))
    assert refine_folders() == 0
    assert "1 refined, 3 already there" in capsys.readouterr().out
    np.testing.assert_array_equal(read("out/b.png")[0, [0, -1]], [1, 0])


def test_a_folder_has_one_kind(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Or the job does not begin."""
    command = ["refine", "images", "scores", "-o", "out"]
    assert main(command) == 0
    assert "scores: logits, because it has negative values" in capsys.readouterr().err
    np.save("scores/c.npy", probabilities())
    assert main([*command, "--overwrite"]) == 2
    err = capsys.readouterr().err
    assert "of several kinds: logits (b.npy, d.npy, e.npy); probs (c.npy). If all are" in err
    assert err.count("\n") == 1


def test_one_note_a_job_on_geometry(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for stem in "bcde":
        np.save(f"scores/{stem}.npy", np.pad(logits(), ((0, 0), (0, 8), (0, 0)))[:, :, :32])
    assert refine_folders() == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if "stretched" in line]
    assert len(notes) == 2
    assert "has scores of 32x32 that are stretched to 24x32 pixels (height x width)" in notes[0]
    assert notes[1].endswith("4 files: scores whose proportions change when they are stretched")


def test_a_stem_of_two_files_is_told(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("images/b.jpg").write_bytes(Path("images/b.png").read_bytes())
    assert refine_folders() == 1
    assert (
        "failed: b: cannot tell which file to use: b.jpg, b.png; keep one"
        in capsys.readouterr().err
    )
    assert not Path("out/b.png").exists()


@pytest.mark.parametrize(
    ("arguments", "out", "message"),
    [
        (["--workers", "0"], "out", "--workers must be at least 1"),
        ([], "images", "images is the folder of images; write the labels elsewhere"),
        ([], "scores", "scores is the folder of scores; write the labels elsewhere"),
        (["--overlay", "out"], "out", "out is the output for labels"),
        ([], "a.npy/out", "cannot create this folder"),
        ([], "foreign", "exists and is not a result of crfrnn refine"),
        ([], "broken", "crfrnn-refine.json: not a readable manifest"),
    ],
)
def test_bad_folders(
    folders: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], out: str, message: str
) -> None:
    Path("foreign").mkdir()
    Path("foreign/b.png").write_bytes(b"mine")
    Path("broken").mkdir()
    Path("broken/crfrnn-refine.json").write_text("{")
    before = names(folders)
    assert refine_folders(*arguments, out=out) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert names(folders) == before


def test_folders_without_a_pair(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()
    assert main(["refine", "empty", ".", "-o", "out"]) == 2
    err = capsys.readouterr().err
    assert "no image in empty (0) has the stem of a score file" in err
    assert "the folder of photographs comes first" in err
    for name in ("photos", "tensors", "others", "above/below"):
        Path(name).mkdir(parents=True)
    Image.new("RGB", (6, 4)).save("photos/a.png")
    Path("tensors/a.pt").write_bytes(b"anything")
    np.save("others/a_scores.npy", np.zeros((2, 4, 6)))
    for scores, remedy in (
        ("tensors", "scores are not read from .pt files"),
        ("others", "The first are 'a' and 'a_scores'"),
        ("above", "Subfolders are not searched"),
    ):
        assert main(["refine", "photos", scores, "-o", "out"]) == 2
        assert remedy in capsys.readouterr().err


def test_arrays_win_over_pictures_and_one_folder_may_hold_both(folder: Path) -> None:
    save_png("a_not.png", photograph())
    assert main(["refine", ".", ".", "-o", "out"]) == 0
    assert names(folder / "out") == ["a.png", "crfrnn-refine.json"]
    np.testing.assert_array_equal(read("out/a.png"), expected())


# The other commands, and the process itself


def test_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    assert capsys.readouterr().out == f"{crfrnn.info()}\n"
    assert main(["info", "--json"]) == 0
    reference = json.loads(capsys.readouterr().out)["engines"]["reference"]
    assert reference == ("ready" if torch else f"it needs torch: {install('torch')}")


@pytest.mark.usefixtures("lines_at_once")
def test_demo(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("skimage")
    assert main(["demo", "-o", "new/demo", "--json"]) == 0
    out, err = capsys.readouterr()
    assert "refining: 2 of 2 photographs, in " in err
    records = json.loads(out)["photographs"]
    assert [record["photograph"] for record in records] == ["astronaut", "chelsea"]
    # The network's labels, as the score files give them: a person and a bottle; a cat.
    assert np.unique(read("new/demo/astronaut_network.png")).tolist() == [0, 5, 15]
    assert np.unique(read("new/demo/chelsea_network.png")).tolist() == [0, 8]
    for record in records:
        assert 0.01 < record["relabeled"] / record["pixels"] < 0.1
        with Image.open(record["outputs"]["figure"]) as figure:
            assert figure.width > 1400
    from crfrnn.cli.demo import _print_table

    _print_table(records, Path("new/demo"))
    assert f"{records[0]['relabeled']} of 262144" in capsys.readouterr().out


def test_demo_names_the_extra_it_needs(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "skimage.data", None)
    monkeypatch.setitem(sys.modules, "skimage", None)
    assert main(["demo", "-o", "new"]) == 2
    err = capsys.readouterr().err
    assert "pip install scikit-image" in err
    assert err.count("\n") == 1
    assert not Path("new").exists()


def test_help_names_commands_presets_and_harm(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in COMMANDS)
    assert main(["refine", "--help"]) == 0
    out = " ".join(capsys.readouterr().out.split())  # its lines are wrapped
    for preset in PRESETS.values():
        assert preset.name in out
        assert preset.purpose in out
        assert preset.source in out
    assert "do harm" in out


@pytest.mark.parametrize("argv", [[], ["melt"], ["refine", "a.png"], ["info", "--yaml"]])
def test_usage_errors_take_one_line(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("crfrnn")
    assert ": error: " in err
    assert err.count("\n") == 1


def process(*arguments: str, start: str = "crfrnn") -> "subprocess.Popen[str]":
    """Start a Python process; `start` is a module, or code to run."""
    source = ["-m", start] if start == "crfrnn" else ["-c", start]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, *source, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def test_a_process_of_its_own(folder: Path) -> None:
    Path("b.npy").write_bytes(b"\x93NUMPY")
    good = process("refine", "a.png", "a.npy", "-o", "o.png", "--json")
    bad = process("refine", "a.png", "b.npy", "-o", "p.png")
    out, _ = good.communicate(timeout=60)
    assert good.returncode == 0
    assert json.loads(out)["relabeled"] == 72
    out, err = bad.communicate(timeout=60)
    assert bad.returncode == 2
    assert out == ""
    assert err.startswith("crfrnn refine: error: b.npy: not a readable NumPy file")
    assert err.count("\n") == 1
    assert names(folder) == ["a.npy", "a.png", "b.npy", "o.png"]


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT between processes")
def test_ctrl_c_ends_a_folder_without_a_traceback(folders: Path) -> None:
    for number in range(300):
        save_png(f"images/n{number}.png", photograph())
        np.save(f"scores/n{number}.npy", logits())
    # A process started in the background ignores SIGINT; this one shall not.
    start = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from crfrnn.cli import main; sys.exit(main())"
    )
    options = ["--iterations", "50", "--workers", "2"]
    run = process("refine", "images", "scores", "-o", "out", *options, start=start)
    deadline = time.monotonic() + 60
    while not list(Path("out").glob("*.png")) and time.monotonic() < deadline:
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=60)
    assert (run.returncode, out) == (130, "")
    *before, last = err.splitlines()  # notes, and progress if the machine is slow
    assert last == "crfrnn refine: interrupted"
    assert [line.split()[2] for line in before[:3]] == ["scores:", "classes:", "image:"]
    assert all(line.startswith(("crfrnn refine: note: ", "refining: ")) for line in before[3:])
    done = names(folders / "out")
    assert 1 < len(done) < 300
    assert not [name for name in done if name.endswith(PART_SUFFIX)]
    for name in done:
        if name.endswith(".png"):
            assert read(f"out/{name}").shape == SIZE


def test_version_is_that_of_the_installation(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"crfrnn {version('crfrnn')}\n"
    assert crfrnn.__version__ == crfrnn.info().version == version("crfrnn")
    with pytest.raises(AttributeError, match="'crfrnn' has no attribute '__versions__'"):
        _ = crfrnn.__versions__


def test_import_does_not_look_the_version_up(folder: Path) -> None:
    code = (
        "import crfrnn; assert '__version__' not in vars(crfrnn); "
        "from crfrnn import __version__; print(__version__)"
    )
    run = process(start=code)
    out, err = run.communicate(timeout=60)
    assert out == f"{crfrnn.__version__}\n", err


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_import_no_command(folder: Path, option: str) -> None:
    code = (
        "import sys; from crfrnn.cli import COMMANDS, main; code = main([sys.argv[1]]); "
        "heavy = {'torch', 'numpy', 'PIL', 'rich'} & sys.modules.keys(); "
        "print(code, heavy | {name for name in COMMANDS if f'crfrnn.cli.{name}' in sys.modules})"
    )
    run = process(option, start=code)
    out, err = run.communicate(timeout=60)
    assert ("sharpen the scores" in out) == (option == "--help")
    assert out.endswith("0 set()\n"), err


def test_a_command_imports_its_own_module_only(folder: Path) -> None:
    code = (
        "import sys; from crfrnn.cli import COMMANDS, main; main(sys.argv[1:]); "
        "print({name for name in COMMANDS if f'crfrnn.cli.{name}' in sys.modules})"
    )
    run = process("evaluate", "--help", start=code)
    out, err = run.communicate(timeout=60)
    assert out.endswith("{'evaluate'}\n"), err


#: A command line of each command that needs torch; nothing in it is looked at without torch.
NEEDING_TORCH = {
    "train": ["config.yaml"],
    "ablate": ["config.yaml"],
    "segment": ["a.png", "--model", "model", "-o", "o.png"],
}


@pytest.mark.parametrize("command", list(NEEDING_TORCH))
def test_a_command_that_needs_torch_names_the_extra(folder: Path, command: str) -> None:
    code = (
        "import importlib.util, sys; sys.modules['torch'] = None; find = importlib.util.find_spec; "
        "importlib.util.find_spec = lambda name, *more: "
        "None if name == 'torch' else find(name, *more); "
        "from crfrnn.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    run = process(command, *NEEDING_TORCH[command], start=code)
    out, err = run.communicate(timeout=60)
    assert (run.returncode, out) == (2, "")
    assert err.startswith(f"crfrnn {command}: error: crfrnn {command} needs torch; install it")
    assert 'pip install "torch>=2.6" jaxtyping safetensors' in err
    assert err.count("\n") == 1
    assert main([command, "--help"]) == 0


def test_a_misspelled_command_gets_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rfine", "a.png"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("crfrnn: error: unknown command 'rfine' (did you mean refine?); expected")
    assert err.count("\n") == 1
