"""`anyband simulate`: render landscapes with known truth through the catalogue's sensors."""

import argparse

from anyband.cli.options import output_path
from anyband.errors import InputError, counted

__all__ = ["add_arguments", "run"]

_PREVIEW_PLACES = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=output_path, required=True, metavar="DIR", help="folder to make; must not exist")
    parser.add_argument("--places", type=int, default=100, metavar="N", help="number of places (default 100)")
    parser.add_argument(
        "--sensors",
        metavar="NAMES",
        help="sensors of the catalogue or YAML files, with commas between "
        "(default: sentinel2-l2a,sentinel1-grd,maxar-rgb,landsat8-oli-tirs-l2)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of all draws (default 0)")
    parser.add_argument("--dates", type=int, default=1, metavar="N", help="acquisitions of each sensor at each place")
    parser.add_argument(
        "--footprint", type=float, default=960.0, metavar="M", help="side of a place, metres (default 960)"
    )
    parser.add_argument(
        "--gsd",
        action="append",
        default=[],
        metavar="NAME=M",
        help="pixel size of a sensor, metres; may be repeated (default: maxar-rgb=2.5)",
    )
    parser.add_argument("--detail", type=float, default=2.5, metavar="M", help="pixel size of the truth (default 2.5)")
    parser.add_argument(
        "--clouds", type=float, default=0.1, metavar="SHARE", help="share of optical images with clouds"
    )
    parser.add_argument(
        "--edges", type=float, default=0.05, metavar="SHARE", help="share of images cut by a swath's edge"
    )
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes (default 1)")
    parser.add_argument("--preview", action="store_true", help=f"also draw DIR/preview.png of {_PREVIEW_PLACES} places")


def run(arguments: argparse.Namespace) -> int:
    from anyband.simulate.archive import draw_preview, simulate
    from anyband.simulate.plan import DEFAULT_SENSORS, SimulateOptions

    sensors = tuple(arguments.sensors.split(",")) if arguments.sensors else DEFAULT_SENSORS
    given = tuple(_pixel_size(word) for word in arguments.gsd)
    options = SimulateOptions(
        num_places=arguments.places,
        sensors=sensors,
        footprint_m=arguments.footprint,
        seed=arguments.seed,
        num_dates=arguments.dates,
        cloud_share=arguments.clouds,
        edge_share=arguments.edges,
        gsd_m=(*SimulateOptions.gsd_m, *given),
        detail_m=arguments.detail,
        workers=arguments.workers,
    )
    manifest = simulate(arguments.out, options)
    print(
        f"{manifest}: {counted(options.num_places, 'place')}, {counted(len(sensors), 'sensor')}, "
        f"{counted(options.num_dates, 'date')}"
    )
    if arguments.preview:
        picture = arguments.out / "preview.png"
        draw_preview(picture, options, indices=tuple(range(min(_PREVIEW_PLACES, options.num_places))))
        print(picture)
    return 0


def _pixel_size(word: str) -> tuple[str, float]:
    name, _, metres = word.rpartition("=")
    try:
        return name, float(metres)
    except ValueError as problem:
        raise InputError(f"--gsd takes NAME=METRES, for example maxar-rgb=2.5, found '{word}'") from problem
