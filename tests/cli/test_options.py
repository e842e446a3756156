"""An option has one definition: Python, the command line, YAML and the folder job agree with it."""

import argparse
import importlib
import inspect
import json
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
from PIL import Image

import crfrnn
from crfrnn.cli import COMMANDS, Parser, main, make_parser
from crfrnn.cli._options import KERNEL_NUMBERS
from crfrnn.cli._settings import make_settings
from crfrnn.io.options import Option, ReadOptions
from crfrnn.jobs.settings import Settings, python_only
from crfrnn.offline import refine as offline
from crfrnn.offline.inputs import Inputs
from crfrnn.offline.options import RefineOptions
from crfrnn.presets import PRESETS
from crfrnn.training import ScoresConfig

DEFINITIONS: list[Any] = [ReadOptions, RefineOptions]

# Why a face lacks an option, or has one that is defined elsewhere. Whoever adds an option to one
# face alone has to give a reason here.
ARRAYS = {
    "image",
    "logits",
    "probs",
    "labels",
    "energy",
    "masks",
    "mask",
    "clamp",
    "features",
    "channels_last",
}
NOT_IN_SEGMENT = {
    "kind": "a model gives logits",
    "class_axis": "a model gives its classes first",
    "canvas": "a model's scores span the photograph",
    "align_corners": "a model upsamples its scores itself",
    "confidence": "of labels and masks; a model gives neither",
    "background": "of class activation maps",
    "num_classes": "of labels",
    "ignore_index": "of labels",
}
NOT_IN_SCORES_CONFIG = {
    "kind": "training takes logits alone",
    "class_axis": "the axis that has as many entries as the data has classes",
    "apply_exif": "an option of the data set",
    "max_pixels": "for files of others",
    "confidence": "of labels and masks",
    "background": "of class activation maps",
}
NOT_OF_READING = {
    "train": "a file",
    "val": "a file",
    "temperature": "only training divides by it",
}
NOT_A_NUMBER_OF_KERNELS = {"lattice": "for weights published with a coarser lattice, in Python"}


def defined(definition: Any) -> dict[str, tuple[Any, Option]]:
    """Default and description of each option."""
    hints = get_type_hints(definition, include_extras=True)
    return {
        field.name: (field.default, get_args(hints[field.name])[1])
        for field in fields(definition)
        if field.init
    }


def actions(command: str) -> dict[str, list[argparse.Action]]:
    """The arguments of a command, by the name under which they arrive."""
    parser = Parser()
    importlib.import_module(f"crfrnn.cli.{command}").add_arguments(parser)
    by_name: dict[str, list[argparse.Action]] = {}
    for action in parser._actions:
        by_name.setdefault(action.dest, []).append(action)
    return by_name


def settings(*options: str, command: str = "refine") -> Settings:
    places = {
        "refine": ["a.png", "a.npy", "-o", "b"],
        "segment": ["a.png", "--model", "m", "-o", "b"],
    }
    return make_settings(make_parser().parse_args([command, *places[command], *options]))


def test_every_option_is_described_or_has_a_reason_not_to_be() -> None:
    for definition in DEFINITIONS:
        for name, (default, option) in defined(definition).items():
            assert bool(option.help) != bool(option.python_only), name
            assert default is not MISSING, name


def test_options_of_both_definitions_are_the_same() -> None:
    reading, refining = map(defined, DEFINITIONS)
    shared = reading.keys() & refining.keys()
    assert shared == {"confidence"}
    assert all(reading[name] == refining[name] for name in shared)


def test_refine_takes_what_is_defined() -> None:
    parameters = inspect.signature(crfrnn.refine).parameters
    assert parameters.keys() == defined(RefineOptions).keys() | ARRAYS
    for name, (default, _) in defined(RefineOptions).items():
        assert parameters[name].default == default, name
    kinds = {"logits", "probs", "labels", "energy", "masks"}
    assert {field.name for field in fields(Inputs)} == ARRAYS - kinds | {
        "name",
        "scores",
        "ids",
        "origin",
    }


@pytest.mark.parametrize(
    ("command", "reasons"), [("refine", {}), ("evaluate", {}), ("segment", NOT_IN_SEGMENT)]
)
def test_a_command_takes_what_is_defined(command: str, reasons: dict[str, str]) -> None:
    declared = actions(command)
    for definition in DEFINITIONS:
        for name, (default, option) in defined(definition).items():
            if name == "kernels":
                continue  # the next test
            if option.python_only or name in reasons:
                assert name not in declared
                continue
            for action in declared[name]:
                assert action.default == default, name
                assert action.help, name
                expected = option.choices if name != "class_axis" else ()
                assert tuple(action.choices or ()) == tuple(expected), name


