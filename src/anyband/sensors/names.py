"""One translator among the ways in which other projects name a sensor's bands.

Conventions: `catalogue` (the product's own, as in this package), `torchgeo` (`B02`, `VV`), `pangaea`
(`B2`), `terratorch` (`BLUE`, `NIR_NARROW`; may carry a prefix, `S2L2A.BLUE`), `stac` (common names,
`nir08`) and `geobench` (`02 - Blue`). Every alias that a table lists is understood; the conventions tell
which one to give back.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Literal, get_args

from anyband.errors import CatalogueError, nearest_name
from anyband.sensors.catalogue import find_sensor_name
from anyband.sensors.sensor import Band, Sensor

__all__ = ["Convention", "band_name", "find_band", "find_bands", "translate"]

Convention = Literal["catalogue", "torchgeo", "pangaea", "terratorch", "stac", "geobench"]

# The first of these that a band goes by is its name.
# Source: STAC EO extension 1.1, common band names; rededge1 to 3: Earth Search, Sentinel-2 collections.
_STAC_NAMES = (
    *("coastal", "blue", "green", "green05", "yellow", "red"),
    *("rededge1", "rededge2", "rededge3", "rededge071", "rededge075", "rededge078", "rededge"),
    *("nir", "nir08", "nir09", "cirrus", "swir16", "swir22", "lwir11", "lwir12", "lwir", "pan"),
)
# Source: TerraTorch, band enumerations of its data sets (optical, HLS and SAR bands).
_TERRATORCH_NAMES = (
    *(
        "COASTAL_AEROSOL",
        "BLUE",
        "GREEN",
        "YELLOW",
        "RED",
        "RED_EDGE_1",
        "RED_EDGE_2",
        "RED_EDGE_3",
        "RED_EDGE",
    ),
    *("NIR_BROAD", "NIR_NARROW", "NIR", "WATER_VAPOR", "CIRRUS", "SWIR_1", "SWIR_2", "SWIR_3"),
    *("THERMAL_INFRARED_1", "THERMAL_INFRARED_2", "PAN", "VV", "VH", "HH", "HV"),
)
_PADDED = re.compile(r"B0(\d)")
_UNPADDED = re.compile(r"B(\d)(A?)")
_GEOBENCH = re.compile(r"\d{2}A? - .+")


def find_band(name: str, sensor: Sensor) -> Band:
    """Find the band of a sensor that any convention's name means.

    Args:
        name: for example `B02`, `B2`, `BLUE`, `nir08`, `02 - Blue` or `S2L2A.BLUE`; case does not count.
        sensor: whose band it is.

    Raises:
        CatalogueError: the sensor has no such band, or the prefix names another sensor.
    """
    prefix, dot, rest = name.rpartition(".")
    if not dot or _has(sensor, name):
        return sensor.band(name)
    owner = find_sensor_name(prefix)
    if owner is not None and owner != sensor.name and prefix.casefold() not in _words(sensor):
        raise CatalogueError(f"'{name}' is a band of sensor '{owner}', but '{sensor.name}' was declared")
    return sensor.band(rest)


def find_bands(names: Iterable[str], sensor: Sensor) -> Sensor:
    """Make the sensor that has only the named bands, in the order given, named in any convention.

    Raises:
        CatalogueError: see `find_band`; or a band is named twice.
    """
    return sensor.select([find_band(name, sensor).name for name in names])


def band_name(band: Band, convention: Convention) -> str:
    """Name a band in a convention.

    Raises:
        CatalogueError: the convention has no name for this band, or is unknown.
    """
    if convention not in _NAMERS:
        raise CatalogueError(
            f"there is no naming convention '{convention}' (known: {', '.join(get_args(Convention))})"
            f"{nearest_name(convention, get_args(Convention))}"
        )
    found = _NAMERS[convention](band)
    if found is None:
        names = ", ".join((band.name, *band.aliases))
        raise CatalogueError(f"convention '{convention}' has no name for band '{band.name}' (known as {names})")
    return found


def translate(names: Iterable[str], sensor: Sensor, *, to: Convention) -> tuple[str, ...]:
    """Rename bands of a sensor from any convention, mixed or not, to one.

    Translating to a convention and back to `catalogue` gives the catalogue's names.

    Args:
        names: bands of the sensor.
        sensor: whose bands they are.
        to: convention to give.

    Raises:
        CatalogueError: see `find_band` and `band_name`.
    """
    return tuple(band_name(find_band(name, sensor), to) for name in names)


def _has(sensor: Sensor, name: str) -> bool:
    folded = name.casefold()
    return any(folded == word.casefold() for band in sensor.bands for word in (band.name, *band.aliases))


def _words(sensor: Sensor) -> set[str]:
    return {sensor.name.casefold(), *(alias.casefold() for alias in sensor.aliases)}


def _catalogue(band: Band) -> str:
    return band.name


def _torchgeo(band: Band) -> str:
    """Give TorchGeo's name: Sentinel-2 bands with two digits, other products' own names."""
    short = _UNPADDED.fullmatch(band.name)
    padded = f"B0{short.group(1)}" if short and not short.group(2) else band.name
    return padded if padded in band.aliases else band.name


def _pangaea(band: Band) -> str:
    """Give PANGAEA's name: without zeros before the number."""
    return _PADDED.sub(r"B\1", band.name) if _PADDED.fullmatch(band.name) else band.name


def _terratorch(band: Band) -> str | None:
    return _first(_TERRATORCH_NAMES, band)


def _stac(band: Band) -> str | None:
    return _first(_STAC_NAMES, band)


def _geobench(band: Band) -> str | None:
    return next((alias for alias in band.aliases if _GEOBENCH.fullmatch(alias)), None)


def _first(vocabulary: Iterable[str], band: Band) -> str | None:
    """Find the first word of the vocabulary that a band goes by."""
    known = {word.casefold() for word in (band.name, *band.aliases)}
    return next((word for word in vocabulary if word.casefold() in known), None)


_NAMERS: Mapping[str, Callable[[Band], str | None]] = {
    "catalogue": _catalogue,
    "torchgeo": _torchgeo,
    "pangaea": _pangaea,
    "terratorch": _terratorch,
    "stac": _stac,
    "geobench": _geobench,
}
