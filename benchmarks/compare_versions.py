"""Record what a version of the program computes, through its command line and its public names only.

    PYTHONPATH=OLD/src python benchmarks/compare_versions.py keep   # once: store, images, checkpoints
    PYTHONPATH=SRC python benchmarks/compare_versions.py record OUT.json [--only NAME ...] [--work FOLDER]
    python benchmarks/compare_versions.py compare BEFORE.json AFTER.json [--digits 6]

What is kept lies in the folder ANYBAND_KEPT (default: kept, here); real images are those of the tests.

Everything runs on one thread with fixed seeds. `record` adds to OUT.json the parts that are named; a part that stands
there already is replaced. Exit code of `compare`: 0 equal to 6 digits, 1 different.
"""

import argparse
import csv
import hashlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

KEPT = Path(os.environ.get("ANYBAND_KEPT", "kept")).resolve()
BESIDE = Path(__file__).resolve().parents[2] / "shared" / "realdata"
REAL = Path(os.environ.get("ANYBAND_REAL_DATA", BESIDE))
UCMERCED = REAL / "ucmerced_jpg"
FLOOD = REAL / "sen1floods11_spain"
SENTINEL2_L1C = ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12"]
RECIPES = ("smarties_tiny", "a2mae_tiny", "unified_tiny")
WORDS = {
    # pairs of the store, a sensor that training never sees, float32, nothing else written
    name: [
        "optim.precision=32-true", "optim.batch_size=6", "run.accelerator=cpu", "run.devices=1", "run.workers=1",
        "run.panel_every_steps=0", "run.val_batches=1", "run.log_every_steps=1", "data.statistics=store",
        "data.held_out=[landsat8-oli-tirs-l2]", "optim.warmup_epochs=0.1", "optim.epochs=2", "seed=5",
    ]
    for name in RECIPES
}  # fmt: skip


