"""Training: stages, exact resume, several processes, and what it says to bad input."""

import dataclasses
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from crfrnn import CRFRNN
from crfrnn.cli import main
from crfrnn.io import storage
from crfrnn.models import make_network
from crfrnn.models.checkpoint import load_checkpoint
from crfrnn.presets import PRESETS, write_preset
from crfrnn.training import (
    PAPER_RATES,
    CrfConfig,
    DataConfig,
    ModelConfig,
    RatesConfig,
    ScoresConfig,
    StageConfig,
    TrainConfig,
    examples,
    loop,
    read_config,
    train,
)
from crfrnn.training.batches import Batch, order
from crfrnn.training.objective import Objective
from crfrnn.training.packed import PackedLogits
from crfrnn.training.run import Run
from crfrnn.training.runtime import make_runtime
from crfrnn.training.schedule import factor
from crfrnn.training.settings import to_yaml
from crfrnn.training.source import Source
from crfrnn.training.state import load_state
from tests.packs import KERNELS, shapes, with_scores, write_pack

MODEL = ModelConfig("light", {"width": 2, "dropout": 0.2}, crf=CrfConfig(kernels=KERNELS))
RATES = RatesConfig(network=0.05, weights=0.05, compatibility=0.05, bandwidths=0.05)


def config(output: Path, *stages: StageConfig, **more: Any) -> TrainConfig:
    given = {"data": shapes(), "model": MODEL, "validate_every": 0, "device": "cpu", **more}
    return TrainConfig(output, stages=stages, **given)


def stage(train: Any = "joint", **more: Any) -> StageConfig:
    return StageConfig(train, **{"epochs": 2, "batch_size": 4, "rates": RATES, **more})


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(folder / "model").parts().state_dict()


def assert_same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        torch.testing.assert_close(tensor, right[name], rtol=0, atol=0, msg=name)


def rows(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.is_file() else []


def start(arguments: list[str]) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "crfrnn", "train", *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)


