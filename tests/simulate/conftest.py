"""Small landscapes that several tests look at."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from anyband.simulate.landscape import make_landscape
from anyband.simulate.plan import Frame, make_place
from anyband.simulate.surface import Surface, make_surface

SurfaceOf = Callable[..., Surface]


@pytest.fixture(scope="session")
def surface_of() -> SurfaceOf:
    """Make a surface on which one mix of covers stands: `surface_of({"orchard": 1.0}, day=200.0)`."""

    def make(
        shares: dict[str, float],
        *,
        day: float = 180.0,
        latitude_deg: float = 45.0,
        footprint_m: float = 480.0,
    ) -> Surface:
        own = {"theme": "test", "river_share": 0.0, "shares": tuple(shares.items()), "latitude_deg": latitude_deg}
        place = dataclasses.replace(make_place(5, 3), **own)
        return make_surface(make_landscape(place, Frame(footprint_m=footprint_m, detail_m=2.5)), day)

    return make


@pytest.fixture(scope="session")
def mixed_surface(surface_of: SurfaceOf) -> Surface:
    """A landscape with fields, woods, water and houses in June."""
    shares = {"winter_crop": 3, "broadleaf_forest": 2, "water": 1, "urban_residential": 1, "grassland": 1}
    surface = surface_of({name: float(share) for name, share in shares.items()}, day=165.0)
    assert len(np.unique(surface.landscape.cover)) >= 5
    return surface
