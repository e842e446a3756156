"""Jobs on folders: one kind, one number of classes, shared work, moved inputs, full disks."""

import errno
import importlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import crfrnn
from crfrnn.cli import COMMANDS, main
from crfrnn.cli._options import parse_shard
from crfrnn.io.files import PART_SUFFIX, note_of
from crfrnn.io.locks import Shard, claimed
from crfrnn.jobs import files

SIZE = (18, 26)
RANDOM = np.random.default_rng(7)


def photograph() -> np.ndarray:
    image = np.full((*SIZE, 3), 50, np.uint8)
    image[:, 12:] = 180
    return image


def logits(classes: int = 3) -> np.ndarray:
    scores = np.full((classes, *SIZE), -3, np.float32)
    scores[0, :, :14] = 1
    scores[1, :, 14:] = 1
    return scores


def labels(*ids: int) -> np.ndarray:
    """Ids from left to right, in bands as wide as possible; the last border is off the edge."""
    bands = np.repeat(np.array(ids), -(-SIZE[1] // len(ids)))[: SIZE[1]]
    return np.broadcast_to(bands, SIZE).copy()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("images", "scores"):
        Path(name).mkdir()
    Image.fromarray(photograph()).save("a.png")
    for stem in "abcdef":
        Image.fromarray(photograph()).save(f"images/{stem}.png")
    return tmp_path


def save_scores(**arrays: np.ndarray) -> None:
    for stem, values in arrays.items():
        np.save(f"scores/{stem}.npy", values)


def save_maps(**maps: np.ndarray) -> None:
    for stem, values in maps.items():
        Image.fromarray(values.astype(np.uint8)).save(f"scores/{stem}.png")


def refine(*options: str, out: str = "out", images: str = "images", scores: str = "scores") -> int:
    return main(["refine", images, scores, "-o", out, *options])


def read(path: str) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image).astype(np.int64)


# One kind, one number of classes


def test_maps_of_high_and_low_ids_are_one_kind(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_maps(a=labels(3, 13, 22), b=labels(3, 28, 139), c=labels(0, 0), d=labels(3, 255))
    assert refine("--iterations", "0") == 0
    err = capsys.readouterr().err
    assert "scores: labels, because" in err
    assert "classes: 140, of which 6 occur: 0, 3, 13, 22, 28, 139" in err
    assert set(np.unique(read("out/a.png"))) == {3, 13, 22}
    assert set(np.unique(read("out/b.png"))) == {3, 28, 139}


def test_a_map_counts_alike_alone_and_with_higher_ids_elsewhere(folder: Path) -> None:
    """The strength of a job's maps is that of all ids of the job."""
    noisy = labels(0, 1)
    noisy[RANDOM.random(SIZE) < 0.2] = 1
    save_maps(a=noisy, b=labels(0, 1, 2, 3, 4, 5))
    assert refine("--probs", "probs") == 0
    want = crfrnn.refine(photograph(), labels=noisy, num_classes=6)
    np.testing.assert_allclose(np.load("probs/a.npy"), want.probs, atol=1e-6)
    assert refine("--classes", "6", "--probs", "probs2", out="out2") == 0
    np.testing.assert_allclose(np.load("probs2/a.npy"), want.probs, atol=1e-6)


@pytest.mark.parametrize("name", [1, 2, 17, 77, 200, 254])
def test_the_number_in_an_id_does_not_matter(name: int) -> None:
    noisy = np.where(RANDOM.random(SIZE) < 0.25, 1 - labels(0, 1), labels(0, 1))
    want = crfrnn.refine(photograph(), labels=noisy)
    got = crfrnn.refine(photograph(), labels=noisy * name)
    np.testing.assert_array_equal(got.labels, want.labels * name)
    np.testing.assert_allclose(got.probs[name], want.probs[1], atol=0.02)


def test_thousands_of_classes_are_not_made_from_one_id(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    high = labels(0, 40_000, 7).astype(np.int32)
    with pytest.raises(ValueError, match=r"labels go up to 40000.*masks=.*num_classes"):
        crfrnn.refine(photograph(), labels=high)
    np.save("scores/a.npy", high)
    assert refine() == 2
    assert "--kind mask" in capsys.readouterr().err
    assert refine("--kind", "labels") == 2
    assert "40001 classes; renumber the ids, or give --classes N" in capsys.readouterr().err


def test_black_and_white_maps_are_masks_at_every_door(folder: Path) -> None:
    mask = labels(0, 255)
    want = crfrnn.refine(photograph(), labels=mask // 255).labels
    with pytest.warns(UserWarning, match="255 is taken for the foreground"):
        np.testing.assert_array_equal(crfrnn.refine(photograph(), labels=mask).labels, want)
    palette = Image.fromarray(mask.astype(np.uint8))
    palette.putpalette([0, 0, 0, 9, 9, 9])
    palette.save("palette.png")
    Image.fromarray((mask > 0).astype(np.uint16) * 65535).save("deep.png")
    Image.fromarray(mask > 0).save("bits.png")
    Image.fromarray(mask.astype(np.uint8)).convert("LA").save("alpha.png")
    Image.fromarray(mask.astype(np.uint8)).save("lossy.jpg", quality=60)
    np.save("floats.npy", mask.astype(np.float32))
    np.save("ones.npy", (mask > 0).astype(np.float32))
    for name in ("palette.png", "deep.png", "bits.png", "alpha.png", "floats.npy", "ones.npy"):
        assert main(["refine", "a.png", name, "-o", "o.png"]) == 0
        np.testing.assert_array_equal(read("o.png"), want, name)
    assert main(["refine", "a.png", "lossy.jpg", "-o", "o.png"]) == 0
    assert (read("o.png") != want).mean() < 0.02


def test_255_is_unknown_beside_ids_or_with_more_classes() -> None:
    for given, options in (
        (labels(0, 1, 255), {}),
        (labels(0, 255), {"num_classes": 3}),
        (labels(0, 255), {"ignore_index": 9, "num_classes": 256}),
    ):
        refined = crfrnn.refine(photograph(), labels=given, **options)
        assert refined.probs.shape[0] == max(options.get("num_classes", 2), 2)
    assert (crfrnn.refine(photograph(), labels=labels(0, 255), num_classes=3).labels == 0).all()


def test_a_file_that_does_not_fit_the_job_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    probs = np.exp(logits()) / np.exp(logits()).sum(axis=0)
    save_scores(**{f"s{i}": logits() for i in range(16)})
    for i in range(16):
        shutil.copy("a.png", f"images/s{i}.png")
    save_scores(s9=probs)  # between the files that are looked at first
    code = refine()
    err = capsys.readouterr().err
    assert code in (1, 2)
    assert "s9" in err
    assert "probs" in err


def test_ambiguous_scores_are_asked_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for values in (np.abs(logits()), RANDOM.random((3, *SIZE)), RANDOM.random(SIZE) * 200):
        np.save("x.npy", values.astype(np.float32))
        assert main(["refine", "a.png", "x.npy", "-o", "o.png"]) == 2
        err = capsys.readouterr().err
        assert "--kind" in err
        assert err.count("\n") == 1
    for kind in ("logits", "energy"):
        np.save("x.npy", np.abs(logits()))
        assert main(["refine", "a.png", "x.npy", "-o", "o.png", "--kind", kind]) == 0


def test_energies_are_what_python_takes(folder: Path) -> None:
    energy = np.abs(logits()) + RANDOM.random((3, *SIZE)).astype(np.float32)
    np.save("e.npy", energy)
    assert main(["refine", "a.png", "e.npy", "-o", "o.png", "--kind", "energy"]) == 0
    want = crfrnn.refine(photograph(), energy=energy).labels
    np.testing.assert_array_equal(read("o.png"), want)
    np.savez("e.npz", energy=energy)
    assert main(["refine", "a.png", "e.npz", "-o", "o2.png"]) == 0
    np.testing.assert_array_equal(read("o2.png"), want)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("kind", [bool, np.uint8, np.float32])
def test_independent_masks(folder: Path, kind: Any, last: bool) -> None:
    masks = np.zeros((4, *SIZE), bool)
    masks[0, :, :14], masks[1, :, 10:], masks[2, 4:9, 3:20] = True, True, True
    stack = masks if kind is bool else (masks * 255).astype(kind) if kind is np.uint8 else None
    stack = np.where(masks, 0.8, 0.1).astype(np.float32) if stack is None else stack
    want = crfrnn.refine(photograph(), masks=stack)
    np.save("scores/a.npy", np.moveaxis(stack, 0, -1) if last else stack)
    options = ("--kind", "masks", *(("--channels-last",) if last else ()))
    one = ["refine", "a.png", "scores/a.npy", "-o", "single", *options, "--probs", "p.npy"]
    assert main(one) == 0
    np.testing.assert_array_equal(np.load("single/a.npy"), want.labels)
    np.testing.assert_allclose(np.load("p.npy"), want.probs, atol=1e-6)
    assert refine(*options, "--overlay", "seen") == 0
    np.testing.assert_array_equal(np.load("out/a.npy"), want.labels)
    assert Path("seen/a.png").is_file()
    assert main(["refine", "a.png", "scores/a.npy", "-o", "o.png", *options]) == 2


def test_masks_do_not_go_with_some_options(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_scores(a=RANDOM.random((2, *SIZE)) > 0.5)
    for option in (["--guard"], ["--tol", "0.1"]):
        assert refine("--kind", "masks", *option) == 2
        assert "do not go with masks" in capsys.readouterr().err
    assert not list(Path("out").glob("*.npy"))


# What is said first


def test_a_dry_run_only_says_what_was_understood(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_scores(a=logits(5), b=logits(5))
    for command in (["a.png", "scores/a.npy", "-o", "o.png"], ["images", "scores", "-o", "out"]):
        assert main(["refine", *command, "--dry-run"]) == 0
        out = capsys.readouterr().out
        assert out.splitlines()[0].startswith("scores: logits, because it has negative values; (C")
        assert out.splitlines()[1:] == [
            "classes: 5",
            "image: 18x26 (height x width), 8 bits, values 50 to 180",
        ]
        assert main(["refine", *command, "--dry-run", "--json"]) == 0
        understood = json.loads(capsys.readouterr().out)["understood"]
        assert (understood["kind"], understood["classes"]) == ("logits", 5)
        assert understood["guide"] == {"type": "8 bits", "low": 50, "high": 180}
    assert not Path("o.png").exists()
    assert not Path("out").exists()


def test_a_dry_run_says_what_is_assumed_of_coarse_scores(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_scores(b=logits()[:, :9, :9])
    assert refine("--dry-run") == 0
    note = capsys.readouterr().out.splitlines()[-1]
    assert note.startswith("note: b.npy has scores of 9x9 that are stretched to 18x26 pixels")
    assert "--canvas" in note
    assert refine("--dry-run", "--canvas", "26") == 0
    assert "note" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--gaussian-weight", "1,2"], "Gaussian weight has 2 numbers for 3 classes"),
        (["--classes", "7"], "--classes is 7, but the scores have 3 classes"),
        (["--canvas", "20x18"], "the canvas 18x20 must not be smaller than an image"),
        (["--compatibility", "c.npy"], "compatibility must be (3, 3)"),
        (["--kind", "labels"], "labels must be integers"),
    ],
)
def test_options_that_cannot_work_stop_a_job_before_it_begins(
    folder: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    save_scores(**{stem: logits() + 0.25 for stem in "abcdef"})
    np.save("c.npy", np.eye(2))
    code = refine(*options)
    err = capsys.readouterr().err
    assert message in err
    assert not list(Path().glob("out/*.png"))
    assert code in (1, 2)


# Two jobs


def test_shards_share_a_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_scores(**{stem: logits() for stem in "abcde"})
    assert refine("--shard", "2/3") == 0
    assert sorted(path.name for path in Path("out").glob("*.png")) == ["b.png", "e.png"]
    for shard in ("1/3", "3/3"):
        assert refine("--shard", shard) == 0
    assert len(list(Path("out").glob("*.png"))) == 5
    capsys.readouterr()
    assert refine() == 0
    assert "0 refined, 5 already there" in capsys.readouterr().out
    assert not list(Path("out").glob(".*"))
    for wrong in ("0/2", "3/2", "a/b", "1"):
        assert refine("--shard", wrong) == 2
    assert parse_shard("3/7").part(range(20)) == [2, 9, 16]  # type: ignore[comparison-overlap]


def test_a_second_job_on_a_folder_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_scores(a=logits(), b=logits())
    Path("out").mkdir()
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    lock = Path("out/.crfrnn-refine.1-of-1.lock")
    owner = {"process": sleeper.pid, "host": socket.gethostname(), "since": time.time()}
    try:
        lock.write_text(json.dumps(owner))
        for options in ([], ["--shard", "1/2"]):
            assert refine(*options) == 2
            err = capsys.readouterr().err
            assert f"another crfrnn refine is writing here (process {sleeper.pid} on" in err
            assert "--shard 1/2 and the other --shard 2/2" in err
        assert not list(Path("out").glob("*.png"))
    finally:
        sleeper.kill()
        sleeper.wait()
    assert refine() == 0  # the owner is dead
    assert not lock.exists()


def test_shards_of_other_parameters_do_not_share_a_folder(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even with --overwrite: their results could not be told apart."""
    save_scores(a=logits(), b=logits())
    refine_file = files.refine_file
    codes: dict[str, int] = {}

    def meanwhile(*args: Any) -> Any:
        if not codes:
            codes["other"] = -1
            for words in ("--iterations 3", "--iterations 3 --overwrite", "--overwrite"):
                codes[words] = refine("--shard", "2/2", *words.split())
        return refine_file(*args)

    monkeypatch.setattr("crfrnn.cli._folder.refine_file", meanwhile)
    assert refine("--shard", "1/2", "--workers", "1") == 0
    assert codes == {
        "other": -1, "--iterations 3": 2, "--iterations 3 --overwrite": 2, "--overwrite": 0,
    }  # fmt: skip
    err = capsys.readouterr().err
    assert err.count("works on another shard with other parameters (process") == 2
    assert refine("--shard", "2/2", "--iterations", "3", "--overwrite") == 0


def test_locks_of_other_machines_die_of_silence(folder: Path) -> None:
    Path("out").mkdir()
    lock = Path("out/.crfrnn-refine.1-of-1.lock")
    lock.write_text(json.dumps({"process": 1, "host": "elsewhere", "since": time.time()}))
    with (
        pytest.raises(ValueError, match="process 1 on elsewhere"),
        claimed(Path("out"), "refine", Shard()),
    ):
        pass
    os.utime(lock, (time.time() - 3600,) * 2)
    with claimed(Path("out"), "refine", Shard()):
        assert json.loads(lock.read_text())["process"] == os.getpid()
    with claimed(Path("out"), "refine", Shard(1, 2)), claimed(Path("out"), "refine", Shard(2, 2)):
        pass
    with (
        claimed(Path("out"), "refine", Shard(1, 2)),
        pytest.raises(ValueError, match="another crfrnn refine"),
        claimed(Path("out"), "refine", Shard(2, 3)),
    ):
        pass
    assert not list(Path("out").iterdir())


@pytest.mark.parametrize(
    "owner",
    [{"process": 10**30}, {"since": 1e300}, {"since": "x"}, {"host": None, "process": []}],
)
def test_damaged_locks_are_respected_for_a_while(folder: Path, owner: dict[str, Any]) -> None:
    Path("out").mkdir()
    lock = Path("out/.crfrnn-refine.1-of-1.lock")
    whole = {"process": 1, "host": socket.gethostname(), "since": time.time()}
    lock.write_text(json.dumps({**whole, **owner}))
    with (
        pytest.raises(ValueError, match="another crfrnn refine is writing here"),
        claimed(Path("out"), "refine", Shard()),
    ):
        pass
    os.utime(lock, (time.time() - 3600,) * 2)
    with claimed(Path("out"), "refine", Shard()):
        pass


# Resuming


def test_zarr_scores_are_done_until_a_chunk_changes(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    zarr = pytest.importorskip("zarr", reason="needs the extra `zarr`")
    for stem in "ab":
        zarr.save_array(f"scores/{stem}.zarr", logits())
    assert refine() == 0
    assert refine() == 0
    assert "0 refined, 2 already there" in capsys.readouterr().out
    times = Path("scores/a.zarr").stat()
    zarr.open("scores/a.zarr", mode="r+")[0] = -5
    os.utime("scores/a.zarr", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert refine() == 0
    assert "1 refined, 1 already there" in capsys.readouterr().out
    assert (read("out/a.png") != 0).all()


def test_a_part_that_another_shard_finishes_meanwhile_is_no_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_scores(a=logits(), b=logits())
    Path("out").mkdir()
    part = Path(f"out/.b.png.0000abcd{PART_SUFFIX}")
    part.write_bytes(b"half")
    stat = Path.stat

    def finished(path: Path, **options: Any) -> Any:
        if path.name == part.name:
            part.unlink(missing_ok=True)
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", finished)
    assert refine("--shard", "1/2") == 0
    assert not part.exists()


def test_a_part_of_another_shard_stays(folder: Path) -> None:
    """A large result may be checked for longer than a minute before it gets its name."""
    save_scores(a=logits(), b=logits())
    Path("out").mkdir()
    part = Path(f"out/.b.png.0000abcd{PART_SUFFIX}")
    part.write_bytes(b"whole")
    os.utime(part, (1e9, 1e9))
    with claimed(Path("out"), "refine", Shard(2, 2)):
        assert refine("--shard", "1/2") == 0
    assert part.exists()
    assert refine("--shard", "1/2") == 0
    assert not part.exists()


def test_moved_and_touched_inputs_resume_by_content(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_scores(a=logits(), b=logits())
    assert refine() == 0
    assert note_of(Path("out/a.png"))
    shutil.copytree("images", "elsewhere/images")
    shutil.copytree("scores", "elsewhere/scores")
    later = time.time() + 60
    for path in Path("elsewhere").rglob("*.*"):
        os.utime(path, (later, later))
    capsys.readouterr()
    moved = {"images": "elsewhere/images", "scores": "elsewhere/scores"}
    assert refine(**moved) == 0
    assert "0 refined, 2 already there" in capsys.readouterr().out
    np.save("elsewhere/scores/a.npy", logits()[[1, 0, 2]])
    assert refine(**moved) == 2
    err = capsys.readouterr().err
    assert "holds results of other inputs (images were" in err
    assert "and a differs)" in err
    assert refine("--overwrite", **moved) == 0
    assert "2 refined" in capsys.readouterr().out


def test_a_file_that_an_older_one_replaced_is_redone(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `cp -p`, `rsync -t` and `unzip` replace them; one with the old content is not redone."""
    save_scores(a=logits(), b=logits(), c=logits())
    assert refine("--workers", "1") == 0
    before = read("out/a.png")
    save_scores(a=logits()[[1, 0, 2]], b=logits())
    for stem in "ab":
        os.utime(f"scores/{stem}.npy", (1e9, 1e9))
    capsys.readouterr()
    assert refine() == 0
    assert "1 refined, 2 already there" in capsys.readouterr().out
    assert (read("out/a.png") != before).any()


def test_a_resumed_job_does_not_read_unchanged_inputs(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save_scores(**{stem: logits() for stem in "abc"})
    assert refine() == 0
    read_again: list[Path] = []
    monkeypatch.setattr(files, "digest", lambda path: read_again.append(path) or "")
    capsys.readouterr()
    assert refine() == 0
    assert "0 refined, 3 already there" in capsys.readouterr().out
    assert not read_again


def test_a_full_disk_stops_the_job_with_its_name(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save_scores(**{stem: logits() for stem in "abcdef"})
    calls = []

    def full(path: Path, *args: Any, **kwargs: Any) -> None:
        calls.append(path)
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_labels", full)
        assert refine("--workers", "1") == 2
    err = capsys.readouterr().err
    assert len(calls) == 1
    assert "out/a.png: No space left on device. The job stops here; free some space and give" in err
    assert refine() == 0
    assert "6 refined" in capsys.readouterr().out


# Words


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            ["refine", "image", "scores", "-o", "o"],
            "image: expected a folder or a file, but it",
        ),
        (["refine", "image", "scores", "-o", "o"], "(did you mean images?)"),
        (["refine", "a.pgn", "s.npy", "-o", "o.png"], "(did you mean a.png?)"),
        (["refine", "images", "scores", "-o", "o.png"], "--output names a folder too; got o.png"),
        (["refine", "images", "scores", "-o", "o", "--probs", "p.npy"], "--probs names a folder"),
        (["refine", "a.png", "a.png", "-o", "o.png", "--presett", "psa"], "mean --preset?)"),
        (["refine", "a.png", "a.png", "-o", "o.png", "--itterations=3"], "mean --iterations?)"),
        (["evaluate", "o", "--data", "folder", "--imagse", "x"], "mean --images?)"),
        (["evaluate", "scores", "--data", "voc", "--label-map", "x"], "--label-map goes with"),
        (["segmnt"], "(did you mean segment?)"),
    ],
)
def test_words_at_the_door(
    folder: Path, capsys: pytest.CaptureFixture[str], command: list[str], message: str
) -> None:
    save_scores(a=logits())
    assert main(command) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("columns", ["80", "250"])
def test_help_stays_within_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    for command in ([], *([name] for name in COMMANDS)):
        assert main([*command, "--help"]) == 0
        assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_examples_of_the_help_can_be_pasted() -> None:
    """Each is a command line that the parser takes."""
    from crfrnn.cli import make_parser

    examples = []
    for command in COMMANDS:
        text = importlib.import_module(f"crfrnn.cli.{command}").__doc__.replace("\\\n", " ")
        examples += [line for line in text.splitlines() if line.startswith("  crfrnn ")]
    assert len(examples) >= 6
    for example in examples:
        try:
            make_parser().parse_args(example.split(" > ")[0].split()[1:])
        except SystemExit:
            pytest.fail(example)


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion(capsys: pytest.CaptureFixture[str], shell: str) -> None:
    pytest.importorskip("shtab")
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in ("refine", "--kind", "--shard", "--bilateral-position", "masks"):
        assert word in script
    if shell == "bash" and shutil.which("bash"):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_the_version_is_there() -> None:
    assert crfrnn.__version__


def test_extras_are_those_of_the_distribution() -> None:
    if sys.version_info < (3, 11):
        pytest.skip("needs tomllib")
    import tomllib

    from crfrnn._extras import EXTRAS

    tree = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    declared = tree["project"]["optional-dependencies"]
    for extra, packages in EXTRAS.items():
        listed = [text.split(";")[0].strip() for text in declared[extra]]
        assert [text for text in listed if not text.startswith("crfrnn[")] == list(packages)


def test_a_manifest_that_is_nested_too_deeply_is_no_crash(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_scores(a=logits())
    Path("out").mkdir()
    Path("out/crfrnn-refine.json").write_text("[" * 100_000 + "]" * 100_000)
    assert refine() == 2
    assert "not a readable manifest (nested too deeply)" in capsys.readouterr().err
