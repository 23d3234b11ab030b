"""A contact sheet of simulated places: colour, infrared, radar, thermal and the land-cover map."""

from pathlib import Path

import numpy as np

from anyband.sensors.sensor import Band, Sensor
from anyband.sensors.spectrum import OpticalRange, RadarBeam
from anyband.shapes import Array, Float
from anyband.simulate.covers import load_covers
from anyband.simulate.options import SimulateOptions
from anyband.simulate.render import Image, RenderedPlace, render_place
from anyband.whole_files import whole_file

__all__ = ["draw_preview"]

_RED_NM, _GREEN_NM, _BLUE_NM, _INFRARED_NM = 660.0, 560.0, 480.0, 850.0
_DOTS_PER_INCH = 110
_PANEL_INCHES = 2.6


def draw_preview(path: Path, options: SimulateOptions, *, indices: tuple[int, ...]) -> None:
    """Draw some of the places of a run, a row each; rendered anew, they come out the same.

    Args:
        path: PNG to write.
        options: of the run.
        indices: places to draw.
    """
    from matplotlib.figure import Figure

    rows = [_panels(render_place(options, index)) for index in indices]
    columns = max(len(row) for row in rows)
    figure = Figure(figsize=(_PANEL_INCHES * columns, (_PANEL_INCHES + 0.3) * len(rows)), layout="compressed")
    axes = np.atleast_2d(figure.subplots(len(rows), columns, squeeze=False))
    for row, panels in zip(axes, rows, strict=True):
        for axis, (title, picture) in zip(row, panels, strict=False):
            axis.imshow(picture, interpolation="nearest", cmap="inferno")
            axis.set_title(title, fontsize=7)
        for axis in row:
            axis.set_axis_off()
    with whole_file(path) as beside:
        figure.savefig(beside, dpi=_DOTS_PER_INCH)


def _panels(rendered: RenderedPlace) -> list[tuple[str, Array]]:
    place = rendered.place
    panels = [_colour_panel(rendered, (_RED_NM, _GREEN_NM, _BLUE_NM))]
    panels.append(_colour_panel(rendered, (_INFRARED_NM, _RED_NM, _GREEN_NM)))
    radar = [image for image in rendered.images if isinstance(image.sensor.bands[0].spectrum, RadarBeam)]
    panels += [_radar_panel(image) for image in radar[:1]]
    panels += _thermal_panels(rendered)[:1]
    colours = np.array([(0, 0, 0), *(tuple(bytes.fromhex(cover.colour[1:])) for cover in load_covers())], np.uint8)
    panels.append((f"{place.theme.name}, {place.latitude_deg:.0f}°", colours[rendered.cover]))
    return panels


def _colour_panel(rendered: RenderedPlace, wavelengths_nm: tuple[float, ...]) -> tuple[str, Array]:
    fitting = [
        image for image in rendered.images if all(_band_at(image.sensor, nm) is not None for nm in wavelengths_nm)
    ]
    if not fitting:
        return "", np.zeros((1, 1, 3))
    image = min(fitting, key=lambda candidate: candidate.sensor.gsd_m)
    names = [band.name for nm in wavelengths_nm if (band := _band_at(image.sensor, nm))]
    planes = np.stack([image.stored[image.sensor.band_index(name)].astype(float) for name in names], axis=-1)
    # True colours need one stretch for all three; false ones show more with a stretch each.
    picture = _stretched(planes, together=wavelengths_nm[0] == _RED_NM)
    return f"{image.sensor.name} {image.datetime_utc:%d %b} {' '.join(names)}", picture


def _radar_panel(image: Image) -> tuple[str, Array]:
    first, last = image.stored[0].astype(float), image.stored[-1].astype(float)
    planes = np.stack([first, last, first - last], axis=-1)
    return f"{image.sensor.name} {image.datetime_utc:%d %b}", _stretched(planes, together=False)


def _thermal_panels(rendered: RenderedPlace) -> list[tuple[str, Array]]:
    panels = []
    for image in rendered.images:
        for band, plane in zip(image.sensor.bands, image.stored, strict=True):
            if band.unit == "kelvin":
                encoding = band.encoding(image.sensor.default_encoding)
                kelvin = np.where(plane == image.sensor.nodata, np.nan, plane * encoding.scale + encoding.offset)
                title = f"{band.name}: {np.nanmin(kelvin):.0f} to {np.nanmax(kelvin):.0f} K"
                panels.append((title, kelvin))
    return panels


def _band_at(sensor: Sensor, wavelength_nm: float) -> Band | None:
    """Find the band that covers a wavelength, the one with the nearest centre of several."""
    covering = [
        band
        for band in sensor.bands
        if isinstance(band.spectrum, OpticalRange) and band.spectrum.low_nm <= wavelength_nm <= band.spectrum.high_nm
    ]
    return min(covering, key=lambda band: abs(band.spectrum.center_nm - wavelength_nm), default=None)


def _stretched(planes: Float[Array, "row col plane"], *, together: bool) -> Float[Array, "row col plane"]:
    low, high = np.nanpercentile(planes, (1, 99), axis=None if together else (0, 1))
    stretched: Float[Array, "row col plane"] = np.clip((planes - low) / np.maximum(high - low, 1e-9), 0, 1)
    return np.asarray(np.nan_to_num(stretched))
