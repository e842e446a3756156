"""Joint bilateral upsampling: values of a coarse grid at the pixels of an image."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from crfrnn._arrays import Array, is_tensor, namespace, on_cpu, to_numpy, to_torch
from crfrnn.core.lattice import empty
from crfrnn.core.native import core_missing
from crfrnn.core.threads import threads

#: Default bandwidths, in cells and units of color; see docs/guide/upsampling.md for the choice.
POSITION, COLOR = 0.5, 45.0

#: Weight of a cell whose color is infinitely far, relative to one of the same color. If no cell in
#: reach has a pixel's color, the result is the mean weighted by position alone.
_FLOOR = 1e-2

#: The window reaches this many bandwidths, rounded up to whole cells, from a pixel's cell.
_REACH = 2.5

#: Most numbers in a block's weights, and in its result. Larger arrays take fresh memory each time.
_BLOCK = 1 << 19

#: The same on a device, where many small blocks would wait for the host.
_DEVICE_BLOCK = 1 << 25


class _Axis(NamedTuple):
    """One axis of both grids. Pixel i covers i to i + 1, so that its center is at i + 1/2."""

    cells: int
    pixels: int
    pitch: float  # pixels from cell to cell
    first: float  # the center of the first cell

    @classmethod
    def of(cls, cells: int, pixels: int, align_corners: bool) -> _Axis:
        if align_corners and cells > 1:
            return cls(cells, pixels, (pixels - 1) / (cells - 1), 0.5)
        return cls(cells, pixels, pixels / cells, 0.5 * pixels / cells)

    def place(self) -> np.ndarray:
        """The centers of the pixels, in cells: 0 is the center of the first cell."""
        places: np.ndarray = (np.arange(self.pixels) + 0.5 - self.first) / self.pitch
        return places

    def owner(self) -> np.ndarray:
        """The cell that each pixel belongs to: the one with the nearest center."""
        owner: np.ndarray = np.floor(self.place() + 0.5).astype(int).clip(0, self.cells - 1)
        return owner

    def averages(self) -> np.ndarray:
        """(cells, pixels) share of each pixel in each cell's extent; rows sum to one."""
        center = self.first + self.pitch * np.arange(self.cells)[:, None]
        pixel = np.arange(self.pixels)
        low, high = center - self.pitch / 2, center + self.pitch / 2
        overlap = np.clip(np.minimum(high, pixel + 1) - np.maximum(low, pixel), 0, None)
        shares: np.ndarray = overlap / overlap.sum(1, keepdims=True)
        return shares

    def taps(self, position: float) -> tuple[np.ndarray, np.ndarray]:
        """The cells of each pixel's window and their weights, (pixels, K) each.

        A weight is the Gaussian of the distance, divided by that of the nearest cell. So some
        weight is 1 however small the bandwidth is. Cells outside the grid have
        weight 0.
        """
        radius = min(math.ceil(_REACH * position), self.cells - 1)
        cell = self.owner()[:, None] + np.arange(-radius, radius + 1)
        squared = ((cell - self.place()[:, None]) / position) ** 2
        squared[(cell < 0) | (cell >= self.cells)] = np.inf
        return cell, np.exp(-0.5 * (squared - squared.min(1, keepdims=True)))


def joint_bilateral(
    values: Array, guide: Array, position: float, color: float, align_corners: bool
) -> Array:
    """Upsample values (B C h w) to the grid of a guide (B F H W); both in float32 or float64.

    With the Gaussian g of the position and of the color, pixel i gets Σ_j w_ij v_j / Σ_j w_ij over
    the cells j of its window, with w_ij = g_position (g_color + ε). Kopf et al. (2007) have no ε.
    """
    if is_tensor(values) and on_cpu(values) and _direct(values, guide):
        # NumPy's loops do not wake torch's threads; the blocks run on our own threads.
        arrays = to_numpy(values), to_numpy(guide)
        return to_torch(joint_bilateral(*arrays, position, color, align_corners))
    windows = (
        _Window(item, of_item / color, position, align_corners)
        for item, of_item in zip(values, guide, strict=True)
    )
    if is_tensor(values):
        space = namespace(values)
        with space.autocast(values.device.type, enabled=False):
            return space.stack([space.concatenate([*map(w.block, w.blocks())], 1) for w in windows])
    # The core's memory comes in large pages. With others, the first touch takes most of the time.
    reserve = np.empty if core_missing() else empty
    out = reserve((*values.shape[:2], *guide.shape[2:]), values.dtype)
    for window, of_item in zip(windows, out, strict=True):
        _fill(of_item, window)
    return out


def _direct(*tensors: Array) -> bool:
    from crfrnn import ops  # late: it needs torch

    return ops.direct(*tensors)


def _fill(out: np.ndarray, window: _Window) -> None:
    """Compute the blocks of one image on several threads."""

    def fill(rows: slice) -> None:
        out[:, rows] = window.block(rows)

    with ThreadPoolExecutor(max(threads(), 1)) as pool:
        list(pool.map(fill, window.blocks()))


