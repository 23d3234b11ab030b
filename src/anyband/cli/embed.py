"""`anyband embed SCENE --sensor NAME --checkpoint C --out F.tif`; a list of images of one place names its sensors."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyband.cli.options import add_network_options, output_path

if TYPE_CHECKING:
    from anyband.encode.encoder import SensorEncoder
    from anyband.scenes.embed import EmbedReport

__all__ = ["add_arguments", "run"]


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
    parser.add_argument("--bands", help="bands to use, by commas (default: all of the sensor)")
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
    parser.add_argument("--out-of-span", choices=("refuse", "drop"), default="refuse")


def run(arguments: argparse.Namespace) -> int:
    from anyband.data.manifest import MANIFEST_ENDINGS
    from anyband.encode.encoder import load_encoder

    is_list = len(arguments.scene) == 1 and arguments.scene[0].suffix.casefold() in MANIFEST_ENDINGS
    _check_words(arguments, is_list=is_list)
    encoder = load_encoder(
        arguments.checkpoint,
        device=arguments.device,
        unseen=arguments.unseen,
        min_support=arguments.min_support,
        out_of_span=arguments.out_of_span,
    )
    report = _embed_list(arguments, encoder) if is_list else _embed_scene(arguments, encoder)
    for note in report.notes:
        print(note)
    size = f"{report.grid.height} × {report.grid.width} patches of {report.grid.gsd_m:g} m"
    print(f"{report.features}: {encoder.config.embed_dim} features on {size}, {report.num_missing} without data")
    print(f"{report.picture}: their first three principal components")
    return 0


def _check_words(arguments: argparse.Namespace, *, is_list: bool) -> None:
    from anyband.errors import InputError

    if not is_list and arguments.sensor is None:
        raise InputError("say with --sensor what the scene was taken by; only the images of a list have their own")
    given = {
        "sensor": arguments.sensor,
        "bands": arguments.bands,
        "encoding": arguments.encoding,
        "time-index": arguments.time_index,
        "valid": arguments.valid or None,
    }
    said = [name for name, value in given.items() if value is not None]
    if is_list and said:
        column = {"time-index": "time"}.get(said[0], said[0])
        raise InputError(
            f"'{arguments.scene[0]}' is a list of images, each with its own {said[0]}: leave out --{said[0]}, "
            f"and fill the column `{column}`"
        )


def _embed_scene(arguments: argparse.Namespace, encoder: "SensorEncoder") -> "EmbedReport":
    from anyband.encode.input_spec import checkpoint_sensor
    from anyband.rasters.reader import RasterSource
    from anyband.scenes.embed import embed_scene, named_statistics

    sensor = checkpoint_sensor(encoder.checkpoint, arguments.sensor)
    if arguments.bands:
        sensor = sensor.select(name.strip() for name in arguments.bands.split(","))
    source = RasterSource(
        paths=tuple(arguments.scene),
        time_index=arguments.time_index,
        valid_paths=tuple(arguments.valid),
        encoding=arguments.encoding,
    )
    statistics = named_statistics(arguments.statistics, source, sensor, shown=True)
    return embed_scene(encoder, source, sensor, arguments.out, statistics=statistics, **_options(arguments))


def _embed_list(arguments: argparse.Namespace, encoder: "SensorEncoder") -> "EmbedReport":
    from anyband.data.manifest import read_manifest
    from anyband.scenes.embed import embed_set, named_set_statistics

    entries = read_manifest(arguments.scene[0])
    statistics = named_set_statistics(arguments.statistics, entries)
    return embed_set(encoder, entries, arguments.out, statistics=statistics, **_options(arguments))


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    from anyband.models.weight_files import checkpoint_name

    return {
        "tile": arguments.tile,
        "halo": arguments.halo,
        "precision": arguments.precision,
        "batch_size": arguments.batch_size,
        "tags": {"ANYBAND_CHECKPOINT": checkpoint_name(arguments.checkpoint)},
        "shown": True,
    }
