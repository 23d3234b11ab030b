"""A tiny checkpoint and learnable labelled data of every kind, in memory."""

import datetime as dt
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_networks import INFORMED, small_checkpoint

from anyband.data.store import Split
from anyband.encode.encoder import SensorEncoder
from anyband.labelled.samples import Sample, SampleImage, TaskData
from anyband.models.checkpoint import load_checkpoint, save_checkpoint
from anyband.rasters.grid import Grid
from anyband.sensors.catalogue import get_sensor
from anyband.sensors.sensor import Sensor

_S2 = get_sensor("sentinel2-l2a").select(("B02", "B03", "B04", "B08"))
_S1 = get_sensor("sentinel1-grd").select(("VV", "VH"))
_SIZE_PX = 32
_MAP_PX = 48
_CLASSES = ("water", "field", "town")
# Parts of the samples in turn: 10 of each 16 are for training, 3 for validation, 3 for test.
_PARTS: tuple[Split, ...] = ("train",) * 10 + ("val",) * 3 + ("test",) * 3
_NUM_SAMPLES = 48
_NUM_MAPS = 16


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint file: 32² input, patches of 8², four blocks 32 wide, the ranges of Sentinel-2, -1 and Maxar."""
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    save_checkpoint(path, small_checkpoint(img_size=_SIZE_PX, embed_dim=32, depth=4))
    return path


@pytest.fixture
def tiny_encoder(tiny_checkpoint: Path) -> SensorEncoder:
    """The checkpoint's encoder; each test has its own, because training changes it."""
    return SensorEncoder(load_checkpoint(tiny_checkpoint)).eval()


@pytest.fixture
def informed_encoder() -> SensorEncoder:
    """An encoder of sets that is told where, how finely, when and by what images were taken; as large as the other."""
    made = small_checkpoint(img_size=_SIZE_PX, embed_dim=32, depth=4, encodings=INFORMED, images="set")
    return SensorEncoder(made).eval()


@pytest.fixture(scope="session")
def class_data() -> TaskData:
    """Sentinel-2 in four bands, 32²; the class is how bright the image is."""
    return _data("class", lambda index: (_optical(index, level=index % 3),), ((_S2,),), _class_numbers())


@pytest.fixture(scope="session")
def labels_data() -> TaskData:
    """The same sensor; label k holds where band k is bright."""
    rng = np.random.default_rng(5)
    labels = rng.random((_NUM_SAMPLES, 3)) < 0.5

    def images(index: int) -> tuple[SampleImage, ...]:
        bright = np.append(labels[index], False)[:, None, None] * 2000
        one = _optical(index, level=0)
        return (replace(one, dn=(one.dn + bright).astype(np.uint16)),)

    return _data("labels", images, ((_S2,),), labels)


@pytest.fixture(scope="session")
def number_data() -> TaskData:
    """The same sensor; the number follows the brightness."""
    numbers = np.random.default_rng(6).random(_NUM_SAMPLES)
    return _data("number", lambda index: (_optical(index, level=float(numbers[index]) * 2),), ((_S2,),), numbers)


@pytest.fixture(scope="session")
def pair_data() -> TaskData:
    """Sentinel-1 and Sentinel-2 of one place, both 32²; the class is how bright both are."""

    def images(index: int) -> tuple[SampleImage, ...]:
        return _radar(index, level=index % 3), _optical(index, level=index % 3)

    return _data("class", images, ((_S1, _S2),), _class_numbers())


@pytest.fixture(scope="session")
def class_map_data() -> TaskData:
    """Sentinel-2, 48², in squares of 12 pixels of one class each; the first square of each image has no label."""

    def read(index: int) -> Sample:
        classes = _squares(index, _CLASSES)
        labels = classes.copy()
        labels[:12, :12] = -1
        return Sample(images=(_optical(index, level=classes, size=_MAP_PX),), class_map=labels)

    return _maps("class_map", read, ((_S2,),), _CLASSES)