def test_every_number_of_the_presets_kernels_is_an_option() -> None:
    kernels = {type(kernel) for preset in PRESETS.values() for kernel in preset.kernels}
    numbers = {
        (kernel.__name__.lower(), field.name)
        for kernel in kernels
        for field in fields(kernel)
        if field.name not in NOT_A_NUMBER_OF_KERNELS
    }
    assert KERNEL_NUMBERS.keys() == numbers
    for command in ("refine", "segment", "evaluate"):
        assert {f"{kernel}_{number}" for kernel, number in numbers} <= actions(command).keys()


def test_the_groups_of_the_command_line_hold_nothing_else() -> None:
    parser = Parser()
    importlib.import_module("crfrnn.cli.refine").add_arguments(parser)
    names = {name for definition in DEFINITIONS for name in defined(definition)}
    names |= {f"{kernel}_{number}" for kernel, number in KERNEL_NUMBERS}
    for group in parser._action_groups:
        if group.title in ("reading SCORES", "the CRF"):
            assert {action.dest for action in group._group_actions} <= names


def test_yaml_takes_what_is_defined() -> None:
    config = {field.name for field in fields(ScoresConfig)}
    reading = defined(ReadOptions).keys()
    assert config - NOT_OF_READING.keys() == reading - NOT_IN_SCORES_CONFIG.keys()
    read = ScoresConfig(Path("a.npz"), canvas=9, align_corners=True).reading()
    assert read == ReadOptions(kind="logits", canvas=(9, 9), align_corners=True)


def test_json_and_manifests_hold_every_option_of_the_command_line() -> None:
    names = {name for definition in DEFINITIONS for name in defined(definition)}
    hidden = python_only(ReadOptions) | python_only(RefineOptions)
    assert hidden == {"prune"}
    assert settings().parameters().keys() == names - hidden


# A value other than the default for every option, as it is typed and as it arrives.
TYPED: dict[str, tuple[str, Any]] = {
    "kind": ("--kind mask", "mask"),
    "class_axis": ("--channels-last", "last"),
    "canvas": ("--canvas 640x480", (480, 640)),
    "align_corners": ("--align-corners", True),
    "apply_exif": ("--apply-exif", True),
    "confidence": ("--confidence 0.9", 0.9),
    "background": ("--background 8", 8.0),
    "max_pixels": ("--max-pixels 9", 9),
    "preset": ("--preset psa", "psa"),
    "kernels": (
        "--bilateral-color 7 --gaussian-position 2,3",
        [
            crfrnn.Bilateral(position=67, color=7, weight=4).to_dict(),
            crfrnn.Gaussian(position=(2, 3), weight=3).to_dict(),
        ],
    ),
    "compatibility": ("--compatibility c.npy", ((0.0, 2.0), (1.0, 0.0))),
    "iterations": ("--iterations 3", 3),
    "normalization": ("--normalization after", "after"),
    "filter": ("--filter exact", "exact"),
    "precision": ("--precision half", "half"),
    "tol": ("--tol 0.5", 0.5),
    "guard": ("--guard", True),
    "band": ("--band 2.5", 2.5),
    "num_classes": ("--num-classes 4", 4),
    "ignore_index": ("--ignore-index 9", 9),
    "engine": ("--engine reference", "reference"),
}


@pytest.mark.parametrize("name", list(TYPED))
def test_what_is_typed_arrives(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("c.npy", np.array([[0, 2], [1, 0]]))
    typed, value = TYPED[name]
    default = settings().parameters()
    parameters = settings(*typed.split()).parameters()
    assert parameters[name] == value != default[name]
    # A preset brings its numbers with it; any other option changes nothing else.
    brought = {"kernels"} if name == "preset" else set()
    changed = {key for key in parameters if parameters[key] != default[key]}
    assert changed == {name} | brought


def test_refine_hands_every_argument_on(monkeypatch: pytest.MonkeyPatch) -> None:
    handed: list[Any] = []
    monkeypatch.setattr(offline, "refine_inputs", lambda *given: handed.extend(given))
    arguments: dict[str, Any] = {
        "preset": "psa",
        "kernels": (crfrnn.Gaussian(),),
        "compatibility": "any",
        "iterations": 3,
        "normalization": "after",
        "filter": "exact",
        "prune": False,
        "precision": "half",
        "tol": 0.5,
        "guard": True,
        "band": 2.5,
        "num_classes": 4,
        "confidence": 0.9,
        "ignore_index": 9,
        "engine": "reference",
    }
    assert arguments.keys() == defined(RefineOptions).keys()
    arrays = {"mask": "mask", "clamp": "clamp", "features": ["map"], "channels_last": True}
    inspect.unwrap(crfrnn.refine)("image", labels="labels", **arguments, **arrays)
    assert handed == [
        Inputs("image", "labels", "labels", "mask", "clamp", ["map"], True),
        RefineOptions(**arguments),
    ]
    assert handed[1].numbers.kernels == arguments["kernels"]
    assert all(getattr(handed[1], name) == value for name, value in arguments.items())


def test_every_option_was_typed() -> None:
    assert TYPED.keys() == settings().parameters().keys()


# One set of error messages

WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "kind": (lambda: ReadOptions(kind="guess"), "unknown kind 'guess'; expected one of: auto, "),  # type: ignore[arg-type]
    "class_axis": (lambda: ReadOptions(class_axis="x"), "unknown class_axis 'x'; expected one"),  # type: ignore[arg-type]
    "canvas": (lambda: ReadOptions(canvas=(0, 9)), "canvas must be at least 1; got 0"),
    "yaml": (lambda: ScoresConfig(Path("a.npz"), canvas=0), "canvas must be at least 1; got 0"),
    "preset": (lambda: RefineOptions(preset="best"), "unknown preset 'best'"),
    "kernels": (lambda: RefineOptions(kernels=[3]), "kernels must be a list of Gaussian, Bil"),  # type: ignore[list-item]
    "iterations": (lambda: RefineOptions(iterations=-1), "iterations must not be negative; got"),
    "normalization": (lambda: RefineOptions(normalization="l2"), "unknown normalization 'l2'"),
    "filter": (lambda: RefineOptions(filter="fft"), "unknown filter 'fft'; expected one of: lat"),
    "precision": (lambda: RefineOptions(precision="8"), "unknown precision '8'; expected one of"),
    "tol": (lambda: RefineOptions(tol=0.0), "tol is a mean change and must be positive"),
    "band": (lambda: RefineOptions(band=0), "band is a distance in pixels and must be positive"),
    "band=": (lambda: RefineOptions(band=(1, 2)), "band must be one number of pixels; got (1, 2)"),  # type: ignore[arg-type]
    "engine": (lambda: RefineOptions(engine="warp"), "unknown engine 'warp'; expected one of: r"),
}


