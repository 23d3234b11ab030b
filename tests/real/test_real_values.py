"""Values of real images: none cannot be under its right declaration, and wrong declarations are found."""

import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from anyband.data.manifest import ImageEntry, read_manifest
from anyband.rasters.reader import open_raster
from anyband.sensors.sensor import Encoding
from anyband.sensors.values import ValueCheck, sampled

_Image = tuple[ImageEntry, Any, Any]
_FLOATS = Encoding()


def _images(images: Path, folder: Path, *, short: bool) -> list[_Image]:
    """Read a sample of the images of the kit that have data, with all that is declared of them."""
    spec = importlib.util.spec_from_file_location("kit", Path(__file__).parent / "kit.py")
    kit = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kit)
    path = folder / "kit.yaml"
    rows = kit.manifest_rows(images, short=short)
    months = [row for row in rows if row.get("place") == "worldcereal monthly"]
    path.write_text(yaml.safe_dump([row for row in rows if row not in months[2:] or not short]))
    found = []
    for entry in read_manifest(path):
        with open_raster(entry.source, entry.sensor) as reader:
            raster = reader.read()
        if raster.valid.any(axis=(1, 2)).all():
            found.append((entry, sampled(raster.dn)[None], sampled(raster.valid)[None]))
    return found


@pytest.fixture(scope="module", params=["a few", pytest.param("all", marks=pytest.mark.slow)])
def images(request: pytest.FixtureRequest, real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[_Image]:
    return _images(real_data, tmp_path_factory.mktemp("kit"), short=request.param == "a few")


def _said(entry: ImageEntry, codes: list[Encoding], dn: Any, valid: Any) -> list[str]:
    limits = [None if (one := band.statistics) is None else (one.p01, one.p99) for band in entry.sensor.bands]
    return [sentence for sentence, _ in ValueCheck(entry.sensor, codes, limits)(dn, valid).values()]


def _of(images: list[_Image], unit: str) -> Iterator[tuple[ImageEntry, list[Encoding], Any, Any, Any]]:
    """Give the images all of whose bands have a unit: entry, encodings, digital numbers, validity, physical values."""
    for entry, dn, valid in images:
        if {band.unit for band in entry.sensor.bands} == {unit}:
            codes = [code for _, code in entry.encoding]
            physical = np.stack([code.decode(dn[:, band].astype(float)) for band, code in enumerate(codes)], axis=1)
            yield entry, codes, dn, valid & np.isfinite(physical), physical


@pytest.mark.real
def test_no_image_of_the_kit_has_impossible_values_under_its_right_declaration(images: list[_Image]) -> None:
    assert len({entry.sensor.name for entry, _, _ in images}) >= 10
    for entry, dn, valid in images:
        assert _said(entry, [code for _, code in entry.encoding], dn, valid) == [], entry.name


@pytest.mark.real
def test_reflectance_as_digital_numbers_and_the_other_way_round_is_found_in_every_image(images: list[_Image]) -> None:
    found = 0
    for entry, codes, dn, valid, physical in _of(images, "reflectance"):
        found += 1
        assert any("reflectance of 0 to 1 already" in one for one in _said(entry, codes, physical, valid)), entry.name
        plain = [_FLOATS] * len(codes)
        assert any("likely" in one and "2 can be" in one for one in _said(entry, plain, dn, valid)), entry.name
    assert found > 10


@pytest.mark.real
def test_decibels_as_power_and_the_other_way_round_is_found_in_every_image(images: list[_Image]) -> None:
    found = 0
    for entry, codes, _, valid, physical in _of(images, "sigma0_db"):
        found += 1
        power = [Encoding(transform="power_to_db")] * len(codes)
        assert any("likely dB" in one for one in _said(entry, power, physical, valid)), entry.name
        plain = [_FLOATS] * len(codes)
        for linear in (10 ** (physical / 10), 10 ** (physical / 20)):
            assert any("likely linear power" in one for one in _said(entry, plain, linear, valid)), entry.name
        assert any("decibels times 10000" in one for one in _said(entry, plain, 1e4 * physical, valid)), entry.name
    assert found > 10


@pytest.mark.real
def test_pictures_as_digital_numbers_are_found(images: list[_Image]) -> None:
    as_dn = Encoding(scale=1e-4)
    pictures = [(entry, dn, valid) for entry, _, dn, valid, _ in _of(images, "count") if dn.dtype == np.uint8]
    assert len(pictures) > 40
    for entry, dn, valid in pictures:
        bands = tuple(replace(band, unit="reflectance") for band in entry.sensor.bands)
        sensor = replace(entry.sensor, bands=bands)
        check = ValueCheck(sensor, [as_dn] * len(bands), [None] * len(bands))
        assert any("picture of 8 bits" in one for one, _ in check(dn, valid).values()), entry.name


@pytest.mark.real
def test_degrees_celsius_as_kelvin_are_found(images: list[_Image]) -> None:
    found = 0
    for entry, dn, valid in images:
        thermal = [band for band, one in enumerate(entry.sensor.bands) if one.unit == "kelvin"]
        if thermal:
            found += 1
            codes = [code for _, code in entry.encoding]
            celsius = np.stack([codes[band].decode(dn[:, band].astype(float)) - 273.15 for band in thermal], axis=1)
            sensor = entry.sensor.select([entry.sensor.band_names[band] for band in thermal])
            check = ValueCheck(sensor, [_FLOATS] * len(thermal), [None] * len(thermal))
            (said,) = [one for one, _ in check(celsius, valid[:, thermal]).values()]
            assert "degrees Celsius; declare `scale: 1` and `offset: 273.15`" in said, entry.name
    assert found > 2
