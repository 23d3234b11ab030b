"""Data whose labels are of pixels: scenes, squares of them, and their classes."""

import datetime as dt
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from pathlib import Path

import numpy as np

from anyband.arrays import Array, Num
from anyband.data.manifest import entry_sensor
from anyband.data.places import PlacedImage, find_places
from anyband.data.store import SPLITS, Split
from anyband.errors import InputError, ManifestError, RecipeError, agreed, counted
from anyband.labelled.blocks import blocked
from anyband.labelled.label_rasters import (
    LabelPixels,
    PolygonLabels,
    Remarks,
    check_values,
    class_names,
    read_labels,
    read_polygons,
    to_class_map,
    to_number_map,
    whole_values,
)
from anyband.labelled.samples import (
    PARTIAL,
    DataSpec,
    Sample,
    SampleImage,
    TaskData,
    contents_of,
    fingerprint_of,
    keep_samples,
    options_of,
    state_of,
)
from anyband.labelled.splits import (
    absent_classes,
    alike_names,
    draw_places,
    fill_notes,
    numbers_apart,
    splits_from_lists,
    unused_shares,
)
from anyband.labelled.tables import VECTOR_ENDINGS, LabelFile, ListedSample, list_samples
from anyband.progress import progress
from anyband.rasters.grid import Grid, Tile, Window, check_same_ground, matching_window, own_pixels, tiles_of
from anyband.rasters.reader import open_raster, said_once
from anyband.sensors.sensor import Sensor

__all__ = ["map_data", "open_maps"]

# chosen: opening an image takes a tenth of a second where it has many variables.
_SHOWN_FROM = 20
# chosen: more values than any map of classes has; a raster of numbers has more.
_MOST_CLASSES = 256
# Options of one kind of labels.
_OF_POLYGONS, _OF_RASTERS = ("outside", "layer"), ("label_nodata", "label_scale")
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
    options_of(spec, {"outside": (), "layer": (), "label_nodata": (), "label_scale": ("stored", "tags")})
    name = source.stem if source.is_file() else source.name
    return map_data(list_samples(spec), spec, name=name, seed=seed)


def map_data(samples: Sequence[ListedSample], spec: DataSpec, *, name: str, seed: int) -> TaskData:
    """Make samples of images with maps of labels, which are read once, to be checked and counted; see `open_maps`."""
    if spec.tile_px is not None and spec.tile_px < 1:
        raise InputError(f"tile_px must be at least 1, found {spec.tile_px}")
    if len(spec.sensors) > 1:
        wrong = next((one for one in samples if len(one.images) != len(spec.sensors)), None)
        if wrong is not None:
            raise ManifestError(
                f"`data.sensors` declares {len(spec.sensors)} images a sample, '{wrong.images[0].name}' of "
                f"'{spec.source}' has {len(wrong.images)}"
            )
    _check_used(samples, spec)
    scenes, named, said = _open_scenes(_named(samples), spec)
    splits, places, notes = _scene_splits(scenes, spec, seed=seed)
    maps = _Maps(scenes, splits, places, spec)
    if not maps.counts:
        raise InputError(
            f"'{name}' has no labels: every pixel of its {counted(maps.num_all, 'sample')} is no data or ignored"
        )
    if len(maps.counts) < maps.num_all:
        gone = maps.num_all - len(maps.counts)
        notes = (*notes, f"{counted(gone, 'sample')} without labels {agreed(gone, 'are')} left out")
    if spec.kind == "class_map":
        maps.classes = _classes(maps, named)
    notes = (*notes, *_label_notes(maps, is_named=bool(spec.classes or named)))
    contents, labels = maps.hashes()
    classes = () if maps.classes is None else class_names(maps.classes)
    names = tuple(
        scene.sample.name + ("" if tile[0] == scene.grids[0].whole else f" ({tile[0]})")
        for scene, tile in zip(maps.scenes, maps.tiles, strict=True)
    )
    data = TaskData(
        name=name,
        kind=spec.kind,
        classes=classes,
        names=names,
        splits=tuple(maps.splits),
        places=tuple(maps.places),
        sensors=tuple(scene.sensors for scene in maps.scenes),
        read=keep_samples(maps.read),
        fingerprint=fingerprint_of(names, contents, labels, maps.splits, classes=classes),
        contents=contents,
        state=state_of(
            (*one.source.paths, *one.source.valid_paths) for each in maps.scenes for one in each.sample.images
        ),
        notes=notes,
        said=said,
    )
    if spec.split.blocks is None:
        return data
    shares = {"val": spec.split.val, "test": spec.split.test}
    return blocked(data, spec.split.blocks, **shares, seed=seed, labels=maps.label_map)


