"""`anyband embed SCENE --sensor NAME --checkpoint C --out F.tif`; a list of images of one place names its sensors."""

import argparse
from pathlib import Path
from typing import Any

from anyband.cli.options import add_network_options, check_checkpoint, check_new, check_there, output_path
from anyband.errors import InputError

__all__ = ["add_arguments", "run"]

_OF_A_SCENE = ("sensor", "bands", "encoding", "time_index", "valid")
"""Options of a scene, which the images of a list have in columns."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "scene",
        type=Path,
        nargs="+",
        help="raster, or files or a folder that hold its bands; or a list (CSV, YAML or Parquet, as `anyband prepare` "
        "reads) of images of one place, whose features are made together",
    )
    parser.add_argument("--sensor", help="name in the catalogue, or a YAML file; images of a list have their own")
    parser.add_argument("--checkpoint", required=True, help="safetensors file, or a hub id")
    parser.add_argument(
        "--out", required=True, type=output_path, help="GeoTIFF of features; F_pca.png is put beside it"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an output that is there already")
    parser.add_argument("--bands", help="bands to use, by commas; `available`: those the file names (default: all)")
    parser.add_argument("--encoding", help="how the numbers are stored (default: the sensor's; it is printed)")
    parser.add_argument("--time-index", type=int, help="which time of a file with a time axis, from 0")
    parser.add_argument(
        "--valid", type=Path, action="append", default=[], help="mask file, non-zero where there is data"
    )
    parser.add_argument(
        "--statistics",
        help="'scene' to count them from this scene (of a list: each sensor's from its images), or a chip store, or a "
        "JSON or YAML file (default: the checkpoint's, else the catalogue's)",
    )
    parser.add_argument("--tile", type=int, help="pixels of a view that are kept (default: by --halo)")
    parser.add_argument(
        "--halo", type=int, help="pixels seen around it (default: an eighth of the network's image size)"
    )
    add_network_options(
        parser,
        batch_help="views that are encoded at once; of a list, images",
        min_support_help="bands with less are out of the span",
    )
    parser.add_argument("--out-of-span", choices=("refuse", "drop"), default="drop")


def run(arguments: argparse.Namespace) -> int:
    from anyband.data.manifest import MANIFEST_ENDINGS, read_manifest

    scene, out = arguments.scene, arguments.out
    is_list = len(scene) == 1 and scene[0].suffix.casefold() in MANIFEST_ENDINGS
    given = [name for name in _OF_A_SCENE if getattr(arguments, name) not in (None, [])]
    if is_list and given:
        name, column = given[0].replace("_", "-"), given[0].removesuffix("_index")
        raise InputError(
            f"'{scene[0]}' is a list of images, each with its own {name}: leave out --{name}, and fill the column "
            f"`{column}`"
        )
    if not is_list and arguments.sensor is None:
        raise InputError("say with --sensor what the scene was taken by; only the images of a list have their own")
    check_there("SCENE", scene)
    check_there("--valid", arguments.valid)
    check_there("--statistics", [] if arguments.statistics == "scene" else [arguments.statistics])
    entries = read_manifest(scene[0]) if is_list else []
    read = [*scene, *(path for one in entries for path in one.source.paths)]
    check_new(out, read=read, overwrite=arguments.overwrite)
    check_checkpoint(arguments.checkpoint)
    # Late: what can be seen without a network was seen.
    from anyband.encode.encoder import load_encoder
    from anyband.encode.input_spec import checkpoint_sensor
    from anyband.models.checkpoint import checkpoint_name
    from anyband.rasters.reader import AVAILABLE, RasterSource
    from anyband.scenes.embed import embed_scene, embed_set

    encoder = load_encoder(
        arguments.checkpoint,
        device=arguments.device,
        unseen=arguments.unseen,
        min_support=arguments.min_support,
        out_of_span=arguments.out_of_span,
    )
    options: dict[str, Any] = {name: getattr(arguments, name) for name in ("tile", "halo", "precision", "batch_size")}
    options |= {"tags": {"ANYBAND_CHECKPOINT": checkpoint_name(arguments.checkpoint)}, "shown": True}
    options["statistics"] = arguments.statistics
    if is_list:
        report = embed_set(encoder, entries, out, **options)
    else:
        sensor = checkpoint_sensor(encoder.checkpoint, arguments.sensor)
        is_open = arguments.bands == "available"
        if arguments.bands and not is_open:
            sensor = sensor.select(arguments.bands)
        source = RasterSource(
            paths=tuple(scene),
            bands=AVAILABLE if is_open else (),
            time_index=arguments.time_index,
            valid_paths=tuple(arguments.valid),
            encoding=arguments.encoding,
        )
        report = embed_scene(encoder, source, sensor, out, **options)
    for note in report.notes:
        print(f"note: {note}")
    size = f"{report.grid.height} × {report.grid.width} patches of {report.grid.gsd_m:g} m"
    print(f"{report.features}: {encoder.config.embed_dim} features on {size}, {report.num_missing} without data")
    print(f"{report.picture}: their first three principal components")
    return 0
