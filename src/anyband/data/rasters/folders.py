"""Folders of single-band files, whose names say the band: `..._B02.tif`, `B2.tif`, `l8_B10.tif`, `VV.tif`."""

from pathlib import Path

from anyband.data.rasters.bands import file_names, known_names, match_band
from anyband.data.rasters.records import RasterSource
from anyband.errors import RasterError
from anyband.sensors.sensor import Sensor

__all__ = ["band_files"]

_RASTER_ENDINGS = (".tif", ".tiff", ".jp2", ".png", ".jpg", ".jpeg", ".img", ".bsq", ".nc", ".h5")


def band_files(folder: Path, source: RasterSource, sensor: Sensor) -> tuple[Path, ...]:
    """List the files of a folder that hold bands asked for, by name; others (quality, previews) are left out.

    Raises:
        RasterError: none of them does.
    """
    rasters = sorted(path for path in folder.iterdir() if path.suffix.lower() in _RASTER_ENDINGS)
    declared = {name.casefold() for _, name in source.bands if name}
    wanted = {sensor.band(band).name for band, name in source.bands if not name}
    if not source.bands:
        wanted = set(sensor.band_names)
    known = known_names(sensor)
    found = tuple(
        path
        for path in rasters
        if declared & {name.casefold() for name in file_names(path)} or match_band(path.stem, known) in wanted
    )
    if found:
        return found
    names = ", ".join(path.name for path in rasters[:5])
    raise RasterError(
        f"folder '{folder}' has no file named after a band of '{sensor.name}' "
        f"({', '.join(sensor.band_names[:16])}); found "
        f"{names or 'no rasters'}{' …' if len(rasters) > 5 else ''}"
    )
