"""Arrays of stored numbers that users give, checked, with what is known of each image."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from anyband.errors import InputError
from anyband.shapes import Array
from anyband.tasks.feature_records import EncodeOptions, ImageMetadata, SetImage
from anyband.tasks.image_metadata import CheckedFacts, checked_facts

__all__ = ["StoredImages", "check_set_options", "set_image", "set_names", "stored_images"]


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredImages:
    """Images of one size."""

    dn: Tensor
    """(image, band, row, col), as stored."""
    valid: Tensor | None
    """Which pixels have data; None: the sensor's nodata tells."""
    single: bool
    """Whether one image was given, without a batch axis."""
    facts: tuple[CheckedFacts, ...] = ()
    """Of each image; empty: nothing is known."""
    first: int = 0
    """Position of the first of them in what the user gave."""

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of each image."""
        return self.dn.shape[2], self.dn.shape[3]

    def parts(self, size: int) -> Iterator["StoredImages"]:
        """Give the images a few at a time."""
        for first in range(0, len(self.dn), size):
            chosen = slice(first, first + size)
            valid = None if self.valid is None else self.valid[chosen]
            yield replace(self, dn=self.dn[chosen], valid=valid, facts=self.facts[chosen], first=first)

    def input_gsd_m(self, facts: CheckedFacts, img_size: int | None) -> float:
        """Compute how large a pixel is on the ground, metres, when an image is resized whole; NaN where unknown."""
        height, width = self.size
        return facts.gsd_m if img_size is None else facts.gsd_m * math.sqrt(height * width) / img_size


def stored_images(
    array: Array | Tensor,
    valid: Array | Tensor | None,
    *,
    metadata: ImageMetadata | Sequence[ImageMetadata] | None = None,
) -> StoredImages:
    """Check images and bring them to tensors with a batch axis.

    Args:
        array: (band, row, col) or (batch, band, row, col).
        valid: of the array's shape.
        metadata: of the image, or of each.

    Raises:
        InputError: another shape, or wrong metadata.
    """
    shape = tuple(array.shape)
    if len(shape) not in (3, 4) or 0 in shape:
        raise InputError(
            f"an array of shape {shape} is no image; give (band, row, col) or (batch, band, row, col), each at least 1"
        )
    if valid is not None and tuple(valid.shape) != shape:
        raise InputError(f"'valid' has shape {tuple(valid.shape)}, the array {shape}; give one for each pixel")
    single = len(shape) == 3
    dn = _tensor(array)
    seen = None if valid is None else _tensor(valid)
    if single:
        dn, seen = dn[None], None if seen is None else seen[None]
    return StoredImages(dn=dn, valid=seen, single=single, facts=_facts(metadata, len(dn)))


def set_image(image: SetImage, name: str) -> StoredImages:
    """Check the array of an image of a set.

    Args:
        image: to check.
        name: of it, for messages.

    Raises:
        InputError: it is no single image.
    """
    if len(image.array.shape) != 3:
        raise InputError(
            f"{name} is an array of shape {tuple(image.array.shape)}; each image of a set is one (band, row, col)"
        )
    try:
        return stored_images(image.array, image.valid)
    except InputError as problem:
        raise InputError(f"{name}: {problem}") from problem


def set_names(images: Sequence[SetImage]) -> list[str]:
    """Name the images of a set in messages."""
    sensors = [one.sensor if isinstance(one.sensor, str) else one.sensor.name for one in images]
    return [f"image {position} of the set ({sensor})" for position, sensor in enumerate(sensors)]


def check_set_options(images: Sequence[SetImage], options: EncodeOptions) -> None:
    """See that there are images, and that nothing is said of all of them that each has to say for itself.

    Raises:
        InputError: otherwise.
    """
    if not images:
        raise InputError("a set needs at least one image; found none")
    for what in ("statistics", "metadata"):
        if getattr(options, what) is not None:
            raise InputError(f"the images of a set have {what} of their own: give them to each SetImage")


def _facts(metadata: ImageMetadata | Sequence[ImageMetadata] | None, count: int) -> tuple[CheckedFacts, ...]:
    if metadata is None:
        return ()
    given = [metadata] if isinstance(metadata, ImageMetadata) else metadata
    if len(given) != count:
        raise InputError(
            f"'metadata' is of {len(given)} image{'s' * (len(given) != 1)}, the array holds {count}; give one for each"
        )
    return tuple(checked_facts(one, name=f"image {position}") for position, one in enumerate(given))


def _tensor(array: Array | Tensor) -> Tensor:
    if isinstance(array, Tensor):
        return array
    # Torch takes neither foreign byte orders nor negative strides, as readers and flips leave them.
    return torch.from_numpy(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")))
