"""`anyband embed SCENE --sensor NAME --checkpoint C --out F.tif`."""

import argparse
from pathlib import Path

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("scene", type=Path, nargs="+", help="raster, or files or a folder that hold its bands")
    parser.add_argument("--sensor", required=True, help="name in the catalogue, or a YAML file")
    parser.add_argument("--checkpoint", required=True, help="safetensors file, or a hub id")
    parser.add_argument("--out", required=True, type=Path, help="GeoTIFF of features; F_pca.png is put beside it")
    parser.add_argument("--bands", help="bands to use, by commas (default: all of the sensor)")
    parser.add_argument("--encoding", help="how the numbers are stored (default: the sensor's; it is printed)")
    parser.add_argument("--time-index", type=int, help="which time of a file with a time axis, from 0")
    parser.add_argument(
        "--valid", type=Path, action="append", default=[], help="mask file, non-zero where there is data"
    )
    parser.add_argument(
        "--statistics",
        help="'scene' to count them from this scene, or a chip store, or a JSON or YAML file "
        "(default: the checkpoint's, else the catalogue's)",
    )
    parser.add_argument("--tile", type=int, help="pixels of a view that are kept (default: by --halo)")
    parser.add_argument(
        "--halo", type=int, help="pixels seen around it (default: an eighth of the network's image size)"
    )
    parser.add_argument("--precision", choices=("float32", "bf16"), default="float32")
    parser.add_argument("--batch-size", type=int, default=16, help="views that are encoded at once")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, …")
    parser.add_argument(
        "--unseen",
        choices=("interpolate", "nearest", "released", "refuse"),
        default="interpolate",
        help="bands that no trained range is",
    )
    parser.add_argument("--min-support", type=float, default=0.05, help="bands with less are out of the span")
    parser.add_argument("--out-of-span", choices=("refuse", "drop"), default="refuse")


def run(arguments: argparse.Namespace) -> int:
    from anyband.data.rasters.records import RasterSource
    from anyband.scenes.embed import EmbedOptions, embed_scene, named_statistics
    from anyband.tasks.features import load_encoder
    from anyband.tasks.readings import checkpoint_sensor
    from anyband.tasks.results import checkpoint_name

    encoder = load_encoder(
        arguments.checkpoint,
        device=arguments.device,
        unseen=arguments.unseen,
        min_support=arguments.min_support,
        out_of_span=arguments.out_of_span,
    )
    sensor = checkpoint_sensor(encoder.checkpoint, arguments.sensor)
    if arguments.bands:
        sensor = sensor.select(name.strip() for name in arguments.bands.split(","))
    source = RasterSource(
        paths=tuple(arguments.scene),
        time_index=arguments.time_index,
        valid_paths=tuple(arguments.valid),
        encoding=arguments.encoding,
    )
    options = EmbedOptions(
        tile=arguments.tile,
        halo=arguments.halo,
        precision=arguments.precision,
        batch_size=arguments.batch_size,
        statistics=named_statistics(arguments.statistics, source, sensor, shown=True),
        tags=(("ANYBAND_CHECKPOINT", checkpoint_name(arguments.checkpoint)),),
        shown=True,
    )
    report = embed_scene(encoder, source, sensor, arguments.out, options)
    for note in report.notes:
        print(note)
    size = f"{report.grid.height} × {report.grid.width} patches of {report.grid.gsd_m:g} m"
    print(f"{report.features}: {encoder.config.embed_dim} features on {size}, {report.num_missing} without data")
    print(f"{report.picture}: their first three principal components")
    return 0
