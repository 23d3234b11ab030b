"""The labels of BigEarthNet: 43 classes of CORINE Land Cover, and the 19 that most papers use."""

from collections.abc import Iterable, Mapping

from anyband.errors import ManifestError, nearest_name

__all__ = ["CLASSES_19", "CLASSES_43", "to_19_classes"]

CLASSES_19 = (
    "Urban fabric",
    "Industrial or commercial units",
    "Arable land",
    "Permanent crops",
    "Pastures",
    "Complex cultivation patterns",
    "Land principally occupied by agriculture, with significant areas of natural vegetation",
    "Agro-forestry areas",
    "Broad-leaved forest",
    "Coniferous forest",
    "Mixed forest",
    "Natural grassland and sparsely vegetated areas",
    "Moors, heathland and sclerophyllous vegetation",
    "Transitional woodland, shrub",
    "Beaches, dunes, sands",
    "Inland wetlands",
    "Coastal wetlands",
    "Inland waters",
    "Marine waters",
)
"""Names of the 19 classes, in their order.

Source:
    Sumbul et al., "BigEarthNet-MM", IEEE GRSM 2021, arXiv:2105.07921, table II.
"""

# The class of 19 that each of the 43 belongs to; None: the class was left out.
# Source: as above; the names and order of the 43 are level 3 of CORINE Land Cover.
_CLASS_OF: Mapping[str, str | None] = {
    "Continuous urban fabric": "Urban fabric",
    "Discontinuous urban fabric": "Urban fabric",
    "Industrial or commercial units": "Industrial or commercial units",
    "Road and rail networks and associated land": None,
    "Port areas": None,
    "Airports": None,
    "Mineral extraction sites": None,
    "Dump sites": None,
    "Construction sites": None,
    "Green urban areas": None,
    "Sport and leisure facilities": None,
    "Non-irrigated arable land": "Arable land",
    "Permanently irrigated land": "Arable land",
    "Rice fields": "Arable land",
    "Vineyards": "Permanent crops",
    "Fruit trees and berry plantations": "Permanent crops",
    "Olive groves": "Permanent crops",
    "Pastures": "Pastures",
    "Annual crops associated with permanent crops": "Permanent crops",
    "Complex cultivation patterns": "Complex cultivation patterns",
    CLASSES_19[6]: CLASSES_19[6],
    "Agro-forestry areas": "Agro-forestry areas",
    "Broad-leaved forest": "Broad-leaved forest",
    "Coniferous forest": "Coniferous forest",
    "Mixed forest": "Mixed forest",
    "Natural grassland": "Natural grassland and sparsely vegetated areas",
    "Moors and heathland": "Moors, heathland and sclerophyllous vegetation",
    "Sclerophyllous vegetation": "Moors, heathland and sclerophyllous vegetation",
    "Transitional woodland/shrub": "Transitional woodland, shrub",
    "Beaches, dunes, sands": "Beaches, dunes, sands",
    "Bare rock": None,
    "Sparsely vegetated areas": "Natural grassland and sparsely vegetated areas",
    "Burnt areas": None,
    "Inland marshes": "Inland wetlands",
    "Peatbogs": "Inland wetlands",
    "Salt marshes": "Coastal wetlands",
    "Salines": "Coastal wetlands",
    "Intertidal flats": None,
    "Water courses": "Inland waters",
    "Water bodies": "Inland waters",
    "Coastal lagoons": "Marine waters",
    "Estuaries": "Marine waters",
    "Sea and ocean": "Marine waters",
}

CLASSES_43 = tuple(_CLASS_OF)
"""Names of the 43 classes, in their order."""


def to_19_classes(names: Iterable[str], *, patch: str) -> tuple[str, ...]:
    """Turn names of the 43 classes into those of the 19, each once, in their order; some of the 43 have none.

    Args:
        names: of the 43; those of the 19 stay.
        patch: for messages.

    Raises:
        ManifestError: a name of neither.
    """
    found = {_CLASS_OF[_checked(name, patch)] if name not in CLASSES_19 else name for name in names}
    return tuple(name for name in CLASSES_19 if name in found)


def _checked(name: str, patch: str) -> str:
    if name not in _CLASS_OF:
        raise ManifestError(
            f"patch '{patch}' has the label '{name}', which is no class of BigEarthNet{nearest_name(name, CLASSES_43)}"
        )
    return name
