"""Data whose labels are of pixels: scenes, squares of them, and their classes."""

import datetime as dt
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

import numpy as np

from anyband.arrays import Array, Bool, Num
from anyband.data.manifest import ImageEntry, entry_sensor
from anyband.data.places import PlacedImage, find_places
from anyband.data.store import SPLITS, Split
from anyband.errors import InputError, ManifestError
from anyband.labelled.blocks import blocked
from anyband.labelled.label_rasters import (
    LabelPixels,
    PolygonLabels,
    check_values,
    class_names,
    read_labels,
    read_polygons,
    to_class_map,
    to_number_map,
    whole_values,
)
from anyband.labelled.samples import (
    DENSE_KINDS,
    PARTIAL,
    DataSpec,
    Sample,
    SampleImage,
    TaskData,
    check_options,
    contents_of,
    fingerprint_of,
    keep_samples,
)
from anyband.labelled.splits import draw_places, splits_from_lists
from anyband.labelled.tables import LabelFile, ListedSample, list_samples
from anyband.progress import progress
from anyband.rasters.grid import Grid, Tile, Window, check_same_ground, matching_window, tiles_of
from anyband.rasters.reader import open_raster
from anyband.sensors.sensor import Sensor

__all__ = ["map_data", "open_maps"]

# chosen: opening an image takes a tenth of a second where it has many variables.
_SHOWN_FROM = 20
# chosen: more values than any map of classes has; a raster of numbers has more.
_MOST_CLASSES = 256
# chosen: as many classes in a message as one reads.
_NAMED = 8


def open_maps(spec: DataSpec, *, seed: int) -> TaskData:
    """Find images with maps of labels in a table or a folder.
    Pixels have no label where the raster says no data or `ignore`, where no polygon lies (unless the option `outside`
    says what that is), and where no image of the sample shows anything. Samples without any label are left out.
    Where `classes` is empty, the values that occur in training are the classes, ascending.

    Raises:
        ManifestError: there is nothing, or a row is wrong.
        GeometryError: labels on another grid than their image, or images of one sample on different ground.
        InputError: labels that are no class, no labels at all, or a class that training lacks.
    """
    source = Path(spec.source)
    check_options(spec, ("outside",))
    name = source.stem if source.is_file() else source.name
    return map_data(list_samples(spec), spec, name=name, seed=seed)


def map_data(samples: Sequence[ListedSample], spec: DataSpec, *, name: str, seed: int) -> TaskData:
    """Make samples of images with maps of labels. Every label is read once, to be checked and counted.
    Raises:
        GeometryError: labels on another grid than their image, or images of one sample on different ground.
        InputError: labels that are no class, no labels at all, or a class that training lacks.
    """
    if spec.kind not in DENSE_KINDS:
        raise InputError(f"'{name}' has maps of labels; `kind` must be {' or '.join(DENSE_KINDS)}, found '{spec.kind}'")
    if spec.tile_px is not None and spec.tile_px < 1:
        raise InputError(f"tile_px must be at least 1, found {spec.tile_px}")
    if len(spec.sensors) > 1:
        wrong = next((one for one in samples if len(one.images) != len(spec.sensors)), None)
        if wrong is not None:
            raise ManifestError(
                f"`sensors` declares {len(spec.sensors)} images a sample, '{wrong.images[0].name}' of '{spec.source}' "
                f"has {len(wrong.images)}"
            )
    scenes, named = _open_scenes(_named(samples), spec)
    splits, places, notes = _scene_splits(scenes, spec, seed=seed)
    maps = _Maps(scenes, splits, places, spec)
    num_all = len(maps.scenes)
    counts = maps.keep_labelled()
    if not counts:
        raise InputError(f"'{name}' has no labels: every pixel of its {num_all} samples is no data or ignored")
    if len(counts) < num_all:
        notes = (*notes, f"{num_all - len(counts)} samples without labels are left out")
    if spec.kind == "class_map":
        maps.classes = _classes(maps, counts, spec, named)
    data = replace(maps.task_data(name), notes=notes)
    if spec.split.blocks is None:
        return data
    shares = {"val": spec.split.val, "test": spec.split.test}
    return blocked(data, spec.split.blocks, **shares, seed=seed, labels=maps.label_map)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Scene:
    """Images of one piece of ground that were opened once, and its labels."""

    sample: ListedSample
    sensors: tuple[Sensor, ...]
    """Of the images, as stored."""
    grids: tuple[Grid, ...]
    times: tuple[dt.datetime | None, ...]
    """Of the images; None: not known."""
    labels: LabelFile | PolygonLabels
    """On the first image."""

    @property
    def name(self) -> str:
        return self.sample.name

    @property
    def files(self) -> tuple[Path, ...]:
        sources = [entry.source for entry in self.sample.images]
        return tuple(path for source in sources for path in (*source.paths, *source.valid_paths))


