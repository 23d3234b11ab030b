"""Pairs of images as they are published: a folder and a list of its pairs become a list of images."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from anyband.data.manifest import ImageList
from anyband.errors import InputError, ManifestError, counted, nearest_name

__all__ = ["LAYOUTS", "layout_of", "open_pairs", "read_pairs"]

# Source: metadata page of fMoW-Sentinel (SatMAE, Cong et al. 2022): 13 bands by wavelength, so B8A follows B08. The
# cirrus band, number 11, is left out, as SMARTIES (arXiv 2506.19585, section 4) does.
_FMOW_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "", "B11", "B12")

LAYOUTS: Mapping[str, Mapping[str, Any]] = {
    "fmow-pairs": {
        # Of each name of a line: what an image is of.
        "images": (
            {"sensor": "maxar-rgb", "encoding": "dn"},
            {
                "sensor": "sentinel2-l1c",
                "encoding": "dn",
                "bands": ";".join(f"{band}={number}" for number, band in enumerate(_FMOW_BANDS, 1) if band),
            },
        ),
        # chosen: the smallest crop, half of a side, still has as many pixels of a picture as the network's input; and
        # of Sentinel-2 about as many as the images have.
        "chip_size": {"maxar-rgb": 448, "sentinel2-l1c": 64},
        # Released code: bicubic, as the network's input.
        "resampling": {"maxar-rgb": "cubic", "sentinel2-l1c": "cubic"},
        "wanted": "lines `PICTURE SENTINEL-2`, such as `train/zoo/zoo_0/zoo_0_5_rgb.jpg train/zoo/zoo_0/zoo_0_5.tif`, "
        "of files below it or one or two folders deeper, such as fMoW/ and fMoW-S2/fmow-sentinel/, or fmow-rgb/ and "
        "fmow-sentinel/",
    },
    "bigearthnet-mm": {
        "images": (
            {"sensor": "sentinel2-l2a", "encoding": "dn"},
            {"sensor": "sentinel1-grd", "encoding": "db", "bands": "VV;VH"},
        ),
        # Source: SMARTIES, section 4: all bands are brought to the 120 × 120 pixels of the finest.
        "chip_size": {"sentinel2-l2a": 120, "sentinel1-grd": 120},
        "resampling": {},
        "wanted": "lines `SENTINEL-2 SENTINEL-1` of names of patches, whose folders lie in it, or one or two folders "
        "deeper, such as S2/ and S1/, or BigEarthNet-v1.0/ and BigEarthNet-S1-v1.0/",
    },
}

# Pictures are published as JPEG and as GeoTIFF.
_ENDINGS = (".jpg", ".tif", ".jpeg", ".png", ".tiff")
# chosen: where none of so many is there, the folder is another one.
_LOOKED_FOR = 20
# chosen: folders of data sets stand beside few others; patches and locations stand in thousands.
_MOST_FOLDERS, _DEEPEST = 64, 2


def layout_of(name: str) -> Mapping[str, Any]:
    """Look up a layout; `InputError` for another name."""
    if name not in LAYOUTS:
        raise InputError(f"layout '{name}' is unknown ({', '.join(LAYOUTS)}){nearest_name(name, LAYOUTS)}")
    return LAYOUTS[name]


def read_pairs(path: Path) -> Iterator[tuple[int, str, str]]:
    """Read a list of pairs: (line, from 1; two names), separated by spaces, tabs or a comma. Empty lines say nothing.
    `ManifestError` where it can't be read, or a line has not two names."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                names = line.replace(",", " ").split()
                if names and len(names) != 2:
                    raise ManifestError(
                        f"line {number} of '{path}' has {counted(len(names), 'name')}, and a pair has two, separated "
                        f"by a space: '{line.strip()[:80]}'"
                    )
                if names:
                    first, second = (PurePosixPath(name.replace("\\", "/")).as_posix().lstrip("/") for name in names)
                    yield number, first, second
    except OSError as problem:
        raise ManifestError(f"cannot read the list of pairs '{path}': {problem.strerror or problem}") from problem
    except UnicodeDecodeError as problem:
        raise ManifestError(f"the list of pairs '{path}' is no text in UTF-8: {problem}") from problem