def anyband(*words, cwd=None):
    """Run a verb in a process of its own; gives what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "anyband", *map(str, words)], cwd=cwd or tempfile.gettempdir(), capture_output=True,
        text=True, env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
    )  # fmt: skip
    if done.returncode != 0:
        raise SystemExit(f"anyband {' '.join(map(str, words))}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def _digest(path):
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()


def keep():
    """Make store, images, scenes and checkpoints by this version of the program."""
    KEPT.mkdir(parents=True, exist_ok=True)
    images, store = KEPT / "images", KEPT / "store"
    if not images.exists():
        anyband("simulate", "--out", images, "--places", 24, "--dates", 2, "--seed", 3, "--workers", 1)
    if not store.exists():
        anyband(
            "prepare", images / "manifest.csv", "--out", store, "--workers", 1, "--quiet", "--seed", 1,
            "--splits", "0.6,0.2,0.2", "--stats",
        )  # fmt: skip
    crops()
    for name in RECIPES:
        if not (KEPT / name / "encoder.safetensors").exists():
            anyband("pretrain", name, "--data", store, "--out", KEPT / name, "--quiet", *WORDS[name], "optim.steps=8")


def crops():
    """Cut pieces of the real scenes, band by band, each on its own grid."""
    import rasterio
    from rasterio.windows import Window

    (majortom,) = (REAL / "majortom_s2l2a_scene").glob("*/*/*")
    with rasterio.open(majortom / "B02.tif") as file:
        fine = file.width

    def cut(source, target, first, size):
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            return
        with rasterio.open(source) as file:
            window = Window(first[1], first[0], size[1], size[0])
            pixels = file.read(window=window)
            profile = file.profile | {"height": size[0], "width": size[1], "transform": file.window_transform(window)}
            profile = {key: value for key, value in profile.items() if key not in ("blockxsize", "blockysize", "tiled")}
            names = file.descriptions
        with rasterio.open(target, "w", **profile) as file:
            file.write(pixels)
            for index, name in enumerate(names, 1):
                if name:
                    file.set_band_description(index, name)

    for path in sorted(majortom.glob("B*.tif")):
        with rasterio.open(path) as file:
            ratio = round(fine / file.width)
        cut(path, KEPT / "scenes" / "majortom" / path.name, (360 // ratio, 240 // ratio), (300 // ratio, 300 // ratio))
    for path in sorted((REAL / "landsat8_11band_30m").glob("l8_B*.tif")):
        # 7 bands of 30 m are enough; B8 has another grid.
        if path.stem in ("l8_B2", "l8_B3", "l8_B4", "l8_B5", "l8_B6", "l8_B7"):
            cut(path, KEPT / "scenes" / "landsat8" / path.name, (200, 200), (210, 240))
    (naip,) = (REAL / "naip_10dates_5m").glob("*20140720.tif")
    cut(naip, KEPT / "scenes" / "naip.tif", (300, 300), (250, 270))


def checkpoint(name):
    return KEPT / name / "encoder.safetensors"


def array_facts(values):
    """Describe an array: shape, hash of its bytes, 50 values, mean and deviation."""
    import numpy as np

    values = np.ascontiguousarray(values)
    flat = values.reshape(-1)
    picks = np.linspace(0, flat.size - 1, min(50, flat.size)).round().astype(int)
    finite = flat[np.isfinite(flat)].astype(np.float64) if flat.dtype.kind == "f" else flat.astype(np.float64)
    return {
        "shape": list(values.shape),
        "dtype": str(values.dtype),
        "hash": hashlib.blake2b(values.tobytes(), digest_size=16).hexdigest(),
        "not_finite": int(flat.size - finite.size),
        "mean": float(finite.mean()) if finite.size else None,
        "deviation": float(finite.std()) if finite.size else None,
        "samples": [float(flat[i]) for i in picks],
    }


def raster_facts(path):
    import rasterio

    with rasterio.open(path) as file:
        facts = array_facts(file.read())
        facts["transform"] = list(file.transform)[:6]
        facts["crs"] = str(file.crs)
        facts["nodata"] = str(file.nodata)
        facts["descriptions"] = list(file.descriptions)[:4]
        facts["tags"] = {key: value for key, value in sorted(file.tags().items()) if key != "ANYBAND_CHECKPOINT"}
    return facts


def weights_facts(path):
    """Describe every tensor of a safetensors file."""
    import numpy as np
    from safetensors.numpy import load_file

    tensors = load_file(path)
    return {
        name: [
            list(value.shape),
            float(value.astype(np.float64).sum()) if value.dtype.kind == "f" else int(value.sum()),
            float(np.abs(value.astype(np.float64)).sum()),
        ]
        for name, value in sorted(tensors.items())
    }


def evaluated(work, protocol, *words):
    out = work / f"report_{protocol}"
    shutil.rmtree(out, ignore_errors=True)
    text = anyband("evaluate", protocol, *words, "--no-results", "--no-cache", "--json", "--out", out)
    found = json.loads(text.splitlines()[-1])
    rows = []
    for row in found["results"]:
        kept = {
            key: row.get(key)
            for key in (
                "id", "protocol", "features", "width", "checkpoint_hash", "data_fingerprint", "kind", "num_samples",
                "seed", "scores", "chosen", "curves", "notes", "settings",
            )
        }  # fmt: skip
        kept["scores"] = {score["metric"]: {k: v for k, v in score.items() if k != "metric"} for score in row["scores"]}
        rows.append(kept)
    return {"results": rows, "files": sorted(path.name for path in out.iterdir())}


def evaluate_knn(work):
    return evaluated(
        work, "knn", "--checkpoint", checkpoint("smarties_tiny"), "--data", UCMERCED, "--sensor", "maxar-rgb",
        "--statistics", "data", "--pool", "mean", "--untrained", "--baseline", "--seed", 0,
    )  # fmt: skip


def evaluate_lbfgs(work):
    return evaluated(
        work, "linear", "--checkpoint", checkpoint("smarties_tiny"), "--data", UCMERCED, "--sensor", "maxar-rgb",
        "--statistics", "data", "--pool", "mean", "--solver", "lbfgs", "--fraction", 0.3, "--baseline", "--seed", 0,
    )  # fmt: skip


def evaluate_flood(work):
    table = work / "flood.csv"
    (image,) = (FLOOD / "S2").glob("*.tif")
    (label,) = (FLOOD / "Labels").glob("*.tif")
    bands = ";".join(f"{name}={index}" for index, name in enumerate(SENTINEL2_L1C, 1))
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "sensor", "encoding", "bands"])
        writer.writerow([image, label, "sentinel2-l1c", "dn", bands])
    recipe = work / "flood.yaml"
    recipe.write_text(
        f"name: flood\ndata:\n  source: {table}\n  kind: class_map\n  classes: {{0: land, 1: water}}\n"
        "  ignore: [-1]\n  tile_px: 96\n  split: {val: 0.2, test: 0.3, blocks: {size_px: 64, buffer_px: 16}}\n"
        "input: {statistics: data, out_of_span: drop}\nhead: {kind: upernet, channels: 32}\n"
        "fit: {encoder: frozen, epochs: 3, warmup_epochs: 0.5, base_lr: 1.0e-3, lr_samples: null, batch_size: 8}\n"
        "compare: {untrained: true, baseline: true}\n"
    )
    return evaluated(work, "segment", recipe, "--checkpoint", checkpoint("smarties_tiny"))


def embed(work, name, *words):
    out = work / f"{name}.tif"
    text = anyband("embed", *words, "--out", out)
    facts = raster_facts(out)
    facts["said"] = [line.replace(str(work), "WORK").replace(str(KEPT), "KEPT") for line in text.splitlines()]
    return facts


def embed_majortom(work):
    scene = KEPT / "scenes" / "majortom"
    return {
        name: embed(work, f"majortom_{name}", scene, "--sensor", "sentinel2-l2a", "--checkpoint", checkpoint(name),
                    "--encoding", "dn")
        for name in RECIPES
    }  # fmt: skip


def embed_landsat8(work):
    scene = KEPT / "scenes" / "landsat8"
    return embed(
        work, "landsat8", scene, "--sensor", "landsat8-oli-tirs-l1", "--bands", "B2,B3,B4,B5,B6,B7",
        "--checkpoint", checkpoint("smarties_tiny"), "--statistics", "scene", "--halo", 16,
    )  # fmt: skip


def embed_naip(work):
    return {
        name: embed(
            work, f"naip_{name}", KEPT / "scenes" / "naip.tif", "--sensor", "naip", "--bands", "R,G,B",
            "--checkpoint", checkpoint(name),
            "--statistics", "scene", "--out-of-span", "drop",
        )
        for name in ("smarties_tiny", "unified_tiny")
    }  # fmt: skip


def place_rows():
    """Give the rows of the kept manifest of one place that all four sensors saw twice."""
    with (KEPT / "images" / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    place = rows[0]["place"]
    return [row for row in rows if row["place"] == place]


def write_list(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({**row, "path": str(KEPT / "images" / row["path"])} for row in rows)


def embed_list(work):
    rows = [row for row in place_rows() if row["sensor"] in ("sentinel2-l2a", "sentinel1-grd")]
    rows.sort(key=lambda row: (row["sensor"] != "sentinel2-l2a", row["datetime"]))
    write_list(work / "place.csv", rows)
    return embed(work, "place", work / "place.csv", "--checkpoint", checkpoint("unified_tiny"), "--batch-size", 8)


def reconstruct_whole(work):
    rows = [row for row in place_rows() if "landsat" not in row["sensor"]]
    target = max((row for row in rows if row["sensor"] == "sentinel2-l2a"), key=lambda row: row["datetime"])
    write_list(work / "others.csv", [row for row in rows if row is not target])
    out = work / "whole.tif"
    text = anyband(
        "reconstruct", work / "others.csv", "--target-sensor", "sentinel2-l2a", "--date", target["datetime"][:10],
        "--checkpoint", checkpoint("unified_tiny"), "--out", out, "--like", KEPT / "images" / target["path"],
    )  # fmt: skip
    return raster_facts(out) | {"said": [line.replace(str(work), "WORK").replace(str(KEPT), "KEPT")
                                         for line in text.splitlines()]}  # fmt: skip


def reconstruct_filled(work):
    import numpy as np
    import rasterio

    rows = [row for row in place_rows() if "landsat" not in row["sensor"]]
    target = max((row for row in rows if row["sensor"] == "sentinel2-l2a"), key=lambda row: row["datetime"])
    write_list(work / "others.csv", [row for row in rows if row is not target])
    source, mask = KEPT / "images" / target["path"], work / "mask.tif"
    with rasterio.open(source) as file:
        profile = file.profile | {"count": 1, "dtype": "uint8", "nodata": None}
        cloudy = np.zeros((1, file.height, file.width), dtype=np.uint8)
    cloudy[0, 20:61, 13:50] = 1
    with rasterio.open(mask, "w", **profile) as file:
        file.write(cloudy)
    out = work / "filled.tif"
    anyband(
        "reconstruct", work / "others.csv", "--target", source, "--cloudy", mask, "--target-sensor", "sentinel2-l2a",
        "--date", target["datetime"][:10], "--checkpoint", checkpoint("unified_tiny"), "--out", out,
    )  # fmt: skip
    return raster_facts(out)


def python_encode(_work):
    """Encode arrays by `load_encoder`, alone, in a batch, with metadata, and in a set."""
    import numpy as np

    import anyband as package

    rng = np.random.default_rng(7)
    optical = rng.integers(200, 3500, (4, 96, 96)).astype("uint16")
    radar = rng.normal(-12, 3, (2, 48, 48)).astype("float32")
    corners = [(8.40, 49.02), (8.41, 49.02), (8.41, 49.01), (8.40, 49.01)]
    bands = ["B02", "B03", "B04", "B08"]
    facts = {}
    for name in RECIPES:
        encoder = package.load_encoder(str(checkpoint(name)), out_of_span="drop")
        one = encoder.encode(optical, sensor="sentinel2-l2a", bands=bands, encoding="dn")
        batch = encoder.encode(np.stack([radar, radar[:, ::-1]]), sensor="sentinel1-grd", encoding="db")
        known = package.ImageMetadata(datetime="2020-06-01", gsd_m=10, corners_deg=corners)
        told = encoder.encode(
            optical, sensor="sentinel2-l2a", bands=bands, encoding="dn", options=package.EncodeOptions(metadata=known)
        )
        images = [
            package.SetImage(
                array=optical, sensor="sentinel2-l2a", bands=bands, datetime="2020-06-01", gsd_m=10,
                corners_deg=corners, encoding="dn",
            ),
            package.SetImage(array=radar, sensor="sentinel1-grd", encoding="db"),
        ]  # fmt: skip
        together = encoder.encode_set(images)
        # chosen: wherever a version keeps the features of the place: `place`, else the CLS tokens of the output.
        place = together.place if hasattr(together, "place") else together.cls
        facts[name] = {
            "one": _features(one), "batch": _features(batch), "told": _features(told),
            "set": {"place": array_facts(place.detach().numpy().reshape(-1)), "images": _set_maps(together)},
            "notes": [list(one.notes), list(batch.notes), list(together.notes)],
            "support": dict(one.support),
        }  # fmt: skip
    return facts


def _features(features):
    return {"cls": array_facts(features.cls.detach().numpy()), "map": array_facts(features.map.detach().numpy())}


def _set_maps(together):
    images = getattr(together, "images", None)
    if images is None:
        return [array_facts(one.detach().numpy()) for one in together.map]
    return [array_facts(one.map.detach().numpy()) for one in images]


def pretrain_steps(work):
    """Train each recipe for five steps on the kept store: losses of every step and the weights at the end."""
    facts = {}
    for name in RECIPES:
        run = work / f"run_{name}"
        shutil.rmtree(run, ignore_errors=True)
        anyband("pretrain", name, "--data", KEPT / "store", "--out", run, "--quiet", *WORDS[name], "optim.steps=5")
        with (run / "metrics.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        timed = re.compile(r"second|/s|_s$|mfu|share|memory|gib|wait|time", re.I)
        facts[name] = {
            "metrics": [{key: value for key, value in row.items() if not timed.search(key)} for row in rows],
            "columns": list(rows[0]),
            "files": sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()),
            "weights": weights_facts(run / "encoder.safetensors"),
        }
    return facts


def store_again(work):
    """Prepare the kept images again: the bytes of the finished store."""
    store = work / "store"
    shutil.rmtree(store, ignore_errors=True)
    anyband("prepare", KEPT / "images" / "manifest.csv", "--out", store, "--workers", 1, "--quiet", "--seed", 1,
            "--splits", "0.6,0.2,0.2", "--stats")  # fmt: skip
    files = sorted(path for path in store.rglob("*") if path.is_file())
    return {str(path.relative_to(store)): [path.stat().st_size, _digest(path)] for path in files}


def simulated(work):
    out = work / "simulated"
    shutil.rmtree(out, ignore_errors=True)
    anyband("simulate", "--out", out, "--places", 2, "--seed", 11, "--workers", 1)
    return {
        str(path.relative_to(out)): raster_facts(path)["hash"] if path.suffix == ".tif" else path.read_text()[:2000]
        for path in sorted(out.rglob("*"))
        if path.suffix in (".tif", ".csv")
    }


def demo(work):
    out = work / "demo"
    shutil.rmtree(out, ignore_errors=True)
    text = anyband("demo", "--out", out, "--places", 40, "--steps", 4, "--set-steps", 2, "--batch-size", 8,
                   "--workers", 1, "--quiet")  # fmt: skip
    scores = [line for line in text.splitlines() if "%" in line]
    page = re.sub(r"data:image/[^\"]*", "", (out / "report.html").read_text())
    words = re.sub(r"<[^>]*>", " ", re.sub(r"<(script|style).*?</\1>", " ", page, flags=re.S))
    return {
        "scores": scores,
        "features": raster_facts(out / "features.tif"),
        "weights": weights_facts(out / "run" / "encoder.safetensors"),
        "set_weights": weights_facts(out / "run_sets" / "encoder.safetensors"),
        "percents_of_the_page": re.findall(r"\d+\.\d+ %", words),
    }


PARTS = {
    function.__name__: function
    for function in (
        simulated, store_again, pretrain_steps, python_encode, embed_majortom, embed_landsat8, embed_naip, embed_list,
        reconstruct_whole, reconstruct_filled, evaluate_knn, evaluate_lbfgs, evaluate_flood, demo,
    )
}  # fmt: skip


def record(path, only, work):
    found = json.loads(path.read_text()) if path.exists() else {}
    for name in only or PARTS:
        started = time.monotonic()
        try:
            found[name] = PARTS[name](work)
        except (Exception, SystemExit) as problem:  # noqa: BLE001 (a part that fails does not end the others)
            found.pop(name, None)
            print(f"{name}: FAILED: {type(problem).__name__}: {problem}", flush=True)
            continue
        path.write_text(json.dumps(found, indent=1, ensure_ascii=False))
        print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)


# Keys whose difference is told, and does not count: they name versions, or are the bytes of what is compared by value.
SOFT = re.compile(
    r"(^|\.)(id|hash|checkpoint_hash|data_fingerprint|notes|said|definition|columns|settings|files)(\.|\[|$)"
)
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")


def leaves(value, prefix=""):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list):
        yield f"{prefix}.length", len(value)
        for number, inner in enumerate(value):
            yield from leaves(inner, f"{prefix}[{number}]")
    else:
        yield prefix, value


def same(first, second, digits):
    """Equal, or numbers that agree to so many digits (relative, and absolute near 0)."""
    if isinstance(first, str) and isinstance(second, str) and first != second:
        try:
            first, second = float(first), float(second)
        except ValueError:
            return False
    numbers = [isinstance(one, int | float) and not isinstance(one, bool) for one in (first, second)]
    if not all(numbers):
        return first == second
    if math.isnan(first) or math.isnan(second):
        return math.isnan(first) and math.isnan(second)
    return math.isclose(first, second, rel_tol=10.0**-digits, abs_tol=10.0**-digits)


def compare(before, after, digits):
    first, second = (json.loads(path.read_text()) for path in (before, after))
    bad = 0
    for part in first:
        if part not in second:
            print(f"{part}: MISSING in {after}")
            bad += 1
            continue
        left, right = dict(leaves(first[part])), dict(leaves(second[part]))
        hard: list[tuple[Any, Any, Any]] = []
        soft: list[tuple[Any, Any, Any]] = []
        for key in [*left, *(key for key in right if key not in left)]:
            one, other = left.get(key, "<nothing>"), right.get(key, "<nothing>")
            if not same(one, other, digits):
                (soft if SOFT.search(key) else hard).append((key, one, other))
        exact = sum(left[key] == right.get(key) for key in left)
        print(f"{part}: {len(hard)} differences beyond {digits} digits, {len(soft)} that do not count "
              f"({exact} of {len(left)} leaves equal exactly)")  # fmt: skip
        for mark, rows in (("  ≠", hard), ("  ~", soft)):
            for key, one, other in rows[:25]:
                print(f"{mark} {key}: {str(one)[:150]} → {str(other)[:150]}")
            if len(rows) > 25:
                print(f"{mark} … and {len(rows) - 25} more")
        bad += len(hard)
    return 1 if bad else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("keep")
    one = verbs.add_parser("record")
    one.add_argument("out", type=Path)
    one.add_argument("--only", nargs="*", choices=list(PARTS))
    one.add_argument("--work", type=Path)
    two = verbs.add_parser("compare")
    two.add_argument("before", type=Path)
    two.add_argument("after", type=Path)
    two.add_argument("--digits", type=int, default=6)
    arguments = parser.parse_args()
    if arguments.verb == "keep":
        keep()
    elif arguments.verb == "compare":
        sys.exit(compare(arguments.before, arguments.after, arguments.digits))
    else:
        work = arguments.work or Path(tempfile.mkdtemp(prefix="record_"))
        work.mkdir(parents=True, exist_ok=True)
        record(arguments.out.resolve(), arguments.only, work.resolve())


if __name__ == "__main__":
    main()
