"""COCO annotations: every key kept, every form of mask, resuming, damaged files."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crfrnn import refine
from crfrnn.containers.annotations import read_annotations, runs_of, to_mask
from crfrnn.containers.refine_annotations import find_annotations, refine_annotations
from crfrnn.plots.figures import overlay

codec = pytest.importorskip("pycocotools.mask", reason="needs the extra `coco`")

# pycocotools decodes with a call that NumPy 2 calls old.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SIZE = (40, 56)


def photo(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    picture = rng.normal(90, 6, (*SIZE, 3))
    picture[10:30, 14:40] += 90
    return picture.clip(0, 255).astype(np.uint8)


def compressed(mask: np.ndarray) -> dict[str, Any]:
    runs = codec.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": runs["counts"].decode()}


def boxes(count: int, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, *SIZE), np.bool_)
    for mask in masks:
        top, left = rng.integers(0, 25, 2)
        mask[top : top + rng.integers(5, 15), left : left + rng.integers(5, 25)] = True
    return masks


def tree(annotations: list[dict[str, Any]], images: int = 1) -> dict[str, Any]:
    """A file with keys of its own at every level."""
    return {
        "info": {"year": 2017, "x": [1, {"y": None}]},
        "licenses": [{"id": 1}],
        "images": [
            {"id": 10 + n, "file_name": f"{n}.png", "height": SIZE[0], "width": SIZE[1], "who": "A"}
            for n in range(images)
        ],
        "annotations": annotations,
        "categories": [{"id": 3, "name": "cat", "skeleton": []}],
        "mine": True,
    }


def entry(number: int, segmentation: Any, image: int = 10, **more: Any) -> dict[str, Any]:
    return {
        "id": number, "image_id": image, "category_id": 3, "segmentation": segmentation,
        "area": 1.0, "bbox": [0.0, 0.0, 1.0, 1.0], "iscrowd": 0, "score": 0.25 + number,
        "attributes": {"occluded": False}, **more,
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    Image.fromarray(photo()).save(tmp_path / "photos" / "0.png")
    return tmp_path


def run(folder: Path, content: Any, **options: Any) -> tuple[Any, Any]:
    (folder / "in.json").write_text(json.dumps(content))
    result = refine_annotations(
        folder / "photos", folder / "in.json", folder / "out.json", **options
    )
    return json.loads((folder / "out.json").read_text()), result


def test_a_hundred_masks_are_refined_together_and_every_key_stays(folder: Path) -> None:
    masks = boxes(100)
    given = tree([entry(n, compressed(mask)) for n, mask in enumerate(masks)])
    written, result = run(folder, given)
    want = refine(photo(), masks=masks).labels
    assert (want != masks).any()
    for number, (old, new) in enumerate(
        zip(given["annotations"], written["annotations"], strict=True)
    ):
        np.testing.assert_array_equal(codec.decode(new["segmentation"]), want[number])
        assert list(new) == list(old)
        fixed = set(old) - {"segmentation", "area", "bbox"}
        assert {name: new[name] for name in fixed} == {name: old[name] for name in fixed}
        assert new["area"] == want[number].sum()
        rows, columns = np.flatnonzero(want[number].any(1)), np.flatnonzero(want[number].any(0))
        if rows.size:
            box = [columns[0], rows[0], np.ptp(columns) + 1, np.ptp(rows) + 1]
            assert new["bbox"] == box
    assert {**written, "annotations": 0} == {**given, "annotations": 0}
    assert list(written) == list(given)
    assert (result.images, result.masks, result.failed) == (1, 100, {})
    assert not list(folder.glob(".*"))


def test_polygons_runs_crowds_and_empty_masks(folder: Path) -> None:
    mask = np.zeros(SIZE, np.bool_)
    mask[12:28, 16:44] = True
    two = [[-20.0, 5, 12, 5, 12, 50, -20, 50], [50.0, 0, 70, 0, 70, 9, 50, 9]]
    given = tree(
        [
            entry(0, [[16, 12, 44, 12, 44, 28, 16, 28]], area=5),
            entry(1, {"size": list(SIZE), "counts": runs_of(mask)}),
            entry(2, two),
            entry(3, compressed(mask), iscrowd=1),
            entry(4, compressed(np.zeros(SIZE, np.bool_))),
            entry(5, []),
            {"id": 6, "image_id": 10, "bbox": [1, 2, 3, 4], "keypoints": [1, 1, 2]},
        ]
    )
    written, result = run(folder, given)
    assert result.masks == 3
    assert written["annotations"][3:] == given["annotations"][3:]
    drawn = codec.decode(codec.merge(codec.frPyObjects(two, *SIZE)))
    want = refine(photo(), masks=np.stack([mask, mask, drawn.astype(np.bool_)])).labels
    polygon, runs, outside = written["annotations"][:3]
    assert isinstance(polygon["segmentation"]["counts"], str)
    assert isinstance(runs["segmentation"]["counts"], list)
    assert isinstance(polygon["area"], int)
    for new, labels in zip((polygon, runs, outside), want, strict=True):
        np.testing.assert_array_equal(to_mask(new["segmentation"], SIZE), labels)
        assert codec.area(codec.encode(np.asfortranarray(labels.astype(np.uint8)))) == new["area"]
    left, top, width, height = outside["bbox"]
    assert min(left, top) >= 0
    assert left + width <= SIZE[1]
    assert top + height <= SIZE[0]


def test_a_list_of_results_finds_photographs_by_number(folder: Path) -> None:
    (folder / "photos" / "0.png").rename(folder / "photos" / "COCO_val_000000000139.png")
    given = [
        {"image_id": 139, "category_id": 2, "segmentation": compressed(mask), "score": 0.5}
        for mask in boxes(3)
    ]
    written, result = run(folder, given)
    assert result.masks == 3
    assert [set(new) for new in written] == [set(old) for old in given]
    want = refine(photo(), masks=boxes(3)).labels
    np.testing.assert_array_equal(codec.decode(written[2]["segmentation"]), want[2])


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (64, 31)])
def test_runs_are_read_and_written_as_pycocotools_does(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    for share in (0, 0.02, 0.5, 1):
        mask = rng.random(shape) < share
        np.testing.assert_array_equal(to_mask(compressed(mask), shape), mask)
        runs = {"size": list(shape), "counts": runs_of(mask)}
        theirs = codec.frPyObjects(runs, *shape)["counts"].decode()
        assert theirs == compressed(mask)["counts"]
        np.testing.assert_array_equal(to_mask(runs, shape), mask)


PIXELS = SIZE[0] * SIZE[1]


@pytest.mark.parametrize(
    ("segmentation", "why"),
    [
        ({"size": list(SIZE), "counts": [10, PIXELS]}, f"cover {PIXELS + 10} pixels, but"),
        ({"size": list(SIZE), "counts": [10, 5]}, "cover 15 pixels, but"),
        ({"size": list(SIZE), "counts": [-10, PIXELS + 10]}, "whole numbers from 0 on"),
        ({"size": list(SIZE), "counts": [1.5, 3]}, "whole numbers from 0 on"),
        ({"size": list(SIZE), "counts": "0" + "o" * 11 + "0"}, "damaged"),
        ({"size": list(SIZE), "counts": "P"}, "middle of a number"),
        ({"size": list(SIZE), "counts": "~~"}, "damaged"),
        ({"size": [50000, 50000], "counts": [50000 * 50000]}, "are of an image of"),
        ({"size": list(SIZE)}, "whole numbers"),
        ([[0, 0, 1e9, 0, 1e9, 1e9]], "far outside"),
        ([[0, 0, float("nan"), 0, 9, 9]], "far outside"),
        ([[0, 0, 5, 5]], "at least three"),
        (["P"], "at least three"),
        ("P1", "polygons or runs"),
    ],
)
def test_a_damaged_segmentation_is_named_and_keeps_its_image_from_changing(
    folder: Path, segmentation: Any, why: str
) -> None:
    Image.fromarray(photo(5)).save(folder / "photos" / "1.png")
    good = compressed(boxes(1)[0])
    given = tree([entry(0, good, 11), entry(1, good), entry(2, segmentation)], images=2)
    written, result = run(folder, given)
    assert list(result.failed) == ["0.png"]
    assert "annotation 2: " in result.failed["0.png"]
    assert why in result.failed["0.png"]
    assert "in.json" in result.failed["0.png"]
    assert json.dumps(written["annotations"][1:]) == json.dumps(given["annotations"][1:])
    assert written["annotations"][0] != given["annotations"][0]


def test_photographs_that_are_missing_or_broken_are_listed(folder: Path) -> None:
    (folder / "photos" / "1.png").write_bytes(b"no picture")
    good = compressed(boxes(1)[0])
    given = tree([entry(n, good, 10 + n) for n in range(3)], images=3)
    written, result = run(folder, given)
    assert result.absent == ("2.png",)
    assert list(result.failed) == ["1.png"]
    assert written["annotations"][1:] == given["annotations"][1:]
    assert result.images == 1
    Image.fromarray(photo()).save(folder / "photos" / "1.png")
    _, result = run(folder, given)
    assert (result.images, result.resumed) == (1, 1)
    Image.fromarray(photo()[:30]).save(folder / "photos" / "0.png")
    _, result = run(folder, given)
    assert "56 x 40 pixels, the photograph 56 x 30" in result.failed["0.png"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("[", "not readable as JSON"),
        ("[" * 100_000, "not readable as JSON"),
        ("3", "expected COCO instances"),
        ('{"annotations": []}', "expected COCO instances"),
        ('{"images": [], "annotations": [{"id": 1}]}', "annotation 1 has no image_id"),
        ('{"images": [], "annotations": [{"image_id": [1]}]}', r"as image_id; got \[1\]"),
        ('{"images": [{"id": {}, "file_name": "a"}], "annotations": []}', "string as id; got"),
        ('{"images": [], "annotations": [{"image_id": 1}]}', "images that it does not list: 1"),
        ('{"images": [{"id": 1}], "annotations": []}', "an id and a file_name"),
        (
            '{"images": [{"id": 1, "file_name": "a", "height": -3}], "annotations": []}',
            "a height and a width",
        ),
    ],
)
def test_a_damaged_file_is_named(folder: Path, content: str, why: str) -> None:
    (folder / "in.json").write_text(content)
    with pytest.raises(ValueError, match=rf"in\.json.*{why}"):
        refine_annotations(folder / "photos", folder / "in.json", folder / "out.json")
    assert not (folder / "out.json").exists()


def test_names_do_not_lead_out_of_the_folder(folder: Path) -> None:
    given = tree([entry(0, compressed(boxes(1)[0]))])
    Image.fromarray(photo()).save(folder / "secret.png")
    given["images"][0]["file_name"] = "../secret.png"
    with pytest.raises(ValueError, match="none of the 1 photographs"):
        run(folder, given)


def _killed_half_way(folder: Path) -> None:
    def advance(done: int, _all: int) -> None:
        if done == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    refine_annotations(
        folder / "photos", folder / "in.json", folder / "out.json", workers=1, advance=advance
    )


def test_a_killed_job_continues_and_gives_the_same_file(folder: Path) -> None:
    for number in range(6):
        Image.fromarray(photo(number)).save(folder / "photos" / f"{number}.png")
    masks = [compressed(mask) for mask in boxes(12)]
    given = tree([entry(n, mask, 10 + n % 6) for n, mask in enumerate(masks)], images=6)
    whole, _ = run(folder, given)
    (folder / "out.json").unlink()
    process = multiprocessing.get_context("spawn").Process(target=_killed_half_way, args=(folder,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (folder / "out.json").exists()
    journal = folder / ".out.json.journal"
    with journal.open("a") as log:
        log.write('{"key": [1')  # as a kill in the middle of a line leaves it
    Image.fromarray(photo(0)).save(folder / "photos" / "0.png")  # newer than what was done
    written, result = run(folder, given)
    assert (result.resumed, result.images) == (2, 4)
    assert written == whole
    assert not journal.exists()


def test_other_settings_do_not_continue_a_job(folder: Path) -> None:
    given = tree([entry(0, compressed(boxes(1)[0]))])
    (folder / "in.json").write_text(json.dumps(given))
    (folder / ".out.json.journal").write_text(
        json.dumps({"origin": "another"}) + '\n{"key": [10], "changes": {"0": {"area": 7}}}\n'
    )
    written, result = run(folder, given)
    assert result.resumed == 0
    assert written["annotations"][0]["area"] > 7


def test_a_full_disk_leaves_no_result(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    given = tree([entry(0, compressed(boxes(1)[0]))])
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match=r"No space left.*out\.json"):
        run(folder, given)
    assert not (folder / "out.json").exists()


def test_images_without_annotations_need_no_photograph(folder: Path) -> None:
    given = tree([entry(0, compressed(boxes(1)[0]))], images=4)
    _, result = run(folder, given)
    assert result.absent == ()
    assert len(read_annotations(folder / "in.json").images) == 4


def test_two_jobs_do_not_write_the_same_file(folder: Path) -> None:
    given = tree([entry(0, compressed(boxes(1)[0]))])
    refused = []

    def advance(done: int, total: int) -> None:
        with pytest.raises(ValueError, match=r"out\.json: another crfrnn refine is writing here"):
            run(folder, given)
        refused.append(done)

    run(folder, given, advance=advance)
    assert refused == [1]
    assert not list(folder.glob(".*"))


def test_overlays_show_the_refined_masks_and_are_drawn_again_where_missing(folder: Path) -> None:
    Image.fromarray(photo(1)).save(folder / "photos" / "1.png")
    (folder / "photos" / "2.png").write_bytes(b"broken, so the journal stays")
    masks = [compressed(mask) for mask in boxes(9)]
    given = tree([entry(n, mask, 10 + n % 3) for n, mask in enumerate(masks)], images=3)
    written, result = run(folder, given, overlay=folder / "v")
    assert list(result.failed) == ["2.png"]
    assert sorted(path.name for path in (folder / "v").iterdir()) == ["0.png", "1.png"]
    drawn = np.zeros(SIZE, np.int64)
    for number, place in enumerate((0, 3, 6), 1):
        drawn[codec.decode(written["annotations"][place]["segmentation"]) > 0] = number
    with Image.open(folder / "v" / "0.png") as view:
        np.testing.assert_array_equal(np.asarray(view), np.asarray(overlay(photo(), drawn)))
    (folder / "v" / "1.png").unlink()
    _, again = run(folder, given, overlay=folder / "v")
    assert (again.resumed, again.images) == (1, 1)
    assert (folder / "v" / "1.png").is_file()
    with pytest.raises(ValueError, match="holds the photographs; write the overlays elsewhere"):
        run(folder, given, overlay=folder / "photos")


def results(*ids: Any) -> list[dict[str, Any]]:
    mask = compressed(boxes(1)[0])
    return [{"image_id": n, "category_id": 2, "segmentation": mask, "score": 0.5} for n in ids]


def test_a_photograph_that_fits_two_images_is_given_to_none(folder: Path) -> None:
    mask = compressed(boxes(1)[0])
    given = tree([entry(n, mask, 10 + n) for n in range(4)], images=4)
    for image, name in zip(
        given["images"], ("train/0.png", "val/0.png", "b/1.png", "1.png"), strict=True
    ):
        image["file_name"] = name
    with pytest.raises(ValueError, match=r"train/0\.png: .*0\.png may be its .* of val/0\.png"):
        run(folder, {**given, "annotations": given["annotations"][:2]})
    Image.fromarray(photo(1)).save(folder / "photos" / "1.png")
    written, result = run(folder, given)
    assert (result.images, result.absent) == (1, ("b/1.png",))
    assert list(result.failed) == ["train/0.png", "val/0.png"]
    assert written["annotations"][:3] == given["annotations"][:3]
    found = find_annotations(folder / "photos", folder / "in.json")
    assert (found.photographs, list(found.unclear)) == (1, ["train/0.png", "val/0.png"])
    # Folders tell them apart, also where one photograph is given.
    for name in ("train", "val"):
        (folder / "photos" / name).mkdir()
        Image.fromarray(photo(2)).save(folder / "photos" / name / "0.png")
    _, result = run(folder, given)
    assert (result.images, result.resumed, result.failed) == (2, 1, {})
    result = refine_annotations(
        folder / "photos" / "train" / "0.png", folder / "in.json", folder / "one.json"
    )
    assert (result.images, result.failed) == (1, {})
    assert result.absent == ("val/0.png", "b/1.png", "1.png")
    assert not list(folder.glob(".one*")), "one photograph is chosen, so nothing is missing"


def test_a_number_of_two_photographs_is_listed(folder: Path) -> None:
    for name in ("cam1_007", "cam2_007", "cam1_008"):
        Image.fromarray(photo()).save(folder / "photos" / f"{name}.png")
    written, result = run(folder, results(7, 8, 0))
    assert result.images == 2
    assert list(result.failed) == ["7"]
    assert "several photographs, cam1_007.png, cam2_007.png" in result.failed["7"]
    assert written[0] == results(7)[0]
    Image.fromarray(photo()).save(folder / "photos" / "7.png")
    _, result = run(folder, results(7, 8, 0))
    assert (result.images, result.resumed, result.failed) == (1, 2, {})


def test_a_missing_photograph_that_came_continues_the_job(folder: Path) -> None:
    given = tree([entry(n, compressed(boxes(1)[0]), 10 + n) for n in range(2)], images=2)
    _, result = run(folder, given)
    assert (result.images, result.absent) == (1, ("1.png",))
    Image.fromarray(photo(1)).save(folder / "photos" / "1.png")
    _, result = run(folder, given)
    assert (result.images, result.resumed) == (1, 1)
    assert not list(folder.glob(".*"))
