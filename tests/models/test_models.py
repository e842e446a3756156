"""Networks: shapes, structure, published weights by name and shape, training; checkpoints."""

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.nn.utils.parametrize import register_parametrization

from crfrnn import CRFRNN, Bilateral, Gaussian
from crfrnn.data import open_voc
from crfrnn.data.synthetic import shapes
from crfrnn.evaluation.metrics import confusion_matrix, mean_iou
from crfrnn.integrations import transformers
from crfrnn.integrations.torchvision import TorchvisionNetwork, torchvision_network
from crfrnn.io.storage import CONFIG, TENSORS
from crfrnn.models import NETWORKS, DeepLabMobileNet, FCN8s, LightFCN, make_network
from crfrnn.models.checkpoint import Checkpoint, load_checkpoint, load_weights
from crfrnn.models.loading import load_by_name

SMALL: dict[str, dict[str, Any]] = {
    "deeplab_mobilenet": {"width": 0.25, "canvas": None},
    "fcn8s": {"width": 2, "hidden": 8},
    "light": {"width": 4},
}


def photograph(height: int, width: int) -> Tensor:
    return torch.randint(256, (2, 3, height, width)).float()


@pytest.mark.parametrize("size", [(1, 1), (33, 47), (64, 32)])
@pytest.mark.parametrize("name", SMALL)
def test_logits_have_the_size_of_the_image(name: str, size: tuple[int, int]) -> None:
    network = make_network(name, 5, **SMALL[name]).eval()
    assert network(photograph(*size)).shape == (2, 5, *size)


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_learns(name: str) -> None:
    network = make_network(name, 4, **SMALL[name])
    with torch.no_grad():  # scores of zero pass nothing on
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    nn.functional.cross_entropy(
        network(photograph(96, 80)), torch.randint(4, (2, 96, 80))
    ).backward()
    without = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without


def test_names_in_the_registry() -> None:
    assert set(SMALL) == set(NETWORKS)
    assert isinstance(make_network("light", 3), LightFCN)


@pytest.mark.unchecked
def test_bad_names_and_arguments() -> None:
    with pytest.raises(ValueError, match="unknown network 'vgg'; expected one of: deeplab_mobil"):
        make_network("vgg", 3)
    with pytest.raises(ValueError, match="unknown argument of network 'light' 'depth'; expected"):
        make_network("light", 3, depth=4)
    with pytest.raises(ValueError, match="num_classes must be at least 1"):
        make_network("fcn8s", 0)


# FCN-8s

#: Shapes in the published state dict of crfasrnn_pytorch, after the layers of VGG-16.
PUBLISHED = {
    "fc6": (4096, 512, 7, 7),
    "fc7": (4096, 4096, 1, 1),
    "score_fr": (21, 4096, 1, 1),
    "score_pool3": (21, 256, 1, 1),
    "score_pool4": (21, 512, 1, 1),
    "upscore2": (21, 21, 4, 4),
}
VGG = {
    "conv1_1": (64, 3), "conv1_2": (64, 64), "conv2_1": (128, 64), "conv2_2": (128, 128),
    "conv3_1": (256, 128), "conv3_2": (256, 256), "conv3_3": (256, 256), "conv4_1": (512, 256),
    "conv4_2": (512, 512), "conv4_3": (512, 512), "conv5_1": (512, 512), "conv5_2": (512, 512),
    "conv5_3": (512, 512),
}  # fmt: skip


def test_names_and_shapes_are_the_published_ones() -> None:
    with FakeTensorMode():  # shapes alone: half a gigabyte of numbers is not needed
        state = FCN8s(21).state_dict()
    weights = {**{name: (*s, 3, 3) for name, s in VGG.items()}, **PUBLISHED}
    expected = {f"{name}.weight": shape for name, shape in weights.items()}
    expected |= {f"{name}.bias": shape[:1] for name, shape in weights.items()}
    expected |= {"upscore8.weight": (21, 21, 16, 16), "upscore_pool4.weight": (21, 21, 4, 4)}
    assert {name: tuple(t.shape) for name, t in state.items()} == expected


def published(network: FCN8s, classes: int = 21) -> dict[str, Tensor]:
    """Random numbers in the layout of the file, with the CRF's part."""
    state = {name: torch.randn_like(tensor) for name, tensor in network.state_dict().items()}
    crf = ("spatial_ker_weights", "bilateral_ker_weights", "compatibility_matrix")
    return {**state, **{f"crfrnn.{name}": torch.randn(classes, classes) for name in crf}}