def test_a_run_killed_at_any_moment_gives_the_same_weights(
    tmp_path: Path, one_thread: None
) -> None:
    full = config(
        tmp_path / "whole",
        stage("network", epochs=4, crop=20, scale=(0.8, 1.2), color=0.2),
        stage("crf", epochs=3, optimizer="adamw"),
        stage("joint", epochs=4, auxiliary=0.4, label_smoothing=0.1, schedule="onecycle"),
        model=dataclasses.replace(MODEL, crf=CrfConfig(kernels=KERNELS, learn_bandwidths=True)),
        data=shapes(16),
        save_every=3,
        ema=0.9,
        threads=1,
    )
    total = train(full, quiet=True).steps
    assert total == 44
    killed = dataclasses.replace(full, output=tmp_path / "killed")
    file = tmp_path / "killed.yaml"
    file.write_text(to_yaml(killed))
    generator = random.Random(os.urandom(8))
    made = [0]
    # In the first stage and in the last, where dropout draws.
    for least in (generator.randrange(4, 9), generator.randrange(29, 36)):
        process = start([str(file)])
        while len(rows(killed.output / "steps.csv")) <= least and process.poll() is None:
            time.sleep(0.001)
        time.sleep(generator.random() * 0.02)
        process.send_signal(signal.SIGKILL)
        _, said = process.communicate()
        assert process.returncode == -signal.SIGKILL, said
        state = load_state(killed.output / "state.pt")
        made.append(state["before"] + state["step"])
    assert made[0] < made[1] <= made[2] < total
    assert not (killed.output / "model").exists()
    assert train(killed, quiet=True).steps == total
    assert_same(weights(full.output), weights(killed.output))
    losses = [
        [row.split(",")[:5] for row in rows(folder / "steps.csv")]
        for folder in (full.output, killed.output)
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == total + 1


def test_a_restart_that_is_killed_does_not_resume_the_run_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = config(tmp_path, stage("network"))
    steps = train(chosen, quiet=True).steps
    trained = []
    step = loop._step

    def killed(*arguments: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_step", killed)
        with pytest.raises(KeyboardInterrupt):
            train(chosen, restart=True, quiet=True)
    monkeypatch.setattr(loop, "_step", lambda *a: trained.append(1) or step(*a))
    assert train(chosen, quiet=True).steps == steps == len(trained)


def test_two_processes_do_what_one_does(tmp_path: Path) -> None:
    pytest.importorskip("lightning_fabric", reason="needs crfrnn[distributed]")
    model = ModelConfig("light", {"width": 2, "dropout": 0.0}, crf=MODEL.crf)
    still = {"freeze_statistics": True, "epochs": 2, "flip": False}
    alone = config(tmp_path / "one", stage("network", **still), stage(**still), model=model)
    train(alone, quiet=True)
    both = dataclasses.replace(alone, output=tmp_path / "two", threads=1, validate_every=1)
    file = tmp_path / "two.yaml"
    file.write_text(to_yaml(both))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, "-m", "crfrnn", "train", str(file), "--json"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for name, tensor in weights(alone.output).items():
        torch.testing.assert_close(tensor, weights(both.output)[name], rtol=1e-3, atol=1e-5)
    assert json.loads(done.stdout)["steps"] == 8  # told by one process only
    assert len(rows(both.output / "steps.csv")) == 9
    assert load_state(both.output / "state.pt")["world"] == 2
    # One process cannot go on with what two have done.
    with pytest.raises(
        ValueError, match=r"had 2 processes, now 1; start as many, or start over with --restart"
    ):
        train(both, quiet=True)


def test_joint_training_learns_and_is_logged(tmp_path: Path) -> None:
    chosen = config(
        tmp_path,
        stage("network", epochs=8, rates=RatesConfig(network=0.1)),
        stage("joint", epochs=4),
        data=shapes(12, 24),
        validate_every=4,
    )
    trained = train(chosen, quiet=True)
    table = [row.split(",") for row in rows(tmp_path / "epochs.csv")]
    losses = [float(row[table[0].index("loss")]) for row in table[1:]]
    assert losses[7] < 0.85 * losses[0]
    assert trained.loss == pytest.approx(losses[-1], rel=1e-6)
    scores = [row[table[0].index("iou.crf")] for row in table[1:]]
    assert [bool(score) for score in scores] == [i % 4 == 3 for i in range(12)]
    assert trained.scores["crf"] == pytest.approx(float(scores[-1]), rel=1e-6)
    model = load_checkpoint(trained.model)
    assert model.crf is not None
    start = CrfConfig(kernels=KERNELS).make(3)
    assert (model.crf.kernel_weights - start.kernel_weights).abs().max() > 1e-3
    # What was exported is what was validated last.
    source = Source(chosen.data, "val")
    with torch.no_grad():
        hits = [
            (model.logits(sample.image[None].float())[1].argmax(1)[0] == sample.label)
            .float()
            .mean()
            for sample, _ in map(source.sample, range(len(source)))
        ]
    assert float(torch.stack(hits).mean()) > 0.6


@pytest.mark.parametrize("what", ["network", "crf", "joint"])
def test_a_stage_moves_what_it_names_and_nothing_else(tmp_path: Path, what: str) -> None:
    chosen = config(tmp_path, stage(what, epochs=1))
    run = Run(chosen, _runtime())
    before = {name: p.clone() for name, p in run.objective.state_dict().items()}
    train(chosen, quiet=True)
    after = weights(tmp_path)
    moved = {name.split(".")[0] for name, p in after.items() if not torch.equal(p, before[name])}
    assert moved == {"network": {"network"}, "crf": {"crf"}, "joint": {"network", "crf"}}[what]
    assert after.keys() == before.keys()


def test_frozen_statistics_and_rates_of_zero(tmp_path: Path) -> None:
    frozen = stage("joint", epochs=1, freeze_statistics=True, rates=RatesConfig(compatibility=0.0))
    chosen = config(tmp_path, frozen)
    before = Run(chosen, _runtime()).objective.state_dict()
    train(chosen, quiet=True)
    after = weights(tmp_path)
    still = {name for name, p in after.items() if torch.equal(p, before[name])}
    assert {name for name in after if "running" in name} <= still
    assert "crf.compatibility" in still
    assert "crf.kernel_weights" not in still
    # A network that does not learn is frozen as a whole, its statistics and dropout too.
    chosen = config(tmp_path / "fixed", stage("joint", rates=RatesConfig(network=0.0)))
    before = Run(chosen, _runtime()).objective.state_dict()
    train(chosen, quiet=True)
    after = weights(tmp_path / "fixed")
    assert {n for n, p in after.items() if not torch.equal(p, before[n])} == {
        "crf.kernel_weights", "crf.compatibility"
    }  # fmt: skip


def test_a_batch_is_worth_its_mean(tmp_path: Path) -> None:
    """The loss is a mean over labeled pixels, whatever the batch; ignored pixels do not count."""
    objective = Objective(None, CRFRNN(2, []))
    objective.enter(stage("crf"))
    logits = torch.randn(2, 2, 4, 5)
    label = torch.randint(2, (2, 4, 5))
    label[0, :3] = 255
    image, inside = torch.zeros(2, 3, 4, 5), torch.ones(2, 4, 5, dtype=torch.bool)
    total = objective(image, label, inside, logits)
    expected = torch.nn.functional.cross_entropy(logits, label, ignore_index=255)
    torch.testing.assert_close(total / (label != 255).sum(), expected)
    objective.enter(stage("crf", temperature=2.0, auxiliary=0.5))
    total = objective(image, label, inside, logits)
    cool = torch.nn.functional.cross_entropy(logits / 2, label, ignore_index=255)
    torch.testing.assert_close(total / (label != 255).sum(), cool + 0.5 * expected)


def test_order_and_augmentation_depend_on_the_seed_alone() -> None:
    assert sorted(i for batch in order(10, 5, 3, 0, 1) for i in batch) == list(range(10))
    assert order(10, 4, 3, 0, 1) == order(10, 4, 3, 0, 1)
    assert order(10, 4, 3, 0, 1) != order(10, 4, 3, 0, 2)
    assert len(order(10, 4, 0)) == 2
    assert [len(batch) for batch in order(3, 8, 0)] == [3]
    source = Source(shapes(), "train")
    chosen = stage(crop=30, scale=(0.5, 1.5), color=0.3)
    plan = [[0, 1], [2, 3]]
    first, second = (list(source.batches(plan, chosen, (5, 0, 1), w)) for w in (0, 1))
    other = next(source.batches(plan, chosen, (5, 0, 2), 0))
    for left, right in zip(first, second, strict=True):
        assert left.names == right.names
        assert torch.equal(left.image, right.image)
    assert not torch.equal(first[0].image, other.image)


def test_padding_takes_no_part() -> None:
    source = Source(shapes(1, 24), "train")
    (batch,) = source.batches([[0]], stage(crop=40, flip=False), (0,), 0)
    assert batch.inside.sum() == 24 * 24
    assert (batch.label == 255).equal(~batch.inside)


def test_schedules() -> None:
    poly = stage(schedule="poly", power=2.0)
    assert [factor(poly, step, 4) for step in range(4)] == [1, 0.5625, 0.25, 0.0625]
    warm = stage(schedule="constant", warmup=3)
    assert [factor(warm, step, 9) for step in range(5)] == [0.25, 0.5, 0.75, 1, 1]
    cycle = [factor(stage(schedule="onecycle"), step, 10) for step in range(11)]
    assert cycle[0] == pytest.approx(0.04)
    assert max(cycle) == cycle[3] == 1
    assert cycle[10] == pytest.approx(1e-4)


def test_the_crf_learns_from_scores_computed_before(tmp_path: Path) -> None:
    data = with_scores(tmp_path)
    model = ModelConfig(None, crf=CrfConfig(kernels=KERNELS))
    adam = stage("crf", epochs=6, optimizer="adamw", crop=28)
    chosen = config(tmp_path / "run", adam, data=data, model=model, validate_every=6)
    trained = train(chosen, quiet=True)
    losses = [float(row.split(",")[3]) for row in rows(tmp_path / "run" / "epochs.csv")[1:]]
    assert losses[-1] < 0.9 * losses[0]
    assert trained.scores["crf"] > trained.scores["network"] + 2
    layer = CRFRNN.from_pretrained(trained.model)
    assert layer.num_classes == 3


def test_temperature_and_canvas_of_scores(tmp_path: Path) -> None:
    names, values = ["a", "b"], [torch.randn(3, 5, 5), torch.randn(3, 5, 5)]
    write_pack(tmp_path / "s.npz", names, values)
    step = (torch.stack(values).max() - torch.stack(values).min()) / 255
    read = ScoresConfig(tmp_path / "s.npz", canvas=9, align_corners=True)
    scores = PackedLogits(tmp_path / "s.npz", read)
    full = torch.nn.functional.interpolate(
        values[1][None], size=(9, 9), mode="bilinear", align_corners=True
    )[0]
    found = torch.from_numpy(scores.logits("b", (7, 8)))
    torch.testing.assert_close(found, full[:, :7, :8], rtol=0, atol=float(step) / 2 + 1e-5)
    data = with_scores(tmp_path, temperature=2.0)
    hot, cold = Source(data, "train").sample(0)[1], Source(data, "val").sample(0)[1]
    data = dataclasses.replace(data, scores=dataclasses.replace(data.scores, temperature=1.0))
    assert hot is not None
    assert cold is not None
    torch.testing.assert_close(hot * 2, Source(data, "train").sample(0)[1])
    torch.testing.assert_close(cold, Source(data, "val").sample(0)[1])


def _runtime() -> Any:
    from crfrnn.training.runtime import make_runtime

    return make_runtime("cpu", "32")


@pytest.fixture
def one_step(tmp_path: Path) -> Callable[..., None]:
    def run(**more: Any) -> None:
        train(config(tmp_path / "run", stage("joint", epochs=1), **more), quiet=True, restart=True)

    return run


@pytest.mark.unchecked
def test_numbers_that_are_not_finite_are_named(
    one_step: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    original = examples.example

    def spoilt(source: Source, index: int, *rest: Any) -> Any:
        item = original(source, index, *rest)
        if index == 5:
            item.image.fill_(float("nan"))
        return item

    monkeypatch.setattr(examples, "example", spoilt)
    expected = (
        r"stage 0 \(joint\), epoch 0, step \d: the network's logits are not finite for train5"
    )
    with pytest.raises(FloatingPointError, match=expected):
        one_step()
    monkeypatch.undo()
    state = make_network("light", 3, **MODEL.options).state_dict()
    state["score8.bias"][0] = float("nan")
    torch.save(state, tmp_path / "spoilt.pt")
    spoilt_model = dataclasses.replace(MODEL, weights=tmp_path / "spoilt.pt")
    with pytest.raises(FloatingPointError, match=r"step 0: network.score8.bias is not finite: an"):
        one_step(model=spoilt_model)
    plain = Objective.unary

    def steep(self: Objective, image: torch.Tensor, logits: Any = None) -> torch.Tensor:
        unary = plain(self, image, logits)
        unary.register_hook(lambda g: g * float("inf"))
        return unary

    monkeypatch.setattr(Objective, "unary", steep)
    with pytest.raises(
        FloatingPointError, match=r"the gradient of network\.stages.*and \d+ more is not"
    ):
        one_step()


@pytest.mark.unchecked
def test_configurations_that_say_nothing_sensible(tmp_path: Path) -> None:
    good = tmp_path / "good.yaml"
    good.write_text(to_yaml(config(tmp_path / "run", stage())))
    assert read_config(TrainConfig, good) == config(tmp_path / "run", stage())
    again = read_config(TrainConfig, good, ["stages.0.rates.network=1e-4", "data.limit=3"])
    assert again.stages[0].rates.network == 1e-4
    assert again.data.limit == 3
    assert read_config(TrainConfig, good, ["precision=32"]).precision == "32"
    for override, match in {
        "stages.0.epoch=3": r"unknown key 'stages.0.epoch'; allowed here: train, epochs, rates",
        "stages.0.train=all": r"stages.0.train: expected one of: network, crf, joint; got 'all'",
        "stages.0.epochs=2.5": r"stages.0.epochs: expected a whole number; got 2.5",
        "stages.1.epochs=2": r"'1' is not an entry; there are 1, counted from 0",
        "stages.0.label_smoothing=1": r"stages.0: label_smoothing: expected 0 or more, below 1",
        "model.crf.preset=best": r"model.crf: unknown preset 'best'; expected one of: deeplab",
        "model.crf.step={size: 2}": r"model.crf: Step size must be in \(0, 1\]; got 2",
        "model.crf.step={power: 2}": r"allowed: regularizer, strength, size, learn, mix",
        "model.crf.kernels.0.color=null": r"crf.kernels.0.color: expected a number or a list",
        "model.network=null": r"give one of model.network and data.scores",
        "data.kind=coco": r"data.kind: expected one of: voc, camvid, folder, shapes; got 'coco'",
        "data.kind=voc": r"data: root: expected the folder of the voc data, got none",
        "output=3": r"output: expected a path; got 3",
        "ema=1": r"ema: expected a decay between 0 and 1; got 1.0",
        "stages.0.color=3": r"stages.0: color: expected a strength in 0..1; got 3.0",
        "stages.0.power=-1": r"stages.0: power: expected at least 0; got -1.0",
        "precision=64": r"precision: expected one of: auto, 32, bf16, 16; got 64",
        "stages.0={epochs: 1, epochs: 9}": r"stages.0: .*the key 'epochs' is given twice",
        "stages.0.scale=[2, 1]": r"crop: needed to batch images of random scale",
        "nonsense": r"expected KEY=VALUE, such as stages.0.epochs=3; got 'nonsense'",
    }.items():
        with pytest.raises(ValueError, match=match):
            read_config(TrainConfig, good, [override])
    bad = tmp_path / "bad.yaml"
    bad.write_text("a: [")
    with pytest.raises(ValueError, match=r"bad.yaml: not readable as YAML"):
        read_config(TrainConfig, bad)
    bad.write_text("output: x")
    with pytest.raises(ValueError, match=r"missing key 'data': keys and values"):
        read_config(TrainConfig, bad)
    assert PAPER_RATES.network == pytest.approx(1e-13 * 500 * 500)


@pytest.mark.unchecked
def test_data_that_does_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = with_scores(tmp_path)
    model = ModelConfig(None)
    more = shapes(13, 32, scores=data.scores)
    with pytest.raises(ValueError, match=r"no scores of 1 of 13 images: train12"):
        train(config(tmp_path / "a", stage("crf"), data=more, model=model), quiet=True)
    write_pack(tmp_path / "val.npz", ["val0"], [torch.zeros(4, 8, 8)])
    with pytest.raises(ValueError, match=r"val.npz: no scores of 11 of 12 images"):
        train(config(tmp_path / "a", stage("crf"), data=data, model=model), quiet=True)
    every = [f"val{index}" for index in range(12)]
    write_pack(tmp_path / "val.npz", every, [torch.rand(4, 8, 8)] * 12)
    with pytest.raises(
        ValueError, match=r"logits of shape \(8, 8, 4\).*the data set has 3 classes"
    ):
        train(config(tmp_path / "a", stage("crf"), data=data, model=model), quiet=True)
    np.savez(tmp_path / "val.npz", ids=every, probs=np.zeros((12, 4, 4, 3), np.float32))
    with pytest.raises(ValueError, match=r"val.npz: expected logits; got probs"):
        train(config(tmp_path / "a", stage("crf"), data=data, model=model), quiet=True)
    missing = dataclasses.replace(MODEL, weights=tmp_path / "none.pt")
    with pytest.raises(FileNotFoundError, match=r"model.weights: .*none.pt is missing"):
        train(config(tmp_path / "a", stage(), model=missing), quiet=True)
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
    other = dataclasses.replace(MODEL, weights=tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"other.pt does not fit network 'light' of 3 classes"):
        train(config(tmp_path / "a", stage(), model=other), quiet=True)
    with pytest.raises(ValueError, match=r"must have the same size.*Set crop"):
        list(_mixed().batches([[0, 1]], stage(), (0,), 0))
    file = tmp_path / "train.yaml"
    file.write_text(to_yaml(config(tmp_path / "run", stage(epochs=1))))
    assert main(["train", str(file), "--set", "stages.0.epoch=1"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("crfrnn train: error: unknown key 'stages.0.epoch'")
    assert said.count("\n") == 1
    for command in (["train", str(tmp_path / "empty.yaml")], ["tune"]):
        (tmp_path / "empty.yaml").write_text("{}")
        assert main(command) == 2
        assert "missing key 'output': a path; --output gives it too" in capsys.readouterr().err
    assert main(["train", str(file)]) == 0
    assert main(["train", str(file), "--seed", "1"]) == 2
    assert (
        "started with other settings (seed); use another output, or --restart"
        in capsys.readouterr().err
    )
    assert main(["train", str(file), "--seed", "1", "--restart", "--json"]) == 0
    (tmp_path / "run" / "state.pt").write_bytes(b"PK nothing")
    assert main(["train", str(file), "--seed", "1"]) == 2
    assert "state.pt: not a readable training state" in capsys.readouterr().err


@pytest.mark.unchecked
def test_a_run_goes_on_however_its_files_are_spelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(make_network("light", 3, width=2).state_dict(), tmp_path / "w.pt")
    write_preset(tmp_path / "run.yaml", PRESETS["deeplab"])
    (tmp_path / "elsewhere").mkdir()

    def run(folder: Path) -> None:
        model = ModelConfig(
            "light",
            {"width": 2},
            weights=folder / "w.pt",
            crf=CrfConfig(preset=str(folder / "run.yaml")),
        )
        train(config(tmp_path / "run", stage("network", epochs=1), model=model), quiet=True)

    monkeypatch.chdir(tmp_path)
    run(Path())
    made = (tmp_path / "run" / "steps.csv").read_text()
    run(tmp_path)
    run(tmp_path / "elsewhere" / "..")
    assert (tmp_path / "run" / "steps.csv").read_text() == made
    # The same words, but another file.
    monkeypatch.chdir(tmp_path / "elsewhere")
    for name in ("w.pt", "run.yaml"):
        (tmp_path / name).rename(tmp_path / "elsewhere" / name)
    with pytest.raises(
        ValueError, match=r"the run there was started with other settings \(model\); use another"
    ):
        run(Path())


@pytest.mark.unchecked
def test_a_checkpoint_of_other_classes_is_told(tmp_path: Path) -> None:
    train(config(tmp_path / "old", stage("network", epochs=1)), quiet=True)
    with Image.new("RGB", (20, 16), (9, 99, 199)) as picture, Image.new("L", (20, 16), 3) as mask:
        for name in ("a", "b"):
            for folder, image in (("images", picture), ("masks", mask)):
                (tmp_path / folder).mkdir(exist_ok=True)
                image.save(tmp_path / folder / f"{name}.png")
    for split in ("train", "val"):
        (tmp_path / f"{split}.txt").write_text("a\nb\n")
    data = DataConfig("folder", tmp_path, size=(24, 32), cache=True, options={"num_classes": 4})
    model = dataclasses.replace(MODEL, weights=tmp_path / "old" / "model")
    with pytest.warns(UserWarning, match=r"6 mismatched: network.score16.bias \(file \(3,\)"):
        trained = train(
            config(tmp_path / "new", stage(batch_size=2), data=data, model=model), quiet=True
        )
    assert load_checkpoint(trained.model).num_classes == 4
    old, new = weights(tmp_path / "old"), weights(tmp_path / "new")
    assert new["network.score8.bias"].shape == (4,)
    assert old["network.stages.0.0.weight"].shape == new["network.stages.0.0.weight"].shape
    (sample, _) = Source(data, "val").sample(1)
    assert sample.image.shape == (3, 24, 32)
    assert sample.label.unique().tolist() == [3]
    two = dataclasses.replace(data, options={"num_classes": 2})
    with pytest.raises(ValueError, match=r"masks/\w.png: ids must be 0..1 or 255"):
        train(config(tmp_path / "two", stage(batch_size=2), data=two), quiet=True)
    (tmp_path / "empty").mkdir()
    model = dataclasses.replace(MODEL, weights=tmp_path / "empty")
    with pytest.raises(
        ValueError, match=r"expected a folder that crfrnn wrote; .*empty holds no model"
    ):
        train(config(tmp_path / "none", stage(), model=model), quiet=True)


# What a log file shows


@pytest.mark.usefixtures("lines_at_once")
@pytest.mark.filterwarnings("default")
@pytest.mark.unchecked
def test_weights_that_do_not_match_are_said_before_the_first_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(config(tmp_path / "old", stage("network", epochs=1)), quiet=True)
    tensors = make_network("light", 3, width=2).state_dict()
    tensors = {f"network.{name}": tensor for name, tensor in tensors.items()}
    del tensors["network.score8.bias"]
    tensors["network.x"] = torch.ones(1)
    stored = storage.read(tmp_path / "old" / "model")
    storage.write(
        tmp_path / "old" / "model", stored.config, {**tensors, "network.x": torch.ones(1)}
    )
    model = dataclasses.replace(MODEL, weights=tmp_path / "old" / "model")
    file = tmp_path / "train.yaml"
    file.write_text(to_yaml(config(tmp_path / "run", stage(epochs=1), model=model)))
    assert main(["train", str(file)]) == 0
    warning, first, *_, last = capsys.readouterr().err.splitlines()
    assert warning.startswith("crfrnn train: warning: model.weights: ")
    assert warning.endswith("1 missing: network.score8.bias; 1 unexpected: network.x")
    assert re.fullmatch(
        r"training: 1 of 2 steps, stage 0-joint, epoch 0, loss \d\.\d{4}, .+ left", first
    )
    assert re.fullmatch(
        r"training: 2 of 2 steps, stage 0-joint, epoch 0, loss \d\.\d{4}, in \d+ s", last
    )


@pytest.mark.usefixtures("lines_at_once")
@pytest.mark.parametrize("rank", [0, 1])
def test_only_the_first_process_shows_progress(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    single = _runtime()
    single.rank = rank
    monkeypatch.setattr("crfrnn.training.loop.make_runtime", lambda *_: single)
    if rank:
        (tmp_path / "run").mkdir()
    train(config(tmp_path / "run", stage("network", epochs=1)))
    assert capsys.readouterr().err.count("training: 1 of 2 steps") == (rank == 0)


@pytest.mark.unchecked
def test_scores_that_look_odd_are_said_when_they_are_opened(tmp_path: Path) -> None:
    data = shapes(2, 32)
    write_pack(tmp_path / "t.npz", ["train0", "train1"], [torch.rand(3, 4, 8)] * 2)
    data = dataclasses.replace(
        data, scores=ScoresConfig(tmp_path / "t.npz", canvas=None, align_corners=False)
    )
    with pytest.warns(UserWarning, match=r"train0 has scores of 4x8 that are stretched to 32x32"):
        source = Source(data, "train")
    source.sample(1)  # said once for the file, not for each image: a second warning is an error


def test_skipped_steps_of_half_precision_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    single = _runtime()
    monkeypatch.setattr(single, "step", lambda *_: torch.tensor(float("inf")))
    monkeypatch.setattr(single, "scaler", lambda: torch.amp.GradScaler("cpu"), raising=False)
    monkeypatch.setattr("crfrnn.training.loop.make_runtime", lambda *_: single)
    with pytest.warns(UserWarning, match=r"a training step was skipped"):
        train(config(tmp_path / "run", stage("network", epochs=1)), quiet=True)


def _mixed() -> Source:
    source = Source(shapes(2, 24), "train")
    source.pictures.labels = [label[: 24 - i] for i, label in enumerate(source.pictures.labels)]
    source.pictures.images = [image[:, : 24 - i] for i, image in enumerate(source.pictures.images)]
    return source


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs crfrnn[tensorboard]")
    train(config(tmp_path, stage(epochs=1), tensorboard=True), quiet=True)
    assert list((tmp_path / "tensorboard").glob("events*"))


@pytest.mark.gpu
def test_mixed_precision(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    for precision in ("bf16", "16"):
        chosen = config(tmp_path / precision, stage(), device="cuda", precision=precision)
        assert train(chosen, quiet=True).loss < 2


@pytest.mark.unchecked
def test_devices_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"precision: 'bf16' needs a CUDA device; cpu computes"):
        train(config(tmp_path, stage(), precision="bf16"), quiet=True)
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match=r"device: cuda was requested, but torch finds no"):
            train(config(tmp_path, stage(), device="cuda"), quiet=True)


def test_a_mac_trains_on_its_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert make_runtime(None, "auto").device == torch.device("cpu")


def test_batches_stay_where_they_are_on_the_cpu() -> None:
    batch = Batch(("a",), torch.zeros(1), torch.zeros(1), torch.ones(1, dtype=torch.bool))
    assert batch.to(torch.device("cpu")) is batch
