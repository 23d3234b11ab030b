"""What named data sets share: sensors that a user declares, parts that are drawn, and a fingerprint that is quick."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

import numpy as np

from anyband.data.chip_index import Split
from anyband.data.labelled import LabelledImages
from anyband.data.labelled import split as draw_split
from anyband.data.supervised.records import DataSpec, SplitSpec
from anyband.errors import ManifestError
from anyband.sensors.catalogue import resolve_sensor
from anyband.sensors.names import find_bands
from anyband.sensors.sensor import Sensor
from anyband.shapes import Array, Bool, Float, Int

__all__ = ["Targets", "declared_slots", "drawn_parts", "quick_fingerprint"]

Targets = Int[Array, "sample"] | Bool[Array, "sample class"] | Float[Array, "sample"] | None
"""Class numbers, which labels hold, or numbers; None for maps."""

# chosen: enough to notice another version of the images; reading all would cost as much as using them.
_READ_SAMPLES = 64


def declared_slots(found: Sequence[Sensor], spec: DataSpec, *, name: str) -> tuple[Sensor, ...]:
    """Take the sensors of the slots as a user declares them, or as the data set has them.

    Args:
        found: of the data set; empty: it doesn't say.
        spec: may declare sensors, bands and encodings.
        name: for messages.

    Raises:
        ManifestError: other numbers of slots, or none is known.
        CatalogueError: an unknown sensor, band or encoding.
    """
    sensors = tuple(resolve_sensor(one) for one in spec.sensors) or tuple(found)
    if not sensors:
        raise ManifestError(f"'{name}' does not say which sensors took its images; declare them in `sensors`")
    if found and len(found) != len(sensors):
        raise ManifestError(f"'{name}' has {len(found)} images a sample, but `sensors` declares {len(sensors)}")
    for what, given in (("bands", spec.bands), ("encodings", spec.encodings)):
        if given and len(given) != len(sensors):
            raise ManifestError(f"'{name}' has {len(sensors)} images a sample, but `{what}` is given for {len(given)}")
    if spec.bands:
        sensors = tuple(find_bands(bands, one) for bands, one in zip(spec.bands, sensors, strict=True))
    if spec.encodings:
        sensors = tuple(_encoded(one, as_) for one, as_ in zip(sensors, spec.encodings, strict=True))
    return sensors


def _encoded(sensor: Sensor, encoding: str) -> Sensor:
    for band in sensor.bands:
        band.encoding(encoding)
    return replace(sensor, default_encoding=encoding)


def drawn_parts(
    parts: Sequence[Split | None], targets: Targets, shares: SplitSpec, *, classes: Sequence[str], seed: int
) -> tuple[Split, ...]:
    """Complete the parts: all are drawn where none is declared; validation from training where there is none.

    Classes keep their shares; labels, numbers and maps are drawn without regard to them. Declared parts stay.

    Args:
        parts: of each sample, None: not declared.
        targets: of each sample.
        shares: of validation and test.
        classes: names, for messages.
        seed: of the draw.

    Raises:
        InputError: a class too rare for every part, or shares that leave nothing to learn from.
    """
    missing = [index for index, part in enumerate(parts) if part is None]
    if missing:
        return _filled(parts, missing, targets, shares, classes=classes, seed=seed)
    if "val" in parts or shares.val == 0:
        return tuple(part for part in parts if part is not None)
    train = [index for index, part in enumerate(parts) if part == "train"]
    only_val = replace(shares, test=0.0)
    return _filled(parts, train, targets, only_val, classes=classes, seed=seed)


def _filled(
    parts: Sequence[Split | None],
    positions: Sequence[int],
    targets: Targets,
    shares: SplitSpec,
    *,
    classes: Sequence[str],
    seed: int,
) -> tuple[Split, ...]:
    is_class = targets is not None and targets.ndim == 1 and targets.dtype.kind == "i"
    labels = [(int(targets[index]),) for index in positions] if is_class and targets is not None else []
    images = LabelledImages(
        paths=tuple(Path(str(index)) for index in positions),
        labels=tuple(labels) or ((),) * len(positions),
        classes=tuple(classes),
        multi_label=not is_class,
    )
    drawn = draw_split(images, val=shares.val, test=shares.test, seed=seed).splits
    filled = dict(enumerate(parts)) | dict(zip(positions, drawn, strict=True))
    return tuple(part for index in range(len(parts)) if (part := filled[index]) is not None)


def quick_fingerprint(
    names: Sequence[str],
    files: Sequence[Sequence[Path]],
    targets: Targets,
    splits: Sequence[Split],
    *,
    settings: Sequence[str] = (),
) -> str:
    """Hash names, targets, parts, the sizes of all files and the contents of some, spread evenly.

    Args:
        names: of the samples.
        files: of each sample; a folder stands for its files.
        targets: of each sample; None for maps.
        splits: of each sample.
        settings: whatever else changes what is read.

    Returns:
        32 hexadecimal digits, the same on every machine.
    """
    digest = blake2b(digest_size=16)
    _add(digest, [*settings, *names, *splits])
    if targets is not None:
        digest.update(np.ascontiguousarray(targets).astype("<f8").tobytes())
    for paths in files:
        _add(digest, [f"{path.name} {path.stat().st_size if path.is_file() else 0}" for path in paths])
    step = max(1, len(files) // _READ_SAMPLES)
    for paths in files[::step]:
        for path in _expanded(paths):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _add(digest: blake2b, words: Iterable[str]) -> None:
    for word in words:
        raw = word.encode()
        # The length goes first, so that no two lists run together into one text.
        digest.update(len(raw).to_bytes(8, "little") + raw)


def _expanded(paths: Iterable[Path]) -> list[Path]:
    """Give the files themselves, in the order of their names."""
    found: list[Path] = []
    for path in paths:
        found += sorted(one for one in path.iterdir() if one.is_file()) if path.is_dir() else [path]
    return found