def test_published_weights_load(tmp_path: Path) -> None:
    network, other = FCN8s(21, width=2, hidden=8), FCN8s(21, width=2, hidden=8)
    state = published(network)
    torch.save(state, tmp_path / "crfasrnn.pth")
    for target, source in ((network, state), (other, tmp_path / "crfasrnn.pth")):
        assert target.load_crfasrnn(source).is_complete
        for name, tensor in target.state_dict().items():
            torch.testing.assert_close(tensor, state[name], rtol=0, atol=0)
    assert CRFRNN.from_crfasrnn(tmp_path / "crfasrnn.pth").num_classes == 21


def test_what_does_not_fit_is_told_and_skipped() -> None:
    network = FCN8s(3, width=2, hidden=8)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state = published(FCN8s(21, width=2, hidden=8))
    text = (
        r"do not fit the model: 30 tensors loaded; 10 mismatched: score_fr.weight \(file \(21, 8, 1"
    )
    with pytest.raises(ValueError, match=text):
        network.load_crfasrnn(state)
    for name, tensor in network.state_dict().items():  # a refusal changes nothing
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
    state["extra"] = torch.zeros(1)
    del state["fc7.bias"]
    report = network.load_crfasrnn(state, strict=False)
    assert (len(report.loaded), report.missing, report.unexpected) == (
        29,
        ("fc7.bias",),
        ("extra",),
    )
    assert "1 missing: fc7.bias; 1 unexpected: extra" in str(report)
    torch.testing.assert_close(network.fc6.weight, state["fc6.weight"], rtol=0, atol=0)
    torch.testing.assert_close(network.score_fr.weight, before["score_fr.weight"])
    with pytest.raises(ValueError, match="0 tensors loaded"):
        load_by_name(network, {"a": torch.zeros(1)}, strict=False)


def test_fcn8s_against_its_layers_by_hand() -> None:
    """The skip structure of the paper: fuse at 1/16, then at 1/8, then upsample by 8."""
    torch.manual_seed(1)
    network = FCN8s(2, width=2, hidden=4).eval()
    for score in (network.score_fr, network.score_pool4, network.score_pool3):
        nn.init.normal_(score.weight)
    image = photograph(40, 56)[:1]
    p = dict(network.named_parameters())
    f = nn.functional

    def conv(x: Tensor, name: str, padding: int = 0) -> Tensor:
        return f.conv2d(x, p[f"{name}.weight"], p[f"{name}.bias"], padding=padding)

    x = image[:, [2, 1, 0]] - torch.tensor([103.939, 116.779, 123.68]).view(1, 3, 1, 1)
    taps = {}
    for block, count in ((1, 2), (2, 2), (3, 3), (4, 3), (5, 3)):
        for index in range(1, count + 1):
            x = f.relu(conv(x, f"conv{block}_{index}", 100 if (block, index) == (1, 1) else 1))
        x = taps[block] = f.max_pool2d(x, 2, 2, ceil_mode=True)
    x = conv(f.relu(conv(f.relu(conv(x, "fc6")), "fc7")), "score_fr")
    x = f.conv_transpose2d(x, p["upscore2.weight"], p["upscore2.bias"], stride=2)
    x = x + conv(taps[4], "score_pool4")[:, :, 5 : 5 + x.shape[2], 5 : 5 + x.shape[3]]
    x = f.conv_transpose2d(x, p["upscore_pool4.weight"], stride=2)
    x = x + conv(taps[3], "score_pool3")[:, :, 9 : 9 + x.shape[2], 9 : 9 + x.shape[3]]
    x = f.conv_transpose2d(x, p["upscore8.weight"], stride=8)[:, :, 31:71, 31:87]
    torch.testing.assert_close(network(image), x)
    assert float(x.detach().std()) > 0


def test_upsampling_starts_bilinear() -> None:
    network = FCN8s(1, width=1, hidden=1)
    ramp = torch.arange(6.0).view(1, 1, 1, 6).expand(1, 1, 6, 6)
    got = network.upscore8(ramp)[0, 0, 24, 12:44].detach()
    torch.testing.assert_close(got, torch.arange(32) / 8 + 1 - 0.4375)


