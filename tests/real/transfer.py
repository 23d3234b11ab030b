"""Run every downstream protocol on real images, and print the table of results.

    python tests/real/transfer.py --images IMAGES --checkpoint C --out FOLDER [--only NAME ...] [--short]

IMAGES holds small pieces of public data sets; docs/real_data.md names them. FOLDER gets the tables of
`dense_tables.py`, a recipe for each evaluation, its report, and `results.parquet`. An evaluation whose report is there
already is not done again. `--short` takes few dates, epochs and photographs: it shows that everything runs.

Each evaluation is one command, printed before it runs, so that it can be repeated by hand.
"""

import argparse
import importlib.util
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from anyband.cli import main as anyband

# chosen: heads and rates for a few hundred patches; the published ones are for thousands of images.
_HEAD = {
    "head": {"kind": "upernet", "channels": 64},
    "fit": {
        "encoder": "frozen",
        "epochs": 30,
        "warmup_epochs": 1.0,
        "base_lr": 1e-3,
        "lr_samples": None,
        "batch_size": 8,
    },
}
# chosen: on validation, against a quarter of the rate with mixup, cutmix and label smoothing (docs/log.md).
_TUNED = {
    "input": {"pool": "mean"},
    "fit": {
        "encoder": "trained",
        "epochs": 30,
        "warmup_epochs": 3.0,
        "base_lr": 4e-3,
        "lr_samples": 256,
        "batch_size": 64,
        "layer_decay": 0.75,
        "drop_path": 0.1,
        "patience": 12,
        "precision": "bf16-mixed",
        "augment": {"flips": True, "quarter_turns": True, "crop_area": [0.5, 1.0]},
    },
}


def _tables() -> ModuleType:
    path = Path(__file__).parent / "dense_tables.py"
    spec = importlib.util.spec_from_file_location("dense_tables_of_transfer", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"no module at '{path}'")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _photographs(images: Path) -> dict[str, Any]:
    return {
        "data": {"source": str(images / "ucmerced_jpg"), "kind": "class", "sensors": ["maxar-rgb"]},
        "input": {"statistics": "data", "precision": "bf16"},
        "compare": {"untrained": True, "baseline": True},
    }


