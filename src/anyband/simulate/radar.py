"""C-band backscatter: mean by material, slopes, and speckle."""

import numpy as np

from anyband.errors import CatalogueError
from anyband.sensors.spectrum import RadarBeam
from anyband.shapes import Array, Float
from anyband.simulate.materials import load_materials
from anyband.simulate.surface import Surface

__all__ = ["C_BAND_GHZ", "material_sigma0", "slope_gain", "speckle"]

C_BAND_GHZ = (4.0, 8.0)
"""Where the table of backscatter is taken to hold. Source: IEEE Std 521-2019, letter bands."""

# chosen: incidence of 37 degrees, the middle of the IW swath of Sentinel-1, looking from the west.
_INCIDENCE_DEG = 37.0


def material_sigma0(surface: Surface, beam: RadarBeam) -> Float[Array, " present"]:
    """Give the linear backscatter of the materials that are present.

    Raises:
        CatalogueError: the beam is not C band, or the table has no such polarisation.
    """
    known = sorted({name for material in load_materials() for name, _ in material.sigma0_db})
    if not C_BAND_GHZ[0] <= beam.frequency_ghz <= C_BAND_GHZ[1] or beam.polarisation not in known:
        raise CatalogueError(
            f"the simulator knows backscatter at C band ({C_BAND_GHZ[0]:g} to {C_BAND_GHZ[1]:g} GHz) in "
            f"{' and '.join(known)}, asked for {beam.frequency_ghz:g} GHz {beam.polarisation}; "
            "use 'sentinel1-grd'"
        )
    sigma0_db = np.array([dict(material.sigma0_db).get(beam.polarisation, -np.inf) for material in load_materials()])
    linear: Array = 10 ** ((sigma0_db + surface.palette.sigma0_db) / 10)
    return linear[list(surface.materials)]


def slope_gain(surface: Surface) -> Float[Array, "row col"]:
    """Compute how much more power slopes facing the radar send back than flat ground does; 1 on flat ground.

    chosen: power falls with the tangent of the local incidence angle, kept within a factor of 2.
    """
    landscape = surface.landscape
    toward_radar = -np.gradient(landscape.relief_m, landscape.frame.detail_m, axis=1)
    incidence = np.radians(_INCIDENCE_DEG)
    local = np.clip(incidence + np.arctan(toward_radar), np.radians(10), np.radians(80))
    gain: Float[Array, "row col"] = np.clip(np.tan(incidence) / np.tan(local), 0.5, 2.0).astype(np.float32)
    return gain


def speckle(rng: np.random.Generator, shape: tuple[int, ...], *, looks: float) -> Float[Array, "..."]:
    """Draw multiplicative speckle of intensity: gamma with mean 1 and variance 1 / looks.

    Source:
        Ulaby and Long, Microwave Radar and Radiometric Remote Sensing (2014): fading of multi-look power.
    """
    return (rng.standard_gamma(looks, shape, dtype=np.float32) / np.float32(looks)).astype(np.float32)
