"""From a list of images to a chip store, whole or not at all.

A run that was killed goes on where it stopped when it is started again, and ends with the same bytes as one
that was not: the order of the chips is that of places and images, whatever the order in which workers finish.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

from anyband.data.jobs import worker_pool
from anyband.data.manifest import ImageEntry
from anyband.data.prepare_options import PrepareOptions, PrepareRun
from anyband.data.prepare_report import PrepareReport
from anyband.data.prepare_steps import (
    PrepareJob,
    cut_pieces,
    group_images,
    plan_pieces,
    report_of,
    survey_images,
)
from anyband.data.store import STORE_VERSION, ChipStore
from anyband.data.store_writer import StoreHeader
from anyband.data.workspace import open_workspace, remove_leftover
from anyband.errors import ManifestError, OutputError, StoreError
from anyband.process_memory import large_blocks_returned
from anyband.sensors.catalogue import sensor_to_dict
from anyband.sensors.sensor import Sensor

__all__ = ["PrepareOptions", "PrepareReport", "PrepareRun", "prepare"]


def prepare(
    entries: Sequence[ImageEntry],
    out: Path,
    options: PrepareOptions | None = None,
    run: PrepareRun | None = None,
) -> PrepareReport:
    """Make a chip store of images.

    Property: the bytes of the store are a function of the images and the options, whatever the number of
    workers and however often the run was killed and started again.

    Args:
        entries: the images.
        out: folder of the store.
        options: what to make.
        run: how.

    Returns:
        What the store holds, what was skipped and why.

    Raises:
        OutputError: `out` exists and is something else, or can't be written.
        GeometryError: images of a declared place do not fit together.
        ManifestError: there are no images, or two sensors of one name.
        RasterError: no image can be used; or one can't and `run.strict` is set.
    """
    options, run = options or PrepareOptions(), run or PrepareRun()
    if not entries:
        raise ManifestError("there are no images to prepare")
    sensors = _sensors(entries)
    inputs = _inputs_digest(entries, sensors, options)
    done = _finished(out, inputs, run)
    if done is not None:
        remove_leftover(out, inputs=inputs)
        return done
    with open_workspace(out, inputs=inputs) as work, large_blocks_returned():
        with worker_pool(run.workers if run.executor is None else 1) as own_pool:
            pool = run.executor or own_pool
            job = PrepareJob(entries=entries, options=options, run=run, work=work, pool=pool)
            survey_images(job)
            writer = cut_pieces(job, plan_pieces(job, group_images(job)))
        report = report_of(job)
        writer.finish(StoreHeader(sensors=sensors, options=options.to_dict(), report=report.to_dict(), inputs=inputs))
        if options.statistics:
            report = _with_statistics(work.store, report, run)
        work.publish()
    return report


def _sensors(entries: Sequence[ImageEntry]) -> dict[str, Sensor]:
    sensors: dict[str, Sensor] = {}
    for entry in entries:
        if sensors.setdefault(entry.product.name, entry.product) != entry.product:
            raise ManifestError(
                f"two different sensors are named '{entry.product.name}' (one is of '{entry.name}'); rename one"
            )
    return sensors


def _inputs_digest(entries: Sequence[ImageEntry], sensors: dict[str, Sensor], options: PrepareOptions) -> str:
    """Hash what decides the content of a store: a file that changed has another size or time."""
    state = blake2b(digest_size=16)
    state.update(json.dumps([STORE_VERSION, options.to_dict()]).encode())
    state.update(json.dumps([sensor_to_dict(sensor) for sensor in sensors.values()]).encode())
    for entry in entries:
        declared = (entry.name, entry.source, entry.sensor.band_names, entry.encoding)
        state.update(repr((*declared, entry.place, entry.datetime, entry.split)).encode())
        for path in (*entry.source.paths, *entry.source.valid_paths):
            state.update(repr(_file_states(path)).encode())
    return state.hexdigest()


def _file_states(path: Path) -> list[tuple[str, int, int]]:
    if not path.is_dir():
        return [_file_state(path.name, path)]
    with os.scandir(path) as entries:
        return sorted(_file_state(entry.name, entry) for entry in entries)


def _file_state(name: str, file: "Path | os.DirEntry[str]") -> tuple[str, int, int]:
    try:
        status = file.stat()
    except FileNotFoundError:
        return name, -1, -1
    return name, status.st_size, status.st_mtime_ns


def _finished(out: Path, inputs: str, run: PrepareRun) -> PrepareReport | None:
    """Find out whether the store is there already; refuse anything else, unless it may be replaced."""
    if not out.exists():
        return None
    try:
        store = ChipStore.open(out)
    except StoreError as problem:
        raise OutputError(f"'{out}' exists and is no whole chip store ({problem}); remove it") from problem
    if store.inputs == inputs:
        return PrepareReport.from_dict(store.report, was_complete=True)
    if not run.overwrite:
        raise OutputError(
            f"'{out}' is a chip store of other images or options; replace it with --overwrite, or name another output"
        )
    return None


def _with_statistics(folder: Path, report: PrepareReport, run: PrepareRun) -> PrepareReport:
    from anyband.data.statistics import store_statistics

    store = ChipStore.open(folder)
    statistics, problems = store_statistics(store, shown=run.shown)
    store.save_statistics(statistics)
    return replace(report, notes=(*report.notes, *(f"no statistics of {problem}" for problem in problems)))