def test_scores_move_with_the_image() -> None:
    """A blob in the photograph moves the scores to its own place: no shift between the grids."""
    network = FCN8s(2, width=2, hidden=4).eval()
    for name, parameter in network.named_parameters():  # blur: symmetric, so it cannot move a blob
        if name.startswith("conv"):
            nn.init.constant_(parameter, 0.05 if name.endswith("weight") else 0.0)
    nn.init.constant_(network.score_pool3.weight, 1.0)
    image = torch.full((1, 3, 96, 96), 120.0)
    plain = network(image).detach()
    for top, left in ((16, 64), (64, 24)):
        marked = image.clone()
        marked[:, :, top : top + 16, left : left + 16] = 255
        change = (network(marked).detach() - plain).abs().sum(dim=1)[0]
        rows, columns = (change.sum(dim=axis) for axis in (1, 0))
        center = [float((torch.arange(96.0) * w).sum() / w.sum()) for w in (rows, columns)]
        assert center == pytest.approx([top + 7.5, left + 7.5], abs=1)


def test_vgg16_of_torchvision_is_converted() -> None:
    network = FCN8s(3, width=2, hidden=4, dropout=0.0).eval()
    state, position = {}, iter((0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28))
    for name in VGG:
        index = next(position)
        conv = network.get_submodule(name)
        state[f"features.{index}.weight"] = torch.randn_like(conv.weight)
        state[f"features.{index}.bias"] = torch.randn_like(conv.bias)
    state |= {"classifier.0.weight": torch.randn(4, 16 * 49), "classifier.0.bias": torch.randn(4)}
    state |= {"classifier.3.weight": torch.randn(4, 4), "classifier.3.bias": torch.randn(4)}
    report = network.load_vgg16(state)
    assert not report.mismatched + report.unexpected
    assert {name.split(".")[0] for name in report.missing} == {
        "score_fr", "score_pool3", "score_pool4", "upscore2", "upscore8", "upscore_pool4"
    }  # fmt: skip
    rgb = photograph(9, 8)
    mean, std = (
        torch.tensor(v).view(1, 3, 1, 1) for v in ((0.4850, 0.4580, 0.4076), (0.229, 0.224, 0.225))
    )
    expected = nn.functional.conv2d((rgb / 255 - mean) / std, state["features.0.weight"])
    mean = torch.tensor([103.939, 116.779, 123.68]).view(1, 3, 1, 1)
    got = nn.functional.conv2d(rgb.flip(1) - mean, network.conv1_1.weight)
    torch.testing.assert_close(got, expected, rtol=0, atol=0.05)
    torch.testing.assert_close(network.fc6.weight[1].flatten(), state["classifier.0.weight"][1])
    narrow = FCN8s(3, width=2, hidden=5).load_vgg16(state)
    assert [text.split(" ")[0] for text in narrow.mismatched] == [
        "fc6.weight", "fc6.bias", "fc7.weight", "fc7.bias"
    ]  # fmt: skip
    del state["features.12.bias"]
    with pytest.raises(ValueError, match=r"the state dict has no features\.12\.bias"):
        network.load_vgg16(state)


# DeepLab


def graph_of(network: DeepLabMobileNet) -> tuple[list[dict[str, Any]], list[nn.Conv2d]]:
    """What a file says of a network, in the order of its convolutions."""
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    steps: list[dict[str, Any]] = [
        {"op": "CONV_2D", "conv": i, "stride": m.stride[0], "dilation": m.dilation[0]}
        for i, m in enumerate(layers)
    ]
    return [*steps, {"op": "ARG_MAX"}], layers


def write_npz(path: Path, network: DeepLabMobileNet, **changes: Any) -> None:
    steps, layers = graph_of(network)
    arrays: dict[str, Any] = {"graph": json.dumps(steps)}
    for index, layer in enumerate(layers):
        arrays[f"conv{index:02d}.weight"] = layer.weight.detach().numpy()
        arrays[f"conv{index:02d}.bias"] = layer.bias.detach().numpy()
    np.savez(path, **{**arrays, **changes})


def test_files_of_convolutions_load(tmp_path: Path) -> None:
    network = DeepLabMobileNet(7, width=0.25, canvas=65).eval()
    write_npz(tmp_path / "n.npz", network)
    again = DeepLabMobileNet.from_npz(tmp_path / "n.npz", canvas=65).eval()
    image = photograph(50, 60)
    torch.testing.assert_close(again(image), network(image), rtol=0, atol=0)


