"""The ablation: its rows, its budget, its report, and going on."""

import argparse
import dataclasses
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from crfrnn.ablation import AblateConfig, VariantConfig, ablate
from crfrnn.ablation import run as ablation_run
from crfrnn.ablation.measure import measure
from crfrnn.ablation.plot import Line, draw_lines
from crfrnn.ablation.predict import Predictor
from crfrnn.ablation.report import Result, _drawn
from crfrnn.cli import ablate as ablate_command
from crfrnn.cli import main
from crfrnn.evaluation.metrics import Counts, Settings, confusion_matrix, mean_iou
from crfrnn.models.checkpoint import load_checkpoint
from crfrnn.presets import find_preset
from crfrnn.training import (
    CrfConfig,
    ModelConfig,
    RatesConfig,
    ScoresConfig,
    StageConfig,
    read_config,
)
from crfrnn.training.objective import Objective
from crfrnn.training.settings import to_yaml
from crfrnn.training.source import Source
from crfrnn.tuning import SearchConfig
from tests.cases import needs_core
from tests.packs import KERNELS, shapes, with_scores

pytest.importorskip("optuna", reason="needs crfrnn[tune]")

RATES = RatesConfig(network=0.05, weights=0.05, compatibility=0.05)
SEARCH = SearchConfig(trials=2, images=4, iterations=5, rungs=1)


def stage(train: Any, epochs: int = 1) -> StageConfig:
    return StageConfig(train, epochs=epochs, batch_size=4, rates=RATES)


def config(output: Path, **more: Any) -> AblateConfig:
    given: dict[str, Any] = {
        "data": shapes(8, 24),
        "model": ModelConfig("light", {"width": 2}, crf=CrfConfig(kernels=KERNELS)),
        "base": (stage("network", 2),),
        "network": (stage("network", 1), stage("network", 1)),
        "crf": stage("crf"),
        "joint": (stage("crf"), stage("joint", 2)),
        "iterations": (1, 3),
        "report": 3,
        "search": SEARCH,
        "device": "cpu",
        "threads": 1,
        **more,
    }
    return AblateConfig(output, **given)