def _open_scenes(samples: Sequence[ListedSample], spec: DataSpec) -> tuple[list[_Scene], dict[int, str]]:
    """Open all images for what their headers say, and read the polygons.
    Gives the name of each value, too, where polygons have names as labels.
    """
    files = [one.label for one in samples if isinstance(one.label, LabelFile)]
    polygons, classes = read_polygons(
        [file.path for file in files if file.is_polygons],
        column=spec.label_column,
        classes=spec.classes,
        outside=spec.options.get("outside"),
    )
    scenes = []
    with progress("open images", len(samples), shown=len(samples) > _SHOWN_FROM) as advance:
        for sample, file in zip(samples, files, strict=True):
            scenes.append(_open_scene(sample, polygons[file.path] if file.is_polygons else file))
            advance(1)
    return scenes, classes


def _open_scene(sample: ListedSample, labels: LabelFile | PolygonLabels) -> _Scene:
    grids, times = [], []
    for entry in sample.images:
        with open_raster(entry.source, entry.sensor) as reader:
            grids.append(reader.grid)
            times.append(entry.datetime or reader.datetime)
    for grid, entry in zip(grids[1:], sample.images[1:], strict=True):
        check_same_ground(grids[0], grid, names=(sample.images[0].name, entry.name))
    sensors = tuple(entry_sensor(entry) for entry in sample.images)
    return _Scene(sample=sample, sensors=sensors, grids=tuple(grids), times=tuple(times), labels=labels)


def _named(samples: Sequence[ListedSample]) -> list[ListedSample]:
    """Name each sample by its first image, or by all where that is not enough: the same on every machine."""
    paths = [os.path.abspath(entry.source.paths[0]) for one in samples for entry in one.images]  # noqa: PTH100
    common = Path(os.path.commonpath([str(Path(path).parent) for path in paths]))
    every = [[_image_name(entry, common) for entry in one.images] for one in samples]
    firsts = Counter(names[0] for names in every)
    found = [names[0] if firsts[names[0]] == 1 else " + ".join(names) for names in every]
    twice = next((name for name, count in Counter(found).items() if count > 1), None)
    if twice is not None:
        raise ManifestError(f"'{twice}' stands {found.count(twice)} times with labels; keep one of them")
    return [replace(one, name=name) for one, name in zip(samples, found, strict=True)]


def _image_name(entry: ImageEntry, common: Path) -> str:
    path = Path(os.path.abspath(entry.source.paths[0])).relative_to(common).as_posix()  # noqa: PTH100
    source = entry.source
    if source.time is not None:
        return f"{path} @{source.time:%Y-%m-%d}"
    return path if source.time_index is None else f"{path} @{source.time_index}"


