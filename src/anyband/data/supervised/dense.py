"""Images with maps of labels: tables, folders and polygons become samples; what does not fit is refused first."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

import numpy as np

from anyband.data.chip_index import SPLITS, Split
from anyband.data.supervised.blocks import blocked
from anyband.data.supervised.contents import PARTIAL, contents_of, fingerprint_of
from anyband.data.supervised.dense_parts import DenseParts, parts_of
from anyband.data.supervised.dense_scenes import SHOWN_FROM, Scene, open_scenes, read_image
from anyband.data.supervised.dense_tables import DenseItem, dense_items
from anyband.data.supervised.found_samples import check_options
from anyband.data.supervised.kept_samples import keep_samples
from anyband.data.supervised.label_rasters import (
    ClassTable,
    LabelPixels,
    Labels,
    check_values,
    class_table,
    to_class_map,
    to_number_map,
    whole_values,
)
from anyband.data.supervised.records import DENSE_KINDS, DataSpec, Sample, SampleImage, TaskData
from anyband.data.supervised.tiling import Tile, matching_window, tiles_of
from anyband.data.tiles import Grid, Window
from anyband.errors import InputError
from anyband.progress import progress
from anyband.shapes import Array, Bool, Num

__all__ = ["dense_data", "open_dense"]

# chosen: more values than any map of classes has; a raster of numbers has more.
_MOST_CLASSES = 256


class _LabelReader:
    """Reads labels, and keeps the last: many dates of a place share one file of them."""

    def __init__(self) -> None:
        self._last: tuple[tuple[Labels, Grid, Window], LabelPixels] | None = None

    def read(self, scene: Scene, window: Window) -> LabelPixels:
        """Read a window of the labels of a scene. What is given must not be changed."""
        key, last = (scene.labels, scene.grids[0], window), self._last
        if last is None or last[0] != key:
            last = key, scene.labels.read(scene.grids[0], window, image=scene.name)
            self._last = last
        return last[1]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Piece:
    """One sample: a scene, or a square of it."""

    scene: Scene
    """What it is cut from."""
    tile: Tile
    """Which pixels."""
    split: Split
    """Its part."""
    place: str
    """Its place."""
    label_reader: "_LabelReader"
    """Reads its labels."""

    @property
    def name(self) -> str:
        """Of the sample."""
        whole = self.tile.window == self.scene.grids[0].whole
        return self.scene.name if whole else f"{self.scene.name} ({self.tile.window})"

    @property
    def where(self) -> str:
        """Of its labels, for messages."""
        return f"label '{self.scene.labels.path}'"

    def labels(self) -> LabelPixels:
        """Read its labels, as stored."""
        return self.label_reader.read(self.scene, self.tile.window)

    def windows(self) -> list[Window]:
        """Find its pixels in each image."""
        first, names = self.scene.grids[0], [entry.name for entry in self.scene.images]
        return [
            matching_window(self.tile.window, first, grid, names=(names[0], name))
            for grid, name in zip(self.scene.grids, names, strict=True)
        ]


def open_dense(spec: DataSpec, *, seed: int) -> TaskData:
    """Find images with maps of labels in a table or a folder.

    A table (CSV, YAML, Parquet) has the columns `image` and `label` (a raster on the image's grid, or polygons), or
    `before`, `after` and `label`, or `path`, `set` and `label` with a row for each image of a sample. It may have
    `split`, `place` and the columns of a manifest (`anyband.data.manifest.COLUMNS`); of pairs, `before_datetime` and
    the like speak of one image. `label_variable` names the band of a label raster with several, `label_nodata` its
    value for "no label". A folder has `images` (or `before` and `after`) and `labels`, itself or in `train`, `val` and
    `test`.

    Pixels have no label where the raster says no data or `ignore`, where no polygon lies (unless the option `outside`
    says what that is), and where no image of the sample shows anything. Samples without any label are left out.
    Where `classes` is empty, the values that occur in training are the classes, ascending.

    Args:
        spec: which data.
        seed: of parts that are drawn.

    Raises:
        ManifestError: there is nothing, or a row is wrong.
        GeometryError: labels on another grid than their image, or images of one sample on different ground.
        InputError: labels that are no class, no labels at all, or a class that training lacks.
    """
    source = Path(spec.source)
    check_options(spec, ("outside",))
    return dense_data(dense_items(source, spec), spec, name=source.stem if source.is_file() else source.name, seed=seed)


def dense_data(items: Sequence[DenseItem], spec: DataSpec, *, name: str, seed: int) -> TaskData:
    """Make samples of images with maps of labels. Every label is read once, to be checked and counted.

    Args:
        items: of one data set.
        spec: says what labels mean, how large images are cut, and how parts are drawn.
        name: of the data, for people.
        seed: of the draw.

    Raises:
        GeometryError: labels on another grid than their image, or images of one sample on different ground.
        InputError: labels that are no class, no labels at all, or a class that training lacks.
    """
    if spec.kind not in DENSE_KINDS:
        raise InputError(f"'{name}' has maps of labels; `kind` must be {' or '.join(DENSE_KINDS)}, found '{spec.kind}'")
    scenes, named = open_scenes(items, spec)
    parts = parts_of(scenes, spec, seed=seed)
    pieces = _pieces(scenes, parts, spec.tile_px)
    counts = _counted(pieces, spec)
    kept = [index for index, found in enumerate(counts) if found]
    if not kept:
        raise InputError(f"'{name}' has no labels: every pixel of its {len(pieces)} samples is no data or ignored")
    left_out = len(pieces) - len(kept)
    notes = (*parts.notes, *((f"{left_out} samples without labels are left out",) if left_out else ()))
    pieces, counts = [pieces[index] for index in kept], [counts[index] for index in kept]
    table = _table(pieces, counts, spec, named) if spec.kind == "class_map" else None
    data = _task_data(pieces, spec, table, name=name)
    data = replace(data, notes=notes)
    if spec.split.blocks is None:
        return data
    return blocked(
        data,
        spec.split.blocks,
        val=spec.split.val,
        test=spec.split.test,
        seed=seed,
        labels=lambda index: _labels(pieces[index], spec, table),
    )


def _pieces(scenes: Sequence[Scene], parts: DenseParts, tile_px: int | None) -> list[_Piece]:
    if tile_px is not None and tile_px < 1:
        raise InputError(f"tile_px must be at least 1, found {tile_px}")
    reader = _LabelReader()
    found = [
        _Piece(scene=scene, tile=tile, split=split, place=place, label_reader=reader)
        for scene, split, place in zip(scenes, parts.splits, parts.places, strict=True)
        if split is not None
        for tile in tiles_of(scene.grids[0], tile_px)
    ]
    for piece in found:
        piece.windows()
    return found


def _counted(pieces: Sequence[_Piece], spec: DataSpec) -> list[Counter[int]]:
    """Count the pixels of each value of each sample, without those to be ignored; of numbers, all as value 0."""
    found = []
    with progress("check labels", len(pieces), shown=len(pieces) > SHOWN_FROM) as advance:
        for piece in pieces:
            pixels = piece.labels()
            known = pixels.known & piece.tile.is_own()
            if spec.kind == "number_map":
                numbers = to_number_map(pixels, ignore=spec.ignore)[known]
                counts = Counter({0: int(np.isfinite(numbers).sum())})
            else:
                values, sizes = np.unique(whole_values(pixels, where=piece.where)[known], return_counts=True)
                counts = Counter(dict(zip(values.tolist(), sizes.tolist(), strict=True)))
            found.append(Counter({value: size for value, size in counts.items() if size and value not in spec.ignore}))
            advance(1)
    return found


def _table(
    pieces: Sequence[_Piece], counts: Sequence[Counter[int]], spec: DataSpec, named: Mapping[int, str]
) -> ClassTable:
    """Name the classes, and see that every label is one and that training has it."""
    by_part = {part: Counter[int]() for part in SPLITS}
    for piece, found in zip(pieces, counts, strict=True):
        by_part[piece.split].update(found)
    classes = dict(spec.classes) or dict(named) or _found_classes(by_part["train"], pieces)
    table = class_table(classes, ignore=spec.ignore)
    if len(table.names) < 2:
        only = f"only '{table.names[0]}'" if table.names else "none"
        raise InputError(f"maps of classes need two classes at least, found {only}; name them in `classes`")
    declared = bool(spec.classes) or bool(named)
    for piece, found in zip(pieces, counts, strict=True):
        if declared or piece.split == "train":
            check_values(found, table, where=piece.where)
    for part in SPLITS[1:]:
        _check_learned(part, by_part, table)
    return table


def _found_classes(counts: Counter[int], pieces: Sequence[_Piece]) -> dict[int, str]:
    values = sorted(counts)
    if len(values) > _MOST_CLASSES:
        raise InputError(
            f"{pieces[0].where} and others have {len(values)} different values, which is no map of classes; use "
            "`kind: number_map`, or name the classes in `classes`"
        )
    if values and values[0] < 0:
        raise InputError(
            f"{pieces[0].where} or others have the value {values[0]} at {counts[values[0]]} pixels, which is seldom a "
            "class; list it in `ignore`, or name all classes in `classes`"
        )
    return {value: str(value) for value in values}


def _check_learned(part: Split, by_part: Mapping[Split, Counter[int]], table: ClassTable) -> None:
    """Refuse a class that is asked for and was never shown."""

    def classes(of: Split) -> Counter[str]:
        found = Counter[str]()
        for value, count in by_part[of].items():
            found[table.names[table.positions[value]] if value in table.positions else str(value)] += count
        return found

    shown, asked = classes("train"), classes(part)
    lacking = [name for name in asked if not shown[name]]
    if lacking:
        pixels = ", ".join(f"'{name}' ({asked[name]} pixels)" for name in lacking[:8])
        raise InputError(
            f"{len(lacking)} class{'es are' if len(lacking) > 1 else ' is'} in the labels of part '{part}' and not in "
            f"those of training: {pixels}; divide the data so that training has each class, or list the value in "
            "`ignore`"
        )


def _task_data(pieces: Sequence[_Piece], spec: DataSpec, table: ClassTable | None, *, name: str) -> TaskData:
    names, splits = tuple(piece.name for piece in pieces), tuple(piece.split for piece in pieces)
    contents, labels = _contents(pieces), _label_hashes(pieces, spec, table)
    classes = () if table is None else table.names
    return TaskData(
        name=name,
        kind=spec.kind,
        classes=classes,
        names=names,
        splits=splits,
        places=tuple(piece.place for piece in pieces),
        sensors=tuple(piece.scene.sensors for piece in pieces),
        read=keep_samples(lambda index: _sample(pieces[index], spec, table)),
        fingerprint=fingerprint_of(names, contents, labels, splits, classes=classes),
        contents=contents,
    )


def _contents(pieces: Sequence[_Piece]) -> tuple[str, ...]:
    """Hash the images of each sample; other times, bands or windows of one file are other contents."""
    scenes = list(dict.fromkeys(piece.scene for piece in pieces))
    files = dict.fromkeys(tuple(scene.files) for scene in scenes)
    hashes = dict(zip(files, contents_of(list(files)), strict=True))
    found = []
    for piece in pieces:
        content = hashes[tuple(piece.scene.files)]
        sources = [entry.source for entry in piece.scene.images]
        chosen = [(one.bands, one.time_index, one.time, one.valid_values, one.valid_variable) for one in sources]
        state = blake2b(f"{content} {chosen!r} {piece.tile.window}".encode(), digest_size=16)
        found.append((PARTIAL if content.startswith(PARTIAL) else "") + state.hexdigest())
    return tuple(found)


def _label_hashes(pieces: Sequence[_Piece], spec: DataSpec, table: ClassTable | None) -> list[str]:
    """Hash the labels of each sample with what is said of them and of its images' numbers."""
    files = dict.fromkeys(piece.scene.labels.path for piece in pieces)
    hashes = dict(zip(files, contents_of([[path] for path in files]), strict=True))
    values = () if table is None else sorted(table.positions.items())
    meaning = (spec.ignore, spec.label_column, spec.options.get("outside"), values)
    return [
        repr((hashes[piece.scene.labels.path], piece.scene.labels.settings, meaning, _said(piece.scene)))
        for piece in pieces
    ]


def _said(scene: Scene) -> list[tuple[object, ...]]:
    return [(entry.sensor.name, entry.sensor.band_names, entry.encoding, entry.source.nodata) for entry in scene.images]


def _sample(piece: _Piece, spec: DataSpec, table: ClassTable | None) -> Sample:
    images = tuple(read_image(piece.scene, slot, window) for slot, window in enumerate(piece.windows()))
    found, _ = _labels(piece, spec, table)
    hidden = ~_shown(images)
    if table is None:
        return Sample(images=images, number_map=np.where(hidden, np.nan, found))
    return Sample(images=images, class_map=np.where(hidden, -1, found).astype(np.int64))


def _labels(piece: _Piece, spec: DataSpec, table: ClassTable | None) -> tuple[Num[Array, "row col"], Grid]:
    """Read the labels of a sample alone, and where they lie."""
    grid = piece.scene.grids[0]
    pixels, own = piece.labels(), piece.tile.is_own()
    if table is None:
        return np.where(own, to_number_map(pixels, ignore=spec.ignore), np.nan), grid.part(piece.tile.window)
    return np.where(own, to_class_map(pixels, table, where=piece.where), -1), grid.part(piece.tile.window)


def _shown(images: Sequence[SampleImage]) -> Bool[Array, "row col"]:
    """Tell where at least one image of the first one's size has data in a band."""
    size = images[0].dn.shape[1:]
    seen = [image.valid.any(axis=0) for image in images if image.dn.shape[1:] == size]
    return np.asarray(np.any(seen, axis=0))
