"""Layers and models on disk: one format, whole at every moment, and the old ones still read."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crfrnn import CRFRNN, Gaussian
from crfrnn.cli._model import is_model, open_model
from crfrnn.io import files, storage
from crfrnn.io.storage import CONFIG, TENSORS
from crfrnn.models.checkpoint import Checkpoint, is_checkpoint, load_checkpoint

#: Directories that version 1 of the format left, and what its readers computed from them.
OLD = Path(__file__).parent / "stored"

#: Two versions that differ in both files, and whose tensors do not fit the other's configuration.
VERSIONS: list[tuple[dict[str, Any], dict[str, torch.Tensor]]] = [
    ({"crf": {"size": 1}}, {"crf.a": torch.zeros(1)}),
    ({"crf": {"size": 2}}, {"crf.a": torch.ones(2)}),
]


class Killed(BaseException):
    """Stands for the end of the process: nothing catches it."""


def version_of(directory: Path) -> int:
    """Which of `VERSIONS` a directory holds, the whole of it."""
    stored = storage.read(directory)
    size = stored.config["crf"]["size"]
    torch.testing.assert_close(stored.tensors, VERSIONS[size - 1][1], rtol=0, atol=0)
    return int(size) - 1


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def image_and_logits() -> tuple[torch.Tensor, torch.Tensor]:
    """What the old readers were given."""
    image = torch.arange(126, dtype=torch.float32).reshape(1, 3, 6, 7) * 2
    logits = torch.linspace(-2, 2, 126).reshape(1, 6, 7, 3).permute(0, 3, 1, 2)
    return image, logits.contiguous()


def test_a_directory_is_what_hubs_expect(tmp_path: Path) -> None:
    CRFRNN(3).save_pretrained(tmp_path / "layer")
    Checkpoint("light", 3, {"width": 1}, crf=CRFRNN(3)).save(tmp_path / "model")
    for directory in (tmp_path / "layer", tmp_path / "model"):
        assert names(directory) == [CONFIG, TENSORS]
        config = json.loads((directory / CONFIG).read_text())
        assert (config["library"], config["format"]) == ("crfrnn", storage.FORMAT)
        assert config["crf"]["num_classes"] == 3
        assert is_checkpoint(directory)
    # One format: the CRF of a model is a layer.
    layer = CRFRNN.from_pretrained(tmp_path / "model")
    torch.testing.assert_close(layer.state_dict(), CRFRNN(3).state_dict(), rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"config.json: .*a layer alone, for CRFRNN.from_pretr"):
        load_checkpoint(tmp_path / "layer")
    Checkpoint("light", 3, {"width": 1}).save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"config.json: this model has no CRF"):
        CRFRNN.from_pretrained(tmp_path / "model")


# Older directories


def test_a_layer_of_the_old_format_is_read() -> None:
    image, logits = image_and_logits()
    layer = CRFRNN.from_pretrained(OLD / "layer_1")
    expected = torch.from_numpy(np.load(OLD / "expected.npz")["layer"])
    torch.testing.assert_close(layer(logits, image).detach().softmax(1), expected.softmax(1))
    assert is_checkpoint(OLD / "layer_1")


def test_a_model_of_the_old_format_is_read() -> None:
    image, _ = image_and_logits()
    model = load_checkpoint(OLD / "model_1")
    assert (model.classes, model.notes) == (["a", "b", "c"], {"steps": 3, "rates": [0.1, 0.2]})
    expected = np.load(OLD / "expected.npz")
    with torch.no_grad():
        before, after = model.logits(image)
    torch.testing.assert_close(before, torch.from_numpy(expected["before"]))
    torch.testing.assert_close(after.softmax(1), torch.from_numpy(expected["after"]).softmax(1))
    assert is_model(OLD / "model_1")
    assert open_model(OLD / "model_1").has_crf


@pytest.mark.parametrize("kind", ["layer_1", "model_1"])
def test_an_old_directory_that_is_saved_again_is_new(tmp_path: Path, kind: str) -> None:
    directory = tmp_path / kind
    shutil.copytree(OLD / kind, directory)
    (directory / "README.md").write_text("mine")
    old = storage.read(directory)
    storage.write(directory, old.config, old.tensors)
    assert names(directory) == ["README.md", CONFIG, TENSORS]
    new = storage.read(directory)
    torch.testing.assert_close(new.tensors, old.tensors, rtol=0, atol=0)
    assert new.config["crf"] == old.config["crf"]


def test_weights_that_a_network_shares_are_saved(tmp_path: Path) -> None:
    weight = torch.arange(6.0).view(2, 3)
    tied = {"network.a": weight, "network.b": weight, "network.c": weight[0]}
    storage.write(tmp_path, {}, tied)
    torch.testing.assert_close(storage.read(tmp_path).tensors, tied, rtol=0, atol=0)


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    for name in ("config.yaml", "weights.safetensors"):
        (tmp_path / name).write_text("format: theirs")
    storage.write(tmp_path, *VERSIONS[0])
    assert names(tmp_path) == [CONFIG, "config.yaml", TENSORS, "weights.safetensors"]
    assert version_of(tmp_path) == 0


# Interrupted writes


@pytest.fixture
def killed_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Ends the process at the n-th move of a file, before it is made."""

    def arm(number: int) -> None:
        moves = iter(range(1, 9))
        move = Path.replace

        def replace(self: Path, target: Path) -> Path:
            if next(moves) == number:
                raise Killed
            return move(self, target)

        monkeypatch.setattr(Path, "replace", replace)

    return arm


