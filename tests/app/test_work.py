"""What the page computes, without a browser and without Gradio."""

from __future__ import annotations

import dataclasses
import math
import re
import shlex
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import crfrnn
from crfrnn import refine
from crfrnn.app import markup
from crfrnn.app.answers import DRAW, ERASE, LOOK, answer, pick, stroke
from crfrnn.app.choice import RANGES, Choice, command_text, preset_text, python_text
from crfrnn.app.desk import Desk, Entry, Page, Start
from crfrnn.app.look import BOTH, CHANGED, PROBABILITY, REACH, STEPS, Look, Tool, part_of, pictures
from crfrnn.app.subject import MOST_PIXELS, Subject, of_arrays, open_files, open_mask
from crfrnn.app.work import Work
from crfrnn.cli import main, make_parser
from crfrnn.cli.app import make_start
from crfrnn.crf.compiled import build_filters
from crfrnn.crf.kept import KeptFilters
from crfrnn.crf.kernel import Scene
from crfrnn.crf.recipe import Recipe
from crfrnn.evaluation.metrics import Judge, stack, summarize
from crfrnn.io.files import read_image
from crfrnn.presets import PRESETS, find_preset, write_preset
from tests.cases import needs_core, needs_torch

pytestmark = needs_core


def scene(height: int = 40, width: int = 60, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """A noisy photograph of a disk on a background, and scores whose disk is off by some pixels."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    disk = (y - height / 2) ** 2 + (x - width / 2) ** 2 < (0.3 * height) ** 2
    image = np.where(disk[..., None], (200, 80, 40), (60, 90, 120))
    image = np.clip(image + random.normal(0, 8, image.shape), 0, 255).astype(np.uint8)
    logits = random.normal(0, 0.7, (classes, height, width)).astype(np.float32)
    logits[1] += np.where(np.roll(disk, 3, axis=1), 1.5, -1.5)
    return image, logits


@pytest.fixture
def work() -> Work:
    image, logits = scene()
    return Work(of_arrays(image, "logits", logits))


def values(choice: Choice | None = None, **changed: Any) -> dict[str, Any]:
    """The values of the page's components."""
    look = {
        "view": BOTH,
        "zoom": 1,
        "label": None,
        "rings": True,
        "pointer": LOOK,
        "pen": None,
        "radius": 2,
    }
    return {**dataclasses.asdict(choice or Choice()), **look, **changed}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_comes_back_from_the_sliders(name: str) -> None:
    preset, choice = PRESETS[name], Choice.of_preset(name)
    assert choice.kernels == preset.kernels
    assert (choice.iterations, choice.normalization) == (preset.iterations, preset.normalization)
    for field, (low, high, step) in RANGES.items():
        value = getattr(choice, field)
        assert low <= value <= high
        assert math.isclose((value - low) / step % 1, 0)


def test_a_saved_preset_is_read_by_refine(tmp_path: Path) -> None:
    choice = Choice(position=31, color=4.5, iterations=3, normalization="after")
    path = tmp_path / "mine.yaml"
    path.write_text(preset_text(choice), encoding="utf-8")
    assert find_preset(str(path)).kernels == choice.kernels
    again = Choice.of_preset(str(path))
    assert dataclasses.replace(again, preset="deeplab") == choice


def test_the_texts_give_the_very_numbers() -> None:
    choice = Choice(position=53.716294, color=3.1415926535, weight=1234567, near=0.5)
    python = python_text(choice, "logits=logits")
    assert "Bilateral(position=53.716294, color=3.1415926535, weight=1234567)" in python
    assert "Gaussian(position=0.5, weight=3)" in python
    words = command_text(choice, "a.png", "a.npy").split()
    assert words[words.index("--bilateral-color") + 1] == "3.1415926535"
    assert words[words.index("--gaussian-position") + 1] == "0.5"


@pytest.mark.parametrize("suffix", [".json", ".yaml"])
@pytest.mark.parametrize("kind", [str, Path])
def test_a_file_of_parameters_is_named_by_text_or_path(
    tmp_path: Path, suffix: str, kind: Any
) -> None:
    write_preset(kind(tmp_path / f"mine{suffix}"), PRESETS["psa"])
    assert find_preset(kind(tmp_path / f"mine{suffix}")).kernels == PRESETS["psa"].kernels


@pytest.mark.unchecked
def test_what_names_no_preset_is_refused() -> None:
    with pytest.raises(TypeError, match=r"a preset must be one of .*; got int"):
        find_preset(3)  # type: ignore[arg-type]


def test_other_kernels_are_refused(tmp_path: Path) -> None:
    text = "kernels: [{kind: Gaussian, position: [1, 2]}]\niterations: 1\nnormalization: after\n"
    (tmp_path / "odd.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"one Bilateral and one Gaussian.*got Gaussian"):
        Choice.of_preset(str(tmp_path / "odd.yaml"))


CHOICES = [
    Choice(),
    Choice.of_preset("crfasrnn"),
    Choice("krahenbuhl", 30, 7.5, 2, 2, 0, 3, "before", guard=True),
    Choice(weight=6.5, filter="exact", iterations=0),
    Choice(band=2, iterations=3),
]


@pytest.mark.parametrize("scribbled", [False, True])
@pytest.mark.parametrize("choice", CHOICES, ids=range(len(CHOICES)))
def test_page_command_and_python_agree(
    choice: Choice, scribbled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    image, logits = scene()
    Image.fromarray(image).save("a photo.png")
    np.save("scores.npy", logits)
    page = Page(Start(choice, open_files(Path("a photo.png"), Path("scores.npy"))))
    if scribbled:
        page.work.scribble([(5, 5), (50, 5)], 1.5, 2)
        found = re.search(r'download="clamp.png" href="([^"]+)"', markup.links(page.work, choice))
        assert found is not None
        with urllib.request.urlopen(found[1]) as file:
            Path("clamp.png").write_bytes(file.read())
    labels = page.work.refine(choice).refined.labels
    assert not scribbled or (labels[5, 5:51] == 2).all()
    command = shlex.split(page.command(choice))
    assert command[0] == "crfrnn"
    assert main(command[1:]) == 0
    np.testing.assert_array_equal(np.asarray(Image.open("labels.png")), labels)
    space: dict[str, Any] = {}
    exec(page.python(choice), space)
    np.testing.assert_array_equal(space["labels"], labels)
    changes = (labels != page.work.before.labels).any()
    assert changes == (choice.iterations > 0 or scribbled)


def test_reading_options_reach_the_command_and_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crfrnn.io.options import ReadOptions

    monkeypatch.chdir(tmp_path)
    image, logits = scene()
    Image.fromarray(image).save("a.png")
    np.save("a.npy", np.moveaxis(logits[:, ::2, ::2], 0, -1))
    reading = ReadOptions(canvas=(48, 70), align_corners=True, class_axis="last", kind="logits")
    page = Page(Start(subject=open_files(Path("a.png"), Path("a.npy"), reading=reading)))
    labels = page.work.refine(Choice()).refined.labels
    assert main(shlex.split(page.command(Choice()))[1:]) == 0
    np.testing.assert_array_equal(np.asarray(Image.open("labels.png")), labels)
    space: dict[str, Any] = {}
    exec(page.python(Choice()), space)
    np.testing.assert_array_equal(space["labels"], labels)


def test_filters_are_kept_while_the_photograph_stays() -> None:
    image, logits = scene()
    kept, built = KeptFilters(most=3), []

    def filters(choice: Choice, photo: np.ndarray = image) -> list[Any]:
        kept.follow(photo)
        guide = np.moveaxis(photo, -1, 0)[None].astype(np.float32)
        recipe = Recipe(choice.kernels, choice.normalization, choice.filter)
        return build_filters(recipe, Scene(logits[None], guide), None, kept=kept)[0]

    first = filters(Choice())
    assert filters(Choice(weight=9, smoothness=1, iterations=2)) == first  # the same objects
    for other in (
        Choice(position=30),
        Choice(color=9),
        Choice(normalization="after"),
        Choice(filter="exact"),
    ):
        assert filters(other)[0] is not first[0]
        built.append(other)
    assert len(kept._filters) == 3
    again = filters(Choice())
    assert again[0] is not first[0]  # dropped long ago
    copy = image.copy()
    assert filters(Choice(), copy)[0] is not again[0]


def test_kept_filters_change_no_result(work: Work) -> None:
    for choice in (Choice(), Choice(weight=9), Choice(color=20), Choice(), Choice(guard=True)):
        fresh = refine(work.subject.image, logits=work.subject.values, **choice.arguments())
        result = work.refine(choice)
        np.testing.assert_array_equal(result.refined.probs, fresh.probs)
        assert result.changed == fresh.changed


def test_scores_are_those_of_evaluation(work: Work) -> None:
    truth = np.roll(work.before.labels, 2, axis=0)
    truth[:4] = 255
    assert work.scores(Choice()) is None
    work.compare_with(truth)
    scores = work.scores(Choice())
    assert scores is not None
    judge = Judge(truth, 3)
    after = summarize(stack([judge.count(work.refine(Choice()).refined.labels)]), judge.settings)
    for name, (_, value) in scores.items():
        assert value == float(after[name][0])
    assert scores["mean_iou"][0] != scores["mean_iou"][1]
    assert "mean IoU" in markup.verdict(work, Choice())


@needs_torch
def test_energies_are_those_of_the_library(work: Work) -> None:
    import torch

    from crfrnn.crf.filters import build_filters as build_on_tensors

    choice = Choice(iterations=4)
    steps = work.steps(choice)
    logits = torch.from_numpy(work.subject.values)[None].double()
    image = torch.from_numpy(np.moveaxis(work.subject.image, -1, 0)[None].astype(np.float64))
    recipe = Recipe(choice.kernels, choice.normalization)
    filters = build_on_tensors(recipe, crfrnn.crf.kernel.Scene(logits, image))
    weights = torch.tensor([k.weight for k in choice.kernels], dtype=torch.float64)
    before, potts = logits.softmax(1), 1 - torch.eye(3, dtype=torch.float64)
    for step in steps:
        inputs = {"logits": work.subject.values, **choice.arguments(), "iterations": step.number}
        q = torch.from_numpy(refine(work.subject.image, **inputs).probs)[None].double()
        energy = crfrnn.free_energy(-logits.log_softmax(1), q, filters, weights, potts)
        assert step.energy == pytest.approx(float(energy) / q[0, 0].numel(), rel=1e-4)
        change = float((q - before).abs().sum(1).mean())
        assert (
            math.isnan(step.change)
            if step.number == 0
            else step.change == pytest.approx(change, rel=1e-3)
        )
        before = q
    assert [s.energy for s in steps] == sorted((s.energy for s in steps), reverse=True)


def test_the_reach_is_the_bilateral_kernel(work: Work) -> None:
    work.point = (13, 7)
    choice = Choice(position=9, color=12)
    found = work.weights_around(choice)[20, 30]
    color = work.subject.image.astype(float)
    away = ((color[20, 30] - color[7, 13]) ** 2).sum() / 12**2 + (17**2 + 13**2) / 9**2
    assert found == pytest.approx(math.exp(-away / 2), rel=1e-4)
    assert work.weights_around(choice)[7, 13] == 1


@pytest.mark.parametrize("zoom", [1, 2, 4, 8])
@pytest.mark.parametrize("point", [(0, 0), (59, 39), (30, 20)])
def test_the_part_holds_the_point(work: Work, zoom: int, point: tuple[int, int]) -> None:
    work.point = point
    part = part_of(work, zoom)
    assert part.left <= point[0] < part.left + part.width <= 60
    assert part.top <= point[1] < part.top + part.height <= 40
    assert part.width == round(60 / zoom)


@pytest.mark.parametrize("view", [BOTH, CHANGED, PROBABILITY, REACH, STEPS])
def test_views(work: Work, view: str) -> None:
    shown = pictures(work, Choice(), Look(view, label=1))
    assert shown.after.startswith("data:image/jpeg;base64,")
    assert bool(shown.before) == (view in (BOTH, PROBABILITY, STEPS))
    html = markup.board(work, Choice(), Look(view), Tool())
    assert html.count("<img") == 1 + bool(shown.before)


def test_names_are_escaped() -> None:
    image, logits = scene()
    subject = Subject("<b>", image, "logits", logits, classes=("<i>", "a & b", "c"))
    page = Page(Start(subject=subject))
    for view in (BOTH, CHANGED, PROBABILITY, REACH):
        html = answer(page, values(view=view))
        assert "<b>" not in html.board.replace("<b>and</b>", "")
        assert "<i>" not in html.board + html.verdict
    assert "&lt;script" in markup.message("<script>")


def test_pick_and_stroke() -> None:
    image, logits = scene()
    page = Page(Start(subject=of_arrays(image, "logits", logits)))
    pick(page, 3.7, 500)
    assert page.work.point == (3, 39)
    drawing = values(pointer=DRAW, pen=2)
    stroke(page, drawing, [[10, 10], [20, 10]])
    marked = page.work.scribbles
    assert (marked[10, 10:21] == 2).all()
    assert 50 < (marked == 2).sum() < 100
    stroke(page, {**drawing, "pen": ERASE}, [[20, 10]])
    assert marked[10, 20] == page.work.free == 255
    with pytest.raises(ValueError, match=r"must be 0\.\.2"):
        page.work.scribble([(0, 0)], 1, 7)
    with_clamp = answer(page, drawing)
    assert "--clamp clamp.png" in page.command(Choice()) or page.work.subject.source is None
    assert 'alt="your scribbles"' in with_clamp.board
    page.work.clear_scribbles()
    assert (page.work.scribbles == page.work.free).all()


@pytest.mark.parametrize(("classes", "free"), [(255, 255), (256, 65535), (300, 65535)])
def test_many_classes_can_be_drawn_and_saved(
    classes: int, free: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    image, logits = scene(20, 30, 3)
    many = np.full((classes, 20, 30), -9, np.float32)
    many[-3:] = logits
    last = classes - 1
    Image.fromarray(image).save("a.png")
    np.save("a.npy", many)
    choice = Choice(iterations=2)
    page = Page(Start(choice, open_files(Path("a.png"), Path("a.npy"))))
    stroke(page, values(pointer=DRAW, pen=min(255, last)), [[2, 2], [8, 2]])
    stroke(page, values(pointer=DRAW, pen=last), [[2, 12], [8, 12]])
    labels = page.work.refine(choice).refined.labels
    assert (labels[2, 2:9] == min(255, last)).all()
    assert (labels[12, 2:9] == last).all()
    assert page.work.free == free
    for name in ("labels.png", "clamp.png"):
        found = re.search(rf'download="{name}" href="([^"]+)"', markup.links(page.work, choice))
        assert found is not None
        with urllib.request.urlopen(found[1]) as file:
            Path(f"page_{name}").write_bytes(file.read())
    np.testing.assert_array_equal(np.asarray(Image.open("page_labels.png")), labels)
    Path("page_clamp.png").rename("clamp.png")
    assert main(shlex.split(page.command(choice))[1:]) == 0
    np.testing.assert_array_equal(np.asarray(Image.open("labels.png")), labels)
    with Image.open("labels.png") as one, Image.open("page_labels.png") as other:
        assert one.mode == other.mode


def test_cleared_numbers_and_old_classes_do_no_harm() -> None:
    image, logits = scene()
    page = Page(Start(subject=of_arrays(image, "logits", logits)))
    shown = answer(page, values(iterations=None, band=None, weight=None, label=17, pen=17))
    assert (shown.label, shown.pen) == (2, ERASE)
    with pytest.raises(ValueError, match="position must be 1 to 200, as its slider; got 0"):
        answer(page, values(position=None))


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"position": 1e9}, "position must be 1 to 200, as its slider; got 1000000000"),
        ({"iterations": 10**7}, "iterations must be 0 to 20"),
        ({"color": math.nan}, r"color must be 0\.5 to 60"),
        ({"near": 0.001}, r"near must be 0\.5 to 30"),
        ({"band": -1}, "band must be 0 to 50"),
        ({"preset": "/etc/passwd.yaml"}, "preset must be one of the menu's"),
        ({"zoom": 0}, "enlargement must be one of"),
        ({"radius": 1e9}, "half the width must be 1 to 30 pixels"),
    ],
)
def test_numbers_beyond_the_sliders_are_refused(
    work: Work, changed: dict[str, Any], says: str
) -> None:
    """A browser may send what it wants, and with `--host` it may be anyone's."""
    image, logits = scene()
    page = Page(Start(subject=of_arrays(image, "logits", logits)))
    with pytest.raises(ValueError, match=says):
        answer(page, values(**changed))


