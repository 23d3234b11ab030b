"""Statistics from files and stores."""

import json
from pathlib import Path

import pytest

from anyband.encode.input_spec import read_statistics
from anyband.errors import CatalogueError
from anyband.sensors.catalogue import get_sensor
from anyband.sensors.sensor import BandStatistics

_SENSOR = get_sensor("sentinel1-grd").select(["VV", "VH"])
_NUMBERS = {"p01": -25, "p99": 0.5, "mean": 0.4, "std": 0.2}


def _written(path: Path, values: object) -> Path:
    path.write_text(json.dumps(values))
    return path


@pytest.mark.parametrize("name", ["s.json", "s.yaml"])
@pytest.mark.parametrize("nested", [False, True])
def test_a_file_maps_bands_or_sensors_to_their_numbers(tmp_path: Path, name: str, nested: bool) -> None:
    bands = {"VV": _NUMBERS, "VH": _NUMBERS, "other": _NUMBERS}
    path = _written(tmp_path / name, {"sentinel1-grd": bands} if nested else bands)
    expected = BandStatistics(p01=-25.0, p99=0.5, mean=0.4, std=0.2)
    assert read_statistics(path, _SENSOR) == {"VV": expected, "VH": expected}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"VV": _NUMBERS}, "no statistics of band 'VH' of 'sentinel1-grd'"),
        ({"VV": {**_NUMBERS, "men": 1}, "VH": _NUMBERS}, "unknown key 'men'; did you mean 'mean'"),
        ({"VV": {"p01": 1}, "VH": _NUMBERS}, "band 'VV' needs the numbers p01, p99, mean and std"),
        ([1], "must map bands to p01, p99, mean and std; found list"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, values: object, message: str) -> None:
    with pytest.raises(CatalogueError, match=message):
        read_statistics(_written(tmp_path / "s.json", values), _SENSOR)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match="cannot read statistics from"):
        read_statistics(tmp_path / "absent.json", _SENSOR)


def test_broken_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text("{")
    with pytest.raises(CatalogueError, match="is not valid JSON"):
        read_statistics(tmp_path / "s.json", _SENSOR)