@pytest.mark.unchecked
@pytest.mark.parametrize("name", list(WRONG))
def test_wrong_options_are_refused_when_they_are_given(name: str) -> None:
    make, message = WRONG[name]
    with pytest.raises((ValueError, TypeError)) as caught:
        make()
    assert str(caught.value).startswith(message)


LABELS = np.zeros((2, 2), int)
BOTH: dict[str, Callable[[], Any]] = {
    "--preset best": lambda: crfrnn.refine(None, labels=LABELS, preset="best"),
    "--iterations -1": lambda: crfrnn.refine(None, labels=LABELS, iterations=-1),
    "--tol 0": lambda: crfrnn.refine(None, labels=LABELS, tol=0.0),
    "--engine warp": lambda: crfrnn.refine(None, labels=LABELS, engine="warp"),
    "--gaussian-weight inf": lambda: crfrnn.Gaussian(weight=float("inf")),
}


@pytest.mark.unchecked
@pytest.mark.parametrize("typed", list(BOTH))
def test_the_command_line_says_what_python_says(
    typed: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match=r"; expected one of|must (not )?be") as caught:
        BOTH[typed]()
    for images, scores in (("a.png", "a.npy"), ("images", "scores")):
        assert main(["refine", images, scores, "-o", "out.png", *typed.split()]) == 2
        assert capsys.readouterr().err == f"crfrnn refine: error: {caught.value}\n"
    assert not Path("out.png").exists()


# Folders of another version


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a photograph and scores, also in folders."""
    monkeypatch.chdir(tmp_path)
    for name in ("images", "scores"):
        Path(name).mkdir()
    for where in ("", "images/"):
        Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(f"{where}a.png")
    for where in ("", "scores/"):
        np.save(f"{where}a.npy", np.random.default_rng(0).normal(size=(3, 6, 8)))
    return tmp_path


def refine_again(change: Callable[[dict[str, Any]], object], *options: str) -> int:
    """Refine a folder, change its manifest without making it newer, and refine again."""
    assert main(["refine", "images", "scores", "-o", "out"]) == 0
    path = Path("out/crfrnn-refine.json")
    manifest = json.loads(path.read_text())
    change(manifest["parameters"])
    path.write_text(json.dumps(manifest))
    Path("out/a.png").touch()
    return main(["refine", "images", "scores", "-o", "out", *options])


def test_a_folder_of_a_version_without_an_option_had_its_default(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refine_again(lambda parameters: parameters.pop("precision")) == 0
    assert "0 refined, 1 already there" in capsys.readouterr().out
    assert main(["refine", "images", "scores", "-o", "out", "--precision", "half"]) == 2
    assert "(precision was full, is now half)" in capsys.readouterr().err


def test_a_folder_of_a_version_with_another_option_is_not_mixed_in(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refine_again(lambda parameters: parameters.update(delta=0.5)) == 2
    assert "(delta was 0.5, is now an unknown option)" in capsys.readouterr().err


# Help


@pytest.mark.parametrize("command", list(COMMANDS))
def test_help_fits_a_terminal(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main([command, "--help"]) == 0
    assert not [line for line in capsys.readouterr().out.splitlines() if len(line) > 80]


def test_help_gives_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["refine", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for default in ("(default deeplab)", "(default 0.7)", "(default 255)", "(default lattice)"):
        assert default in text