def test_a_start_beyond_the_sliders_widens_them() -> None:
    image, logits = scene()
    start = Choice(position=300)
    page = Page(Start(start, of_arrays(image, "logits", logits)))
    answer(page, values(start))
    with pytest.raises(ValueError, match="position must be 1 to 300"):
        answer(page, values(dataclasses.replace(start, position=301)))


def test_lines_far_outside_are_cut() -> None:
    image, logits = scene()
    page = Page(Start(subject=of_arrays(image, "logits", logits)))
    stroke(page, values(pointer=DRAW, pen=1), [[30, 20], [1e30, 20]])
    assert page.work.scribbles[20, 59] == 1
    with pytest.raises(ValueError, match="must be finite"):
        stroke(page, values(pointer=DRAW, pen=1), [[math.inf, 20]])


def test_pages_are_apart_and_few() -> None:
    image, logits = scene(8, 9)
    desk = Desk(Start(subject=of_arrays(image, "logits", logits)))
    with desk.page("a") as page:
        page.work.point = (1, 1)
    with desk.page("b") as other:
        assert other.work.point != (1, 1)
    with desk.page("a") as again:
        assert again is page
    desk.close("a")
    with desk.page("a") as anew:
        assert anew is not page
    for number in range(20):
        with desk.page(str(number)):
            pass
    assert len(desk) == 8