def test_files_of_other_networks_are_refused(tmp_path: Path) -> None:
    network = DeepLabMobileNet(7, width=0.25)
    path = tmp_path / "n.npz"
    steps, _ = graph_of(network)
    steps[19]["stride"] = 1
    write_npz(path, network, graph=json.dumps(steps))
    with pytest.raises(
        ValueError, match=r"differs is number 19: expected .* stride 2 dil.*stride 1"
    ):
        DeepLabMobileNet.from_npz(path)
    write_npz(path, network, graph=json.dumps(steps[:9]))
    with pytest.raises(ValueError, match="expected 55 convolutions, got 9"):
        DeepLabMobileNet.from_npz(path)
    np.savez(path, graph=json.dumps(graph_of(network)[0]))
    with pytest.raises(ValueError, match=r"expected arrays graph, convNN\.weight"):
        DeepLabMobileNet.from_npz(path)
    path.write_bytes(b"rubbish")
    with pytest.raises(ValueError, match=r"n\.npz: not a readable NumPy file"):
        DeepLabMobileNet.from_npz(path)
    with pytest.raises(FileNotFoundError, match=r"nowhere.npz: expected a NumPy"):
        DeepLabMobileNet.from_npz(tmp_path / "nowhere.npz")


def test_the_cells_of_deeplab_lie_on_every_sixteenth_pixel() -> None:
    network = DeepLabMobileNet(3, width=0.25, canvas=None).eval()
    coarse: list[Tensor] = []
    network.classify.register_forward_hook(lambda _module, _input, output: coarse.append(output))
    logits = network(photograph(33, 60))
    assert coarse[0].shape == (2, 3, 3, 5)
    torch.testing.assert_close(logits[:, :, ::16, ::16], coarse[0][:, :, :, :4])


def test_the_canvas_is_what_padding_shows() -> None:
    network = DeepLabMobileNet(3, width=0.25, canvas=97).eval()
    image = photograph(40, 60)
    padded = nn.functional.pad(image, (0, 37, 0, 57), value=127.5)
    torch.testing.assert_close(network(image), network(padded)[:, :, :40, :60])
    free = DeepLabMobileNet(3, width=0.25, canvas=None).eval()
    free.load_state_dict(network.state_dict())
    torch.testing.assert_close(free(padded), network(padded))
    assert not torch.allclose(free(image), network(image))


@pytest.mark.data
@pytest.mark.parametrize(("name", "key", "least"), [("_dm05", "dm05", 0.95), ("", "dm10", 0.95)])
def test_float_networks_agree_with_the_stored_scores(
    shared_data: Path, name: str, key: str, least: float
) -> None:
    """Four photographs; mean IoU on all 173: 67.82 against 67.07 (x0.5), 72.31 against 72.45."""
    file = shared_data / "models" / f"deeplabv3_mnv2{name}_pascal_float_weights.npz"
    network = DeepLabMobileNet.from_npz(file).eval()
    pack = np.load(shared_data / "voc_scores" / f"{key}_val.npz")
    ids, data = pack["ids"].astype(str).tolist(), open_voc(shared_data / "voc", "val")
    together = torch.zeros((21, 21), dtype=torch.int64)
    for index in range(0, 160, 40):
        sample = data[index]
        height, width = sample.label.shape
        with torch.no_grad():
            mine = network(sample.image[None].float())[0].argmax(dim=0)
        raw = pack["logits"][ids.index(sample.name)].astype(np.float32) - float(pack["zero"])
        stored = nn.functional.interpolate(
            torch.from_numpy(raw).permute(2, 0, 1)[None],
            (513, 513),
            mode="bilinear",
            align_corners=True,
        )[0, :, :height, :width].argmax(dim=0)
        together += confusion_matrix(mine, stored, 21)
    agreement = float(together.trace() / together.sum())
    assert agreement > least


# The light network


def test_the_light_network_is_small_and_learns() -> None:
    assert sum(p.numel() for p in LightFCN(11).parameters()) < 500_000
    torch.manual_seed(0)
    images, labels = shapes(6, 48)
    network = LightFCN(3, width=6, dropout=0.0)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
    with torch.no_grad():
        found = network(images).argmax(dim=1)
    assert float(mean_iou(confusion_matrix(found, labels, 3))) > 0.8


def test_cells_of_the_light_network_lie_over_their_pixels() -> None:
    """Mirrored weights and a mirrored image give mirrored logits, which a shift would break."""
    network = LightFCN(3, width=4).eval()
    image = photograph(64, 96)
    mirrored = LightFCN(3, width=4).eval()
    state = {n: t.flip(3) if t.dim() == 4 else t for n, t in network.state_dict().items()}
    mirrored.load_state_dict(state)
    torch.testing.assert_close(mirrored(image.flip(3)), network(image).flip(3))


