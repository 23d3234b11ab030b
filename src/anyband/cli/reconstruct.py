"""`anyband reconstruct MANIFEST --target-sensor NAME --date ISO [--target FILE --cloudy MASK] …`."""

import argparse
import datetime as dt
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyband.cli.options import add_network_options, check_checkpoint, check_new, check_there, output_path
from anyband.errors import InputError

if TYPE_CHECKING:
    from anyband.models.checkpoint import Checkpoint
    from anyband.scenes.reconstruct import TargetImage

__all__ = ["add_arguments", "run"]

_EPILOG = """\
examples:
  anyband reconstruct place.csv --target-sensor sentinel2-l2a --date 2018-06-21 --checkpoint C --out june.tif
  anyband reconstruct place.csv --target cloudy.tif --cloudy mask.tif --target-sensor sentinel2-l2a \\
      --date 2018-06-21 --checkpoint C --out filled.tif

The manifest lists the other images of the place, as for `anyband prepare`. Without --target the whole image is
predicted; with it, what has no data or is cloudy, and every other pixel keeps its digital number.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("context", type=Path, metavar="MANIFEST", help="list of the other images of the place")
    parser.add_argument("--target-sensor", required=True, help="name in the catalogue, or a YAML file")
    parser.add_argument("--date", help="when the target was or would have been taken (default: the time of its file)")
    parser.add_argument("--checkpoint", required=True, help="safetensors file with a decoder, or a hub id")
    parser.add_argument(
        "--out", required=True, type=output_path, help="GeoTIFF to write; F_picture.png is put beside it"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an output that is there already")
    seen = parser.add_argument_group("a target that is seen in part")
    seen.add_argument("--target", nargs="+", metavar="FILE", help="the image, or files or a folder that hold its bands")
    seen.add_argument("--cloudy", type=Path, metavar="MASK", help="raster that is not 0 where the target is cloudy")
    seen.add_argument(
        "--clear-values",
        help="values of the mask that mean clear, by commas (default 0); 4,5,6,7,11 for Sentinel-2 SCL",
    )
    seen.add_argument("--mask-band", default="", help="band or variable of the mask, if it has several")
    seen.add_argument("--time-index", type=int, help="which time of a file with a time axis, from 0")
    form = parser.add_argument_group("how the image is stored (a file says it by itself)")
    form.add_argument(
        "--bands", help="of the target: `B02,B03`; of a file also `B02=1,B03=2`, or `available`: those it names"
    )
    form.add_argument("--encoding", help="how its numbers are stored")
    form.add_argument("--like", type=Path, metavar="RASTER", help="take the grid of this raster")
    form.add_argument("--dtype", help="uint8, uint16, int16, float32, …")
    work = parser.add_argument_group("work")
    work.add_argument("--num-context", type=int, help="other images to look at (default: as many as in training)")
    work.add_argument("--window", type=int, help="pixels of the target seen at once (default: the network's size)")
    add_network_options(
        work, batch_help="windows that are predicted at once", min_support_help="bands with less can't be reconstructed"
    )


def run(arguments: argparse.Namespace) -> int:
    from anyband.data.manifest import read_manifest

    if arguments.target is None:
        for name in ("cloudy", "clear_values", "time_index"):
            if getattr(arguments, name) is not None:
                raise InputError(f"--{name.replace('_', '-')} is of an image that is there; name it with --target")
    check_there("--target", arguments.target or [])
    check_there("--cloudy", [arguments.cloudy])
    check_there("--like", [arguments.like])
    entries = read_manifest(arguments.context)
    read = [*(path for one in entries for path in one.source.paths), *(arguments.target or [])]
    check_new(arguments.out, read=read, overwrite=arguments.overwrite)
    check_checkpoint(arguments.checkpoint)
    # Late: what can be seen without a network was seen.
    from anyband.encode.complete import load_completer
    from anyband.models.checkpoint import checkpoint_name
    from anyband.scenes.reconstruct import reconstruct

    completer = load_completer(
        arguments.checkpoint, device=arguments.device, unseen=arguments.unseen, min_support=arguments.min_support
    )
    report = reconstruct(
        completer,
        entries,
        _target(arguments, completer.checkpoint),
        arguments.out,
        window=arguments.window,
        num_context=arguments.num_context,
        precision=arguments.precision,
        batch_size=arguments.batch_size,
        tags={"ANYBAND_CHECKPOINT": checkpoint_name(arguments.checkpoint)},
        shown=True,
    )
    for note in report.notes:
        print(f"note: {note}")
    print(f"looked at: {'; '.join(report.context)}")
    size = f"{report.grid.height} × {report.grid.width} pixels of {report.grid.gsd_m:g} m"
    print(f"{report.image}: {size}, {report.num_filled} predicted, {report.num_unfilled} without data")
    print(f"{report.picture}: the images, the target as it was, and filled")
    return 0


def _target(arguments: argparse.Namespace, checkpoint: "Checkpoint") -> "TargetImage":
    from anyband.data.manifest import parse_entry
    from anyband.encode.input_spec import checkpoint_sensor
    from anyband.scenes.reconstruct import TargetImage
    from anyband.sensors.sensor import listed_names

    fields: dict[str, Any] = {"time": _time(arguments.date), "dtype": arguments.dtype, "like": arguments.like}
    if arguments.target is None:
        sensor = checkpoint_sensor(checkpoint, arguments.target_sensor)
        bands = tuple(listed_names("" if arguments.bands == "available" else arguments.bands or ""))
        return TargetImage(sensor=sensor, bands=bands, encoding=arguments.encoding, **fields)
    row = {
        "path": ";".join(arguments.target),
        "sensor": arguments.target_sensor,
        "bands": None if arguments.bands is None else arguments.bands.replace(",", ";"),
        "encoding": arguments.encoding,
        "time": arguments.time_index,
    }
    entry = parse_entry(row, folder=Path())
    if arguments.cloudy is not None:
        values, band = _clear_values(arguments.clear_values or "0"), arguments.mask_band
        masked: dict[str, Any] = {"valid_paths": (arguments.cloudy,), "valid_values": values, "valid_variable": band}
        entry = replace(entry, source=replace(entry.source, **masked))
    return TargetImage(sensor=entry.product, entry=entry, **fields)


def _clear_values(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError as problem:
        raise InputError(f"--clear-values takes numbers such as 4,5,6, found '{text}'") from problem


def _time(date: str | None) -> dt.datetime | None:
    from anyband.encode.metadata import ImageMetadata, checked_metadata

    if date is None:
        return None
    checked: Any = checked_metadata(ImageMetadata(datetime=date), name="--date").datetime
    time: dt.datetime = checked.astype(dt.datetime)
    return time.replace(tzinfo=dt.UTC)
