"""Serving the page: for the command, and inside a notebook."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from crfrnn._arrays import Array, to_numpy
from crfrnn.presets import Preset

from .choice import Choice
from .desk import Desk, Start
from .subject import of_arrays


@contextmanager
def serving(start: Start, *, host: str, port: int | None) -> Iterator[str]:
    """Serve the page until the block ends; gives its address.

    Uploads go through a temporary folder, which is gone at the end.

    Args:
        start: what a page opens with.
        host: the address to listen on.
        port: the port; None takes a free one.
    """
    before = os.environ.get("GRADIO_TEMP_DIR")
    with tempfile.TemporaryDirectory(prefix="crfrnn-app-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # Gradio knows no other way
        try:
            from .page import build, launch  # late: it imports Gradio

            page = build(Desk(start), start)
            _, address, _ = launch(page, host=host, port=port, prevent_thread_lock=True)
            try:
                yield address
            finally:
                page.close(verbose=False)
        finally:
            if before is None:
                del os.environ["GRADIO_TEMP_DIR"]
            else:
                os.environ["GRADIO_TEMP_DIR"] = before


class Explorer:
    """A page that is open; `explore` returns it.

    Attributes:
        address: where the page is.
    """

    def __init__(self, address: str, page: Any, desk: Desk) -> None:
        self.address = address
        self._page = page
        self._desk = desk

    @property
    def parameters(self) -> dict[str, Any]:
        """The numbers on the page, as arguments of `refine`: kernels, iterations, ...

        Scribbles are included as `clamp`. If several tabs show the page, the numbers are those of
        the tab that changed last.

        Example:
            >>> from crfrnn import explore, refine
            >>> page = explore(image, logits=logits)  # doctest: +SKIP
            >>> labels = refine(image, logits=logits, **page.parameters).labels  # doctest: +SKIP
        """
        return dict(self._desk.last)

    @property
    def preset(self) -> Preset:
        """The kernels, steps and normalization on the page, for `crfrnn.presets.write_preset`.

        Example:
            >>> from crfrnn import explore
            >>> explore(image, logits=logits).preset.iterations  # doctest: +SKIP
            10
        """
        return self._desk.choice.as_preset()

    def close(self) -> None:
        """Stop serving the page.

        Example:
            >>> from crfrnn import explore
            >>> explore(image, logits=logits).close()  # doctest: +SKIP
        """
        self._page.close(verbose=False)

    def __repr__(self) -> str:
        """Return the address."""
        return f"Explorer({self.address!r})"


def explore(
    image: Array,
    *,
    logits: Array | None = None,
    probs: Array | None = None,
    labels: Array | None = None,
    energy: Array | None = None,
    preset: str = "deeplab",
    classes: Sequence[str] = (),
    truth: Array | None = None,
    port: int | None = None,
    height: int = 1000,
) -> Explorer:
    """Open a page with sliders for the CRF's parameters: in a notebook's output, or at an address.

    It is the page of `crfrnn app`, for arrays. It needs `pip install "crfrnn[app]"`, but neither
    torch nor an internet connection, and listens on this machine only. Give exactly one of
    `logits`, `probs`, `labels` and `energy`.

    Args:
        image: (H, W, 3), (3, H, W) or (H, W), on 0..255.
        logits: (C, H, W), as for `refine`.
        probs: likewise.
        labels: (H, W) integers, likewise.
        energy: (C, H, W), likewise.
        preset: the parameters to start from.
        classes: the names of the C classes; default their ids.
        truth: (H, W) true labels, 255 for unknown; the page then shows IoU and boundary scores.
        port: default a free one.
        height: of the page in a notebook's output, in pixels.

    Returns:
        The page. Its `parameters` are the arguments of `refine` that are chosen there, so that the
        next cell can use them.

    Raises:
        ImportError: Gradio is not installed.
        ValueError: image and scores do not fit, or the preset has other kernels than the page.

    Example:
        >>> from crfrnn import explore, refine
        >>> page = explore(image, logits=logits)  # doctest: +SKIP
        >>> refine(image, logits=logits, **page.parameters).labels  # doctest: +SKIP
    """
    given = {"logits": logits, "probs": probs, "labels": labels, "energy": energy}
    named = {name: to_numpy(value) for name, value in given.items() if value is not None}
    if len(named) != 1:
        raise ValueError(
            f"give exactly one of logits=, probs=, labels=, energy=; got "
            f"{', '.join(named) or 'none'}"
        )
    ((kind, values),) = named.items()
    subject = of_arrays(to_numpy(image), kind, values, classes)
    mask = None if truth is None else to_numpy(truth)
    start = Start(Choice.of_preset(preset), subject, truth=mask)
    start.open()  # what does not fit raises here, and not in the browser
    from .page import build, launch  # late: it imports Gradio

    desk = Desk(start)
    page = build(desk, start)
    _, address, _ = launch(
        page, host="127.0.0.1", port=port, height=height, prevent_thread_lock=True
    )
    return Explorer(address, page, desk)