# Checkpoints


def model(classes: int = 3, **changes: Any) -> Checkpoint:
    kernels = [Bilateral(position=(9.0, 7.0), color=5.0, weight=2.0), Gaussian(position=2.0)]
    crf = CRFRNN(classes, kernels, weights="matrix", eval_iterations=3, learn_bandwidths=True)
    names = tuple("abcdefgh"[:classes])
    return Checkpoint("light", classes, {"width": 4}, crf=crf, classes=names, **changes).eval()


@pytest.mark.parametrize("with_crf", [True, False])
def test_a_saved_model_gives_the_same_logits(tmp_path: Path, with_crf: bool) -> None:
    saved = model(notes={"epoch": 3, "rates": [0.1, 0.2]})
    with torch.no_grad():
        for parameter in saved.parts().parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        saved.network(photograph(40, 40))
    saved.crf = saved.crf if with_crf else None
    saved.save(tmp_path / "m")
    again = load_checkpoint(tmp_path / "m")
    image = photograph(20, 30)
    for old, new in zip(saved.logits(image), again.logits(image), strict=True):
        torch.testing.assert_close(new, old, rtol=0, atol=0)
    before, after = again.logits(image)
    assert torch.equal(before, after) == (not with_crf)
    assert (again.num_classes, tuple(again.classes or ()), again.has_crf) == (
        3,
        tuple("abc"),
        with_crf,
    )
    assert again.notes == {"epoch": 3, "rates": [0.1, 0.2]}
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == [CONFIG, TENSORS]
    assert not again.network.training


class Exponential(nn.Module):
    """A parametrization that keeps weights positive."""

    def forward(self, stored: Tensor) -> Tensor:
        return stored.exp()

    def right_inverse(self, value: Tensor) -> Tensor:
        return value.log()


@pytest.mark.unchecked
def test_a_model_whose_crf_is_parametrized_is_saved_with_the_computed_values(
    tmp_path: Path,
) -> None:
    saved = Checkpoint("light", 3, {"width": 4}, crf=CRFRNN(3)).eval()
    register_parametrization(saved.crf, "kernel_weights", Exponential())
    with torch.no_grad():
        saved.crf.parametrizations.kernel_weights.original.add_(0.5)
    saved.save(tmp_path)
    again = load_checkpoint(tmp_path)
    assert torch.equal(again.crf.kernel_weights, saved.crf.kernel_weights)
    image = photograph(20, 30)
    torch.testing.assert_close(again.logits(image), saved.logits(image), rtol=0, atol=0)


def test_a_model_that_cannot_be_written_leaves_what_is_there(tmp_path: Path) -> None:
    model().save(tmp_path)
    old = (tmp_path / TENSORS).read_bytes(), (tmp_path / CONFIG).read_bytes()
    with pytest.raises(TypeError, match=r"config\.json: Object of type object is not JSON"):
        model(notes={"x": object()}).save(tmp_path)
    assert ((tmp_path / TENSORS).read_bytes(), (tmp_path / CONFIG).read_bytes()) == old


def test_other_classes_are_refused_or_skipped_with_a_report(tmp_path: Path) -> None:
    model(3).save(tmp_path)
    with pytest.raises(ValueError, match=r"the model has 3 classes, expected 5; load its weights"):
        load_checkpoint(tmp_path, num_classes=5)
    other = model(5)
    report = load_weights(other, tmp_path)
    assert not report.missing + report.unexpected
    names = {text.split(" ")[0] for text in report.mismatched}
    scores = {f"network.score{s}.{part}" for s in (8, 16, 32) for part in ("weight", "bias")}
    assert names == {*scores, "crf.kernel_weights", "crf.compatibility"}
    stages = {
        n: t for n, t in load_checkpoint(tmp_path).network.state_dict().items() if "stages" in n
    }
    for name, tensor in stages.items():
        torch.testing.assert_close(other.network.state_dict()[name], tensor)


