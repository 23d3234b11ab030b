"""Small chip stores for the tests of this room."""

import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from anyband.data.store import ArraySpec, ChipStore, StoreLocation
from anyband.data.store_writer import Chip, ChipRecord, write_store
from anyband.sensors.sensor import Band, BandStatistics, Encoding, OpticalRange, RadarBeam, Sensor

_REFLECTANCE = Encoding(scale=1e-4)


def _statistics() -> BandStatistics:
    return BandStatistics(p01=0.0, p99=1.0, mean=0.3, std=0.2)


@pytest.fixture(scope="session")
def optical_sensor() -> Sensor:
    """Two reflectance bands, stored as uint16, 0 is no data."""
    bands = tuple(
        Band(
            name=name,
            spectrum=OpticalRange(low_nm=low_nm, high_nm=low_nm + 50.0),
            gsd_m=10.0,
            unit="reflectance",
            encodings=(("dn", _REFLECTANCE),),
            statistics=_statistics(),
        )
        for name, low_nm in (("B1", 450.0), ("B2", 650.0))
    )
    return Sensor(name="testoptical", title="Test optical", bands=bands, default_encoding="dn", nodata=0.0)


@pytest.fixture(scope="session")
def radar_sensor() -> Sensor:
    """One radar band in decibels."""
    band = Band(
        name="VV",
        spectrum=RadarBeam(frequency_ghz=5.405, polarisation="VV"),
        gsd_m=20.0,
        unit="sigma0_db",
        encodings=(("db", Encoding()), ("linear", Encoding(transform="power_to_db"))),
        statistics=BandStatistics(p01=-25.0, p99=0.0, mean=0.5, std=0.2),
    )
    return Sensor(name="testradar", title="Test radar", bands=(band,), default_encoding="db")


StoreMaker = Callable[..., ChipStore]


@pytest.fixture
def make_store(tmp_path: Path, optical_sensor: Sensor, radar_sensor: Sensor) -> StoreMaker:
    """Make a store of `places` places, in each `dates` optical chips of 8 px and one radar chip of 4 px.

    With `holes`, every third optical chip has an invalid corner. Values are drawn from the place's number.
    Without `dated` the time of optical chips is unknown.
    """

    def make(
        places: int = 6,
        *,
        dates: int = 1,
        holes: bool = False,
        splits: Sequence[str] = ("train",),
        dated: bool = True,
    ) -> ChipStore:
        path = tmp_path / "store"
        optical = ArraySpec(
            sensor="testoptical",
            bands=("B1", "B2"),
            height=8,
            width=8,
            dtype="uint16",
            encoding={"B1": _REFLECTANCE, "B2": _REFLECTANCE},
            nodata=0.0,
        )
        radar = ArraySpec(
            sensor="testradar",
            bands=("VV",),
            height=4,
            width=4,
            dtype="int16",
            encoding={"VV": Encoding(scale=0.01)},
            nodata=-32768.0,
        )

        def chips() -> Iterator[tuple[ArraySpec, ChipRecord, Chip]]:
            for place in range(places):
                rng = np.random.default_rng(place)
                split = splits[place % len(splits)]
                for date in range(dates):
                    pixels = rng.integers(1, 9000, (2, 8, 8)).astype(np.uint16)
                    valid = np.ones(pixels.shape, dtype=bool)
                    if holes and place % 3 == 0:
                        valid[:, :2, :3] = False
                    day = date if dated else None
                    record = _record(place, "testoptical", day, split, float(valid.mean()))
                    yield optical, record, Chip(pixels=pixels, valid=valid)
                pixels = rng.integers(-2500, 0, (1, 4, 4)).astype(np.int16)
                yield radar, _record(place, "testradar", 0, split, 1.0), Chip(pixels=pixels)

        sensors = {"testoptical": optical_sensor, "testradar": radar_sensor}
        write_store(path, chips(), sensors)
        return ChipStore.open(path)

    return make


def _record(place: int, sensor: str, date: int | None, split: str, valid_fraction: float) -> ChipRecord:
    return ChipRecord(
        place=f"p{place:03d}",
        cell="r000c000",
        sensor=sensor,
        source_path=f"{sensor}_{place}.tif",
        valid_fraction=valid_fraction,
        split=split,  # type: ignore[arg-type]
        datetime=None if date is None else dt.datetime(2020, 1, 1 + 10 * date, tzinfo=dt.UTC),
    )


def upload(store: Path, location: StoreLocation) -> None:
    """Put the files of a store at a place on object storage."""
    for file in sorted(store.rglob("*")):
        if file.is_file():
            location.write(file.relative_to(store).as_posix(), file.read_bytes())
