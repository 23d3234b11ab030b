"""`anyband prepare`: rasters → chip store; or the statistics of a store, or what it holds."""

import argparse
from collections import ChainMap
from pathlib import Path
from typing import TYPE_CHECKING

from anyband.errors import InputError, counted
from anyband.files import whole_file

if TYPE_CHECKING:
    from anyband.data.manifest import ImageList

__all__ = ["add_arguments", "run"]

_EPILOG = """\
examples:
  anyband prepare manifest.csv --out store --chip-px 96
  anyband prepare 'scenes/*.tif' --sensor sentinel2-l2a --out store
  anyband prepare --layout fmow-pairs ROOT fMoW-train-pairs-nontemporal.txt --out store
  anyband prepare --stats store
  anyband prepare --show store

A manifest has a row for each image (CSV, YAML or GeoParquet) with the columns path, sensor and, where
needed, place, datetime, bands, encoding, scale, offset, nodata, time, valid, valid_values, valid_variable,
split. Images that overlap,
or have one `place`, are cut to the same footprints, each at its own resolution. Without a chip size, images
of up to 512 pixels stay whole and larger ones are cut to 256 pixels of the finest image; with one, places
that are smaller stay whole.

A STORE is a folder, or at s3://bucket/path or gs://bucket/path.
A run that is stopped leaves OUT.partial; the same command goes on from there.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar="INPUT",
        help="one manifest, or with --sensor images and patterns",
    )
    parser.add_argument("--out", metavar="STORE", help="folder of the store to make")
    parser.add_argument(
        "--stats",
        nargs="?",
        const="",
        metavar="STORE",
        help="compute normalisation statistics of the train split: of STORE, or of what is being prepared",
    )
    parser.add_argument("--show", metavar="STORE", help="print what a store holds, and stop")
    parser.add_argument("--picture", type=Path, metavar="PNG", help="with --show: draw which wavelengths it measures")
    parser.add_argument(
        "--endpoint", metavar="URL", help="address of the S3-compatible server of a store at s3:// (default: Amazon's)"
    )
    images = parser.add_argument_group("images without a manifest")
    images.add_argument(
        "--layout",
        nargs=3,
        action="append",
        metavar=("NAME", "ROOT", "LIST"),
        help="NAME is fmow-pairs or bigearthnet-mm, ROOT a folder as it is published, LIST a list of its pairs, all of "
        "them for training unless --splits says otherwise; sets --chip-size and --resampling. Several make one store",
    )
    images.add_argument("--sensor", help="name in the catalogue, or a YAML file, of all images")
    images.add_argument("--encoding", help="how their numbers are stored")
    images.add_argument(
        "--bands",
        help="`B02=1;B03=2`: band = name or number in the file; `B02;B03`: in this order; "
        "`available`: those that each file names",
    )
    _add_content(parser.add_argument_group("chips"))
    work = parser.add_argument_group("work")
    work.add_argument("--workers", type=int, help="processes (default: one for each processor)")
    work.add_argument("--overwrite", action="store_true", help="replace a store of other images or options")
    work.add_argument("--strict", action="store_true", help="an image that can't be used is an error")
    work.add_argument("--quiet", action="store_true", help="show no progress")


def _add_content(content: argparse._ArgumentGroup) -> None:
    size = content.add_mutually_exclusive_group()
    size.add_argument("--chip-px", type=int, help="side of a footprint in pixels of the finest image of its place")
    size.add_argument("--chip-m", type=float, help="side of a footprint in metres")
    content.add_argument(
        "--chip-size",
        metavar="SENSOR=SIDE,…",
        help="bring all chips of each sensor to one size, pixels, whatever the shapes of images; a place is then one "
        "footprint unless --chip-px or --chip-m says otherwise",
    )
    content.add_argument(
        "--resampling",
        metavar="SENSOR=METHOD,…",
        help="how pixels are made that are not taken as they are: bilinear (default), cubic, average, or nearest for "
        "classes",
    )
    content.add_argument(
        "--ratio-tolerance",
        type=float,
        metavar="PERCENT",
        help="by how much the ratio of rows to columns of an image without coordinates may differ from that of the "
        "ground it is declared to show (default 10)",
    )
    content.add_argument("--min-valid", type=float, default=0.5, help="least share of data of a chip (default 0.5)")
    content.add_argument("--splits", help="shares of train, val and test places (0.8,0.1,0.1)")
    content.add_argument("--seed", type=int, default=0, help="of the draw of splits (default 0)")


def run(arguments: argparse.Namespace) -> int:
    if arguments.show is not None:
        return _show(arguments)
    if arguments.picture is not None:
        raise InputError("--picture draws the store that --show names; say --show STORE too")
    if arguments.stats and not arguments.inputs and arguments.out is None:
        return _statistics(arguments)
    if arguments.stats:
        raise InputError("--stats takes no STORE while images are prepared; put --stats last")
    if not (arguments.inputs or arguments.layout) or arguments.out is None:
        raise InputError("name the images (a manifest, or patterns with --sensor) and with --out the store to make")
    if "://" in arguments.out:
        raise InputError(
            f"images are prepared into a folder, found --out '{arguments.out}'; name a folder, then copy the store "
            "there, for example with `aws s3 sync` or `rclone copy`"
        )
    return _prepare(arguments)


def _show(arguments: argparse.Namespace) -> int:
    from anyband.data.prepare import describe_store
    from anyband.data.store import ChipStore

    store = ChipStore.open(arguments.show, endpoint=arguments.endpoint)
    print("\n".join(describe_store(store)))
    if arguments.picture is not None:
        from anyband.report.diagrams import Measured, spectrum_png
        from anyband.sensors.sensor import drawn_range_nm

        measured: dict[str, list[Measured]] = {}
        for info in store.arrays.values():
            bands = store.sensors[info.sensor].select(info.bands).bands
            measured.setdefault(info.sensor, []).append(
                (info.num_chips, [drawn_range_nm(one.spectrum) for one in bands])
            )
        with whole_file(arguments.picture) as beside:
            beside.write_bytes(spectrum_png(measured))
        print(f"wavelengths: {arguments.picture}")
    return 0


def _statistics(arguments: argparse.Namespace) -> int:
    from anyband.data.store import ChipStore

    store = ChipStore.open(arguments.stats, endpoint=arguments.endpoint)
    problems = store.compute_statistics(shown=not arguments.quiet)
    for sensor, bands in store.statistics.items():
        for band, one in bands.items():
            unit = store.sensors[sensor].band(band).unit
            print(
                f"{sensor} {band}: p01 {one.p01:.6g}, p99 {one.p99:.6g} {unit}, "
                f"mean {one.mean:.4f}, std {one.std:.4f} (scaled)"
            )
    for problem in problems:
        print(f"no statistics of {problem}")
    return 0


def _prepare(arguments: argparse.Namespace) -> int:
    import os

    from anyband.data.layouts import LAYOUTS
    from anyband.data.prepare import PrepareOptions, prepare

    entries = _entries(arguments)
    sizes, methods = _named(arguments.chip_size, "--chip-size"), _named(arguments.resampling, "--resampling")
    layouts = [LAYOUTS[name] for name, _, _ in arguments.layout or ()]
    options = PrepareOptions(
        chip_px=arguments.chip_px,
        chip_m=arguments.chip_m,
        min_valid=arguments.min_valid,
        fractions=_fractions(arguments.splits or ("1,0,0" if arguments.layout else "0.8,0.1,0.1")),
        seed=arguments.seed,
        statistics=arguments.stats is not None,
        chip_size=dict(
            ChainMap({name: _side(side) for name, side in sizes.items()}, *(one["chip_size"] for one in layouts))
        ),
        resampling=dict(ChainMap(methods, *(one["resampling"] for one in layouts))),
        **({} if arguments.ratio_tolerance is None else {"ratio_tolerance": arguments.ratio_tolerance}),
    )
    report = prepare(
        entries,
        Path(arguments.out),
        options,
        workers=min(os.cpu_count() or 1, len(entries)) if arguments.workers is None else arguments.workers,
        overwrite=arguments.overwrite,
        strict=arguments.strict,
        shown=not arguments.quiet,
    )
    if report.was_complete:
        print(f"'{arguments.out}' is complete already, of the same images and options; nothing was done")
    print("\n".join([*report.lines(), *(f"note: {note}" for note in entries.notes)]))
    return 0


def _entries(arguments: argparse.Namespace) -> "ImageList":
    from anyband.data.manifest import entries_from_globs, open_manifest

    if arguments.layout is not None:
        return _pairs(arguments)
    if arguments.sensor is not None:
        return entries_from_globs(
            arguments.inputs, sensor=arguments.sensor, encoding=arguments.encoding, bands=arguments.bands
        )
    if arguments.encoding is not None or arguments.bands is not None:
        raise InputError("--encoding and --bands go with --sensor; a manifest has columns for them")
    if len(arguments.inputs) != 1:
        raise InputError(f"{counted(len(arguments.inputs), 'input', 'need')} --sensor; without it give one manifest")
    return open_manifest(Path(arguments.inputs[0]))


def _pairs(arguments: argparse.Namespace) -> "ImageList":
    from anyband.data.layouts import open_pairs

    given = [option for option in ("sensor", "encoding", "bands") if getattr(arguments, option) is not None]
    if given or arguments.inputs:
        found = f"--{given[0]}" if given else f"'{arguments.inputs[0]}'"
        raise InputError(f"--layout takes NAME ROOT LIST, which say all, and {found} is beside them; leave it out")
    sources = [(name, Path(root), Path(pairs)) for name, root, pairs in arguments.layout]
    return open_pairs(sources, split=None if arguments.splits else "train")


def _named(text: str | None, option: str) -> dict[str, str]:
    found = {}
    for item in (text or "").split(",") if text is not None else ():
        name, equals, value = (part.strip() for part in item.partition("="))
        if not (name and equals and value):
            raise InputError(f"{option} takes SENSOR=VALUE, several joined by commas, found '{text}'")
        if name in found:
            raise InputError(f"{option} names '{name}' twice; give one value")
        found[name] = value
    return found


def _side(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 7):
        raise InputError(f"--chip-size takes whole pixels, found '{text}'")
    return int(text)


def _fractions(text: str) -> tuple[float, float, float]:
    try:
        train, val, test = (float(word) for word in text.split(","))
    except ValueError as problem:
        raise InputError(f"--splits takes three shares such as 0.8,0.1,0.1, found '{text}'") from problem
    return train, val, test
