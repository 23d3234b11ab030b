"""What is given to an encoder and what comes back, for one image and for sets of images of one place."""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from torch import Tensor

from anyband.sensors.sensor import BandStatistics, Sensor
from anyband.shapes import Array, Bool, Float, Num

__all__ = ["Corners", "EncodeOptions", "Features", "ImageMetadata", "Pool", "Precision", "SetFeatures", "SetImage"]

Precision = Literal["float32", "bf16"]
Pool = Literal["cls", "mean"]
Corners = Sequence[Sequence[float | int]] | Array
"""Four (longitude, latitude) in degrees: upper left, upper right, lower right, lower left."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageMetadata:
    """Where, how finely and when an image was taken. What is not known is None, and is encoded as unknown.

    Only networks that were trained with encodings of these facts use them.
    """

    corners_deg: Corners | None = None
    """(longitude, latitude) of the image's outer corners: upper left, upper right, lower right, lower left."""
    gsd_m: float | int | None = None
    """Ground sampling distance of the image's own pixels, metres."""
    datetime: dt.datetime | dt.date | np.datetime64 | str | None = None
    """Time of acquisition; text is ISO 8601, and UTC is meant where no zone is given."""


@dataclass(frozen=True, kw_only=True)
class EncodeOptions:
    """What is seldom changed when images are encoded."""

    img_size: int | None = None
    """Side in pixels to which whole images are resized (bicubic, anti-aliased), a multiple of the patch
    size. None: images that the patch size divides stay as they are, others get the checkpoint's own size;
    so do the images of a set that differ in size."""
    precision: Precision = "float32"
    """float32, or bf16 for the network's arithmetic; features are float32 in both."""
    statistics: Mapping[str, BandStatistics] | None = None
    """By band, in physical units; None: the checkpoint's for this sensor, else the catalogue's. The images of a
    set have their own."""
    batch_size: int = 64
    """Images that go through the network at once."""
    metadata: ImageMetadata | Sequence[ImageMetadata] | None = None
    """Of the image, or of each image of a batch; None: nothing is known. The images of a set have their own."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Features:
    """Features of one image, or of a batch with the batch first; both after the final norm, float32."""

    cls: Float[Tensor, "*batch width"]
    """One vector an image: the CLS token. Of an image inside a set, whose sequence has one CLS for all: the mean of
    the image's own patches with data; NaN where none has."""
    map: Float[Tensor, "*batch width row col"]
    """One vector a patch; NaN for patches with under half of their pixels valid."""
    support: dict[str, float] = field(default_factory=dict)
    """How well the trained ranges back each band, 0 to 1; 1 for bands that are exactly known."""
    notes: tuple[str, ...] = ()
    """Encoding and statistics that were used, and each band that was interpolated or dropped."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SetImage:
    """One image of a set: stored numbers, what they are, and what is known of the image."""

    array: Num[Array, "..."] | Num[Tensor, "..."]
    """(band, row, col), as the file stores it. Images of a set show the same ground, in pixels of any size."""
    sensor: str | Sensor
    """Name in the catalogue, a YAML file, or a record."""
    bands: Sequence[str] | None = None
    """Of the array, in its order; None: all of the sensor's."""
    encoding: str | None = None
    """How the numbers are stored; None: the sensor's default."""
    valid: Bool[Array, "..."] | Bool[Tensor, "..."] | None = None
    """Which pixels have data; None: all but the sensor's nodata. NaN is missing in both cases."""
    corners_deg: Corners | None = None
    """As `ImageMetadata.corners_deg`."""
    gsd_m: float | int | None = None
    """As `ImageMetadata.gsd_m`."""
    datetime: dt.datetime | dt.date | np.datetime64 | str | None = None
    """As `ImageMetadata.datetime`."""
    statistics: Mapping[str, BandStatistics] | None = None
    """By band, in physical units; None: the checkpoint's for this sensor, else the catalogue's."""

    @property
    def metadata(self) -> ImageMetadata:
        """What is known of the image."""
        return ImageMetadata(corners_deg=self.corners_deg, gsd_m=self.gsd_m, datetime=self.datetime)


@dataclass(frozen=True, kw_only=True, eq=False)
class SetFeatures:
    """Features of a place and of each of its images, all from one joint sequence; after the final norm, float32."""

    place: Float[Tensor, "width"]
    """CLS of the sequence of all images."""
    images: tuple[Features, ...]
    """Of each image, in the order given; every patch has seen the other images too."""
    notes: tuple[str, ...] = ()
    """What concerns the set as a whole."""
