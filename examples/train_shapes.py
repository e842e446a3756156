"""A small U-Net with a CRF on top, trained end to end, against the CRF attached afterwards.

Pictures of discs and bars with noisy edges. Per seed, three models of the same network:

  network    trained for all epochs, alone
  attached   the same trained network, with the CRF put on top of it afterwards
  end to end trained alone for half of the epochs, with the CRF for the other half

    python examples/train_shapes.py            # five seeds, under two minutes on two cores
"""

import argparse
import copy
import time

import torch
from torch import Tensor, nn

from crfrnn import CRFRNN, Bilateral, Gaussian, Segmenter
from crfrnn.data.synthetic import CLASSES, shapes


class UNet(nn.Module):
    """Two levels down, two up; logits at half the size of the image."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()

        def block(inputs: int, outputs: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()
            )

        self.top = block(3, width)
        self.middle = block(width, 2 * width)
        self.bottom = block(2 * width, 4 * width)
        self.up = block(6 * width, 2 * width)
        self.head = nn.Conv2d(2 * width, CLASSES, 1)

    def forward(self, image: Tensor) -> Tensor:
        half = self.middle(nn.functional.max_pool2d(self.top(image), 2))
        quarter = self.bottom(nn.functional.max_pool2d(half, 2))
        back = nn.functional.interpolate(quarter, size=half.shape[2:], mode="bilinear")
        return self.head(self.up(torch.cat([half, back], 1)))


def with_crf(network: nn.Module) -> Segmenter:
    kernels = [Bilateral(position=12, color=25, weight=3), Gaussian(position=1.5, weight=1)]
    # The network sees (image - 128) / 64; the CRF sees 0..255 again.
    return Segmenter(network, CRFRNN(CLASSES, kernels), mean=128.0, std=64.0, image_range=255)


def train(model: nn.Module, groups: list, data: tuple[Tensor, Tensor], epochs: int) -> None:
    images, labels = data
    optimizer = torch.optim.Adam(groups)
    batch = 16
    rates = [group["lr"] for group in optimizer.param_groups]
    total, done = epochs * -(-len(images) // batch), 0
    model.train()
    for _ in range(epochs):
        for at in torch.randperm(len(images)).split(batch):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * (1 - done / total)
            loss = nn.functional.cross_entropy(model(images[at]), labels[at])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            done += 1


@torch.no_grad()
def mean_iou(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    model.eval()
    found = torch.cat([model(part).argmax(1) for part in images.split(16)])
    counts = torch.bincount((labels * CLASSES + found).flatten(), minlength=CLASSES**2)
    counts = counts.view(CLASSES, CLASSES).double()
    return float((counts.diag() / (counts.sum(0) + counts.sum(1) - counts.diag())).mean() * 100)


def one_seed(seed: int, epochs: int) -> dict[str, float]:
    torch.manual_seed(seed)
    seen, labels = shapes(96)
    new, truth = shapes(64)
    seen, new = (seen - 128) / 64, (new - 128) / 64

    class Upsampled(nn.Module):
        """The network alone, at the size of the image."""

        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.segmenter = with_crf(network)

        def forward(self, image: Tensor) -> Tensor:
            return self.segmenter.unary(image)

    half = Upsampled(UNet())
    network = half.segmenter.network
    train(half, [{"params": network.parameters(), "lr": 4e-3}], (seen, labels), epochs // 2)
    alone = copy.deepcopy(half)
    rest = alone.segmenter.network.parameters()
    train(alone, [{"params": rest, "lr": 4e-3}], (seen, labels), epochs - epochs // 2)
    joint = copy.deepcopy(half).segmenter
    groups = joint.parameter_groups(4e-3, weights=2, compatibility=2)
    train(joint, groups, (seen, labels), epochs - epochs // 2)
    return {
        "network": mean_iou(alone, new, truth),
        "attached": mean_iou(alone.segmenter, new, truth),
        "end to end": mean_iou(joint, new, truth),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--threads", type=int, default=1, help="more only wait on small pictures")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    begin = time.perf_counter()
    rows = []
    for seed in range(options.seeds):
        rows.append(one_seed(seed, options.epochs))
        text = "   ".join(f"{name} {value:5.2f}" for name, value in rows[-1].items())
        print(f"seed {seed}   mean IoU in %:   {text}", flush=True)
    table = torch.tensor([list(row.values()) for row in rows])
    print()
    for name, column in zip(rows[0], table.T, strict=True):
        spread = float(column.std()) if len(rows) > 1 else 0.0
        print(f"{name:<11} {float(column.mean()):5.2f} ± {spread:.2f}")
    gain = table[:, 2] - table[:, 1]
    spread = float(gain.std()) if len(rows) > 1 else 0.0
    print(f"end to end - attached: {float(gain.mean()):+.2f} ± {spread:.2f}, "
          f"better in {int((gain > 0).sum())} of {len(rows)}")  # fmt: skip
    print(f"{time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main()