def open_pairs(sources: Sequence[tuple[str, Path, Path]], *, split: str | None) -> ImageList:
    """List the images of the pairs that lists name, in folders laid out as published: (layout, folder, list) of each.
    Pairs of one location are one place. `split` is that of all; None: drawn. `InputError` for an unknown layout;
    `ManifestError` where a folder or list does not exist, a list has no pairs, or none of its first ones is there."""
    tables = [_rows_of(*source, split=split) for source in sources]
    names = ", ".join(str(path) for _, _, path in sources)
    return ImageList(names, Path(), lambda: (row for table in tables for row in table()))


_Row = tuple[str, Mapping[str, Any]]


def _rows_of(name: str, root: Path, path: Path, *, split: str | None) -> Callable[[], Iterator[_Row]]:
    layout, forms = layout_of(name), _FORMS[name]
    wanted = f"layout '{name}' wants {layout['wanted']}"
    if not root.is_dir():
        raise ManifestError(f"'{root}' is no folder; {wanted}")
    looked_at = list(islice(read_pairs(path), _LOOKED_FOR))
    if not looked_at:
        raise ManifestError(f"the list of pairs '{path}' is empty; {wanted}")
    bases = tuple(_bases(root, [forms(*pair)[role] for _, *pair in looked_at]) for role in (0, 1))
    if not all(bases):
        missing = 0 if not bases[0] else 1
        raise ManifestError(
            f"'{root}' has none of the first {counted(len(looked_at), 'file')} that '{path}' names, such as "
            f"'{looked_at[0][1 + missing]}'; {wanted}"
        )

    def rows() -> Iterator[_Row]:
        for number, *pair in read_pairs(path):
            *of_roles, place = forms(*pair)
            for columns, folders, names in zip(layout["images"], bases, of_roles, strict=True):
                ways = [folder / one for folder in folders for one in names]
                # What is not there is said when it is opened.
                found = next((way for way in ways if way.exists()), ways[0])
                yield f"line {number} of '{path}'", {**columns, "path": [str(found)], "place": place, "split": split}

    return rows


_Forms = tuple[Sequence[str], Sequence[str], str]
"""Ways in which each of two files may be named, the listed one first; and the place that both show."""


def _fmow_forms(picture: str, optical: str) -> _Forms:
    """A picture may have another ending; images of one location are one place, so that it has one split."""
    endings = [list(dict.fromkeys([name, *(_stem(name) + one for one in _ENDINGS)])) for name in (picture, optical)]
    return endings[0], endings[1], PurePosixPath(_stem(optical)).parent.name or _stem(optical)


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix("")) if name.casefold().endswith(_ENDINGS) else name


def _bigearthnet_forms(optical: str, radar: str) -> _Forms:
    """Patches of version 2 lie in a folder for each tile or product; both may lie in one folder."""
    # Source: names of BigEarthNet patches end in column and row, those of Sentinel-1 have a tile before.
    of_optical, of_radar = f"{optical.rsplit('_', 2)[0]}/{optical}", f"{radar.rsplit('_', 3)[0]}/{radar}"
    return (optical, of_optical), (radar, of_radar, optical), PurePosixPath(optical).name


_FORMS: Mapping[str, Callable[[str, str], _Forms]] = {"fmow-pairs": _fmow_forms, "bigearthnet-mm": _bigearthnet_forms}


def _bases(root: Path, wanted: Sequence[Sequence[str]]) -> list[Path]:
    """Find the folders, of the least depth, that some of the wanted files are named from; each may be named in ways."""
    folders = [root]
    for _ in range(_DEEPEST + 1):
        if found := [one for one in folders if any((one / way).exists() for ways in wanted for way in ways)]:
            return found
        folders = [below for one in folders for below in sorted(_folders(one))]
    return []


def _folders(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        return [Path(one.path) for one in islice((one for one in entries if one.is_dir()), _MOST_FOLDERS)]
