"""Where the simulated places lie and which kind of landscape each of them is."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np

from anyband.errors import CatalogueError, nearest_name
from anyband.randomness import generator
from anyband.simulate.covers import cover_names
from anyband.simulate.materials import read_table

__all__ = ["Place", "Theme", "load_themes", "make_place", "theme_weights", "utm_epsg"]

MAX_LATITUDE_DEG = 66.0
"""chosen: beyond it there are months without usable sun."""

_GOLDEN_SHARE = (5**0.5 - 1) / 2
# Corners lie on multiples of this, as those of Sentinel-2 products do: the grids of all sensors coincide.
_GRID_M = 60.0


@dataclass(frozen=True, kw_only=True)
class Theme:
    """A kind of landscape."""

    name: str
    """Name in the table, for example `cereal_plain`."""
    latitude: tuple[tuple[float, float], ...]
    """(degrees from the equator, weight), linear between; 0 outside."""
    river_share: float
    """Share of its places that a river crosses."""
    shares: tuple[tuple[str, float], ...]
    """(land cover, relative share)."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """One footprint on the ground: what every image of it has in common."""

    index: int
    """Position among the places of the run, from 0."""
    seed: int
    """Seed of the run; with `index` it makes the landscape."""
    latitude_deg: float
    """−66 to 66."""
    longitude_deg: float
    """−180 to 180."""
    epsg: int
    """Code of its UTM zone."""
    theme: Theme
    """Kind of landscape."""

    @property
    def easting_m(self) -> float:
        """Of the upper left corner, in the UTM zone."""
        return self._corner_m[0]

    @property
    def northing_m(self) -> float:
        """Of the upper left corner, in the UTM zone."""
        return self._corner_m[1]

    @cached_property
    def _corner_m(self) -> tuple[float, float]:
        # Asked for only where images are put on the ground: rendering needs no library of projections.
        easting_m, northing_m = _project(self.latitude_deg, self.longitude_deg, self.epsg)
        return round(easting_m / _GRID_M) * _GRID_M, round(northing_m / _GRID_M) * _GRID_M

    @property
    def name(self) -> str:
        """Name in files and tables."""
        return f"place_{self.index:05d}"

    def generator(self, purpose: str, *, sample: int = 0) -> np.random.Generator:
        """Make the generator of one draw of this place."""
        return generator(self.seed, step=self.index, sample=sample, purpose=f"simulate/{purpose}")


@cache
def load_themes() -> tuple[Theme, ...]:
    """Load the kinds of landscape, in the order of the table."""
    return tuple(_theme(name, row) for name, row in read_table("themes.yaml")["themes"].items())


def make_place(seed: int, index: int, *, theme: Theme | None = None) -> Place:
    """Choose where a place lies and what kind of landscape it is: a function of seed and index.

    Longitudes follow the golden ratio, which keeps places apart; two thirds lie in the north, like the land.

    Args:
        seed: of the run.
        index: of the place, from 0.
        theme: kind of landscape to use instead of drawing one by latitude.
    """
    rng = generator(seed, step=index, sample=0, purpose="simulate/place")
    latitude_deg = float(rng.uniform(0, MAX_LATITUDE_DEG) * (1 if rng.random() < 2 / 3 else -1))
    longitude_deg = float((rng.random() * 1e-3 + index * _GOLDEN_SHARE) % 1 * 360 - 180)
    drawn = load_themes()[int(rng.choice(len(load_themes()), p=theme_weights(latitude_deg)))]
    return Place(
        index=index,
        seed=seed,
        latitude_deg=latitude_deg,
        longitude_deg=longitude_deg,
        epsg=utm_epsg(latitude_deg, longitude_deg),
        theme=theme or drawn,
    )


def theme_weights(latitude_deg: float) -> np.ndarray:
    """Weigh the kinds of landscape at a latitude; sums to 1."""
    weights = []
    for theme in load_themes():
        degrees, values = zip(*theme.latitude, strict=True)
        weights.append(np.interp(abs(latitude_deg), degrees, values, left=0.0, right=0.0))
    total: np.ndarray = np.array(weights) / np.sum(weights)
    return total


def utm_epsg(latitude_deg: float, longitude_deg: float) -> int:
    """Give the EPSG code of the UTM zone of a point (the plain zones of six degrees)."""
    zone = min(int((longitude_deg + 180) // 6) + 1, 60)
    return (32600 if latitude_deg >= 0 else 32700) + zone


def _project(latitude_deg: float, longitude_deg: float, epsg: int) -> tuple[float, float]:
    from pyproj import Transformer

    easting_m, northing_m = Transformer.from_crs(4326, epsg, always_xy=True).transform(longitude_deg, latitude_deg)
    return float(easting_m), float(northing_m)


def _theme(name: str, row: Mapping[str, object]) -> Theme:
    shares = row["shares"]
    latitude = row["latitude"]
    assert isinstance(shares, dict)
    assert isinstance(latitude, list)
    for cover in shares:
        if cover not in cover_names():
            raise CatalogueError(
                f"theme '{name}' has cover '{cover}', not in covers.yaml{nearest_name(cover, cover_names())}"
            )
    return Theme(
        name=name,
        latitude=tuple((float(degrees), float(weight)) for degrees, weight in latitude),
        river_share=float(str(row["river_share"])),
        shares=tuple((cover, float(share)) for cover, share in shares.items()),
    )
