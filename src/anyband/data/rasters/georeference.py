"""Names of coordinate systems, and the size of a pixel on the ground."""

import math
from functools import lru_cache
from typing import Any

from anyband.data.tiles import Transform

__all__ = ["crs_name", "pixel_size_m", "same_crs"]

# chosen: UTM departs from the ground by up to 0.1 % and its pixels are called 10 m all the same; Web Mercator
# departs by 1 / cos(latitude), which must not pass.
_PROJECTION_TOLERANCE = 0.01


# chosen: more systems than an archive has.
_KNOWN_CRS = 128


@lru_cache(maxsize=_KNOWN_CRS)
def crs_name(wkt: str) -> str | None:
    """Name a coordinate system: `EPSG:n` where it has a number, else its WKT; None for no place on Earth."""
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    try:
        crs = CRS.from_string(wkt) if wkt.strip() else CRS()
    except CRSError:
        return None
    if not crs.is_projected and not crs.is_geographic:
        return None
    number = crs.to_epsg()
    return f"EPSG:{number}" if number is not None else str(crs.to_wkt())


def same_crs(a: str | None, b: str | None) -> bool:
    """Tell whether two names mean one coordinate system."""
    if a == b:
        return True
    if a is None or b is None:
        return False
    from rasterio.crs import CRS

    return bool(CRS.from_string(a) == CRS.from_string(b))


def pixel_size_m(transform: Transform, *, crs: str, height: int, width: int) -> float:
    """Measure a pixel on the ground at the centre of an image: the root of its area, metres.

    A projected CRS counts as true to scale where it departs by less than 1 % from the ellipsoid (UTM: 0.1 %
    at most); a geographic CRS and Web Mercator are measured on the ellipsoid.

    Source:
        Geodesics by pyproj on the CRS's own ellipsoid (Karney, "Algorithms for geodesics", J. Geodesy 2013).
    """
    to_degrees, geod, unit_m = _on_ellipsoid(crs)
    a, b, c, d, e, f = transform
    row, col = height / 2, width / 2
    corners = [(col + step_col, row + step_row) for step_col, step_row in ((-0.5, 0), (0.5, 0), (0, -0.5), (0, 0.5))]
    xs = [a * x + b * y + c for x, y in corners]
    ys = [d * x + e * y + f for x, y in corners]
    lons, lats = to_degrees.transform(xs, ys)
    _, _, across_m = geod.inv(lons[0], lats[0], lons[1], lats[1])
    _, _, along_m = geod.inv(lons[2], lats[2], lons[3], lats[3])
    measured_m = math.sqrt(across_m * along_m)
    if unit_m is not None:
        named_m = math.sqrt(abs(a * e - b * d)) * unit_m
        if abs(measured_m / named_m - 1) < _PROJECTION_TOLERANCE:
            return named_m
    return measured_m


@lru_cache(maxsize=_KNOWN_CRS)
def _on_ellipsoid(crs: str) -> tuple[Any, Any, float | None]:
    """Make what measures in a CRS: to degrees, distances, and metres a unit of its axes (None: not projected)."""
    from pyproj import CRS, Geod, Transformer

    system = CRS.from_user_input(crs)
    to_degrees = Transformer.from_crs(system, system.geodetic_crs or 4326, always_xy=True)
    unit_m = float(system.axis_info[0].unit_conversion_factor) if system.is_projected else None
    return to_degrees, system.get_geod() or Geod(ellps="WGS84"), unit_m