def _scene_splits(
    scenes: Sequence[_Scene], spec: DataSpec, *, seed: int
) -> tuple[tuple[Split | None, ...], tuple[str, ...], tuple[str, ...]]:
    """Find the split and place of each scene, and notes.
    Splits are those of lists, or declared; else places are drawn, and images without a declared place that overlap are
    of one. Where validation is not declared it is drawn from training. With blocks every scene is `train`, to be
    divided later.
    """
    shares = spec.split
    declared: tuple[Split | None, ...] = tuple(scene.sample.split for scene in scenes)
    training: list[Split | None] = ["train" for _ in scenes]
    if shares.blocks is not None:
        if shares.lists is not None or any(declared):
            raise ManifestError(
                f"'{spec.source}' declares splits, and `split.blocks` would draw them; take out the column `split` (or "
                "the folders `train`, `val`, `test`, or `split.lists`), or the blocks"
            )
        return tuple(training), *_places_by_ground(scenes)
    notes: tuple[str, ...] = ()
    if shares.lists is not None:
        absent = spec.options.get("absent", "refuse")
        names = [scene.name for scene in scenes]
        declared, notes = splits_from_lists(shares.lists, names, source=spec.source, absent=absent)
    elif not all(declared):
        places, notes = _places_by_ground(scenes)
        return draw_places(places, training, val=shares.val, test=shares.test, seed=seed), places, notes
    places = _own_places(scenes)
    if "val" in declared or shares.val == 0:
        return declared, places, notes
    splits = draw_places(places, declared, val=shares.val, test=0.0, seed=seed)
    drawn = f"{splits.count('val')} of {declared.count('train')} training images are drawn for validation"
    return splits, places, (*notes, drawn)


def _own_places(scenes: Sequence[_Scene]) -> tuple[str, ...]:
    return tuple(scene.sample.place or scene.name for scene in scenes)