class _Window:
    """The upsampling of one image, in blocks of rows whose pixels belong to one row of cells.

    All pixels of a cell have the same window of K cells. So the weights of a row of w cells are one
    batch of matrices (w, K, pixels of a cell), and so are the sums.
    """

    def __init__(self, values: Array, guide: Array, position: float, align_corners: bool) -> None:
        """Take values (C h w) and a guide (F H W), divided by its bandwidth."""
        self.values = values
        self.size = tuple(guide.shape[1:])
        self.y, self.x = (
            _Axis.of(cells, pixels, align_corners)
            for cells, pixels in zip(values.shape[1:], self.size, strict=True)
        )
        self.guide = guide
        # The color of a cell is the mean over its extent.
        self.coarse = self._array(self.y.averages()) @ guide @ self._array(self.x.averages().T)
        owner = self.x.owner()
        start = np.searchsorted(owner, np.arange(self.x.cells))
        # Cells own unequal numbers of pixels; the spare places repeat other pixels.
        self.most = int(np.bincount(owner).max())
        column = (start[:, None] + np.arange(self.most)).clip(0, self.x.pixels - 1)
        self.where = owner * self.most + np.arange(self.x.pixels) - start[owner]  # of each pixel
        self.columns = self._index(column.ravel())
        cells, weights = self.x.taps(position)
        self.across = self._array(weights[column].transpose(0, 2, 1))  # w K Q
        near = cells[start].clip(0, self.x.cells - 1)
        self.near = self._index(near.ravel())
        self.row_cells, self.row_weights = self.y.taps(position)
        self.row_inside = (self.row_cells >= 0) & (self.row_cells < self.y.cells)

    def blocks(self) -> Iterator[slice]:
        """The rows of pixels of each block."""
        owner, channels = self.y.owner(), self.values.shape[0]
        width = self.x.cells * self.most
        taps = self.row_cells.shape[1] * self.across.shape[1]
        at_once = _BLOCK if on_cpu(self.values) else _DEVICE_BLOCK
        limit = max(1, at_once // (width * max(taps, channels)))
        begin = 0
        while begin < len(owner):
            end = min(int(np.searchsorted(owner, owner[begin], "right")), begin + limit)
            yield slice(begin, end)
            begin = end

    def block(self, rows: slice) -> Array:
        """Upsample some rows: (C, R, W)."""
        space = namespace(self.values)
        w, most, height = self.x.cells, self.most, rows.stop - rows.start
        cells, inside = self.row_cells[rows.start], self.row_inside[rows.start]
        low, high = int(cells[inside].min()), int(cells[inside].max()) + 1
        down = self._array(self.row_weights[rows][:, inside].T)  # K_y R
        # Colors are relative to the color of the pixels' own cell, so that products stay small.
        own = self.coarse[:, self.y.owner()[rows.start]]  # F w
        pixels = self.guide[:, rows][:, :, self.columns].reshape(-1, height, w, most)
        pixels = _moved(pixels - own[:, None, :, None], 2, 0)  # w F R Q
        pixels = pixels.reshape(w, -1, height * most)
        near = self._near(self.coarse[:, low:high])  # w F K
        near = _moved(near - _moved(own, 1, 0)[:, :, None], 2, 1)  # w K F
        # -|a - b|²/2 = a·b - |a|²/2 - |b|²/2
        weights = space.matmul(near, pixels)
        weights -= 0.5 * (near**2).sum(2)[:, :, None]
        weights -= 0.5 * (pixels**2).sum(1)[:, None]
        weights = space.exp(weights) + _FLOOR
        near_by = down[None, :, None, :, None] * self.across[:, None, :, None, :]  # w Ky Kx R Q
        weights = weights * near_by.reshape(weights.shape)
        weights = weights / weights.sum(1)[:, None]
        sums = space.matmul(self._near(self.values[:, low:high]), weights)
        out = _moved(sums.reshape(w, -1, height, most), 0, 2)
        out = out.reshape(-1, height, w * most)
        return out if w * most == self.x.pixels else out[:, :, self._index(self.where)]

    def _near(self, grid: Array) -> Array:
        """The windows (w, C, K) of the cells in some rows of a grid (C, K_y, w)."""
        channels, height, width = grid.shape
        windows = grid[:, :, self.near].reshape(channels, height, width, -1)  # C K_y w K_x
        moved = _moved(windows, 2, 0)
        return moved.reshape(width, channels, -1)

    def _array(self, array: np.ndarray) -> Array:
        if is_tensor(self.values):
            return to_torch(array).to(self.values)
        return np.ascontiguousarray(array, self.values.dtype)

    def _index(self, index: np.ndarray) -> Any:
        return to_torch(index).to(self.values.device) if is_tensor(self.values) else index


def _moved(array: Array, source: int, target: int) -> Array:
    # Under vmap, torch has movedim but not its alias moveaxis.
    if is_tensor(array):
        return array.movedim(source, target)
    return np.moveaxis(array, source, target)


def check_grids(name: str, guide: tuple[int, ...], values: tuple[int, ...]) -> None:
    """Raise unless a guide (B F H W) can guide values (B C h w)."""
    if guide[0] != values[0]:
        raise ValueError(
            f"values and {name} must have the same batch; got {values[0]} and {guide[0]}"
        )
    if guide[2] < values[2] or guide[3] < values[3]:
        raise ValueError(
            f"the {name} must not be smaller than the grid of the values; got {tuple(guide[2:])} "
            f"for a grid of {tuple(values[2:])} (height, width). Shrink the values first, or check "
            "the order of the axes"
        )
