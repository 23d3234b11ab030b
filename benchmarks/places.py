"""Time and memory of drawing the places of an archive, by their number; each in a process of its own.

    python benchmarks/places.py --polygons FILE --column NAME --shares A=0.5,B=0.5
        [--apart-km 5] [--counts 1000,10000,100000]

FILE has polygons of land with a column of classes, such as Natural Earth's countries with their continents.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

from measure import circumstances, exit_code_of, report

from anyband.archive.places import PlacesRecipe, StrataRecipe, sample_places


def main() -> int:
    """Draw, measure, report. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--polygons", required=True)
    parser.add_argument("--column", required=True)
    parser.add_argument("--shares", required=True)
    parser.add_argument("--apart-km", type=float, default=5.0)
    parser.add_argument("--counts", default="1000,10000,100000")
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    return exit_code_of(lambda: _run(arguments) if arguments.count is None else _draw(arguments))


def _run(arguments: argparse.Namespace) -> None:
    rows = []
    for count in arguments.counts.split(","):
        words = [sys.executable, *sys.argv, "--count", count]
        rows.append(json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout))
    report("places", rows, {"apart_km": arguments.apart_km, **circumstances(("scipy", "shapely"))})


def _draw(arguments: argparse.Namespace) -> None:
    shares = {name: float(share) for name, share in (one.split("=") for one in arguments.shares.split(","))}
    layer = StrataRecipe(name="layer", path=arguments.polygons, column=arguments.column, shares=shares)
    apart_km = arguments.apart_km
    recipe = PlacesRecipe(
        count=arguments.count, land=arguments.polygons, min_distance_km=apart_km, cell_km=300.0,
        test_gap_km=max(apart_km, 20.0), strata=(layer,),
    )  # fmt: skip
    started = time.perf_counter()
    places = sample_places(recipe)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"places": len(places), "seconds": time.perf_counter() - started, "peak_mb": peak_mb}))


if __name__ == "__main__":
    raise SystemExit(main())