def test_uploads_wait_for_each_other(tmp_path: Path) -> None:
    image, logits = scene()
    Image.fromarray(image).save(tmp_path / "a.png")
    np.save(tmp_path / "a.npy", logits)
    photo, scores = ((tmp_path / name).read_bytes() for name in ("a.png", "a.npy"))
    page = Page(Start(subject=of_arrays(*(lambda i, z: (i, "logits", z))(*scene(8, 9)))))
    assert "drop its photograph" in page.upload("scores", "a.npy", scores)
    assert page.work.subject.size == (8, 9)
    assert "are open" in page.upload("photograph", "../../a.png", photo)
    assert page.work.subject.size == (40, 60)
    assert page.work.num_classes == 3
    page.upload("scores", "a.npy", scores)
    assert "image and a.npy are open" in page.upload("photograph", "image", photo)
    with pytest.raises(ValueError, match=r"^b\.png: not a readable image"):
        page.upload("photograph", "b.png", photo[:300])


def test_masks_and_sizes(tmp_path: Path) -> None:
    image, logits = scene()
    subject = of_arrays(image, "logits", logits)
    for name, ids, says in (
        ("other", np.zeros((3, 4), np.uint8), "4x3 and the photograph 60x40"),
        ("white", np.full((40, 60), 255, np.uint8), "255 means unknown"),
        ("many", np.full((40, 60), 9, np.uint8), r"ids must be 0\.\.2"),
    ):
        Image.fromarray(ids).save(tmp_path / f"{name}.png")
        with pytest.raises(ValueError, match=says):
            open_mask(tmp_path / f"{name}.png", subject, 3)
    side = math.isqrt(MOST_PIXELS) + 1
    with pytest.raises(ValueError, match="opens up to 16 megapixels"):
        of_arrays(np.broadcast_to(np.uint8(0), (side, side)), "labels", np.zeros((side, side)))


