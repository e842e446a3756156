"""Rasters: GeoTIFF and other georeferenced images through rasterio, window by window."""

from __future__ import annotations

import os
import secrets
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from crfrnn._extras import load
from crfrnn.io.files import PART_SUFFIX, describe
from crfrnn.io.memory import spell_bytes

from .source import PLAIN, Source, Style, Window, Write

#: The formats that are opened, and by nothing but their own driver: a file that pretends to be a
#: GeoTIFF and is a list of addresses to fetch is refused.
_DRIVERS = {
    ".tif": "GTiff",
    ".tiff": "GTiff",
    ".jp2": "JP2OpenJPEG",
    ".img": "HFA",
    ".vrt": "VRT",
}
RASTER_SUFFIXES = frozenset(_DRIVERS)

#: A raster that claims more than this, and this many times its file, is a bomb.
_LARGE_BYTES, _BOMB_RATIO = 1 << 32, 1500
#: The rows of a strip and the sides of a block are decoded at once.
_MOST_BLOCK_BYTES = 1 << 29
#: GDAL's cache of blocks; its default is a share of the machine's memory.
CACHE_BYTES = 64 << 20
_BLOCK = 512


class Raster(Source):
    """A raster, opened for reading; its bands are the channels.

    Values have the scale and offset of their band applied.

    Args:
        path: the file.
        colors: whether a band of palette indices is read as three channels, its colors.

    Raises:
        ImportError: rasterio is not installed.
        FileNotFoundError, ValueError: it cannot be read, or claims far more than it holds.
    """

    def __init__(self, path: Path, *, colors: bool = False) -> None:
        rasterio = load("rasterio", "raster", path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: expected a raster, but there is no such file")
        self.path = path
        driver = _DRIVERS.get(path.suffix.lower(), "GTiff")
        with self._environment():
            try:
                self._file = rasterio.open(path, driver=driver)
            except rasterio.errors.RasterioError as error:
                raise ValueError(f"{path}: not a readable raster ({describe(error)})") from error
        self.size = (int(self._file.height), int(self._file.width))
        self.channels = int(self._file.count)
        kinds = sorted(set(self._file.dtypes))
        if any("complex" in kind for kind in kinds):  # also types that NumPy has not
            raise ValueError(f"{path}: expected a raster of real numbers; got {', '.join(kinds)}")
        self.dtype = np.result_type(*kinds)
        self.spacing = (1.0, 1.0)
        self.affine = _affine(self._file)
        self.epsg = self._file.crs.to_epsg() if self._file.crs else None
        self._last: tuple[Window, np.ndarray] | None = None
        self._check_bytes()
        self._linear = self._scales_and_offsets()
        self._colors = self._color_table() if colors else None
        if self._colors is not None:
            self.channels, self.dtype = 3, self._colors.dtype
        elif self._linear is not None:
            self.dtype = np.result_type(self.dtype, np.float32)

    def read(self, window: Window) -> np.ndarray:
        """Return the bands (channels, *window)."""
        if self._last is None or self._last[0] != window:  # `valid` asks for the same window
            with self._environment():
                values = self._guarded(lambda: self._file.read(window=_bounds(window)))
            if self._colors is not None:
                values = np.moveaxis(self._colors[values[0]], -1, 0)
            elif self._linear is not None:
                scales, offsets = self._linear
                values = (values * scales + offsets).astype(self.dtype)
            self._last = (window, values)
        return self._last[1]

    def valid(self, window: Window) -> np.ndarray | None:
        """Return the valid pixels: allowed by the mask or alpha band, and finite in all bands.

        A nodata value marks a hole only where all bands with such a value hold it, because a single
        band of a photograph may well be 0.
        """
        masks = []
        if self.has_holes():
            with self._environment():
                found = self._guarded(lambda: self._file.read_masks(window=_bounds(window)))
            by_value = np.array(["nodata" in flags for flags in self._flags()])
            masks.append((found[~by_value] != 0).all(axis=0))
            if by_value.any():
                masks.append((found[by_value] != 0).any(axis=0))
        if self.dtype.kind == "f":
            masks.append(np.isfinite(self.read(window)).all(axis=0))
        if not masks:
            return None
        mask: np.ndarray = np.logical_and.reduce(masks)
        return None if mask.all() else mask

    def files(self) -> list[Path]:
        """Return the file, those beside it, and those that a virtual raster names."""
        return [Path(name) for name in self._file.files]

    def has_holes(self) -> bool:
        """Whether the file says that pixels may have no data."""
        return any("all_valid" not in flags for flags in self._flags())

    def palette(self) -> bytes | None:
        """Return the color table as RGB triples, if there is one."""
        try:
            table = self._file.colormap(1)
        except (ValueError, KeyError):
            return None
        return bytes(v for index in range(256) for v in table.get(index, (0, 0, 0))[:3])

    @contextmanager
    def create(
        self, path: Path, channels: int, dtype: np.dtype, style: Style = PLAIN
    ) -> Iterator[Write]:
        """Create a GeoTIFF with the coordinate system, transform, control points and tags."""
        rasterio = load("rasterio", "raster", path)
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PART_SUFFIX}")
        copy = part.with_name(f"{part.name}.tif")
        try:
            with self._environment():
                with rasterio.open(part, "w", **self._profile(channels, dtype, style)) as file:

                    def write(window: Window, values: np.ndarray) -> None:
                        file.write(values.astype(dtype, copy=False), window=_bounds(window))

                    self._describe(file, style)
                    yield write
                if style.cloud_optimized:
                    copier = load("rasterio.shutil", "raster", path)
                    copier.copy(part, copy, driver="COG", compress="DEFLATE")
                    copy.replace(part)
                self._verify(part)
            with part.open("rb") as stream:
                os.fsync(stream.fileno())
            part.replace(path)
        except rasterio.errors.RasterioError as error:
            raise OSError(f"{path}: cannot write this raster ({describe(error)})") from error
        except OSError as error:
            error.filename = str(path)
            raise
        finally:
            for rest in (part, copy, Path(f"{part}.aux.xml"), Path(f"{copy}.aux.xml")):
                rest.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _profile(self, channels: int, dtype: np.dtype, style: Style) -> dict[str, Any]:
        profile: dict[str, Any] = {
            "driver": "GTiff",
            "height": self.size[0],
            "width": self.size[1],
            "count": channels,
            "dtype": dtype,
            "nodata": style.nodata,
            "compress": "deflate",
            "BIGTIFF": "IF_SAFER",
        }
        if min(self.size) >= _BLOCK:
            profile |= {"tiled": True, "blockxsize": _BLOCK, "blockysize": _BLOCK}
        points, crs = self._file.gcps
        if points:
            return {**profile, "gcps": points, "crs": crs}
        profile["crs"] = self._file.crs
        if not self._file.transform.is_identity:
            profile["transform"] = self._file.transform
        return profile

    def _describe(self, file: Any, style: Style) -> None:
        """Copy the tags, and give labels their colors."""
        file.update_tags(**self._file.tags())
        if self._file.rpcs is not None:
            file.rpcs = self._file.rpcs
        if style.palette is not None and file.count == 1 and file.dtypes[0] == "uint8":
            triples = np.frombuffer(style.palette, np.uint8).reshape(-1, 3).tolist()
            file.write_colormap(1, {n: (*color, 255) for n, color in enumerate(triples)})

    def _verify(self, path: Path) -> None:
        """Read every block of a result: GDAL does not report all that goes wrong on closing."""
        rasterio = load("rasterio", "raster", path)
        with rasterio.open(path, driver="GTiff") as file:
            for _, window in file.block_windows(1):
                file.read(window=window)

    def _check_bytes(self) -> None:
        count = self.size[0] * self.size[1] * self.channels * self.dtype.itemsize
        stored = self.path.stat().st_size
        bomb = count > _LARGE_BYTES and count > _BOMB_RATIO * stored
        if bomb and self.path.suffix.lower() != ".vrt":
            raise ValueError(
                f"{self.path}: its header claims {self.size[1]} x {self.size[0]} pixels, "
                f"{spell_bytes(count)}, in a file of {spell_bytes(stored)}, like a decompression "
                "bomb; it is not read. If it is yours, write it again without compression"
            )
        rows, columns = max(self._file.block_shapes, key=lambda shape: shape[0] * shape[1])
        order = self._file.interleaving  # None in a virtual raster
        interleaved = self.channels if order is not None and order.name == "pixel" else 1
        block = rows * columns * interleaved * self.dtype.itemsize
        if block > _MOST_BLOCK_BYTES:
            raise ValueError(
                f"{self.path}: stored in pieces of {columns} x {rows} pixels, "
                f"{spell_bytes(block)} each, which can only be read whole; rewrite it in tiles, "
                "for example with gdal_translate -co TILED=YES"
            )

    def _flags(self) -> list[set[str]]:
        """Return the names of GDAL's flags for the mask of each band."""
        return [{flag.name for flag in flags} for flags in self._file.mask_flag_enums]

    def _scales_and_offsets(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Return the bands' scales and offsets (channels, 1, 1); None if they change nothing."""
        scales, offsets = (
            np.array(part, np.float64)[:, None, None]
            for part in (self._file.scales, self._file.offsets)
        )
        return None if (scales == 1).all() and (offsets == 0).all() else (scales, offsets)

    def _color_table(self) -> np.ndarray | None:
        """Return the color (n, 3) of each value of a single band of palette indices."""
        indexed = self._file.colorinterp[0].name == "palette" and self.dtype.kind == "u"
        if self.channels != 1 or not indexed:
            return None
        table = self._file.colormap(1)
        colors = np.zeros((np.iinfo(self.dtype).max + 1, 3), np.uint8)
        for index, color in table.items():
            colors[index] = color[:3]
        return colors

    def _guarded(self, read: Any) -> Any:
        rasterio = load("rasterio", "raster", self.path)
        try:
            return read()
        except rasterio.errors.RasterioError as error:
            raise ValueError(
                f"{self.path}: the raster cannot be read ({describe(error.__cause__ or error)}); "
                "the file may be truncated"
            ) from error

    @contextmanager
    def _environment(self) -> Iterator[None]:
        rasterio = load("rasterio", "raster", self.path)
        with rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES), warnings.catch_warnings():
            # An image without a place in the world is as good a raster as any.
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            yield


def _bounds(window: Window) -> tuple[tuple[int, int], tuple[int, int]]:
    (rows, columns) = window
    return (rows.start, rows.stop), (columns.start, columns.stop)


def _affine(file: Any) -> np.ndarray | None:
    """Return what maps (x, y, 1) to places, if the raster says."""
    if file.transform.is_identity:
        return None
    return np.array(file.transform, np.float64).reshape(3, 3)
