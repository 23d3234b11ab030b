"""What lies between ground and sensor on one day: clouds, their shadows, haze; and where the swath ends."""

from dataclasses import dataclass

import numpy as np

from anyband.shapes import Array, Bool, Float
from anyband.simulate.fields import Frame, fractal_noise
from anyband.simulate.season import Sun

__all__ = ["Sky", "clear_sky", "draw_sky", "hazy", "swath"]

# chosen: fair-weather clouds cover this much of a footprint where there are any, at this height.
_CLOUD_COVER = (0.05, 0.45)
_CLOUD_BASE_M = (250.0, 600.0)
_CLOUD_SHADOW = 0.55  # chosen: share of the light that a thick cloud takes from the ground in its shadow

# chosen: haze that is left after correction of the atmosphere: share of scattered light at 550 nm, its
# brightness, and the exponent by which it falls with wavelength; and the error of calibration.
_HAZE_SPREAD = 0.015
_HAZE_BRIGHTNESS = 0.35
_HAZE_EXPONENT = 1.5
_GAIN_SPREAD = 0.02


@dataclass(frozen=True, kw_only=True)
class Sky:
    """The air over a place during one acquisition."""

    cloud: Float[Array, "row col"]
    """Opacity of clouds, 0 to 1."""
    light: Float[Array, "row col"]
    """Sunlight left in the shadow of clouds, 0 to 1."""
    haze: float
    """Share of scattered light at 550 nm."""
    gain: float
    """Error of calibration, a factor."""

    @property
    def cloud_share(self) -> float:
        """Share of the footprint under cloud."""
        return float(self.cloud.mean())


def clear_sky(frame: Frame) -> Sky:
    """Make a sky with nothing in it."""
    shape = (frame.num_pixels,) * 2
    return Sky(cloud=np.zeros(shape, dtype=np.float32), light=np.ones(shape, dtype=np.float32), haze=0.0, gain=1.0)


def draw_sky(rng: np.random.Generator, frame: Frame, sun: Sun, *, cloudy: bool) -> Sky:
    """Draw the air of one acquisition; clouds throw shadows away from the sun."""
    clear = clear_sky(frame)
    haze = abs(float(rng.normal(0, _HAZE_SPREAD)))
    gain = 1 + float(rng.normal(0, _GAIN_SPREAD))
    if not cloudy:
        return Sky(cloud=clear.cloud, light=clear.light, haze=haze, gain=gain)
    # Drawn on a wider frame, so that clouds outside the footprint can throw their shadows into it.
    margin = frame.num_pixels // 2
    wide = Frame(footprint_m=(frame.num_pixels + 2 * margin) * frame.detail_m, detail_m=frame.detail_m)
    surface = fractal_noise(rng, wide, longest_m=320.0, shortest_m=20.0, roughness=0.55)
    edge = np.quantile(surface[::4, ::4], 1 - rng.uniform(*_CLOUD_COVER))
    opacity = np.clip((surface - np.float32(edge)) / np.float32(0.5), 0, 1)
    shift = rng.uniform(*_CLOUD_BASE_M) / np.tan(np.radians(max(sun.elevation_deg, 25.0))) / frame.detail_m
    azimuth = np.radians(sun.azimuth_deg)
    away = (round(float(np.cos(azimuth)) * shift), round(-float(np.sin(azimuth)) * shift))
    return Sky(
        cloud=_cut(opacity, margin, frame.num_pixels, (0, 0)),
        light=1 - np.float32(_CLOUD_SHADOW) * _cut(opacity, margin, frame.num_pixels, away),
        haze=haze,
        gain=gain,
    )


def hazy(
    reflectance: Float[Array, "material wavelength"], wavelength_nm: Float[Array, " wavelength"], sky: Sky
) -> Array:
    """See reflectances through the haze of a sky; blue suffers most, nothing changes beyond 2500 nm."""
    share = np.minimum(sky.haze * (550.0 / wavelength_nm) ** _HAZE_EXPONENT, 1.0)
    seen = sky.gain * (reflectance * (1 - share) + _HAZE_BRIGHTNESS * share)
    return np.where(wavelength_nm <= 2500.0, np.clip(seen, 0, 1), reflectance)


def swath(rng: np.random.Generator, num_pixels: int) -> Bool[Array, "row col"]:
    """Draw the slanted edge of a swath: True inside; up to a third of the footprint lies outside."""
    angle = rng.uniform(0, 2 * np.pi)
    position = np.arange(num_pixels) / num_pixels - 0.5
    across = np.sin(angle) * position[:, None] + np.cos(angle) * position[None, :]
    return np.asarray(across < np.quantile(across, 1 - rng.uniform(0.05, 0.33)))


def _cut(opacity: Array, margin: int, size: int, away: tuple[int, int]) -> Array:
    """Take the footprint out of the wide frame, after moving what is there by (rows, cols)."""
    row, col = (int(np.clip(margin - step, 0, 2 * margin)) for step in away)
    return opacity[row : row + size, col : col + size]
