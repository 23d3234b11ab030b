"""`anyband evaluate knn|linear --checkpoint C --data FOLDER_OR_TABLE --sensor NAME`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anyband.data.labelled import LabelledImages
    from anyband.sensors.sensor import Sensor
    from anyband.tasks.evaluate import EvaluateOptions
    from anyband.tasks.features import SensorEncoder
    from anyband.tasks.results import Evaluation

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("protocol", choices=("knn", "linear"), help="nearest neighbours, or a linear probe")
    parser.add_argument("--checkpoint", required=True, help="safetensors file, or a hub id")
    parser.add_argument(
        "--data",
        required=True,
        type=Path,
        help="folder of class folders, or CSV or Parquet of path and label; with a column `set`, of sets of images",
    )
    parser.add_argument("--sensor", help="name in the catalogue, or a YAML file; of sets, where a row names none")
    parser.add_argument("--bands", help="bands to use, by commas (default: all of the sensor)")
    parser.add_argument("--encoding", help="how the numbers are stored (default: the sensor's; it is printed)")
    parser.add_argument("--multi-label", action="store_true", help="images may have several labels")
    parser.add_argument(
        "--split", default="0.1,0.2", help="shares of val and test, where none is declared (default 0.1,0.2)"
    )
    parser.add_argument("--untrained", action="store_true", help="also score the architecture before training")
    parser.add_argument("--baseline", action="store_true", help="also score means and deviations of the bands")
    parser.add_argument(
        "--statistics",
        help="'data' to count them on the training images, or a chip store, or a JSON or YAML file "
        "(default: the checkpoint's, else the catalogue's)",
    )
    parser.add_argument("--pool", choices=("cls", "mean"), default="cls", help="vector of an image, or of a set")
    parser.add_argument(
        "--no-metadata",
        action="store_true",
        help="do not tell where, how finely and when the images of sets were taken",
    )
    parser.add_argument("--img-size", type=int, help="pixels to which images are resized (default: checkpoint's)")
    parser.add_argument("--k", type=int, default=20, help="neighbours (default 20)")
    parser.add_argument("--epochs", type=int, default=100, help="of the linear probe (default 100)")
    parser.add_argument("--precision", choices=("float32", "bf16"), default="float32")
    parser.add_argument("--batch-size", type=int, default=64, help="images encoded at once")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, …")
    parser.add_argument("--seed", type=int, default=0, help="of split, probe and bootstrap")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--out", type=Path, help="write JSON here too")


def run(arguments: argparse.Namespace) -> int:
    import json
    from dataclasses import replace

    from anyband.tasks.evaluate import EvaluateOptions, ScoreOptions, read_split_images
    from anyband.tasks.features import load_encoder
    from anyband.tasks.knn import KnnOptions
    from anyband.tasks.linear import LinearOptions
    from anyband.tasks.results import checkpoint_name, evaluation_to_dict, print_evaluation, write_evaluation
    from anyband.whole_files import check_target

    if arguments.out:
        check_target(arguments.out)
    encoder = load_encoder(arguments.checkpoint, device=arguments.device)
    _check_sensor(encoder, arguments)
    val_share, test_share = _shares(arguments.split)
    images = read_split_images(
        arguments.data,
        multi_label=arguments.multi_label,
        val_share=val_share,
        test_share=test_share,
        seed=arguments.seed,
        sensor=arguments.sensor,
    )
    options = EvaluateOptions(
        score=ScoreOptions(
            protocol=arguments.protocol,
            knn=KnnOptions(k=arguments.k),
            linear=LinearOptions(epochs=arguments.epochs),
            seed=arguments.seed,
            device=arguments.device,
            shown=True,
        ),
        pool=arguments.pool,
        img_size=arguments.img_size,
        precision=arguments.precision,
        batch_size=arguments.batch_size,
        encoding=arguments.encoding,
        statistics=arguments.statistics,
        untrained=arguments.untrained,
        baseline=arguments.baseline,
        metadata=not arguments.no_metadata,
    )
    evaluation = _evaluation(encoder, images, options, arguments)
    evaluation = replace(
        evaluation,
        checkpoint=checkpoint_name(arguments.checkpoint),
        data=f"{arguments.data.name} {evaluation.data}",
    )
    if arguments.out:
        write_evaluation(arguments.out, evaluation)
    if arguments.json:
        print(json.dumps(evaluation_to_dict(evaluation), ensure_ascii=False))
    else:
        print_evaluation(evaluation)
    return 0


def _check_sensor(encoder: "SensorEncoder", arguments: argparse.Namespace) -> None:
    """Refuse an unknown sensor before any image is looked for."""
    if arguments.sensor is not None:
        _sensor(encoder, arguments)


def _sensor(encoder: "SensorEncoder", arguments: argparse.Namespace) -> "Sensor":
    from anyband.errors import InputError
    from anyband.tasks.readings import checkpoint_sensor

    if arguments.sensor is None:
        raise InputError("say with --sensor what the images were taken by; only the rows of sets have their own")
    sensor = checkpoint_sensor(encoder.checkpoint, arguments.sensor)
    return sensor.select(name.strip() for name in arguments.bands.split(",")) if arguments.bands else sensor


def _evaluation(
    encoder: "SensorEncoder", images: "LabelledImages", options: "EvaluateOptions", arguments: argparse.Namespace
) -> "Evaluation":
    from anyband.errors import InputError
    from anyband.tasks.evaluate import evaluate_images
    from anyband.tasks.set_evaluate import evaluate_sets

    if not images.members:
        return evaluate_images(encoder, images, _sensor(encoder, arguments), options)
    if arguments.bands:
        raise InputError("images of sets have bands of their own: name them in the table's column `bands`")
    return evaluate_sets(encoder, images, options)


def _shares(text: str) -> tuple[float, float]:
    from anyband.errors import InputError

    try:
        val_share, test_share = (float(part) for part in text.split(","))
    except ValueError as problem:
        raise InputError(f"--split takes the shares of val and test, such as 0.1,0.2; found '{text}'") from problem
    return val_share, test_share
