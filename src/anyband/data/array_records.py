"""What a chip store says of its arrays."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from anyband.sensors.sensor import Encoding

__all__ = ["ArrayInfo", "ArraySpec"]


@dataclass(frozen=True, kw_only=True)
class ArraySpec:
    """What all chips of one array share."""

    sensor: str
    """Name of the sensor."""
    bands: tuple[str, ...]
    """Names of the bands, in order."""
    height: int
    """Rows of a chip."""
    width: int
    """Columns of a chip."""
    dtype: str
    """NumPy name of the stored type, for example `uint16`."""
    encoding: Mapping[str, Encoding]
    """How the stored numbers of each band become physical values."""
    nodata: float | None
    """Stored number at places without data; None where only the `valid` array tells."""

    def to_dict(self) -> dict[str, Any]:
        """Make plain JSON; `from_dict` is its inverse."""
        encoding = {band: asdict(entry) for band, entry in self.encoding.items()}
        return {**vars(self), "bands": list(self.bands), "encoding": encoding}


@dataclass(frozen=True, kw_only=True)
class ArrayInfo(ArraySpec):
    """One array of a store."""

    name: str
    """Name of the array and of its folder, for example `sentinel2-l2a_96x96`."""
    num_chips: int
    """Number of chips."""
    chips_per_shard: int
    """Chips in one file; chips of one shard are read faster together."""
    has_valid: bool
    """Whether the store keeps a `valid` array beside it."""
    digest: str
    """Hash of all stored numbers and their validity."""

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> "ArrayInfo":
        """Read what `to_dict` wrote."""
        encoding = {band: Encoding(**numbers) for band, numbers in entry["encoding"].items()}
        return cls(**{**entry, "bands": tuple(entry["bands"]), "encoding": encoding})
