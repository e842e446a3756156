"""The layer on top of a network of your own: three lines, and one training step.

python examples/layer_on_any_cnn.py
"""

import torch
from torch import nn

from crfrnn import CRFRNN, Segmenter
from crfrnn.data.synthetic import CLASSES, shapes

torch.manual_seed(0)
images, labels = shapes(8)  # (B, 3, H, W) on 0..255, (B, H, W)

# Any callable that gives logits (B, C, h, w), as a tensor, {"out": ...} or .logits
network = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(16, 3, 1))

# By hand: logits at the size of the image, then the layer
crf = CRFRNN(CLASSES)
logits = nn.functional.interpolate(network(images / 255), size=images.shape[2:], mode="bilinear")
z = crf(logits, images)
print("logits in, logits out:", tuple(logits.shape), "->", tuple(z.shape))

# Or joined, with the image as the network sees it
model = Segmenter(network, crf, mean=0.0, std=1.0, image_range=1)
optimizer = torch.optim.Adam(model.parameter_groups(1e-3, weights=5, compatibility=5))
loss = nn.functional.cross_entropy(model(images / 255), labels)
loss.backward()
optimizer.step()
print(f"loss {loss.item():.3f}; gradients reach", ", ".join(
    name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0
))  # fmt: skip

# One lattice for many calls on the same pictures
prepared = crf.eval().prepare(images)
with torch.no_grad():
    steps = crf.infer(logits, prepared, tol=1e-3).steps
print("steps until the marginals rest:", steps.tolist())
