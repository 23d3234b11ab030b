"""What the ground is made of: the table of materials with their curves."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from anyband.errors import CatalogueError
from anyband.shapes import Array, Float
from anyband.yaml_files import parse_yaml

__all__ = ["KNOWN_NM", "Material", "load_materials", "material_names", "read_table", "reflectance_curves"]

KNOWN_NM = (350.0, 14_000.0)
"""Edges of the curves, nanometres: the truth is known between them."""

_EMISSION_FROM_NM = 3000.0


@dataclass(frozen=True, kw_only=True)
class Material:
    """One opaque material."""

    name: str
    """Name in the table, for example `asphalt`."""
    wavelength_nm: tuple[float, ...]
    """Corner points of the curve, nanometres, ascending over `KNOWN_NM`."""
    reflectance: tuple[float, ...]
    """Reflectance at the corner points, 0 to 1; emissivity is 1 minus it (Kirchhoff)."""
    sigma0_db: tuple[tuple[str, float], ...]
    """(polarisation, C-band backscatter in dB); empty where radar passes, as through clouds."""
    warming_k: float
    """Excess of the surface over the air in full sun, kelvin."""


def read_table(name: str) -> dict[str, Any]:
    """Read one of the packaged tables of the simulator, strictly."""
    text = files("anyband.simulate").joinpath("tables", name).read_text(encoding="utf-8")
    table: dict[str, Any] = parse_yaml(text, name=name, error=CatalogueError)
    return table


@cache
def load_materials() -> tuple[Material, ...]:
    """Load the materials in the order of the table; the simulator names them by their index in it."""
    return tuple(_material(name, row) for name, row in read_table("materials.yaml")["materials"].items())


@cache
def material_names() -> tuple[str, ...]:
    """Name the materials in the order of the table."""
    return tuple(material.name for material in load_materials())


def reflectance_curves(wavelength_nm: Float[Array, " wavelength"]) -> Float[Array, "material wavelength"]:
    """Interpolate the curves of all materials, linear between their corner points.

    Args:
        wavelength_nm: inside `KNOWN_NM`.

    Returns:
        Reflectance, 0 to 1; 1 minus it is the emissivity.
    """
    return np.stack(
        [np.interp(wavelength_nm, material.wavelength_nm, material.reflectance) for material in load_materials()]
    )


def _material(name: str, row: Mapping[str, Any]) -> Material:
    emitted = [(float(nm), 1.0 - float(value)) for nm, value in row["emissivity"]]
    points = [*((float(nm), float(value)) for nm, value in row["reflectance"]), *emitted]
    if emitted[0][0] != _EMISSION_FROM_NM or (points[0][0], points[-1][0]) != KNOWN_NM:
        raise CatalogueError(
            f"material '{name}' must have reflectance from 350 nm and emissivity from 3000 to 14000 nm"
        )
    wavelength_nm, reflectance = zip(*points, strict=True)
    return Material(
        name=name,
        wavelength_nm=wavelength_nm,
        reflectance=reflectance,
        sigma0_db=tuple((polarisation, float(level)) for polarisation, level in row["sigma0_db"].items()),
        warming_k=float(row["warming_k"]),
    )