def change_config(directory: Path, **changes: Any) -> None:
    config = {**json.loads((directory / CONFIG).read_text()), **changes}
    (directory / CONFIG).write_text(json.dumps(config))


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"num_classes": 4, "classes": None}, "the CRF has 3 classes and num_classes is 4"),
        (
            {"num_classes": 4, "classes": None, "crf": None},
            r"6 mismatched: network\.score16\.bias \(file \(3,\), network \(4,\)\)",
        ),
        (
            {"network": {"name": "light", "width": 8}},
            r"53 mismatched: .*network\.stages\.0\.0\.weight",
        ),
        ({"network": {"name": "dark"}}, "unknown network 'dark'"),
        ({"network": {"width": 8}}, "'name' is missing"),
        ({"network": 3}, "expected a mapping with `network`"),
        ({"classes": ["a"]}, "expected 3 names of classes; got 1"),
        ({"crf": None}, r"66 tensors loaded; 5 unexpected: crf\.comp"),
        ({"format": 9}, "expected format 2, got 9"),
    ],
)
def test_bad_models_are_refused(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    model().save(tmp_path)
    change_config(tmp_path, **changes)
    with pytest.raises(ValueError, match=text):
        load_checkpoint(tmp_path)


@pytest.mark.unchecked
def test_parts_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="the CRF has 4 classes and the network 3"):
        Checkpoint("light", 3, crf=CRFRNN(4))
    with pytest.raises(ValueError, match="expected 3 names of classes; got 2"):
        Checkpoint("light", 3, classes=("a", "b"))


@pytest.mark.unchecked
def test_broken_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no config.json"):
        load_checkpoint(tmp_path)
    model().save(tmp_path)
    (tmp_path / TENSORS).write_bytes(b"rubbish")
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        load_checkpoint(tmp_path)
    (tmp_path / TENSORS).unlink()
    with pytest.raises(FileNotFoundError, match=r"has no model\.safetensors"):
        load_checkpoint(tmp_path)
    (tmp_path / CONFIG).write_text("a: [")
    with pytest.raises(ValueError, match="not readable as JSON"):
        load_checkpoint(tmp_path)


# Other libraries


@pytest.fixture
def torchvision(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A module that stands in for torchvision, whose builds must fit that of torch."""
    calls: list[dict[str, Any]] = []

    class Network(nn.Module):
        def __init__(self, classes: int) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, classes, 1)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"out": self.conv(x), "aux": x}

    def get_model(name: str, **arguments: Any) -> nn.Module:
        calls.append({"name": name, **arguments})
        return Network(arguments["num_classes"])

    parent, models = ModuleType("torchvision"), ModuleType("torchvision.models")
    models.get_model = get_model  # type: ignore[attr-defined]
    parent.models = models  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision", parent)
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    return calls


def test_networks_of_torchvision(torchvision: list[dict[str, Any]]) -> None:
    network = torchvision_network("fcn_resnet50", 5, aux_loss=True)
    assert torchvision == [
        {
            "name": "fcn_resnet50",
            "weights": None,
            "weights_backbone": None,
            "num_classes": 5,
            "aux_loss": True,
        }
    ]
    image = photograph(6, 7)
    mean, std = (
        torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    expected = network.network.conv((image / 255 - mean) / std)  # type: ignore[operator, union-attr]
    torch.testing.assert_close(network(image), expected)


def test_without_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ImportError, match="torchvision is needed"):
        torchvision_network("fcn_resnet50")
    assert TorchvisionNetwork(nn.Sequential()).mean.shape == (1, 3, 1, 1)


@pytest.mark.parametrize(
    ("settings", "mean", "flip"),
    [
        ({"do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.2] * 3}, 0.5, False),
        ({"image_mean": [0.5] * 3, "image_std": [0.2] * 3}, 0.5, False),
        ({"do_normalize": True, "image_mean": None, "image_std": None}, 0.485, False),
        ({"do_normalize": False, "image_mean": [0.5] * 3}, 0.0, False),
        ({"crop_size": 512, "do_center_crop": True, "do_flip_channel_order": True}, 0.0, True),
        ({"crop_size": 512, "do_center_crop": True, "do_flip_channels": True}, 0.0, True),
    ],
)
def test_image_processors_of_transformers(
    settings: dict[str, Any], mean: float, flip: bool
) -> None:
    class Model(torch.nn.Module):
        def forward(self, pixel_values: torch.Tensor) -> Any:
            return SimpleNamespace(logits=pixel_values)

    network = transformers.TransformersNetwork(Model(), **transformers._arguments(settings))
    assert network.mean.flatten()[0].item() == pytest.approx(mean)
    image = torch.rand(1, 3, 4, 5) * 255
    want = (image / 255 - network.mean) / network.std
    torch.testing.assert_close(network(image), want.flip(1) if flip else want)


def test_without_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    from crfrnn.integrations.transformers import transformers_network

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r'pip install "transformers>=4\.50"'):
        transformers_network(SimpleNamespace())