def _with(*parts: dict[str, Any]) -> dict[str, Any]:
    """Join recipes; keys of later ones win, key by key."""
    joined: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            inner = joined.get(key)
            joined[key] = _with(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return joined


def evaluations(images: Path, out: Path, *, short: bool) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Give name, protocol and recipe of each evaluation; tables of maps are written into `out`."""
    tables = _tables()
    tables.write_tables(images, out, most_dates=2 if short else 24)
    declared = yaml.safe_load((out / "data.yaml").read_text())
    rgb = _photographs(images)
    yield "ucmerced_knn", "knn", rgb
    yield "ucmerced_knn_mean", "knn", _with(rgb, {"input": {"pool": "mean"}})
    yield "ucmerced_bands", "leave-one-band-out", _with(rgb, {"input": {"pool": "mean"}, "measures": "knn"})
    yield "ucmerced_knn_scales", "knn", _with(rgb, {"input": {"scales": [0.125, 0.25, 0.5, 1.0]}})
    yield "ucmerced_linear", "linear", rgb
    yield "ucmerced_linear_lbfgs", "linear", _with(rgb, {"linear": {"solver": "lbfgs"}})
    alone = {"compare": {"untrained": False, "baseline": False}}
    tenth = {"linear": {"solver": "lbfgs"}, "data": {"split": {"fraction": 0.1}}}
    yield "ucmerced_linear_lbfgs_tenth", "linear", _with(rgb, tenth)
    yield "ucmerced_finetune", "finetune", _with(rgb, _TUNED)
    yield "ucmerced_lora", "finetune", _with(rgb, _TUNED, {"fit": {"encoder": "lora", "drop_path": 0.0}, **alone})
    compare = {"compare": {"untrained": True, "baseline": True}}
    for name in ("worldcereal_s2", "worldcereal_s1", "worldcereal_both", "worldcereal_landsat8"):
        fusion = {"fusion": "concat"} if name.endswith("both") else {}
        unseen = {"input": {"statistics": "data"}} if name.endswith("landsat8") else {}
        maps = _with({"data": declared[name]}, compare, _HEAD, {"input": {"img_size": 224}}, fusion, unseen)
        yield name, "segment", maps
        if name.endswith("landsat8"):
            yield f"{name}_nearest", "segment", _with(maps, {"input": {"unseen": "nearest"}})
            new = {"fit": {"encoder": "trained", "new_ranges": "alone", "epochs": 10}}
            yield f"{name}_new_ranges", "segment", _with(maps, new, {"compare": {"baseline": False}})
        if name.endswith("both"):
            for other in ("stack", "mixup_concat", "joint"):
                yield f"{name}_{other}", "segment", _with(maps, {"fusion": other, "compare": {"baseline": False}})
        if name.endswith("s2"):
            one = {
                "measures": "segment",
                "head": {"kind": "linear"},
                "compare": {"untrained": False, "baseline": False},
            }
            yield f"{name}_bands", "leave-one-band-out", _with(maps, one, {"input": {"img_size": 96}})
    # One scene gives one window an epoch, tiles of it give one each; a tile is as large as the network's input.
    tiles = {"data": {"tile_px": 96}}
    for name in ("sen1floods11_s2", "sen1floods11_s1", "sen1floods11_both"):
        fusion = {"fusion": "concat"} if name.endswith("both") else {}
        yield name, "segment", _with({"data": declared[name]}, compare, _HEAD, tiles, fusion)
    height = _with({"data": declared["worldcereal_elevation"]}, compare, _HEAD, {"input": {"img_size": 96}})
    yield "worldcereal_elevation", "regress", height
    # No weights come with statistics of this Landsat product.
    own = {"input": {"statistics": "data"}}
    change = _with({"data": declared["taizhou_change"]}, compare, _HEAD, tiles, own)
    yield "taizhou_change", "change", change


def _shortened(recipe: dict[str, Any], images: Path, out: Path) -> dict[str, Any]:
    """Take few epochs, and of the photographs a few classes."""
    few = {"fit": {"epochs": 1, "warmup_epochs": 0.0}, "linear": {"epochs": 2}, "knn": {"k": 3}}
    if not recipe["data"]["source"].endswith("ucmerced_jpg"):
        return _with(recipe, few, {"input": {"img_size": 96}, "head": {"channels": 16}})
    table = out / "ucmerced_short.csv"
    if not table.exists():
        classes = sorted(path for path in (images / "ucmerced_jpg").iterdir() if path.is_dir())[:3]
        rows = [f"{path},{one.name}" for one in classes for path in sorted(one.glob("*.jpg"))[:10]]
        table.write_text("\n".join(["path,label", *rows]) + "\n")
    return _with(recipe, few, {"data": {"source": str(table)}})


def run_all(images: Path, checkpoint: Path, out: Path, *, only: tuple[str, ...] = (), short: bool = False) -> list[str]:
    """Do the evaluations that were not done yet, and give their names.

    Args:
        images: folder of the kit.
        checkpoint: that is evaluated.
        out: folder to write into.
        only: names of evaluations; empty: all.
        short: few dates, epochs and photographs.
    """
    done = []
    tables = out / "tables"
    tables.mkdir(parents=True, exist_ok=True)
    for name, protocol, recipe in evaluations(images, tables, short=short):
        if only and name not in only:
            continue
        done.append(name)
        if (out / name).exists():
            continue
        path = out / f"{name}.yaml"
        recipe = _shortened(recipe, images, tables) if short else recipe
        path.write_text(yaml.safe_dump({"name": name, **recipe}, sort_keys=False))
        words = ["evaluate", protocol, str(path), "--checkpoint", str(checkpoint), "--out", str(out / name)]
        words += ["--results", str(out / "results.parquet"), "--cache", str(out / "cache")]
        print("anyband", shlex.join(words), flush=True)
        code = anyband(words)
        if code:
            raise SystemExit(code)
    return done


def main() -> None:
    """Run them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=[], help="names of evaluations")
    parser.add_argument("--short", action="store_true", help="few dates, epochs and photographs")
    arguments = parser.parse_args()
    run_all(
        arguments.images.resolve(),
        arguments.checkpoint,
        arguments.out,
        only=tuple(arguments.only),
        short=arguments.short,
    )
    raise SystemExit(anyband(["results", str(arguments.out / "results.parquet")]))


if __name__ == "__main__":
    main()