def test_scores_that_would_not_fit_are_not_unpacked(tmp_path: Path) -> None:
    image, _ = scene()
    Image.fromarray(image).save(tmp_path / "a.png")
    with (tmp_path / "a.npy").open("wb") as file:  # the header alone
        shape = {"descr": "<f4", "fortran_order": False, "shape": (200, 2000, 2000)}
        np.lib.format.write_array_header_1_0(file, shape)
    with pytest.raises(ValueError, match="400 million scores; got 800"):
        open_files(tmp_path / "a.png", tmp_path / "a.npy")


def test_deep_photographs_are_refined_as_the_command_does(tmp_path: Path) -> None:
    image, logits = scene()
    Image.fromarray(image[..., 0].astype(np.uint16) * 200).save(tmp_path / "deep.png")
    np.save(tmp_path / "deep.npy", logits)
    work = Work(open_files(tmp_path / "deep.png", tmp_path / "deep.npy"))
    assert work.subject.image.dtype == np.float32
    assert work.subject.photo.dtype == np.uint8
    expected = refine(read_image(tmp_path / "deep.png"), logits=logits).labels
    np.testing.assert_array_equal(work.refine(Choice()).refined.labels, expected)


@pytest.mark.parametrize("kind", ["probs", "labels"])
def test_other_kinds_of_scores(kind: str) -> None:
    image, logits = scene()
    given = logits.argmax(0) if kind == "labels" else refine(None, logits=logits, kernels=[]).probs
    work = Work(of_arrays(image, kind, given))
    expected = refine(image, **{kind: given}, **Choice().arguments())
    np.testing.assert_array_equal(work.refine(Choice()).refined.labels, expected.labels)
    assert f"    {kind}={kind}," in Page(Start(subject=work.subject)).python(Choice())


