"""Loading weights by name and shape, with a report of what was left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from crfrnn import _checks

_NAMES_SHOWN = 4


@dataclass(frozen=True)
class LoadReport:
    """The outcome of loading, by name of the tensor.

    Attributes:
        loaded: copied into the network.
        missing: only the network has them; they keep their values.
        unexpected: only the file has them; they were skipped.
        mismatched: the shapes differ, and both are listed; they were skipped.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[str, ...]

    @property
    def is_complete(self) -> bool:
        """Whether every tensor of the network was loaded, and every tensor of the file used."""
        return not (self.missing or self.unexpected or self.mismatched)

    def __str__(self) -> str:
        """Summarize the report on one line."""
        parts = [f"{len(self.loaded)} tensors loaded"]
        for what in ("mismatched", "missing", "unexpected"):
            if names := getattr(self, what):
                rest = len(names) - _NAMES_SHOWN
                more = f" and {rest} more" if rest > 0 else ""
                parts.append(f"{len(names)} {what}: {', '.join(names[:_NAMES_SHOWN])}{more}")
        return "; ".join(parts)


def load_by_name(
    network: nn.Module, tensors: Mapping[str, Tensor], *, strict: bool = True, source: str = "file"
) -> LoadReport:
    """Copy tensors into a network where name and shape agree.

    Args:
        network: parameters and persistent buffers are filled in place.
        tensors: by name, as in `network.state_dict()`.
        strict: refuse anything but a complete match, and change nothing then. With False, tensors
            that do not fit are skipped, and the report lists them.
        source: name of the tensors' origin in errors.

    Raises:
        ValueError: nothing fits; or, with `strict`, something does not.

    Example:
        >>> import torch
        >>> from crfrnn.models.loading import load_by_name
        >>> network = torch.nn.Conv2d(3, 2, 1)
        >>> report = load_by_name(network, {"bias": torch.ones(2)}, strict=False)
        >>> print(report)
        1 tensors loaded; 1 missing: weight
    """
    expected = network.state_dict()
    fitting = {
        name: t
        for name, t in tensors.items()
        if name in expected and t.shape == expected[name].shape
    }
    report = LoadReport(
        loaded=tuple(fitting),
        missing=tuple(name for name in expected if name not in tensors),
        unexpected=tuple(name for name in tensors if name not in expected),
        mismatched=tuple(
            f"{name} (file {_checks.shape_text(t)}, network {_checks.shape_text(expected[name])})"
            for name, t in tensors.items()
            if name in expected and name not in fitting
        ),
    )
    if not fitting or (strict and not report.is_complete):
        raise ValueError(
            f"{source}: the weights do not fit the model: {report}. Check the "
            f"network's name, its arguments and num_classes"
            + ("." if not fitting else ", or load with strict=False to skip what does not fit.")
        )
    network.load_state_dict(fitting, strict=False)
    return report