def test_five_rows_a_variant_and_two_seeds(
    tmp_path: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    variants = (
        VariantConfig("Full matrix", "joint", {"weights": "matrix"}),
        VariantConfig("l2, afterwards", "tuned", {"step": {"regularizer": "l2", "size": 0.5}}),
    )
    chosen = config(tmp_path, seeds=(0, 3), variants=variants)
    report = ablate(chosen, quiet=True)
    rows = report["rows"]
    assert list(rows) == [
        "network",
        "default",
        "tuned",
        "crf",
        "joint",
        "full-matrix",
        "l2-afterwards",
    ]
    for row in rows.values():
        at = row["mean_iou_by_steps"]["3"]
        assert at["mean"] == pytest.approx(sum(at["seeds"]) / 2)
        score = row["scores"]["mean_iou"]
        assert score["mean"] == pytest.approx(at["mean"])
        assert score["low"] <= score["mean"] <= score["high"]
        assert set(row["costs"]) <= {"network", "1", "3", "training"}
        assert all(cost["seconds"] > 0 for cost in row["costs"].values())
    trained = {key for key, row in rows.items() if "training" in row["costs"]}
    assert trained == {"network", "crf", "joint", "full-matrix"}
    steps = rows["network"]["mean_iou_by_steps"]
    assert steps["1"] == steps["3"]
    gain = report["gains"]["joint"]["network"]["mean_iou"]
    means = [rows[key]["scores"]["mean_iou"]["mean"] for key in ("joint", "network")]
    assert gain["value"] == pytest.approx(means[0] - means[1])
    parts = report["parts"]
    whole = parts["end to end, over tuning"]["mean_iou"]
    pieces = ("training its parameters, over tuning", "training the network with it")
    assert whole["value"] == pytest.approx(sum(parts[p]["mean_iou"]["value"] for p in pieces))
    assert whole == report["gains"]["joint"]["tuned"]["mean_iou"]
    assert list(report["variants"]) == ["full-matrix", "l2-afterwards"]
    varied = report["variants"]["full-matrix"]["mean_iou"]
    means = [rows[key]["scores"]["mean_iou"]["mean"] for key in ("full-matrix", "joint")]
    assert varied["value"] == pytest.approx(means[0] - means[1])
    assert varied["low"] <= varied["value"] <= varied["high"]
    assert report["variants"]["l2-afterwards"] == report["gains"]["l2-afterwards"]["tuned"]
    # Steps are trained as often by the network alone as by all together, from one start.
    lines = {
        key: len((tmp_path / "seed3" / key / "steps.csv").read_text().splitlines())
        for key in ("base", "network", "crf", "joint", "full-matrix")
    }
    assert lines == {"base": 5, "network": 5, "crf": 3, "joint": 7, "full-matrix": 7}
    # The rows are what the models on disk predict.
    for key, after in {"network": False, "joint": True}.items():
        model = load_checkpoint(tmp_path / "seed3" / key / "model")
        measured = rows[key]["mean_iou_by_steps"]["3"]["seeds"][1]
        assert measured == pytest.approx(_mean_iou(model, chosen, after))
    assert model.crf is not None
    found = find_preset(str(tmp_path / "seed3" / "tuned" / "preset.json"))
    assert model.crf.recipe.kernels == found.kernels
    matrix = load_checkpoint(tmp_path / "seed0" / "full-matrix" / "model").crf
    assert matrix is not None
    assert matrix.kernel_weights.shape == (2, 3, 3)
    page = (tmp_path / "report.md").read_text()
    assert page.count("\n| CRF-RNN trained end to end |") == 3
    assert f"\n| end to end, over tuning | {whole['value']:+.2f} [" in page
    line = f"| Full matrix, over: CRF-RNN trained end to end | {varied['value']:+.2f} ["
    assert "## What each variant gives over its row\n\n| variant |" in page
    assert line in page
    with Image.open(tmp_path / "report.png") as plot:
        assert plot.size == (1200, 640)
    # Nothing is made again, a row whose folder is gone excepted.
    made = []
    original = ablation_run.Rows.make

    def make(self: Any, row: str, variant: Any) -> Predictor:
        made.append((self.seed, row))
        return original(self, row, variant)

    monkeypatch.setattr(ablation_run.Rows, "make", make)
    again = ablate(chosen, quiet=True)
    assert made == []
    assert again["rows"] == rows
    (tmp_path / "seed3" / "default" / "result.json").unlink()
    again = ablate(chosen, quiet=True)
    assert made == [(3, "default")]
    for key in ("mean_iou_by_steps", "scores"):
        assert again["rows"]["default"][key] == rows["default"][key]
    with pytest.raises(
        ValueError, match=r"seed0.network: this row was computed with other settings \(trimap\)"
    ):
        ablate(dataclasses.replace(chosen, trimap=2), quiet=True)


def test_a_row_that_was_interrupted_does_not_resume_with_other_settings(
    tmp_path: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = config(tmp_path)
    with monkeypatch.context() as patch:
        score = ablation_run._score

        def killed(predictor: Any, *rest: Any, **more: Any) -> None:
            if predictor.crf is not None:
                raise KeyboardInterrupt
            score(predictor, *rest, **more)

        patch.setattr(ablation_run, "_score", killed)
        with pytest.raises(KeyboardInterrupt):
            ablate(chosen, quiet=True)
        (tmp_path / "seed0" / "default" / "settings.json").unlink()  # as of an earlier version
        with pytest.raises(KeyboardInterrupt):
            ablate(chosen, quiet=True)
    other = dataclasses.replace(
        chosen, network=(StageConfig("network", epochs=2, batch_size=4, rates=RatesConfig(0.1)),)
    )
    # As the message asks: the folder of the row that is complete. The next one has only begun.
    shutil.rmtree(tmp_path / "seed0" / "network")
    with pytest.raises(
        ValueError, match=r"seed0.default: this row was computed with other settings \(network\)"
    ):
        ablate(other, quiet=True)


def test_a_variant_changes_what_it_names_alone(tmp_path: Path, one_thread: None) -> None:
    crf = CrfConfig(normalization="after")
    variants = (
        VariantConfig("step", "default", {"step": {"regularizer": "l2", "size": 0.5}}),
        VariantConfig("before", "default", {"normalization": "before"}),
    )
    chosen = config(
        tmp_path,
        model=ModelConfig("light", {"width": 2}, crf=crf),
        base=(stage("network"),),
        network=(stage("network"),),
        joint=(stage("joint"),),
        variants=variants,
    )
    rows = ablation_run.Rows(chosen, 0, 3, torch.device("cpu"), quiet=True)
    made = [rows.make("default", variant).crf for variant in (None, *variants)]
    names = [layer.recipe.normalization for layer in made if layer is not None]
    assert names == [find_preset("deeplab").normalization, "symmetric", "before"]


def _mean_iou(model: Any, chosen: AblateConfig, after: bool) -> float:
    source = Source(chosen.data, "val")
    total = torch.zeros(3, 3, dtype=torch.int64)
    with torch.no_grad():
        for index in range(len(source)):
            sample, _ = source.sample(index)
            image = sample.image[None].float()
            logits = model.logits(image)[0]
            if after:
                logits = model.crf.infer(logits, image, iterations=3).logits
            total += confusion_matrix(logits.argmax(1)[0], sample.label, 3)
    return 100 * float(mean_iou(total))


def test_the_middle_rows_need_no_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = with_scores(tmp_path, 6, 24)
    model = ModelConfig(None, crf=CrfConfig(kernels=KERNELS))
    chosen = config(
        tmp_path / "run", data=data, model=model, base=(), network=(), joint=(), from_tuned=False
    )
    file = tmp_path / "ablate.yaml"
    file.write_text(to_yaml(chosen))
    assert read_config(AblateConfig, file) == chosen
    assert main(["ablate", str(file), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert list(rows) == ["network", "default", "tuned", "crf"]
    assert rows["crf"]["scores"]["mean_iou"]["mean"] > rows["network"]["scores"]["mean_iou"]["mean"]
    assert "network" not in rows["crf"]["costs"]
    assert main(["ablate", str(file)]) == 0
    assert capsys.readouterr().out.startswith("# Gain of each part")


def published() -> list[tuple[str, list[str]]]:
    """The ablations that the pages and the examples tell readers to type, with their options."""
    root = Path(__file__).parents[2]
    pages = [*root.glob("*.md"), *root.glob("docs/**/*.md"), *root.glob("examples/*.yaml")]
    found = []
    for page in sorted(pages):
        text = re.sub(r"\\\n#?\s*", " ", page.read_text(encoding="utf-8"))
        for command in re.findall(r"crfrnn ablate (examples/\S+\.yaml[^\n`]*)", text):
            given = [word for word in shlex.split(command, comments=True) if word != "..."]
            found.append((f"{page.name}-{len(found)}", [str(root / given[0]), *given[1:]]))
    return found


@pytest.mark.parametrize("given", [pytest.param(given, id=name) for name, given in published()])
def test_the_published_ablations_are_sound(given: list[str]) -> None:
    parser = argparse.ArgumentParser()
    ablate_command.add_arguments(parser)
    args = parser.parse_args(given)
    assert read_config(AblateConfig, args.config, args.set).rows()


def test_every_example_is_published() -> None:
    examples = (Path(__file__).parents[2] / "examples").glob("*.yaml")
    assert {str(path) for path in examples} == {given[0] for _, given in published()}


def test_intervals_cover_the_seeds() -> None:
    """Two seeds whose every image is all wrong, or all right: only the draw of seeds varies."""
    right = torch.tensor([[8, 0], [0, 8]])
    values = []
    for seeds in ((0, 1), (0,)):
        results = [
            made_result("row", seed, torch.stack([right if seed else right.flip(1)] * 5))
            for seed in seeds
        ]
        drawn = _drawn(results, Settings(widths=(3,)), 400)["row"]["mean_iou"]
        values.append(sorted(set(drawn.tolist())))
    assert values == [[0, 50, 100], [0]]


def made_result(key: str, seed: int, confusion: torch.Tensor) -> Result:
    images, classes = len(confusion), confusion.shape[-1]
    ones = torch.ones
    counts = Counts(
        confusion, confusion[:, None], ones(images, 2, classes), ones(images, 4, classes)
    )
    return Result(key, key, seed, confusion[:, None], counts, {})


def test_a_predictor_counts_for_each_number_of_steps() -> None:
    source = Source(shapes(3, 24), "val")
    crf = CrfConfig(kernels=KERNELS).make(3).eval()
    network = torch.nn.Conv2d(3, 3, 3, padding=1)
    predictor = Predictor(Objective(network, crf), crf, torch.device("cpu"))
    confusions, counts = predictor.score(source, (1, 4), 4, 2)
    assert confusions.shape == (3, 2, 3, 3)
    torch.testing.assert_close(confusions[:, 1], counts.confusion)
    assert not torch.equal(confusions[:, 0], confusions[:, 1])
    sample, _ = source.sample(2)
    image = sample.image[None].float()
    with torch.no_grad():
        labels = crf.infer(network(image), image, iterations=1).logits.argmax(1)[0]
    torch.testing.assert_close(confusions[2, 0], confusion_matrix(labels, sample.label, 3))


def test_memory_and_time_are_those_of_the_work() -> None:
    held = []

    def work() -> None:
        held.append(torch.ones(40 << 18))  # 40 MB
        held.pop()

    cost = measure(work, torch.device("cpu"))
    assert cost.seconds > 0
    if cost.megabytes is None:
        pytest.skip("this system does not tell the peak of memory")
    assert 39 < cost.megabytes < 60


@needs_core
def test_memory_that_the_core_keeps_is_not_held(one_thread: None) -> None:
    crf = CrfConfig(kernels=KERNELS).make(21).eval()
    image, logits = torch.rand(1, 3, 300, 400) * 255, torch.randn(1, 21, 300, 400)
    prepared = crf.prepare(image)
    with torch.no_grad():
        cost = measure(
            lambda: crf.infer(logits, prepared, iterations=2), torch.device("cpu"), repeats=1
        )
    if cost.megabytes is None:
        pytest.skip("this system does not tell the peak of memory")
    # Logits that come out, marginals and messages: at least two of 10 MB each.
    assert 20 < cost.megabytes < 200


def test_the_plot_has_a_line_for_each_row() -> None:
    lines = [Line("flat", [50.0, 50.0, 50.0]), Line("steep", [40.0, 55.0, 60.0])]
    figure = draw_lines([1, 5, 20], lines, x_title="x", y_title="y")
    colors = {color for _, color in figure.getcolors(1 << 20) or []}
    assert {(0, 0, 0), (86, 180, 233)} <= colors
    assert draw_lines([1], [Line("one", [3.0])], x_title="x", y_title="y").size == figure.size


def test_lines_of_equal_values_stay_apart_and_intervals_are_drawn() -> None:
    def draw(*intervals: tuple[float, float]) -> np.ndarray:
        lines = [Line(name, [50.0] * 2, intervals) for name in ("one", "two", "three")]
        return np.asarray(draw_lines([1, 5], lines, x_title="x", y_title="y"))[:, :760]

    colors = ((0, 0, 0), (86, 180, 233), (0, 114, 178))
    plain = draw()
    middle = plain[:, 425]  # between the two numbers
    assert all((middle == color).all(-1).any() for color in colors)
    drawn = draw((48.0, 52.0), (49.0, 53.0))
    for color in colors:
        rows = [np.flatnonzero((p == color).all(-1).any(1)) for p in (plain, drawn)]
        assert np.ptp(rows[1]) > 200 > 30 > np.ptp(rows[0])


@pytest.mark.unchecked
def test_one_process_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    with pytest.raises(ValueError, match=r"runs in one process: start it without torchrun"):
        ablate(config(tmp_path, threads=None), quiet=True)


@pytest.mark.unchecked
def test_ablations_that_would_be_unfair_or_impossible(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"network: expected stages of 2 epochs, .*; got 3"):
        config(tmp_path, network=(stage("network", 3),))
    with pytest.raises(ValueError, match=r"joint: expected at most the 1 epochs of crf .*; got 2"):
        config(tmp_path, joint=(stage("crf", 2), stage("joint", 2)))
    with pytest.raises(
        ValueError, match=r"report: expected one of iterations.*; got 10 of \[1, 3\]"
    ):
        config(tmp_path, report=10)
    with pytest.raises(ValueError, match=r"seeds: expected one or more, all different"):
        config(tmp_path, seeds=(1, 1))
    with pytest.raises(
        ValueError, match=r"give base or model.weights: the rows need a common initial network"
    ):
        config(tmp_path, base=())
    with pytest.raises(ValueError, match=r"base and network train the network; got joint"):
        config(tmp_path, base=(stage("joint"),))
    with pytest.raises(ValueError, match=r"unknown key 'variants.0.crf.weight'; allowed here"):
        config(tmp_path, variants=(VariantConfig("a", "joint", {"weight": "matrix"}),))
    with pytest.raises(ValueError, match=r"variants: names must differ; got a-b, a-b"):
        config(
            tmp_path, variants=(VariantConfig("a b", "crf", {}), VariantConfig("A-B", "crf", {}))
        )
    with pytest.raises(
        ValueError,
        match=r"name: expected letters or digits, and not the name of a row or 'base'; got 'joint'",
    ):
        VariantConfig("joint", "joint", {})
    with pytest.raises(ValueError, match=r"not the name of a row or 'base'; got 'Base'"):
        VariantConfig("Base", "joint", {})
    with pytest.raises(ValueError, match=r"seeds: expected at least 0; got -1"):
        config(tmp_path, seeds=(0, -1))
    with pytest.raises(ValueError, match=r"trimap: expected at least 1; got 0"):
        config(tmp_path, trimap=0)
    for row, keys, match in (
        ("default", {"preset": "irn"}, r"preset would change nothing in the row 'default': only"),
        ("tuned", {"kernels": []}, r"kernels would change nothing in the row 'tuned': only norm"),
        ("crf", {"preset": "irn"}, r"preset .* in the row 'crf': .* unless from_tuned is false"),
        ("joint", {"eval_iterations": 3}, r"eval_iterations .*steps at test time come from"),
    ):
        with pytest.raises(ValueError, match=rf"variants.0.crf: {match}"):
            config(tmp_path, variants=(VariantConfig("a", row, keys),))
    config(tmp_path, variants=(VariantConfig("a", "crf", {"preset": "irn"}),), from_tuned=False)
    scores = {
        "data": dataclasses.replace(
            shapes(), scores=ScoresConfig(tmp_path / "a.npz", tmp_path / "b.npz")
        ),
        "model": ModelConfig(),
        **dict.fromkeys(("base", "network", "joint"), ()),
    }
    with pytest.raises(ValueError, match=r"^crf.scale: precomputed scores cannot be resized"):
        config(tmp_path, crf=StageConfig("crf", crop=16, scale=(0.5, 1.0)), **scores)
    with pytest.raises(ValueError, match=r"^crf.color: precomputed scores belong to the colors"):
        config(tmp_path, crf=StageConfig("crf", crop=16, color=0.2), **scores)
    with pytest.raises(ValueError, match=r"data: 8 of 8 images of val are in train too"):
        ablate(config(tmp_path, data=shapes(8, 24, val="train")), quiet=True)
    with pytest.raises(ValueError, match=r"network and joint: both are needed"):
        config(tmp_path, joint=())


@pytest.mark.parametrize("name", ["voc", "voc_scores", "camvid"])
def test_the_examples_are_fair_ablations(name: str) -> None:
    path = Path(__file__).parents[2] / "examples" / f"{name}.yaml"
    chosen = read_config(AblateConfig, path)
    together = sum(stage.epochs for stage in chosen.joint if stage.train != "crf")
    assert together == sum(stage.epochs for stage in chosen.network)
    assert chosen.report == 10
