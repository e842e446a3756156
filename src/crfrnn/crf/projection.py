"""Wide feature maps, projected onto the few directions in which they vary most."""

from __future__ import annotations

from crfrnn._arrays import Array, cast, is_tensor, namespace


def principal_components(maps: Array, components: int) -> Array:
    """Project maps (B, F, *S) onto their `components` principal components, image by image.

    The directions are orthonormal, so the projection keeps the unit of the map and never lengthens
    a distance. Of all projections onto so many dimensions it keeps the largest mean squared
    distance between the pixels of an image. Maps that are no wider come back as they are.

    Returns:
        (B, components, *S), of mean zero. Gradients reach the maps through the projection; its
        directions count as constants.
    """
    batch, channels = maps.shape[:2]
    if channels <= components:
        return maps
    flat = maps.reshape(batch, channels, -1)
    centered = flat - flat.mean(2)[..., None]
    directions = cast(_directions(centered, components), maps.dtype)
    return (directions.swapaxes(1, 2) @ centered).reshape(batch, components, *maps.shape[2:])


def _directions(centered: Array, components: int) -> Array:
    """The eigenvectors (B, F, components) of the largest eigenvalues of the covariance."""
    space = namespace(centered)
    wide = cast(centered.detach() if is_tensor(centered) else centered, space.float64)
    _, vectors = space.linalg.eigh(wide @ wide.swapaxes(1, 2))  # eigenvalues in ascending order
    found = vectors[..., -components:]
    # Either sign will do, but a lattice rounds them differently: the largest entry is positive.
    return found * space.sign(space.amax(found, 1) + space.amin(found, 1))[:, None]
