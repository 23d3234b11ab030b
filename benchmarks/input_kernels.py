"""How far features are apart by the way images are reduced and resized; plain beside that of the released code.

    python benchmarks/input_kernels.py --data FOLDER --checkpoint FILE [--images 100] [--recipe NAME]

FOLDER is that of the recipe's data set; of the images that many are drawn.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from measure import circumstances, exit_code_of, report

from anyband.encode.encoder import SensorEncoder
from anyband.evaluate.features import FusedEncoder
from anyband.evaluate.inputs import TaskReader
from anyband.evaluate.recipe import load_transfer_recipe
from anyband.labelled import open_task_data
from anyband.models.checkpoint import load_checkpoint

_WAYS = {"plain": (), "released reduction": ("reduction",), "skimage": ("kernel",), "both": ("reduction", "kernel")}
_RELEASED = {"reduction": "released", "kernel": "skimage"}


def main() -> int:
    """Encode by each way, compare, report. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--recipe", default="table4_ucmerced_knn")
    arguments = parser.parse_args()
    return exit_code_of(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    recipe = load_transfer_recipe(f"paper/{arguments.recipe}", [f"data.root={arguments.data}"])
    encoder = SensorEncoder(load_checkpoint(arguments.checkpoint)).eval()
    data = open_task_data(recipe.data, seed=0)
    chosen = np.random.default_rng(0).permutation(len(data))[: arguments.images]
    rows = []
    for scale in recipe.input.scales:
        features = {}
        for way, keys in _WAYS.items():
            how = recipe.input.changed(
                **{"reduction": "plain", "kernel": "plain"} | {key: _RELEASED[key] for key in keys}
            )
            features[way] = _features(encoder, TaskReader(encoder, data, recipe.changed(input=how)), chosen, scale)
        plain = features.pop("plain")
        apart = {way: (found - plain).norm(dim=1) / plain.norm(dim=1) for way, found in features.items()}
        spread = (plain - plain.mean(dim=0)).norm(dim=1).mean() / plain.norm(dim=1).mean()
        rows.append({"scale": scale} | {f"{way}_percent": 100 * one.mean().item() for way, one in apart.items()})
        rows[-1]["between_images_percent"] = 100 * spread.item()
        print(json.dumps(rows[-1]))
    report("input_kernels", rows, {"images": len(chosen), **circumstances(("torch", "scikit-image"))})


def _features(encoder: SensorEncoder, reader: TaskReader, chosen: np.ndarray, scale: float) -> torch.Tensor:
    fused = FusedEncoder(encoder, fusion="single", pool="cls", seed=0, metadata=False).eval()
    with torch.inference_mode():
        return torch.cat([fused(batch) for batch in reader.batches(chosen, scale=scale)])


if __name__ == "__main__":
    raise SystemExit(main())