def _check_used(samples: Sequence[ListedSample], spec: DataSpec) -> None:
    """Refuse what is said of labels that are not there: it would be passed over."""
    found = {one.label.path.suffix.casefold() in VECTOR_ENDINGS for one in samples if isinstance(one.label, LabelFile)}
    of_polygons = {"label_column": spec.label_column, **{f"options.{one}": one in spec.options for one in _OF_POLYGONS}}
    of_rasters = {f"options.{one}": one in spec.options for one in _OF_RASTERS}
    for is_used, keys, what in (
        (True in found, of_polygons, "polygons, and no label is one"),
        (False in found, of_rasters, "rasters of labels, and all labels are polygons"),
        (spec.kind == "class_map", {"classes": spec.classes}, "maps of classes, and these are numbers"),
    ):
        for key in (key for key, given in keys.items() if given and not is_used):
            raise RecipeError(f"data.{key} is for {what}; leave it out")


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
    where: str
    """What messages call the labels."""


def _open_scenes(
    samples: Sequence[ListedSample], spec: DataSpec
) -> tuple[list[_Scene], dict[int, str], dict[str, tuple[str, ...]]]:
    """Open all images for what their headers say, and read the polygons. Gives the name of each value, too, where
    polygons have names as labels; and what is said of the images."""
    files = [one.label for one in samples if isinstance(one.label, LabelFile)]
    vectors = [file for file in files if file.path.suffix.casefold() in VECTOR_ENDINGS]
    polygons: dict[LabelFile, PolygonLabels] = {}
    classes: dict[int, str] = {}
    if vectors:
        outside = spec.options.get("outside")
        polygons, classes = read_polygons(vectors, column=spec.label_column, classes=spec.classes, outside=outside)
    scenes, said = [], dict[str, tuple[str, ...]]()
    with progress("open images", len(samples), shown=len(samples) > _SHOWN_FROM) as advance:
        for sample, file in zip(samples, files, strict=True):
            grids, times = [], []
            for entry in sample.images:
                with open_raster(entry.source, entry.sensor, entry.encoding) as reader:
                    if len(sample.images) > 1:
                        reader.check_laid(entry.name)
                    grids.append(reader.grid)
                    times.append(entry.datetime or reader.datetime)
                    said |= {entry.name: reader.notes} if reader.notes else {}
            for grid, entry in zip(grids[1:], sample.images[1:], strict=True):
                check_same_ground(grids[0], grid, names=(sample.images[0].name, entry.name))
            scenes.append(
                _Scene(
                    sample=sample,
                    sensors=tuple(map(entry_sensor, sample.images)),
                    grids=tuple(grids),
                    times=tuple(times),
                    labels=polygons.get(file, file),
                    where=f"label '{file.path}'",
                )
            )
            advance(1)
    return scenes, classes, said


def _named(samples: Sequence[ListedSample]) -> list[ListedSample]:
    """Name each sample by its first image, or by all where that is not enough: the same on every machine."""
    paths = [os.path.abspath(entry.source.paths[0]) for one in samples for entry in one.images]  # noqa: PTH100
    common = Path(os.path.commonpath([str(Path(path).parent) for path in paths]))
    every: list[list[str]] = []
    ways = iter(paths)
    for one in samples:
        every.append([])
        for source in (entry.source for entry in one.images):
            path = Path(next(ways)).relative_to(common).as_posix()
            time = f" @{source.time:%Y-%m-%d}" if source.time is not None else f" @{source.time_index}"
            every[-1].append(path if source.time is None and source.time_index is None else path + time)
    firsts = Counter(names[0] for names in every)
    found = [names[0] if firsts[names[0]] == 1 else " + ".join(names) for names in every]
    twice = next((name for name, count in Counter(found).items() if count > 1), None)
    if twice is not None:
        raise ManifestError(f"'{twice}' stands {found.count(twice)} times with labels; keep one of them")
    return [replace(one, name=name) for one, name in zip(samples, found, strict=True)]