def test_folders(tmp_path: Path) -> None:
    image, logits = scene()
    entries = []
    for name in ("a", "b"):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
        np.save(tmp_path / f"{name}.npy", logits)
        entries.append(Entry(name, tmp_path / f"{name}.png", tmp_path / f"{name}.npy"))
    done = []

    def refine_folder(choice: Choice) -> Iterator[tuple[str, str]]:
        done.append(choice)
        yield from (("a", "broken"), ("b", ""))

    start = Start(entries=entries, refine_folder=refine_folder)
    page = Page(start)
    assert page.turn(1).startswith("b: 2 of 2")
    assert page.turn(1).startswith("a: 1 of 2")
    assert list(start.refine_all(Choice(weight=2))) == [("a", "broken"), ("b", "")]
    assert done == [Choice(weight=2)]
    with pytest.raises(ValueError, match="no folder is open"):
        list(Start().refine_all(Choice()))


def start_of(*words: str) -> Start:
    """What `crfrnn app` with these words opens."""
    return make_start(make_parser().parse_args(["app", *words]))


def test_a_page_and_a_command_share_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("images", "scores"):
        Path(name).mkdir()
    image, logits = scene()
    for name in ("a", "b", "c"):
        Image.fromarray(image).save(f"images/{name}.png")
        np.save(f"scores/{name}.npy", logits)
    Path("scores/c.npy").write_bytes(b"broken")
    start, choice = start_of("images", "scores", "-o", "out"), Choice(weight=6)
    run = start.refine_all(choice)
    assert next(run) == ("a", "")
    with pytest.raises(ValueError, match="out: another crfrnn refine is writing here"):
        next(start.refine_all(choice))
    assert [(name, bool(error)) for name, error in run] == [("b", False), ("c", True)]
    assert not list(Path("out").glob(".*"))
    np.save("scores/c.npy", logits)
    command = ["refine", "images", "scores", "-o", "out"]
    assert main([*command, "--bilateral-weight", "6"]) == 0
    assert "1 refined, 2 already there" in capsys.readouterr().out
    assert main(command) == 2
    assert "weight" in capsys.readouterr().err
    before = Path("out/a.png").stat().st_mtime_ns
    assert len(list(start.refine_all(choice))) == 3
    assert Path("out/a.png").stat().st_mtime_ns == before  # it was there
    assert len(list(start.refine_all(Choice()))) == 3
    assert Path("out/a.png").stat().st_mtime_ns > before
    assert main(command) == 0
    assert "0 refined, 3 already there" in capsys.readouterr().out
    Path("mine").mkdir()
    Image.fromarray(image).save("mine/a.png")
    with pytest.raises(ValueError, match=r"a\.png exists and is not a result of crfrnn refine"):
        next(start_of("images", "scores", "-o", "mine").refine_all(choice))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["a.png"], "a photograph and its scores, or one or two folders"),
        (["gone"], "gone: no such file or folder"),
        (["a.png", "."], "a photograph and its scores, or one or two folders"),
        (["a.png", "gone.npy"], "gone.npy: expected a NumPy file, but it is missing"),
        ([".", "."], "no image in . (1) has the stem of a score file"),
        (["--preset", "gone"], "unknown preset 'gone'"),
    ],
)
def test_bad_command_lines(
    arguments: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(scene()[0]).save("a.png")
    assert main(["app", *arguments]) == 2
    assert says in capsys.readouterr().err


def test_explore_checks_its_arguments() -> None:
    image, logits = scene()
    with pytest.raises(ValueError, match="exactly one of logits="):
        crfrnn.explore(image)
    with pytest.raises(ValueError, match="same size"):
        crfrnn.explore(image[1:], logits=logits)
    with pytest.raises(ValueError, match="truth: the mask is 60x39"):
        crfrnn.explore(image, logits=logits, truth=np.zeros((39, 60), np.int64))


EXPLORE = """
import numpy as np
from crfrnn import explore, refine
from crfrnn.presets import PRESETS

image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
logits = np.random.default_rng(1).normal(size=(3, 20, 30)).astype(np.float32)
page = explore(image, logits=logits, preset="maskcut", truth=logits.argmax(0))
assert page.address.startswith("http://127.0.0.1:")
again = refine(image, logits=logits, **page.parameters)
expected = refine(image, logits=logits, preset="maskcut")
np.testing.assert_array_equal(again.probs, expected.probs)
assert page.preset.kernels == PRESETS["maskcut"].kernels
page.close()
"""


def test_explore_gives_back_the_numbers() -> None:
    pytest.importorskip("gradio")
    # A process of its own: Gradio leaves sockets to the end of the process, which would fail here.
    run = subprocess.run([sys.executable, "-c", EXPLORE], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_clamped_pixels_of_a_large_photograph_are_those_of_the_call() -> None:
    """There `refine` merges clamped pixels, and so must the page, which keeps filters."""
    image, logits = scene(256, 257, 2)
    work = Work(of_arrays(image, "logits", logits))
    choice = Choice(band=4, iterations=2)
    fresh = refine(image, logits=logits, **choice.arguments())
    for _ in range(2):
        work.refine(dataclasses.replace(choice, iterations=1))
        result = work.refine(choice).refined
        assert result.joined
        np.testing.assert_array_equal(result.probs, fresh.probs)