def _places_by_ground(scenes: Sequence[_Scene]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Take declared places as they are, and join the other scenes that overlap; notes say so."""
    free = [index for index, scene in enumerate(scenes) if scene.sample.place is None]
    images = [
        PlacedImage(name=scenes[index].name, grid=scenes[index].grids[0], place=None, split=None) for index in free
    ]
    if not images:
        return _own_places(scenes), ()
    found, notes = find_places(images)
    names = {free[member]: place.name for place in found for member in place.members}
    declared = {scene.sample.place for scene in scenes}
    # A place that is found must not be taken for a declared one of its name.
    return (
        tuple(
            scene.sample.place or names[index] + " (found)" * (names[index] in declared)
            for index, scene in enumerate(scenes)
        ),
        tuple(notes),
    )


class _Maps:
    """The samples: scenes, or squares of them, by position. Once `classes` are set their labels are class numbers."""

    def __init__(
        self, scenes: Sequence[_Scene], splits: Sequence[Split | None], places: Sequence[str], spec: DataSpec
    ) -> None:
        """Cut scenes that are in a split into squares, and see that all their images show them."""
        self.spec = spec
        self.classes: dict[int, str] | None = None
        cut = [
            (scene, tile, split, place)
            for scene, split, place in zip(scenes, splits, places, strict=True)
            if split is not None
            for tile in tiles_of(scene.grids[0], spec.tile_px)
        ]
        self.scenes: list[_Scene] = [scene for scene, _, _, _ in cut]
        self.tiles: list[Tile] = [tile for _, tile, _, _ in cut]
        self.splits: list[Split] = [split for _, _, split, _ in cut]
        self.places: list[str] = [place for _, _, _, place in cut]
        # Many dates of a place share one file of labels, so the last ones are kept.
        self._last: tuple[object, LabelPixels] | None = None
        for index in range(len(cut)):
            self._windows(index)

    def keep_labelled(self) -> list[Counter[int]]:
        """Leave out samples without labels; give the pixels of each value of the others, of numbers all as value 0."""
        counts = []
        with progress("check labels", len(self.scenes), shown=len(self.scenes) > _SHOWN_FROM) as advance:
            for index in range(len(self.scenes)):
                counts.append(self._counted(index))
                advance(1)
        kept = [index for index, found in enumerate(counts) if found]
        self.scenes, self.tiles = [self.scenes[index] for index in kept], [self.tiles[index] for index in kept]
        self.splits, self.places = [self.splits[index] for index in kept], [self.places[index] for index in kept]
        return [counts[index] for index in kept]

    def where(self, index: int) -> str:
        return f"label '{self.scenes[index].labels.path}'"

    def label_map(self, index: int) -> tuple[Num[Array, "row col"], Grid]:
        """Read the labels of a sample alone, and where they lie."""
        tile, pixels = self.tiles[index], self._pixels(index)
        grid, own = self.scenes[index].grids[0].part(tile.window), tile.is_own()
        if self.classes is None:
            return np.where(own, to_number_map(pixels, ignore=self.spec.ignore), np.nan), grid
        found = to_class_map(pixels, self.classes, ignore=self.spec.ignore, where=self.where(index))
        return np.where(own, found, -1), grid

    def task_data(self, name: str) -> TaskData:
        names = tuple(self._name(index) for index in range(len(self.scenes)))
        contents, labels = self._contents(), self._label_hashes()
        classes = () if self.classes is None else class_names(self.classes)
        return TaskData(
            name=name,
            kind=self.spec.kind,
            classes=classes,
            names=names,
            splits=tuple(self.splits),
            places=tuple(self.places),
            sensors=tuple(scene.sensors for scene in self.scenes),
            read=keep_samples(self._sample),
            fingerprint=fingerprint_of(names, contents, labels, self.splits, classes=classes),
            contents=contents,
        )

    def _name(self, index: int) -> str:
        scene, window = self.scenes[index], self.tiles[index].window
        return scene.name if window == scene.grids[0].whole else f"{scene.name} ({window})"

    def _windows(self, index: int) -> list[Window]:
        """Find the pixels of a sample in each image."""
        scene = self.scenes[index]
        first, names = scene.grids[0], [entry.name for entry in scene.sample.images]
        return [
            matching_window(self.tiles[index].window, first, grid, names=(names[0], name))
            for grid, name in zip(scene.grids, names, strict=True)
        ]

    def _pixels(self, index: int) -> LabelPixels:
        """Read the labels of a sample, as stored. What is given must not be changed."""
        scene, window = self.scenes[index], self.tiles[index].window
        labels, grid, last = scene.labels, scene.grids[0], self._last
        key = (labels, grid, window)
        if last is None or last[0] != key:
            if isinstance(labels, LabelFile):
                last = key, read_labels(labels, grid, window, image=scene.name)
            else:
                last = key, labels.read(grid, window, image=scene.name)
            self._last = last
        return last[1]

    def _counted(self, index: int) -> Counter[int]:
        pixels, ignore = self._pixels(index), self.spec.ignore
        known = pixels[1] & self.tiles[index].is_own()
        if self.spec.kind == "number_map":
            counts = {0: int(np.isfinite(to_number_map(pixels, ignore=ignore)[known]).sum())}
        else:
            values, sizes = np.unique(whole_values(pixels, where=self.where(index))[known], return_counts=True)
            counts = dict(zip(values.tolist(), sizes.tolist(), strict=True))
        return Counter({value: size for value, size in counts.items() if size and value not in ignore})

    def _contents(self) -> tuple[str, ...]:
        """Hash the images of each sample; other times, bands or windows of one file are other contents."""
        files = dict.fromkeys(scene.files for scene in dict.fromkeys(self.scenes))
        hashes = dict(zip(files, contents_of(list(files)), strict=True))
        found = []
        for scene, tile in zip(self.scenes, self.tiles, strict=True):
            content = hashes[scene.files]
            sources = [entry.source for entry in scene.sample.images]
            chosen = [(one.bands, one.time_index, one.time, one.valid_values, one.valid_variable) for one in sources]
            state = blake2b(f"{content} {chosen!r} {tile.window}".encode(), digest_size=16)
            found.append((PARTIAL if content.startswith(PARTIAL) else "") + state.hexdigest())
        return tuple(found)

    def _label_hashes(self) -> list[str]:
        """Hash the labels of each sample with what is said of them and of its images' numbers."""
        files = dict.fromkeys(scene.labels.path for scene in self.scenes)
        hashes = dict(zip(files, contents_of([[path] for path in files]), strict=True))
        classes = self.classes or {}
        names = class_names(classes)
        values = () if self.classes is None else [(value, names.index(classes[value])) for value in sorted(classes)]
        meaning = (self.spec.ignore, self.spec.label_column, self.spec.options.get("outside"), values)
        found = []
        for scene in self.scenes:
            labels = scene.labels
            own = (labels.variable, labels.nodata) if isinstance(labels, LabelFile) else (labels.outside,)
            images = [
                (entry.sensor.name, entry.sensor.band_names, entry.encoding, entry.source.nodata)
                for entry in scene.sample.images
            ]
            found.append(repr((hashes[labels.path], own, meaning, images)))
        return found

    def _sample(self, index: int) -> Sample:
        scene = self.scenes[index]
        images = []
        for slot, window in enumerate(self._windows(index)):
            entry = scene.sample.images[slot]
            with open_raster(entry.source, entry.sensor) as reader:
                raster = reader.read(window)
            sensor, time = scene.sensors[slot], scene.times[slot]
            images.append(SampleImage(dn=raster.dn, valid=raster.valid, sensor=sensor, grid=raster.grid, datetime=time))
        found, _ = self.label_map(index)
        shown = _shown(images)
        if self.classes is None:
            return Sample(images=tuple(images), number_map=np.where(shown, found, np.nan))
        return Sample(images=tuple(images), class_map=np.where(shown, found, -1).astype(np.int64))


def _shown(images: Sequence[SampleImage]) -> Bool[Array, "row col"]:
    """Tell where at least one image of the first one's size has data in a band."""
    size = images[0].dn.shape[1:]
    seen = [image.valid.any(axis=0) for image in images if image.dn.shape[1:] == size]
    return np.asarray(np.any(seen, axis=0))


def _classes(maps: _Maps, counts: Sequence[Counter[int]], spec: DataSpec, named: Mapping[int, str]) -> dict[int, str]:
    """Name the class of each value, and see that every label is one and that training has it."""
    by_split = {split: Counter[int]() for split in SPLITS}
    for split, found in zip(maps.splits, counts, strict=True):
        by_split[split].update(found)
    classes = dict(spec.classes) or dict(named) or _found_classes(by_split["train"], maps.where(0))
    names = class_names(classes, ignore=spec.ignore)
    if len(names) < 2:
        only = f"only '{names[0]}'" if names else "none"
        raise InputError(f"maps of classes need two classes at least, found {only}; name them in `classes`")
    declared = bool(spec.classes) or bool(named)
    for index, found in enumerate(counts):
        if declared or maps.splits[index] == "train":
            check_values(found, classes, ignore=spec.ignore, where=maps.where(index))
    for split in SPLITS[1:]:
        _check_learned(split, by_split, classes)
    return classes


def _found_classes(counts: Counter[int], where: str) -> dict[int, str]:
    values = sorted(counts)
    if len(values) > _MOST_CLASSES:
        raise InputError(
            f"{where} and others have {len(values)} different values, which is no map of classes; use "
            "`kind: number_map`, or name the classes in `classes`"
        )
    if values and values[0] < 0:
        raise InputError(
            f"{where} or others have the value {values[0]} at {counts[values[0]]} pixels, which is seldom a "
            "class; list it in `ignore`, or name all classes in `classes`"
        )
    return {value: str(value) for value in values}


def _check_learned(split: Split, by_split: Mapping[Split, Counter[int]], classes: Mapping[int, str]) -> None:
    """Refuse a class that is asked for and was never shown."""
    shown = {classes.get(value, str(value)) for value in by_split["train"]}
    wanted = Counter[str]()
    for value, count in by_split[split].items():
        wanted[classes.get(value, str(value))] += count
    lacking = [name for name in wanted if name not in shown]
    if lacking:
        pixels = ", ".join(f"'{name}' ({wanted[name]} pixels)" for name in lacking[:_NAMED])
        raise InputError(
            f"{len(lacking)} class{'es are' if len(lacking) > 1 else ' is'} in the labels of split '{split}' and not "
            f"in those of training: {pixels}; divide the data so that training has each class, or list the value in "
            "`ignore`"
        )
