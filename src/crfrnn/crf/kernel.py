"""The base class of pairwise kernels: their points, bandwidths and form in files.

To add a kernel, write a subclass of `Kernel`; no other module changes.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from crfrnn import _checks
from crfrnn._arrays import Array, is_tensor, namespace, to_torch
from crfrnn._arrays import cast as cast_to
from crfrnn._resampling import resample
from crfrnn.core.inference import Points

from .projection import principal_components

Number = float | tuple[float, ...]

#: Names in error messages for the dimensions of these bandwidths; the others have "channels".
_DIMENSIONS = {"position": "axes", "color": "image channels"}

_KINDS: dict[str, type[Kernel]] = {}


@dataclass(frozen=True)
class Scene:
    """The input of a kernel: the images of a batch and their pixel grid.

    All are NumPy arrays, or all are tensors.

    Attributes:
        like: (B, C, *S); only its size, type and device are used.
        image: (B, F, *S) on 0..255; None if there is none.
        features: maps (B, F, *s), any number, each of its own resolution.
        origin: grid index of the first pixel, one number per axis of S; by default 0. A lattice is
            not invariant to translation: tiles of an image agree where each has its place in it.

    Example:
        >>> import numpy as np
        >>> from crfrnn.crf.kernel import Scene
        >>> x, y = Scene(np.zeros((1, 2, 3, 5))).positions()
        >>> x.tolist(), y.tolist()
        ([0.0, 1.0, 2.0, 3.0, 4.0], [[0.0], [1.0], [2.0]])
    """

    like: Array
    image: Array | None = None
    features: Sequence[Array] = ()
    origin: tuple[int, ...] = ()

    def as_tensors(self) -> Scene:
        """The same scene with tensors that view its NumPy arrays."""
        image = None if self.image is None else to_torch(self.image)
        features = [to_torch(maps) for maps in self.features]
        return Scene(to_torch(self.like), image, features, self.origin)

    def positions(self) -> list[Array]:
        """Pixel coordinates in the order (x, y, z), x along the last axis, to broadcast."""
        size, like = self.like.shape[2:], self.like
        where = {"device": like.device} if is_tensor(like) else {}
        starts = self.origin or (0,) * len(size)
        axes = [
            namespace(like).arange(start, start + n, dtype=like.dtype, **where)
            for start, n in zip(starts, size, strict=True)
        ]
        return [axis.reshape(-1, *[1] * k) for k, axis in enumerate(reversed(axes))]

    def image_channels(self, kernel: Kernel) -> Sequence[Array]:
        """The channels (B, *S) of the image, which `kernel` needs."""
        if self.image is None:
            raise ValueError(
                f"a {type(kernel).__name__} kernel needs an image; got None. "
                "Pass it with the scores: layer(logits, image), refine(image, logits=logits)"
            )
        return self._channels(self.image)

    def feature_channels(
        self, kernel: Kernel, index: int, components: int | None = None
    ) -> Sequence[Array]:
        """The channels (B, *S) of a feature map, which `kernel` needs, at the size of the scores.

        With `components`, its projection onto so many principal components.
        """
        if index >= len(self.features):
            raise ValueError(
                f"{type(kernel).__name__}(features={index}) needs {index + 1} feature "
                f"maps; got {len(self.features)}. Pass features=[...] with the image."
            )
        maps = cast_to(self.features[index], self.like.dtype)
        if components is not None:
            maps = principal_components(maps, components)  # first: it leaves less to interpolate
        return self._channels(resample(maps, tuple(self.like.shape[2:])))

    def _channels(self, maps: Array) -> Sequence[Array]:
        if is_tensor(maps):
            channels: Sequence[Array] = maps.to(self.like.dtype).unbind(1)
            return channels
        return list(np.moveaxis(maps.astype(self.like.dtype, copy=False), 1, 0))


class Kernel(ABC):
    """A pairwise kernel exp(-½ |f_i - f_j|²) over points f: maps divided by their bandwidths.

    A subclass is a frozen dataclass with a field `weight`, a field for each bandwidth, and perhaps
    others, all of them numbers, strings, bools or tuples of these. It says what its bandwidths are
    and what they divide. The rest follows: filters, learned bandwidths, and files, which know it by
    the name of its class. A file that names it can be read once the class is defined.

    Attributes:
        weight: kernel weight; one number, or one per class.

    Example:
        >>> from dataclasses import dataclass
        >>> from crfrnn import Kernel
        >>> @dataclass(frozen=True)
        ... class Brightness(Kernel):
        ...     bandwidth: float = 10.0
        ...     weight: float = 1.0
        ...
        ...     def bandwidths(self):
        ...         return {"bandwidth": self.bandwidth}
        ...
        ...     def maps(self, scene):
        ...         return {"bandwidth": [sum(scene.image_channels(self)) / 3]}
        >>> Kernel.from_dict({"kind": "Brightness", "bandwidth": 20})
        Brightness(bandwidth=20, weight=1.0)
    """

    weight: Number

    def __init_subclass__(cls, **options: Any) -> None:
        """Let files name the subclass.

        A later class of the same name replaces it, so that a notebook cell may be run again.
        """
        super().__init_subclass__(**options)
        taken = _KINDS.get(cls.__name__)
        if taken is not None and _is_ours(taken) and not _is_ours(cls):
            raise ValueError(
                f"{cls.__name__} is already a kernel of this library; name yours otherwise"
            )
        _KINDS[cls.__name__] = cls

    def __post_init__(self) -> None:
        """Check the bandwidths and weights; arrays and lists of numbers become tuples."""
        for field in dataclasses.fields(cast(Any, self)):  # for hashing, comparing and JSON
            object.__setattr__(self, field.name, _frozen(getattr(self, field.name)))
        name = type(self).__name__
        for bandwidth, value in self.bandwidths().items():
            _checks.positive(f"{name} {bandwidth}", value)
        _checks.finite_numbers(f"{name} weight", self.weight)

    @abstractmethod
    def bandwidths(self) -> dict[str, Number]:
        """The bandwidths by the names of their fields, in the order of the dimensions of a point.

        `learn_bandwidths=True` learns them. Two names have a fixed meaning: `position` is in pixels
        and has a dimension per axis; `color` is in units of an image on 0..255 and has a dimension
        per channel.

        Example:
            >>> from crfrnn import Bilateral
            >>> Bilateral(position=67, color=3).bandwidths()
            {'position': 67, 'color': 3}
        """

    @abstractmethod
    def maps(self, scene: Scene) -> Mapping[str, Sequence[Array]]:
        """The maps that each bandwidth divides: a list with one map per dimension of a point.

        A map is (B, *S), or broadcasts to it. The names and their order are those of `bandwidths`.
        The scene holds NumPy arrays where `refine` runs on the CPU, and tensors in the layer and
        for the other engines. Operators and indexing serve both. Maps that raise TypeError or
        AttributeError on NumPy arrays get tensors instead, if torch is loaded.

        Example:
            >>> import numpy as np
            >>> from crfrnn import Bilateral
            >>> from crfrnn.crf.kernel import Scene
            >>> scene = Scene(np.zeros((1, 2, 4, 6)), np.zeros((1, 3, 4, 6)))
            >>> {name: len(maps) for name, maps in Bilateral().maps(scene).items()}
            {'position': 2, 'color': 3}
        """

    def is_separable(self) -> bool:
        """Whether the kernel is a function of the position alone, with `position` its bandwidth.

        It may then run as a convolution along each axis, which is faster than a lattice and nearly
        exact.

        Example:
            >>> from crfrnn import Bilateral, Gaussian
            >>> Gaussian().is_separable(), Bilateral().is_separable()
            (True, False)
        """
        return False

    def points(self, scene: Scene, learned: Mapping[str, Array] | None = None) -> Array:
        """Points (B, N, D): the maps divided by the bandwidths.

        Args:
            scene: the batch.
            learned: bandwidths by name that replace the kernel's; gradients reach them.

        Raises:
            ValueError: the scene lacks an input of the kernel, or the numbers of bandwidths and
                dimensions differ.

        Example:
            >>> import numpy as np
            >>> from crfrnn import Gaussian
            >>> from crfrnn.crf.kernel import Scene
            >>> Gaussian(position=2).points(Scene(np.zeros((1, 2, 3))))[0, :, 0]
            array([0. , 0.5, 1. ])
        """
        maps, divisors = maps_and_divisors(self, scene, learned)
        like = scene.like
        if is_tensor(like):
            shape = (like.shape[0], *like.shape[2:])
            return _divided_tensors(maps, divisors, shape, like)
        images = [points_of(maps, divisors, like, b).array() for b in range(len(like))]
        return np.stack(images)

    def divisors(
        self, dimensions: Mapping[str, int], learned: Mapping[str, Array] | None = None
    ) -> tuple[float, ...] | Array:
        """One bandwidth for each dimension of a point: D numbers, or (D,) if they are learned.

        Args:
            dimensions: how many dimensions each bandwidth has.
            learned: bandwidths by name that replace the kernel's.

        Example:
            >>> from crfrnn import Bilateral
            >>> Bilateral(position=67, color=3).divisors({"position": 2, "color": 3})
            (67.0, 67.0, 3.0, 3.0, 3.0)
        """
        name, own = type(self).__name__, self.bandwidths()
        spread: list[float] = []
        for part, length in dimensions.items():
            numbers = _checks.positive(f"{name} {part}", own[part])
            if len(numbers) not in (1, length):
                raise ValueError(
                    f"{name} {part} has {len(numbers)} numbers for {length} "
                    f"{_DIMENSIONS.get(part, 'channels')}; give one, or {length}"
                )
            spread += numbers * length if len(numbers) == 1 else numbers
        if learned is None:
            return tuple(spread)
        parts = [learned[part].reshape(-1).expand(length) for part, length in dimensions.items()]
        return namespace(parts[0]).concatenate(parts)

    def with_bandwidths(self, numbers: Mapping[str, Any]) -> Kernel:
        """The same kernel with other bandwidths, by name: numbers, or lists of them.

        Example:
            >>> from crfrnn import Gaussian
            >>> Gaussian().with_bandwidths({"position": [2, 5]})
            Gaussian(position=(2, 5), weight=3.0, lattice=False)
        """
        changed = {name: _frozen(value) for name, value in numbers.items()}
        return cast(Kernel, dataclasses.replace(cast(Any, self), **changed))

    def to_dict(self) -> dict[str, Any]:
        """The kernel as JSON and YAML store it: its `kind`, then its fields.

        Example:
            >>> from crfrnn import Gaussian
            >>> Gaussian(position=2).to_dict()
            {'kind': 'Gaussian', 'position': 2, 'weight': 3.0, 'lattice': False}
        """
        names = [field.name for field in dataclasses.fields(cast(Any, self)) if field.init]
        return {"kind": type(self).__name__, **{name: getattr(self, name) for name in names}}

    @staticmethod
    def from_dict(entry: Mapping[str, Any]) -> Kernel:
        """Make a kernel from the result of `to_dict`; missing fields have their defaults.

        Raises:
            ValueError: the kind or a field is not known, or a number is out of range.
            TypeError: a value is of a wrong type.

        Example:
            >>> from crfrnn import Kernel
            >>> Kernel.from_dict({"kind": "Bilateral", "position": [30, 20], "color": 5})
            Bilateral(position=(30, 20), color=5, weight=5.0)
        """
        kind, fields = Kernel.kind_of(entry)
        known = [field.name for field in dataclasses.fields(kind) if field.init]
        for name in fields:
            _checks.one_of(f"field of {kind.__name__}", name, known)
        return cast(Kernel, kind(**{name: _frozen(value) for name, value in fields.items()}))

    @staticmethod
    def kind_of(entry: Mapping[str, Any]) -> tuple[type[Any], dict[str, Any]]:
        """The class that a file's entry names, and the fields in that entry.

        Example:
            >>> from crfrnn import Kernel
            >>> Kernel.kind_of({"kind": "Gaussian", "position": 3})
            (<class 'crfrnn.crf.kernels.Gaussian'>, {'position': 3})
        """
        fields = dict(entry)
        if "kind" not in fields:
            raise ValueError(f"a kernel needs its kind, one of: {', '.join(_KINDS)}; got {fields}")
        kind = fields.pop("kind")
        if not isinstance(kind, str) or kind not in _KINDS:
            raise ValueError(
                f"unknown kind {kind!r}; expected one of: {', '.join(_KINDS)}. Import the module "
                f"of a kernel of your own first."
            )
        return _KINDS[kind], fields


def maps_and_divisors(
    kernel: Kernel, scene: Scene, learned: Mapping[str, Array] | None = None
) -> tuple[list[Array], Any]:
    """The maps of all dimensions of the points, and their divisors; see `Kernel.points`."""
    named = kernel.maps(scene)
    if list(named) != list(kernel.bandwidths()) or any(
        is_tensor(maps) or isinstance(maps, np.ndarray) for maps in named.values()
    ):
        raise ValueError(
            f"{type(kernel).__name__}.maps must give a list of maps for each of "
            f"{', '.join(kernel.bandwidths())}, in this order; got {', '.join(named)}"
        )
    maps = [channel for part in named.values() for channel in part]
    divisors = kernel.divisors({name: len(part) for name, part in named.items()}, learned)
    return maps, divisors


def points_of(
    maps: Sequence[np.ndarray], divisors: Sequence[float], like: np.ndarray, b: int
) -> Points:
    """The points of image `b` of a batch, from maps that are (B, *S) or broadcast to it."""
    size = like.shape[2:]
    of_image = [
        channel[b if len(channel) > 1 else 0] if channel.ndim > len(size) else channel
        for channel in maps
    ]
    return Points([part.astype(like.dtype, copy=False) for part in of_image], divisors, size)


def _divided_tensors(
    maps: Sequence[Array], divisors: Any, shape: tuple[int, ...], like: Array
) -> Array:
    from crfrnn import ops  # late: it needs torch

    torch = namespace(like)
    maps = [channel.to(like.dtype) for channel in maps]
    if not is_tensor(divisors):
        if like.device.type == "cpu" and ops.direct(*maps):
            # In NumPy: `_checks.plain` says why.
            points = torch.empty((*shape, len(maps)), dtype=like.dtype, device=like.device)
            numbers = np.array(divisors, points.numpy().dtype)
            with np.errstate(all="ignore"):  # the filter refuses what is not finite
                for k, (channel, number) in enumerate(zip(maps, numbers, strict=True)):
                    np.divide(np.from_dlpack(channel.detach()), number, out=points.numpy()[..., k])
            return points.flatten(1, -2)
        divisors = like.new_tensor(divisors)
    return torch.stack([channel.expand(shape).flatten(1) for channel in maps], dim=2) / divisors


def _is_ours(kind: type[Kernel]) -> bool:
    return kind.__module__.startswith(f"{__package__}.")


def _frozen(value: Any) -> Any:
    """A value as a frozen dataclass stores it: arrays become numbers, and lists tuples."""
    value = (
        value.tolist() if isinstance(value, (np.ndarray, np.generic)) or is_tensor(value) else value
    )
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
