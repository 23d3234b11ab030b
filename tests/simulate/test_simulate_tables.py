"""The tables of materials, covers, themes and instruments."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyband.errors import CatalogueError
from anyband.simulate import plan
from anyband.simulate.instruments import noise_of
from anyband.simulate.plan import (
    KNOWN_NM,
    calendar_shares,
    cover_named,
    load_covers,
    load_materials,
    load_themes,
    material_names,
    read_table,
    reflectance_curves,
)


def _reflectance(material: str, wavelength_nm: float) -> float:
    return float(reflectance_curves(np.array([wavelength_nm]))[material_names().index(material), 0])


def test_there_are_at_least_ten_land_covers() -> None:
    assert len(load_covers()) >= 10


@pytest.mark.parametrize("table", ["materials.yaml", "covers.yaml", "themes.yaml"])
def test_every_table_names_its_source(table: str) -> None:
    assert len(read_table(table)["source"]) > 40


@given(wavelength_nm=st.floats(*KNOWN_NM))
def test_reflectance_stays_between_0_and_1_at_every_wavelength(wavelength_nm: float) -> None:
    curves = reflectance_curves(np.array([wavelength_nm]))
    assert ((curves >= 0) & (curves <= 1)).all()


def test_curves_are_declared_over_the_whole_known_stretch() -> None:
    assert {(m["wavelength_nm"][0], m["wavelength_nm"][-1]) for m in load_materials().values()} == {KNOWN_NM}


def test_wavelengths_of_every_curve_ascend() -> None:
    assert all(np.all(np.diff(material["wavelength_nm"]) > 0) for material in load_materials().values())


@pytest.mark.parametrize("plant", ["broadleaf", "conifer", "crop", "grass"])
def test_green_plants_have_a_red_edge_and_a_green_peak(plant: str) -> None:
    assert _reflectance(plant, 850.0) > 5 * _reflectance(plant, 670.0)
    assert _reflectance(plant, 550.0) > _reflectance(plant, 670.0)


def test_quartz_sand_emits_less_at_9_than_at_11_micrometres() -> None:
    assert 1 - _reflectance("sand", 9_000.0) < 0.8
    assert 1 - _reflectance("sand", 11_000.0) > 0.94


def test_snow_is_bright_in_green_and_dark_at_1600_nm() -> None:
    assert _reflectance("snow", 550.0) > 0.9
    assert _reflectance("snow", 1_600.0) < 0.1


def test_co_polarised_backscatter_exceeds_cross_polarised_for_every_material() -> None:
    radar = [material["sigma0_db"] for material in load_materials().values() if material["sigma0_db"]]
    assert all(row["VV"] - row["VH"] >= 5 for row in radar)


def test_only_clouds_let_radar_through() -> None:
    assert [name for name, material in load_materials().items() if not material["sigma0_db"]] == ["cloud"]


@given(day=st.floats(-400, 800))
def test_shares_of_every_cover_sum_to_1_on_every_day(day: float) -> None:
    parts = [part for cover in load_covers() for part in (cover.upper, cover.lower) if part[0]]
    sums = [calendar_shares(part, np.array([day])).sum() for part in parts]
    np.testing.assert_allclose(sums, 1.0, atol=1e-12)


@pytest.mark.parametrize(("one", "other"), [("shrubland", "orchard"), ("broadleaf_forest", "plantation")])
def test_pair_differs_in_nothing_but_structure(one: str, other: str) -> None:
    first, second = cover_named(one), cover_named(other)
    assert (first.upper, first.lower, first.canopy_share) == (second.upper, second.lower, second.canopy_share)
    assert first.structure != second.structure


def test_an_unknown_cover_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(CatalogueError, match=r"land cover 'orchards' is not one of .*did you mean 'orchard'"):
        cover_named("orchards")


def test_every_theme_is_mostly_its_first_cover() -> None:
    assert all(theme["shares"][0][1] == max(share for _, share in theme["shares"]) for theme in load_themes().values())


def test_every_cover_but_roads_leads_some_theme_or_its_pair() -> None:
    leading = {theme["shares"][0][0] for theme in load_themes().values()}
    assert leading == {cover.name for cover in load_covers()} - {"road"}


def test_a_sensor_without_own_noise_takes_the_default() -> None:
    assert noise_of("naip")["snr"] == read_table("instruments.yaml")["default"]["snr"]


def _with_row(monkeypatch: pytest.MonkeyPatch, table: str, section: str, name: str, **changes: object) -> None:
    """Let one row of a packaged table read otherwise."""
    tables = {table: read_table(table)}
    tables[table][section][name] |= changes
    monkeypatch.setattr(plan, "read_table", lambda name: tables.get(name) or read_table(name))


def test_a_curve_that_leaves_wavelengths_out_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    _with_row(monkeypatch, "materials.yaml", "materials", "snow", reflectance=[[400, 0.9], [2500, 0.1]])
    with pytest.raises(CatalogueError, match="material 'snow' must have reflectance from 350 nm"):
        load_materials.__wrapped__()


def test_a_cover_of_an_unknown_structure_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    _with_row(monkeypatch, "covers.yaml", "covers", "orchard", structure="spiral")
    with pytest.raises(CatalogueError, match="cover 'orchard' has structure 'spiral', not one of"):
        load_covers.__wrapped__()


def test_a_cover_of_an_unknown_material_is_refused_with_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    _with_row(monkeypatch, "covers.yaml", "covers", "water", lower={"one_of": {"snoww": 1.0}})
    with pytest.raises(CatalogueError, match=r"cover 'water' is made of 'snoww', .* did you mean 'snow'"):
        load_covers.__wrapped__()


def test_covers_out_of_order_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    _with_row(monkeypatch, "covers.yaml", "covers", "water", value=99)
    with pytest.raises(CatalogueError, match=r"values of covers\.yaml must be 1, 2, 3"):
        load_covers.__wrapped__()


def test_a_theme_of_an_unknown_cover_is_refused_with_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    name = next(iter(load_themes()))
    _with_row(monkeypatch, "themes.yaml", "themes", name, shares={"orchrd": 1.0})
    with pytest.raises(CatalogueError, match=f"theme '{name}' has cover 'orchrd', .* did you mean 'orchard'"):
        load_themes.__wrapped__()
