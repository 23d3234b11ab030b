"""`anyband demo`."""

import argparse
from pathlib import Path

from anyband.cli.options import output_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=output_path, required=True, help="folder; a stopped demo goes on there")
    parser.add_argument("--images", type=Path, help="manifest of your own images instead of simulated ones")
    parser.add_argument("--labelled", type=Path, help="labelled images to score on: class folders or a table")
    parser.add_argument("--labelled-sensor", help="their sensor")
    parser.add_argument("--chip-px", type=int, help="side of a footprint in pixels of its finest image")
    parser.add_argument("--places", type=int, default=480, help="simulated places (default 480)")
    parser.add_argument("--steps", type=int, default=700, help="training steps (default 700)")
    parser.add_argument("--set-steps", type=int, default=250, help="steps of the network of sets (default 250)")
    parser.add_argument("--batch-size", type=int, default=32, help="pairs a step (default 32)")
    parser.add_argument("--seed", type=int, default=0, help="of everything (default 0)")
    parser.add_argument("--workers", type=int, default=2, help="processes that render and prepare (default 2)")
    parser.add_argument("--quiet", action="store_true", help="show no progress")


def run(arguments: argparse.Namespace) -> int:
    from anyband.demo.run import DemoOptions, run_demo
    from anyband.demo.story import summary_lines, write_report

    options = DemoOptions(
        images=arguments.images,
        num_places=arguments.places,
        steps=arguments.steps,
        set_steps=arguments.set_steps,
        batch_size=arguments.batch_size,
        chip_px=arguments.chip_px,
        labelled=arguments.labelled,
        labelled_sensor=arguments.labelled_sensor,
        seed=arguments.seed,
        workers=arguments.workers,
        shown=not arguments.quiet,
    )
    result = run_demo(arguments.out, options)
    report = arguments.out / "report.html"
    write_report(report, result)
    for line in summary_lines(result):
        print(line)
    print(report)
    return 0
