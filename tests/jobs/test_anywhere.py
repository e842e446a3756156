"""Jobs whose files lie behind URLs, or are named by a manifest."""

from __future__ import annotations

import errno
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crfrnn.cli import main
from crfrnn.io import paths
from crfrnn.io.copies import Copies
from crfrnn.io.paths import Remote, entries, join, parse_path, stat
from tests import stores

pytest.importorskip("fsspec", reason="needs fsspec for URLs")
SIZE = (18, 26)


def photograph() -> bytes:
    image = np.full((*SIZE, 3), 50, np.uint8)
    image[:, 12:] = 180
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()


def scores(border: int = 14) -> bytes:
    values = np.full((3, *SIZE), -3, np.float32)
    values[0, :, :border] = 1
    values[1, :, border:] = 1
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def labels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, suffix, data in (("p", "png", photograph()), ("s", "npy", scores())):
        (tmp_path / name).mkdir()
        for stem in "abc":
            (tmp_path / name / f"{stem}.{suffix}").write_bytes(data)
    return tmp_path


@pytest.fixture
def memory() -> Iterator[Any]:
    import fsspec

    system = fsspec.filesystem("memory")
    for stem in "abc":
        system.pipe_file(f"/m/p/{stem}.png", photograph())
        system.pipe_file(f"/m/s/{stem}.npy", scores())
    yield system
    system.rm("/m", recursive=True)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[stores.Store]:
    with stores.store(monkeypatch) as opened:
        for stem in "abc":
            opened.system.pipe_file(f"bucket/p/{stem}.png", photograph())
            opened.system.pipe_file(f"bucket/s/{stem}.npy", scores())
        opened.puts.clear()
        yield opened


def refine(*arguments: str) -> int:
    return main(["refine", *arguments])


# Paths


def test_urls_have_names_and_folders() -> None:
    photo = parse_path("s3://bucket/a/b.c.jpg")
    assert isinstance(photo, Remote)
    assert (photo.name, photo.stem, photo.suffix) == ("b.c.jpg", "b.c", ".jpg")
    assert str(photo.with_suffix(".png")) == "s3://bucket/a/b.c.png"
    assert parse_path("https://host/a.png?signature=1/2").name == "a.png"
    assert parse_path("file:///tmp/a%20b.png") == Path("/tmp/a b.png")
    assert parse_path("a:b.png") == Path("a:b.png")
    assert join(Path("jobs"), "a.png") == Path("jobs/a.png")
    assert str(join(Path("jobs"), "s3://bucket/a.png")) == "s3://bucket/a.png"