@pytest.mark.parametrize(("number", "expected"), [(1, 0), (2, 1)])
def test_a_write_that_is_killed_leaves_one_whole_version(
    tmp_path: Path, killed_at: Callable[[int], None], number: int, expected: int
) -> None:
    storage.write(tmp_path, *VERSIONS[0])
    killed_at(number)
    with pytest.raises(Killed):
        storage.write(tmp_path, *VERSIONS[1])
    assert version_of(tmp_path) == expected
    assert is_checkpoint(tmp_path)


@pytest.mark.parametrize(("number", "expected"), [(1, None), (2, 1)])
def test_a_first_write_that_is_killed_leaves_nothing_or_a_whole_version(
    tmp_path: Path, killed_at: Callable[[int], None], number: int, expected: int | None
) -> None:
    killed_at(number)
    with pytest.raises(Killed):
        storage.write(tmp_path, *VERSIONS[1])
    assert is_checkpoint(tmp_path) == (expected is not None)
    if expected is None:
        with pytest.raises(FileNotFoundError, match=r"has no config.json; expected a directory"):
            storage.read(tmp_path)
    else:
        assert version_of(tmp_path) == expected


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("kind", ["layer_1", "model_1"])
def test_an_old_directory_survives_a_kill_too(
    tmp_path: Path, killed_at: Callable[[int], None], kind: str, number: int
) -> None:
    directory = tmp_path / kind
    shutil.copytree(OLD / kind, directory)
    old = storage.read(directory)
    killed_at(number)
    with pytest.raises(Killed):
        storage.write(directory, *VERSIONS[1])
    if number == 1:
        torch.testing.assert_close(storage.read(directory).tensors, old.tensors)
    else:
        assert version_of(directory) == 1


@pytest.mark.parametrize(("number", "expected"), [(1, 0), (2, 1)])
def test_a_full_disk_is_named_and_leaves_one_whole_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, expected: int
) -> None:
    storage.write(tmp_path, *VERSIONS[0])
    syncs = iter(range(1, 9))

    def sync(descriptor: int) -> None:
        if next(syncs) == number:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", sync)
    with pytest.raises(
        OSError, match=r"No space left on device: '.*/" + (TENSORS, CONFIG)[number - 1]
    ):
        storage.write(tmp_path, *VERSIONS[1])
    assert version_of(tmp_path) == expected
    assert names(tmp_path) == [CONFIG, TENSORS]  # nothing half written lies about