def _scene_splits(
    scenes: Sequence[_Scene], spec: DataSpec, *, seed: int
) -> tuple[tuple[Split | None, ...], tuple[str, ...], tuple[str, ...]]:
    """Find the split and place of each scene, and notes. Splits are those of lists, or declared; else places are drawn,
    and images without a declared place that overlap are of one. Where validation is not declared it is drawn from
    training. With blocks every scene is `train`, to be divided later."""
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
        names = [scene.sample.name for scene in scenes]
        declared, notes = splits_from_lists(shares.lists, names, source=spec.source, absent=absent)
    elif not all(declared):
        places, notes = _places_by_ground(scenes)
        return draw_places(places, training, val=shares.val, test=shares.test, seed=seed), places, notes
    places = tuple(scene.sample.place or scene.sample.name for scene in scenes)
    if "val" in declared or shares.val == 0:
        return declared, places, (*notes, *unused_shares(declared, shares))
    splits = draw_places(places, declared, val=shares.val, test=0.0, seed=seed)
    drawn = f"{splits.count('val')} of {declared.count('train')} training images are drawn for validation"
    return splits, places, (*notes, drawn)


def _places_by_ground(scenes: Sequence[_Scene]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Take declared places as they are, and join the other scenes that overlap; notes say so."""
    free = [index for index, scene in enumerate(scenes) if scene.sample.place is None]
    if not free:
        return tuple(str(scene.sample.place) for scene in scenes), ()
    images = [
        PlacedImage(name=scenes[index].sample.name, grid=scenes[index].grids[0], place=None, split=None)
        for index in free
    ]
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
        """Cut the scenes of splits into squares that all their images show, and keep those with labels."""
        self.spec = spec
        self.classes: dict[int, str] | None = None
        # Many dates of a place share one file of labels, so the last ones are kept.
        self._last: tuple[object, LabelPixels] | None = None
        self.remarks: Remarks = {}
        self.dtypes: set[np.dtype[np.generic]] = set()
        self.apart: list[tuple[Counter[float], float, float]] = []
        cut = [
            (scene, tile, split, place)
            for scene, split, place in zip(scenes, splits, places, strict=True)
            if split is not None
            for tile in tiles_of(scene.grids[0], spec.tile_px)
        ]
        names = {scene: [entry.name for entry in scene.sample.images] for scene in scenes}
        windows = [
            [
                matching_window(tile[0], scene.grids[0], grid, names=(names[scene][0], name))
                for grid, name in zip(scene.grids, names[scene], strict=True)
            ]
            for scene, tile, _, _ in cut
        ]
        with progress("check labels", len(cut), shown=len(cut) > _SHOWN_FROM) as advance:
            # Pixels of each value; those of numbers as one value.
            counts: list[dict[int, int]] = []
            for scene, tile, _, _ in cut:
                pixels = self._pixels(scene, tile[0])
                self.dtypes.add(pixels[0].dtype)
                known = pixels[1] & own_pixels(tile)
                if spec.kind == "number_map":
                    numbers = to_number_map(pixels, ignore=spec.ignore)[known]
                    numbers = numbers[np.isfinite(numbers)]
                    self.apart.append(numbers_apart(numbers))
                    counts.append({0: numbers.size} if numbers.size else {})
                else:
                    values, sizes = np.unique(whole_values(pixels, where=scene.where)[known], return_counts=True)
                    found = zip(values.tolist(), sizes.tolist(), strict=True)
                    counts.append({value: size for value, size in found if value not in spec.ignore})
                advance(1)
        self.num_all = len(cut)
        kept = [index for index, one in enumerate(counts) if one]
        self.counts = [counts[index] for index in kept]
        self.windows = [windows[index] for index in kept]
        self.scenes: list[_Scene] = [cut[index][0] for index in kept]
        self.tiles: list[Tile] = [cut[index][1] for index in kept]
        self.splits: list[Split] = [cut[index][2] for index in kept]
        self.places: list[str] = [cut[index][3] for index in kept]

    def _pixels(self, scene: _Scene, window: Window) -> LabelPixels:
        """Read the labels of a window, as stored. What is given must not be changed."""
        labels, grid, last = scene.labels, scene.grids[0], self._last
        key = (labels, grid, window)
        if last is None or last[0] != key:
            read = partial(read_labels, labels, remarks=self.remarks) if isinstance(labels, LabelFile) else labels.read
            last = self._last = key, read(grid, window, image=scene.sample.name)
        return last[1]

    def label_map(self, index: int) -> tuple[Num[Array, "row col"], Grid]:
        """Read the labels of a sample alone, and where they lie."""
        scene, tile, ignore = self.scenes[index], self.tiles[index], self.spec.ignore
        pixels, own = self._pixels(scene, tile[0]), own_pixels(tile)
        grid = scene.grids[0].part(tile[0])
        if self.classes is None:
            return np.where(own, to_number_map(pixels, ignore=ignore), np.nan), grid
        return np.where(own, to_class_map(pixels, self.classes, ignore=ignore, where=scene.where), -1), grid

    def hashes(self) -> tuple[tuple[str, ...], list[str]]:
        """Hash the images of each sample, and its labels with what is declared of them and of its images' numbers.
        Other times, bands or windows of one file are other contents."""
        sources = [[entry.source for entry in scene.sample.images] for scene in self.scenes]
        files = [tuple(path for one in every for path in (*one.paths, *one.valid_paths)) for every in sources]
        wanted = list(dict.fromkeys((*files, *((scene.labels.path,) for scene in self.scenes))))
        hashes = dict(zip(wanted, contents_of(wanted), strict=True))
        classes = self.classes or {}
        names = class_names(classes)
        values = () if self.classes is None else [(value, names.index(classes[value])) for value in sorted(classes)]
        meaning = (self.spec.ignore, self.spec.label_column, self.spec.options.get("outside"), values)
        contents, meant = [], []
        for index, scene in enumerate(self.scenes):
            content, labels = hashes[files[index]], scene.labels
            chosen = [
                (one.bands, one.time_index, one.time, one.valid_values, one.valid_variable) for one in sources[index]
            ]
            state = blake2b(f"{content} {chosen!r} {self.tiles[index][0]}".encode(), digest_size=16)
            contents.append((PARTIAL if content.startswith(PARTIAL) else "") + state.hexdigest())
            own = (labels.outside,) if isinstance(labels, PolygonLabels) else (labels.variable, labels.nodata)
            own = (*own, "tags") if isinstance(labels, LabelFile) and labels.by_tags else own
            own = (*own, labels.coded) if isinstance(labels, LabelFile) and labels.coded != "values" else own
            images = [
                (entry.sensor.name, entry.sensor.band_names, entry.encoding, entry.source.nodata)
                for entry in scene.sample.images
            ]
            meant.append(repr((hashes[(labels.path,)], own, meaning, images)))
        return tuple(contents), meant

    def read(self, index: int) -> Sample:
        scene, images = self.scenes[index], []
        for slot, entry in enumerate(scene.sample.images):
            with open_raster(entry.source, entry.sensor, entry.encoding) as reader:
                raster = reader.read(self.windows[index][slot])
            sensor, time = scene.sensors[slot], scene.times[slot]
            images.append(SampleImage(dn=raster.dn, valid=raster.valid, sensor=sensor, grid=raster.grid, datetime=time))
        # Pixels have a label where at least one image of the first one's size has data in a band.
        size = images[0].dn.shape[1:]
        shown = np.any([image.valid.any(axis=0) for image in images if image.dn.shape[1:] == size], axis=0)
        found, _ = self.label_map(index)
        if self.classes is None:
            return Sample(images=tuple(images), number_map=np.where(shown, found, np.nan))
        return Sample(images=tuple(images), class_map=np.where(shown, found, -1).astype(np.int64))


def _check_tagged(maps: _Maps, classes: Mapping[int, str]) -> None:
    """Refuse a value that is declared to be a class and tagged as no data."""
    for (_, value), windows in maps.remarks.items():
        if value is not None and int(value) == value and int(value) in classes:
            files = list(dict.fromkeys(str(path) for path, _ in windows))
            more = f" and {len(files) - 1} more" if len(files) > 1 else ""
            raise InputError(
                f"label '{files[0]}'{more} tags {value:g} as no data, and {value:g} is class '{classes[int(value)]}' "
                f"({sum(windows.values()):,} pixels); where the tag is wrong say `label_nodata: none` (a column of the "
                "table, or data.options={label_nodata: none}), else take the value out of `data.classes`"
            )


def _label_notes(maps: _Maps, *, is_named: bool) -> list[str]:
    """Say which pixels and polygons have no label, what is a class without being named, and what splits lack."""
    classes = maps.classes or {}
    said = [
        (path.name, [note.format(f"{sum(windows.values()):,}")])
        for (note, _), windows in maps.remarks.items()
        for path in dict.fromkeys(path for path, _ in windows)
    ]
    polygons = dict.fromkeys(one.labels for one in maps.scenes if isinstance(one.labels, PolygonLabels))
    notes = [*said_once([*said, *((one.path.name, one.notes(classes)) for one in polygons)])]
    if not classes:
        return [*notes, *fill_notes(maps.apart, what="pixel", mend="list it in `data.ignore`")]
    names, found = class_names(classes), dict[Split, set[int]]()
    notes += [*alike_names(names), *([] if is_named else [_unnamed(maps, classes)])]
    # Blocks tell of their own splits.
    if maps.spec.split.blocks:
        return notes
    for split, counts in zip(maps.splits, maps.counts, strict=True):
        found.setdefault(split, set()).update(names.index(classes[value]) for value in counts if value in classes)
    return notes + absent_classes(found, names, what="label")


def _unnamed(maps: _Maps, classes: Mapping[int, str]) -> str:
    """Say that values became classes, and whether one is the largest of its type."""
    highest = {int(np.iinfo(str(one)).max) for one in maps.dtypes if one.kind in "iu"} & set(classes)
    odd = f"; {min(highest)} often means no data: if it does, list it in `data.ignore`" if highest else ""
    return f"no classes are named, so the values of training are: {', '.join(class_names(classes))}{odd}"


def _classes(maps: _Maps, named: Mapping[int, str]) -> dict[int, str]:
    """Name the class of each value, and see that every label is one and that training has it."""
    spec, by_split = maps.spec, {split: Counter[int]() for split in SPLITS}
    for split, found in zip(maps.splits, maps.counts, strict=True):
        by_split[split].update(found)
    declared = dict(spec.classes) or dict(named)
    train, where = by_split["train"], maps.scenes[0].where
    values = sorted(train)
    if not declared and len(values) > _MOST_CLASSES:
        raise InputError(
            f"{where} and others have {len(values)} different values, which is no map of classes; use "
            "`data.kind=number_map`, or name the classes in `data.classes`"
        )
    if not declared and values and values[0] < 0:
        raise InputError(
            f"{where} or others have the value {values[0]} at {train[values[0]]} pixels, which is seldom a "
            "class; list it in `data.ignore`, or name all classes in `data.classes`"
        )
    classes = declared or {value: str(value) for value in values}
    if maps.remarks and spec.classes:
        _check_tagged(maps, spec.classes)
    names = class_names(classes, ignore=spec.ignore)
    if len(names) < 2:
        only = f"only '{names[0]}'" if names else "none"
        raise InputError(f"maps of classes need two classes at least, found {only}; name them in `data.classes`")
    for scene, split, found in zip(maps.scenes, maps.splits, maps.counts, strict=True):
        if declared or split == "train":
            check_values(found, classes, ignore=spec.ignore, where=scene.where)
    # A class that is asked for must have been shown.
    shown = {classes.get(value, str(value)) for value in train}
    if len(shown) < 2:
        raise InputError(
            f"all {sum(train.values()):,} labelled pixels of training are of class '{''.join(shown)}', so there is "
            "nothing to tell apart; give training labels of a second class"
        )
    for split in SPLITS[1:]:
        wanted = Counter[str]()
        for value, count in by_split[split].items():
            wanted[classes.get(value, str(value))] += count
        lacking = [name for name in wanted if name not in shown]
        if lacking:
            pixels = ", ".join(f"'{name}' ({wanted[name]} pixels)" for name in lacking[:_NAMED])
            raise InputError(
                f"{counted(len(lacking), 'class', 'are')} in the labels of split '{split}' and "
                f"not in those of training: {pixels}; divide the data so that training has each class, or list the "
                "value in `data.ignore`"
            )
    return classes
