"""Why the unseen sensor scores as it does: kNN with its thermal band or without, and with Sentinel-2 made like it.

    python benchmarks/ablation_unseen.py --out DIR [--variants smarties …] [--publish]

DIR is the folder of `ablation.py --archive simulated` with its trainings. Each row changes one thing of the images;
trained and untrained network read them alike, so what a row costs both is not the training's doing.
"""

import argparse
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from ablation_archive import SIMULATED, Archive, make_archive
from ablation_features import cell_images, unit_length
from ablation_scores import KnnTask, encoder_of, task_of
from ablation_table import put_between_markers
from measure import exit_code_of
from torch.nn import functional

from anyband.arrays import Array, Float
from anyband.encode.encoder import SensorEncoder, pooled
from anyband.errors import InputError
from anyband.models.checkpoint import load_checkpoint
from anyband.models.inputs import ImageBatch

PAGE = Path(__file__).resolve().parents[1] / "docs" / "ablation.md"

_SEEN, _UNSEEN = "sentinel2-l2a", "landsat8-oli-tirs-l2"
_THERMAL = ("ST_B10",)
# The bands of Sentinel-2 that lie where Landsat-8's reflective bands do.
_ALIKE = ("B01", "B02", "B03", "B04", "B8A", "B11", "B12")
# Pixels of 10 m that one of Landsat-8 covers, along a side.
_COARSER = 3
_BATCH = 64

Change = Callable[[ImageBatch], ImageBatch]


def main() -> int:
    """Score every row for every training that is there. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the ablation")
    parser.add_argument("--variants", nargs="+", default=["smarties"], help="whose networks")
    parser.add_argument("--publish", action="store_true", help="write the table into the docs")
    arguments = parser.parse_args()
    return exit_code_of(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    text = _table(arguments.out, arguments.variants)
    print(text)
    if arguments.publish:
        put_between_markers(PAGE, "the unseen sensor", text)


def _table(out: Path, variants: list[str]) -> str:
    archive = make_archive(out / "archive", SIMULATED, num_places=1, workers=1)
    lines = []
    for variant in variants:
        found = sorted((out / "training").glob(f"{variant}_[0-9]*/encoder.safetensors"))
        if not found:
            raise InputError(f"'{out}' has no finished training of '{variant}'; run ablation.py first")
        scores: dict[str, list[tuple[float, float]]] = {}
        for path in found:
            trained = encoder_of(load_checkpoint(path), "interpolate", "cpu")
            untrained = trained.untrained(seed=int(path.parent.name.rsplit("_", 1)[1]))
            for row, task, sensor, change in _rows(archive):
                pair = [_accuracy(encoder, archive, task, sensor, change) for encoder in (trained, untrained)]
                scores.setdefault(row, []).append((pair[0], pair[1]))
        lines += [
            f"| {variant} | {row} | {_spread(values, 0)} | {_spread(values, 1)} |" for row, values in scores.items()
        ]
    command = f"python benchmarks/ablation_unseen.py --out DIR --variants {' '.join(variants)} --publish"
    head = "| variant | images | trained | untrained |\n|---|---|---|---|\n"
    return (
        f"```sh\n{command}\n```\n\nkNN accuracy in %, mean of the patches, over the seeds of the ablation:\n\n{head}"
        + "\n".join(lines)
    )


def _spread(values: list[tuple[float, float]], which: int) -> str:
    numbers = [100 * value[which] for value in values]
    spread = f" ± {statistics.stdev(numbers):.1f}" if len(numbers) > 1 else ""
    return f"{statistics.mean(numbers):.1f}{spread}"


def _rows(archive: Archive) -> Iterator[tuple[str, KnnTask, str, Change]]:
    tasks: Mapping[str, KnnTask | None] = {name: task_of(archive, (name,)) for name in (_UNSEEN, _SEEN)}
    unseen, seen = tasks[_UNSEEN], tasks[_SEEN]
    if unseen is None or seen is None:
        raise InputError("the archive has too few labelled places to score")
    bands = archive.store.array_sensor(unseen.cells.arrays[_UNSEEN]).band_names
    reflective = [index for index, name in enumerate(bands) if name not in _THERMAL]
    seen_bands = archive.store.array_sensor(seen.cells.arrays[_SEEN]).band_names
    alike = [seen_bands.index(name) for name in _ALIKE]
    yield "Landsat-8", unseen, _UNSEEN, _as_it_is
    yield "Landsat-8 without its thermal band", unseen, _UNSEEN, lambda batch: _bands(batch, reflective)
    yield "Sentinel-2", seen, _SEEN, _as_it_is
    yield "Sentinel-2 at 30 m", seen, _SEEN, _coarse
    yield "Sentinel-2 at 30 m, seven bands", seen, _SEEN, lambda batch: _bands(_coarse(batch), alike)


def _as_it_is(batch: ImageBatch) -> ImageBatch:
    return batch


def _bands(batch: ImageBatch, kept: list[int]) -> ImageBatch:
    valid = None if batch.valid is None else batch.valid[:, kept]
    return replace(batch, pixels=batch.pixels[:, kept], valid=valid, mixing=batch.mixing[kept])


def _coarse(batch: ImageBatch) -> ImageBatch:
    merged = functional.avg_pool2d(batch.pixels, _COARSER)
    return replace(
        batch, pixels=functional.interpolate(merged, scale_factor=_COARSER, mode="bicubic", align_corners=False)
    )


def _accuracy(encoder: SensorEncoder, archive: Archive, task: KnnTask, sensor: str, change: Change) -> float:
    parts: list[Float[Array, "cell width"]] = []
    rows = task.cells.chips[sensor]
    for start in range(0, len(rows), _BATCH):
        batch = cell_images(encoder, archive.store, task.cells.arrays[sensor], rows[start : start + _BATCH])
        parts.append(pooled(encoder.encode_batch(change(batch), precision="bf16"), "mean").numpy())
    return task.accuracy(unit_length(np.concatenate(parts)))


if __name__ == "__main__":
    raise SystemExit(main())