@pytest.fixture(scope="session")
def number_map_data() -> TaskData:
    """Sentinel-2, 48²; the number of a pixel follows its brightness, and is missing in the first square."""

    def read(index: int) -> Sample:
        levels = _squares(index, _CLASSES)
        numbers = levels.astype(np.float32) / 2
        numbers[:12, :12] = np.nan
        return Sample(images=(_optical(index, level=levels, size=_MAP_PX),), number_map=numbers)

    return _maps("number_map", read, ((_S2,),), ())


@pytest.fixture(scope="session")
def change_data() -> TaskData:
    """Two dates of Sentinel-2, 48²; squares that became brighter have changed."""

    def read(index: int) -> Sample:
        changed = _squares(index, ("same", "changed"))
        before = _optical(index, level=0, size=_MAP_PX)
        after = replace(_optical(index, level=changed * 2, size=_MAP_PX), datetime=_day(index + 90))
        return Sample(images=(before, after), class_map=changed)

    return _maps("class_map", read, ((_S2, _S2),), ("same", "changed"))


Images = Callable[[int], tuple[SampleImage, ...]]


def _data(kind: str, images: Images, sensors: tuple[tuple[Sensor, ...], ...], targets: np.ndarray) -> TaskData:
    has_classes = kind != "number"
    return TaskData(
        name=f"tiny {kind} of {len(sensors[0])}",
        kind=kind,  # type: ignore[arg-type]
        classes=_CLASSES if has_classes else (),
        names=tuple(f"image {index}" for index in range(_NUM_SAMPLES)),
        splits=tuple(_PARTS[index % len(_PARTS)] for index in range(_NUM_SAMPLES)),
        sensors=sensors * _NUM_SAMPLES,
        targets=targets,
        read=lambda index: Sample(images=images(index)),
        fingerprint=f"tiny-{kind}-{len(sensors[0])}",
    )


def _maps(
    kind: str, read: Callable[[int], Sample], sensors: tuple[tuple[Sensor, ...], ...], classes: tuple[str, ...]
) -> TaskData:
    return TaskData(
        name=f"tiny {kind} of {len(sensors[0])}",
        kind=kind,  # type: ignore[arg-type]
        classes=classes,
        names=tuple(f"map {index}" for index in range(_NUM_MAPS)),
        splits=tuple(_PARTS[index % len(_PARTS)] for index in range(_NUM_MAPS)),
        sensors=sensors * _NUM_MAPS,
        read=read,
        fingerprint=f"tiny-{kind}-{len(sensors[0])}-{len(classes)}",
    )


def _class_numbers() -> np.ndarray:
    return np.arange(_NUM_SAMPLES, dtype=np.int64) % 3


def _squares(index: int, classes: tuple[str, ...]) -> np.ndarray:
    drawn = np.random.default_rng(900 + index).integers(0, len(classes), (_MAP_PX // 12, _MAP_PX // 12))
    return np.kron(drawn, np.ones((12, 12), dtype=np.int64))


def _optical(index: int, *, level: float | np.ndarray, size: int = _SIZE_PX) -> SampleImage:
    rng = np.random.default_rng(index)
    dn = 500 + 900 * np.asarray(level) + rng.normal(0, 120, (4, size, size))
    return SampleImage(
        dn=dn.clip(1, 10_000).astype(np.uint16),
        valid=np.ones(dn.shape, dtype=bool),
        sensor=_S2,
        grid=_grid(index, size),
        datetime=_day(index),
    )


def _radar(index: int, *, level: float, size: int = _SIZE_PX) -> SampleImage:
    rng = np.random.default_rng(500 + index)
    dn = (-22 + 5 * level + rng.normal(0, 1, (2, size, size))).astype(np.float32)
    valid = np.ones(dn.shape, dtype=bool)
    return SampleImage(dn=dn, valid=valid, sensor=_S1, grid=_grid(index, size), datetime=_day(index))


def _grid(index: int, size: int) -> Grid:
    transform = (10.0, 0.0, 400_000.0 + 1000.0 * index, 0.0, -10.0, 5_000_000.0)
    return Grid(height=size, width=size, transform=transform, crs="EPSG:32632", gsd_m=10.0)


def _day(index: int) -> dt.datetime:
    return dt.datetime(2021, 1, 1, tzinfo=dt.UTC) + dt.timedelta(days=index)
