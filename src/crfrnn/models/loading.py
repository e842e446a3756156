"""Loading weights by name and shape, and telling what was left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from crfrnn import _checks

_NAMES_SHOWN = 4


@dataclass(frozen=True)
class LoadReport:
    """What happened to the tensors of a file.

    Attributes:
        loaded: names that found their place.
        missing: names that the network has and the file has not; they keep their values.
        unexpected: names that only the file has; they were skipped.
        mismatched: names that both have in different shapes, with both; they were skipped.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[str, ...]

    @property
    def is_complete(self) -> bool:
        """Whether every tensor of the network and of the file found its partner."""
        return not (self.missing or self.unexpected or self.mismatched)

    def __str__(self) -> str:
        """Say it on one line."""
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
        strict: refuse anything but a complete match, and then change nothing. If not, what does
            not fit is skipped and told in the report.
        source: what the error calls the tensors.

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
    own = network.state_dict()
    fitting = {name: t for name, t in tensors.items() if name in own and t.shape == own[name].shape}
    report = LoadReport(
        loaded=tuple(fitting),
        missing=tuple(name for name in own if name not in tensors),
        unexpected=tuple(name for name in tensors if name not in own),
        mismatched=tuple(
            f"{name} (file {_checks.shape_text(t)}, network {_checks.shape_text(own[name])})"
            for name, t in tensors.items()
            if name in own and name not in fitting
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
