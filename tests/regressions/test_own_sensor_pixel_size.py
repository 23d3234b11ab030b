"""`--gsd` of a sensor from a YAML file: it goes by the name that the messages give it."""

from pathlib import Path

import pytest

from anyband.errors import GeometryError
from anyband.simulate.plan import SimulateOptions, sensors_of

_OWN = """
mission: Drone
source: the camera's data sheet
sensors:
  drone1:
    title: One band
    encodings: {dn: {scale: 1.0e-4}}
    unit: reflectance
    bands: [{name: B1, center_nm: 560, fwhm_nm: 20, gsd_m: 0.1}]
"""


@pytest.fixture
def own(tmp_path: Path) -> str:
    path = tmp_path / "drone1.yaml"
    path.write_text(_OWN)
    return str(path)


def test_the_advice_for_a_pixel_that_is_too_fine_can_be_followed(own: str) -> None:
    with pytest.raises(GeometryError, match=r"use --gsd drone1=2\.5"):
        sensors_of(SimulateOptions(sensors=(own,)))
    (sensor,) = sensors_of(SimulateOptions(sensors=(own,), gsd_m=(("drone1", 2.5),)))
    assert sensor.gsd_m == 2.5


def test_its_file_names_it_too(own: str) -> None:
    (sensor,) = sensors_of(SimulateOptions(sensors=(own,), gsd_m=((own, 5.0),)))
    assert sensor.gsd_m == 5.0
