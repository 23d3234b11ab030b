"""What is known of images, as networks take it: unknown stays unknown, and calendars and corners are right."""

import datetime as dt

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anyband.encode.metadata import METADATA, hide_metadata, set_metadata
from anyband.errors import InputError
from anyband.models.encodings import corner_bits
from anyband.models.inputs import SetMetadata

_SQUARE = np.array([[10.0, 45.0], [10.2, 45.0], [10.2, 44.9], [10.0, 44.9]])


def _metadata(corners=_SQUARE, *, gsd_m=10.0, time="2021-03-01", input_gsd_m=25.0) -> SetMetadata:
    """Make the metadata of one set of one image."""
    return set_metadata(
        np.array(corners, dtype=np.float64)[None, None],
        np.array([[gsd_m]]),
        np.array([[time]], dtype="datetime64[us]"),
        np.array([[input_gsd_m]]),
    )


def test_facts_reach_the_network_as_they_are():
    made = _metadata()
    assert made.lonlat_deg[0, 0].tolist() == pytest.approx([10.1, 44.95])
    assert (made.gsd_m.item(), made.input_gsd_m.item()) == (10.0, 25.0)
    assert (made.day_of_year.item(), made.year.item()) == (59.0, 2021.0)
    assert torch.equal(made.corner_bits[0, 0], torch.from_numpy(corner_bits(_SQUARE)))


def test_what_is_not_known_is_nan_and_nothing_else_is():
    made = _metadata(np.full((4, 2), np.nan), gsd_m=np.nan, time="NaT", input_gsd_m=np.nan)
    unknown = SetMetadata.unknown(1, 1)
    assert vars(made).keys() == vars(unknown).keys()
    for name, tensor in vars(made).items():
        assert tensor.shape == vars(unknown)[name].shape
        assert tensor.isnan().all()
    assert not any(tensor.isnan().any() for tensor in vars(_metadata()).values())


def test_a_place_with_one_unknown_corner_is_unknown_whole():
    corners = _SQUARE.copy()
    corners[2, 1] = np.nan
    made = _metadata(corners)
    assert made.corner_bits.isnan().all()
    assert made.lonlat_deg.isnan().all()
    assert made.gsd_m.item() == 10.0


def test_the_centre_of_a_place_across_longitude_180_lies_on_it():
    made = _metadata([[179.9, 1.0], [-179.8, 1.0], [-179.8, 0.8], [179.9, 0.8]])
    assert made.lonlat_deg[0, 0].tolist() == pytest.approx([-179.95, 0.9], abs=1e-4)


@settings(max_examples=100)
@given(moment=st.datetimes(min_value=dt.datetime(1900, 1, 1), max_value=dt.datetime(2100, 1, 1)))
def test_day_and_year_are_those_of_the_calendar(moment):
    made = _metadata(time=np.datetime64(moment, "us"))
    assert made.year.item() == moment.year
    elapsed_days = (moment - dt.datetime(moment.year, 1, 1)).total_seconds() / 86_400
    assert made.day_of_year.item() == pytest.approx(elapsed_days, abs=1e-4)


def test_a_longitude_off_the_globe_is_refused():
    with pytest.raises(InputError, match=r"longitude 190 is outside −180 to 180 degrees"):
        _metadata(_SQUARE + np.array([180.0, 0.0]))


@pytest.mark.parametrize(
    ("hides", "names"),
    [
        ("place", {"corner_bits", "lonlat_deg"}),
        ("resolution", {"gsd_m", "input_gsd_m"}),
        ("date", {"day_of_year", "year"}),
    ],
)
def test_what_is_hidden_is_unknown_and_the_others_stay(hides, names):
    two = {name: torch.cat([tensor, tensor], dim=1) for name, tensor in vars(_metadata()).items()}
    hidden = torch.zeros(1, 2, 3, dtype=torch.bool)
    hidden[0, 1, METADATA.index(hides)] = True
    made = vars(hide_metadata(SetMetadata(**two), hidden))
    for name, tensor in made.items():
        assert torch.equal(tensor[:, 0], two[name][:, 0])
        assert tensor[:, 1].isnan().all() == (name in names)
        assert tensor[:, 1].isnan().any() == (name in names)