def test_a_reader_between_the_two_moves_gets_a_whole_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.write(tmp_path, *VERSIONS[0])
    seen = []
    write_text = storage.write_text

    def look(path: Path, text: str) -> None:
        seen.append(version_of(tmp_path))
        write_text(path, text)

    monkeypatch.setattr(storage, "write_text", look)
    storage.write(tmp_path, *VERSIONS[1])
    assert seen == [1]
    assert version_of(tmp_path) == 1


# What the configuration may hold, and who may change it


def test_an_edited_configuration_counts(tmp_path: Path) -> None:
    CRFRNN(3, [Gaussian(2.0)]).save_pretrained(tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text())
    config["crf"]["eval_iterations"] = 17
    (tmp_path / CONFIG).write_text(json.dumps(config))
    assert CRFRNN.from_pretrained(tmp_path).eval_iterations == 17


def test_the_tensors_alone_are_a_whole_model(tmp_path: Path) -> None:
    storage.write(tmp_path, *VERSIONS[1])
    (tmp_path / CONFIG).unlink()
    assert version_of(tmp_path) == 1
    assert is_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"notes": {"x": object()}}, "Object of type object is not JSON"),
        ({"notes": {"palette": [{0: "black"}]}}, "keys must be strings; got 0"),
    ],
)
def test_what_json_cannot_hold_is_refused_before_anything_is_written(
    tmp_path: Path, config: dict[str, Any], text: str
) -> None:
    with pytest.raises(TypeError, match=rf"config.json: {text}"):
        storage.write(tmp_path / "new", config, {})
    assert not (tmp_path / "new").exists()


# Bad files


class Bomb:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("with_config", [True, False])
def test_nothing_is_unpickled(tmp_path: Path, with_config: bool) -> None:
    storage.write(tmp_path / "m", *VERSIONS[0])
    if not with_config:
        (tmp_path / "m" / CONFIG).unlink()
    torch.save(Bomb(tmp_path / "mark"), tmp_path / "m" / TENSORS)
    with pytest.raises(ValueError, match=r"model.safetensors: not a readable safetensors file"):
        storage.read(tmp_path / "m")
    (tmp_path / "m" / TENSORS).write_bytes(pickle.dumps(Bomb(tmp_path / "mark")))
    with pytest.raises(ValueError, match=r"model.safetensors: not a readable safetensors file"):
        storage.read(tmp_path / "m")
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", r"config.json: not readable as JSON"),
        ("[]", r"config.json: expected a mapping; got list"),
        ('{"library": "crfrnn", "format": 3}', r"config.json: expected format 2, got 3; a newer"),
        ('{"model_type": "segformer"}', r"config.json: expected a configuration that crfrnn wrote"),
    ],
)
def test_configurations_that_are_not_ours(tmp_path: Path, text: str, message: str) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / TENSORS, metadata={"format": "pt"})
    (tmp_path / CONFIG).write_text(text)
    with pytest.raises(ValueError, match=message):
        storage.read(tmp_path)


def test_models_of_other_libraries_are_not_taken_for_ours(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / TENSORS, metadata={"format": "pt"})
    (tmp_path / CONFIG).write_text('{"model_type": "segformer"}')
    assert not is_checkpoint(tmp_path)
    assert is_model(tmp_path)


@pytest.mark.unchecked
def test_layers_that_do_not_fit_name_their_directory(tmp_path: Path) -> None:
    CRFRNN(3, weights="matrix").save_pretrained(tmp_path)
    whole = json.loads((tmp_path / CONFIG).read_text())
    for changes, text in (
        ({"weights": "class"}, "size mismatch for kernel_weights"),
        ({"normalization": "never"}, "normalization"),
        ({"kernels": [{"kind": "Triangle"}]}, "unknown kind 'Triangle'"),
    ):
        (tmp_path / CONFIG).write_text(json.dumps({**whole, "crf": {**whole["crf"], **changes}}))
        with pytest.raises(ValueError, match=rf"{tmp_path.name}: .*{text}"):
            CRFRNN.from_pretrained(tmp_path)
    del whole["crf"]["kernels"]
    (tmp_path / CONFIG).write_text(json.dumps(whole))
    with pytest.raises(ValueError, match=rf"{tmp_path.name}: 'kernels' is missing"):
        CRFRNN.from_pretrained(tmp_path)