@pytest.mark.parametrize(
    ("url", "message"),
    [("s3://", "expected a bucket"), ("simplecache::s3://b/a", "chains of file systems")],
)
def test_urls_that_name_nothing(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_path(url)


def test_secrets_do_not_show(capsys: pytest.CaptureFixture[str]) -> None:
    assert "hidden" not in repr(parse_path("s3://bucket/a", '{"secret": "hidden"}'))
    code = refine("a.png", "a.npy", "-o", "o", "--storage-options", '{"secret": "hidden"')
    assert code == 2
    assert "hidden" not in capsys.readouterr().err


def test_listings_have_sizes_and_times(memory: Any) -> None:
    found = entries(parse_path("memory://m/p"))
    assert list(found) == ["a.png", "b.png", "c.png"]
    assert found["a.png"].size == len(photograph())
    assert found["a.png"].changed is not None
    assert stat(parse_path("memory://m/p/z.png")) is None
    with pytest.raises(FileNotFoundError, match="memory://m/nothing: there is no such"):
        entries(parse_path("memory://m/nothing"))


def test_a_file_gets_its_name_when_it_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In stores that would show it before; `local://` is fsspec's own name of one."""
    target = parse_path(f"local://{tmp_path}/new/a.png")
    assert isinstance(target, Remote)
    paths.write_remote(target, b"whole")
    assert (tmp_path / "new" / "a.png").read_bytes() == b"whole"
    system, _ = paths._system(target)

    def full(path: str, data: bytes) -> None:
        Path(path).write_bytes(data[:2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(system, "pipe_file", full)
    with pytest.raises(OSError, match=r"new/a.png: cannot be written \(No space left"):
        paths.write_remote(target, b"other")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]
    assert (tmp_path / "new" / "a.png").read_bytes() == b"whole"


# Folders behind URLs


def test_a_folder_job_in_memory(memory: Any, capsys: pytest.CaptureFixture[str]) -> None:
    job = ("memory://m/p", "memory://m/s", "-o", "memory://m/o", "--probs", "memory://m/q")
    assert refine(*job) == 0
    assert "3 refined, 0 already there" in capsys.readouterr().out
    assert np.unique(labels(memory.cat_file("/m/o/a.png"))).tolist() == [0, 1]
    assert np.load(io.BytesIO(memory.cat_file("/m/q/a.npy"))).shape == (3, *SIZE)
    assert json.loads(memory.cat_file("/m/o/crfrnn-refine.json"))["images"] == "memory://m/p"
    assert refine(*job) == 0
    assert "0 refined, 3 already there" in capsys.readouterr().out
    # One that is cut short, one without its probabilities, and one with newer scores are not done.
    memory.pipe_file("/m/o/a.png", memory.cat_file("/m/o/a.png")[:-6])
    memory.rm_file("/m/q/b.npy")
    memory.pipe_file("/m/s/c.npy", scores(8))
    assert refine(*job) == 0
    assert "3 refined, 0 already there" in capsys.readouterr().out
    assert refine(*job, "--iterations", "0") == 2
    assert "iterations was 10, is now 0" in capsys.readouterr().err


def test_results_are_those_of_local_files(folder: Path, memory: Any) -> None:
    assert refine("p", "s", "-o", "o") == 0
    assert refine("memory://m/p", "memory://m/s", "-o", "memory://m/o") == 0
    for stem in "abc":
        local = labels((folder / "o" / f"{stem}.png").read_bytes())
        np.testing.assert_array_equal(labels(memory.cat_file(f"/m/o/{stem}.png")), local)


def test_inputs_that_moved_to_a_store_are_recognized_by_content(
    folder: Path, memory: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refine("p", "s", "-o", "o") == 0
    assert refine("memory://m/p", "memory://m/s", "-o", "o") == 0
    assert "0 refined, 3 already there" in capsys.readouterr().out
    memory.pipe_file("/m/s/b.npy", scores(8))
    assert refine("memory://m/p", "memory://m/s", "-o", "o") == 2
    assert "and b differs" in capsys.readouterr().err


def test_one_photograph(memory: Any, folder: Path) -> None:
    assert refine("memory://m/p/a.png", "s/a.npy", "-o", "memory://m/one.png") == 0
    assert labels(memory.cat_file("/m/one.png")).shape == SIZE


def test_a_website_is_read(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("aiohttp", reason="needs aiohttp, which fsspec reads websites with")
    files = {f"p/{stem}.png": photograph() for stem in "abc"}
    files |= {f"s/{stem}.npy": scores() for stem in "abc"}
    with stores.web(files) as url:
        assert refine(f"{url}/p", f"{url}/s", "-o", "o") == 0
        assert "3 refined" in capsys.readouterr().out
        assert refine(f"{url}/p", f"{url}/s", "-o", "o") == 0  # a website has no times
        assert "0 refined, 3 already there" in capsys.readouterr().out
        files["s/b.npy"] = scores(8)
        assert refine(f"{url}/p", f"{url}/s", "-o", "o") == 0
        assert "1 refined, 2 already there" in capsys.readouterr().out
        assert refine("p", "s", "-o", f"{url}/o") == 2
        assert "can only be read" in capsys.readouterr().err
        Path("jobs.csv").write_text(
            f"id,image,scores\nx,p/a.png,{url}/500.npy\ny,p/a.png,s/a.npy\n"
        )
        assert refine("--manifest", "jobs.csv", "-o", "o2") == 1
        assert f"failed: x: {url}/500.npy: cannot be read" in capsys.readouterr().err


# A bucket, and its faults


def test_a_bucket_is_written_once(bucket: stores.Store, capsys: pytest.CaptureFixture[str]) -> None:
    job = ("s3://bucket/p", "s3://bucket/s", "-o", "s3://bucket/o")
    assert refine(*job) == 0
    assert refine(*job) == 0
    assert "0 refined, 3 already there" in capsys.readouterr().out
    assert bucket.names("bucket/o") == ["a.png", "b.png", "c.png", "crfrnn-refine.json"]
    assert sorted(bucket.puts) == sorted(f"/bucket/o/{name}" for name in bucket.names("bucket/o"))
    assert refine("s3://bucket/none", "s3://bucket/s", "-o", "s3://bucket/o2") == 2
    assert "s3://bucket/none: there is no such" in capsys.readouterr().err


def test_storage_options_say_where_a_bucket_is(
    bucket: stores.Store, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    import fsspec

    monkeypatch.delitem(fsspec.config.conf, "s3")
    options = json.dumps({"endpoint_url": bucket.url})
    job = ("s3://bucket/p", "s3://bucket/s", "-o", "o")
    assert refine(*job, "--storage-options", options) == 0
    Path("jobs.csv").write_text("id,image,scores\na,s3://bucket/p/a.png,s/a.npy\n")
    assert refine("--manifest", "jobs.csv", "-o", "o2", "--storage-options", options) == 0
    assert (folder / "o2" / "a.png").is_file()


@pytest.mark.parametrize(
    ("fault", "name", "message"),
    [
        ("broken", "s/b.npy", "failed: b: s3://bucket/s/b.npy: cannot be read"),
        ("broken", "p/b.png", "failed: b: s3://bucket/p/b.png: cannot be read"),
        ("broken", "o/b.png", "failed: b: s3://bucket/o/b.png: cannot be written"),
        ("halved", "s/b.npy", f"Only {len(scores()) // 2} of its {len(scores())} bytes arrived"),
        ("halved", "p/b.png", f"of its {len(photograph())} bytes arrived"),
    ],
)
def test_faults_of_a_bucket_are_named(
    bucket: stores.Store, capsys: pytest.CaptureFixture[str], fault: str, name: str, message: str
) -> None:
    """And leave nothing half written; the next run goes on."""
    getattr(bucket, fault).add(name)
    job = ("s3://bucket/p", "s3://bucket/s", "-o", "s3://bucket/o", "--kind", "logits")
    code = refine(*job)
    out, err = capsys.readouterr()
    assert code == 1, err
    assert message in err
    assert f"s3://bucket/{name}" in err
    assert "crfrnn-" not in err.replace("crfrnn-refine.json", "")  # no name of a copy
    assert "2 refined, 0 already there, 1 failed" in out
    getattr(bucket, fault).clear()
    assert bucket.names("bucket/o") == ["a.png", "c.png", "crfrnn-refine.json"]
    assert refine(*job) == 0
    assert "1 refined, 2 already there" in capsys.readouterr().out


def test_a_bucket_that_is_broken_stops_the_job(
    bucket: stores.Store, capsys: pytest.CaptureFixture[str]
) -> None:
    bucket.broken.add("o/crfrnn-refine.json")
    assert refine("s3://bucket/p", "s3://bucket/s", "-o", "s3://bucket/o") == 2
    assert "error: s3://bucket/o/crfrnn-refine.json: cannot" in capsys.readouterr().err


def test_a_full_disk_for_copies_stops_the_job(
    memory: Any, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if "crfrnn-" in str(path) and path.name == "b.npy":
            original(path, data[:9])
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return original(path, data)

    job = ("memory://m/p", "memory://m/s", "-o", "memory://m/o", "--workers", "1")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        patch.setattr("crfrnn.jobs.survey._LOOK_AT", 1)
        assert refine(*job, "--kind", "logits") == 2
    err = capsys.readouterr().err
    assert "No space left on device, for a copy of memory://m/s/b.npy" in err
    assert "TMPDIR" in err
    assert "The job stops here" in err
    assert not memory.exists("/m/o/b.png")
    assert refine(*job, "--kind", "logits") == 0


def test_copies_are_removed(memory: Any) -> None:
    def fail(copy: Path) -> None:
        raise ValueError(f"{copy}: bad")

    with Copies() as copies:
        copy = copies.fetch(parse_path("memory://m/p/a.png"))
        assert copy.read_bytes() == photograph()
    assert not copy.parents[1].exists()
    message = r"^memory://m/p/a\.png: bad$"
    with pytest.raises(ValueError, match=message), Copies() as copies:
        fail(copies.fetch(parse_path("memory://m/p/a.png")))
    assert not copy.parents[1].exists()


def test_containers_are_local(capsys: pytest.CaptureFixture[str]) -> None:
    assert refine("s3://bucket/a.nii.gz", "a.npz", "-o", "o.nii.gz") == 2
    assert "s3://bucket/a.nii.gz: volume are read from" in capsys.readouterr().err


# Manifests


def write_table(path: Path, columns: list[str], *rows: tuple[Any, ...]) -> None:
    if path.suffix == ".csv":
        lines = [",".join(columns), *(",".join(map(str, row)) for row in rows)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
        return
    arrow = pytest.importorskip("pyarrow", reason="needs pyarrow for Parquet")
    import pyarrow.parquet

    values = {name: [row[i] for row in rows] for i, name in enumerate(columns)}
    pyarrow.parquet.write_table(arrow.table(values), path)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_manifest_names_the_files(
    folder: Path, capsys: pytest.CaptureFixture[str], suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = folder / f"jobs.{suffix}"
    columns = ["id", "image", "scores", "output", "split"]
    write_table(
        table,
        columns,
        (7, "p/a.png", "s/a.npy", "", "train"),
        (8, "p/b.png", str(folder / "s" / "b.npy"), "deep/er/b.png", "train"),
    )
    other = folder / "other"
    other.mkdir()
    monkeypatch.chdir(other)  # paths are relative to the manifest
    job = ("--manifest", f"../jobs.{suffix}", "-o", "o", "--probs", "q")
    assert refine(*job) == 0
    out, err = capsys.readouterr()
    assert "2 refined" in out
    assert "note: columns that are not used: split" in err
    assert sorted(path.name for path in Path("o").iterdir()) == ["7.png", "crfrnn-refine.json"]
    assert (folder / "deep" / "er" / "b.png").is_file()
    assert sorted(path.name for path in Path("q").iterdir()) == ["7.npy", "8.npy"]
    assert refine(*job) == 0
    assert "0 refined, 2 already there" in capsys.readouterr().out


def test_a_row_that_names_other_files_is_redone(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Though these are older than the result."""
    (folder / "s" / "c.npy").write_bytes(scores(8))
    write_table(folder / "jobs.csv", ["id", "image", "scores"], ("x", "p/a.png", "s/a.npy"))
    assert refine("--manifest", "jobs.csv", "-o", "o") == 0
    before = Path("o/x.png").read_bytes()
    write_table(folder / "jobs.csv", ["id", "image", "scores"], ("x", "p/a.png", "s/c.npy"))
    capsys.readouterr()
    assert refine("--manifest", "jobs.csv", "-o", "o") == 0
    assert "1 refined, 0 already there" in capsys.readouterr().out
    assert (labels(Path("o/x.png").read_bytes()) != labels(before)).any()
    # Files of other names with the same content give the same result.
    write_table(folder / "jobs.csv", ["id", "image", "scores"], ("x", "p/b.png", "s/c.npy"))
    assert refine("--manifest", "jobs.csv", "-o", "o") == 0
    assert "0 refined, 1 already there" in capsys.readouterr().out


def test_a_row_that_names_another_array_of_its_file_is_redone(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays = {name: np.load(io.BytesIO(scores(border))) for name, border in (("x", 14), ("y", 8))}
    np.savez("s/two.npz", **arrays)
    for name in "xy":
        write_table(
            folder / "jobs.csv", ["id", "image", "scores"], ("a", "p/a.png", f"s/two.npz:{name}")
        )
        assert refine("--manifest", "jobs.csv", "-o", "o") == 0
        assert "1 refined, 0 already there" in capsys.readouterr().out
    assert refine("--manifest", "jobs.csv", "-o", "o") == 0
    assert "0 refined, 1 already there" in capsys.readouterr().out


def test_a_manifest_clamps_where_it_says(folder: Path) -> None:
    held = np.full(SIZE, 255, np.uint8)
    held[:, 20:] = 2
    Image.fromarray(held).save("held.png")
    rows = [("x", "p/a.png", "s/a.npy", "held.png"), ("y", "p/a.png", "s/a.npy", "")]
    write_table(folder / "jobs.csv", ["id", "image", "scores", "clamp"], *rows)
    assert refine("--manifest", "jobs.csv", "-o", "o") == 0
    assert (labels(Path("o/x.png").read_bytes())[:, 20:] == 2).all()
    assert (labels(Path("o/y.png").read_bytes()) != 2).all()


@pytest.mark.parametrize(
    ("columns", "rows", "message"),
    [
        (["id", "image"], [("a", "p/a.png")], "scores missing, got id, image"),
        (["id", "image", "scores"], [], "expected at least one row"),
        (
            ["id", "image", "scores"],
            [("a", "p/a.png", "s/a.npy"), ("b", "p/b.png", ""), ("a", "p/c.png", "s/c.npy")],
            "row 2 has no scores, rows 1 and 3 have the same id 'a'",
        ),
        (
            ["id", "image", "scores", "output"],
            [("a", "p/a.png", "s/a.npy", "x.png"), ("b", "p/b.png", "s/b.npy", "./x.png")],
            "rows 1 and 2 have the same output",
        ),
        (
            ["id", "image", "scores"],
            [("a", "p/a.nii.gz", "s/a.npz")],
            "row 1: p/a.nii.gz is a volume, which a manifest does not take",
        ),
        (["id", "image", "scores"], [("../a", "p/a.png", "s/a.npy")], "the id '../a' cannot be"),
        (
            ["id", "image", "scores", "output"],
            [("a", "p/a.png", "s/a.npy", "x.jpg")],
            "output must be a .png",
        ),
        (
            ["id", "image", "scores", "output"],
            [("a", "p/a.png", "s/a.npy", "x.npy")],
            "label maps are images, so it must be a .png",
        ),
    ],
)
def test_manifests_that_cannot_work(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    columns: list[str],
    rows: list[tuple[str, ...]],
    message: str,
) -> None:
    write_table(folder / "jobs.csv", columns, *rows)
    assert refine("--manifest", "jobs.csv", "-o", "o") == 2
    err = capsys.readouterr().err
    assert message in err.splitlines()[-1]
    assert not Path("o").exists()


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        (("x", "p/a.png", "s/a.npy", "p/a.png"), ["-o", "o"], "the labels of id 'x'"),
        (("a", "p/a.png", "s/a.npy", ""), ["-o", "p"], "p/a.png: the labels of id 'a'"),
        (("x", "p/a.png", "s/a.npy", "p/b.png"), ["-o", "o"], "would replace an input of id 'y'"),
        (("a", "p/a.png", "s/a.npy", ""), ["-o", "o", "--probs", "s"], "the probs of id 'a'"),
        (("a", "p/a.png", "s/a.npy", ""), ["-o", "o", "--overlay", "p"], "the overlay of id 'a'"),
        (("a", "p/a.png", "s/a.npy", ""), ["-o", "s", "--kind", "masks"], "s/a.npy: the labels"),
    ],
)
def test_an_output_that_is_an_input_is_refused(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    row: tuple[str, ...],
    options: list[str],
    message: str,
) -> None:
    for stem in "ab":
        np.save(f"s/{stem}.npy", np.random.default_rng(0).random((2, *SIZE)).astype(np.float32))
    last = ("y", "p/b.png", "s/b.npy", "")
    write_table(folder / "jobs.csv", ["id", "image", "scores", "output"], row, last)
    kind = [] if "--kind" in options else ["--kind", "logits"]
    assert refine("--manifest", "jobs.csv", *options, *kind, "--overwrite") == 2
    assert message in capsys.readouterr().err
    assert (folder / "p" / "a.png").read_bytes() == photograph()


@pytest.mark.parametrize("name", ["jobs.csv", "jobs.parquet", "jobs.txt", "none.csv"])
def test_damaged_manifests_are_named(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow", reason="needs pyarrow for Parquet")
    if not name.startswith("none"):
        Path(name).write_bytes(b'id,image,scores\n"\xff\x00')
    assert refine("--manifest", name, "-o", "o") == 2
    err = capsys.readouterr().err
    assert err.startswith(f"crfrnn refine: error: {name}: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "o"], "expected IMAGE and SCORES, or --manifest FILE"),
        (["p", "s", "--manifest", "j.csv", "-o", "o"], "takes the place of IMAGE and SCORES"),
        (["--manifest", "j.csv", "-o", "o", "--clamp", "c"], "give its column clamp"),
        (["--manifest", "j.csv", "-o", "o", "--tile", "9"], "--tile does not go with --manifest"),
        (["p", "s", "-o", "o", "--time-limit", "9"], "give --on ray too"),
        (["p/a.png", "s/a.npy", "-o", "o.png", "--on", "ray"], "is for folders and manifests"),
        (["p/a.png", "s/a.npy", "-o", "o.png", "--workers", "2"], "--workers 2 is for folders and"),
        (["p/a.png", "s/a.npy", "-o", "o.png", "--shard", "2/3"], "--shard 2/3 is for folders and"),
        (["p", "s", "-o", "o", "--storage-options", "{}"], "there is none"),
        (["foo://b/p", "s", "-o", "o"], "foo:// is unknown to fsspec"),
    ],
)
def test_options_that_do_not_go_together(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert refine(*arguments) == 2
    assert message in capsys.readouterr().err
