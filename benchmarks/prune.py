"""Does pruning help pre-training? Halves of a skewed simulated archive, by clusters, entropy, both and by lot.

    python benchmarks/prune.py --out DIR [--places 420] [--steps 300] [--seeds 3]

Places of three kinds of landscape are common, the others rare. Each half trains `smarties_tiny` for equally many steps;
places that no half has, equally many of each class where there are enough, are classified by kNN.
"""

import argparse
import csv
import json
import time
from collections import Counter
from pathlib import Path

import numpy as np
from measure import circumstances

from anyband.archive.prune import PruneRecipe, prune_store, restrict_store
from anyband.data.manifest import read_manifest
from anyband.data.prepare import PrepareOptions, prepare
from anyband.data.store import ChipStore
from anyband.encode.encoder import load_encoder, pooled, store_features
from anyband.evaluate.metrics import LabelledFeatures
from anyband.evaluate.probes import knn_scores
from anyband.pretraining.loop import pretrain
from anyband.pretraining.recipe import load_recipe
from anyband.randomness import permutation
from anyband.simulate.archive import simulate
from anyband.simulate.plan import SimulateOptions

# chosen: kinds that make two thirds of the archive; of each other kind so many places are in it.
_COMMON, _RARE = ("steppe", "scrub", "marsh"), 3
# chosen: neighbours, as many as the rarest class has votes or so.
_K = 5
_WAYS = ("random", "clusters", "entropy", "both")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--places", type=int, default=420)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    store, themes, labels = _archive(options.out, options.places)
    skewed = _skewed(options.out, store, themes)
    scores: dict[str, list[float]] = {way: [] for way in (*_WAYS, "all")}
    for seed in range(options.seeds):
        for way in scores:
            start = time.monotonic()
            data = skewed if way == "all" else _half(options.out, skewed, way, seed, themes)
            scores[way].append(_score(options, data, way, seed, store, labels))
            print(f"{way:9s} seed {seed}: {100 * scores[way][-1]:.1f} ({time.monotonic() - start:.0f} s)", flush=True)
    print("\n| half by | kNN, % | spread over seeds |\n|---|---|---|")
    for way, found in scores.items():
        print(f"| {way} | {100 * np.mean(found):.1f} | {100 * np.std(found):.1f} |")
    print(json.dumps({"scores": scores, **vars(options), **circumstances(("torch",))}, default=str))


def _archive(out: Path, num_places: int) -> tuple[ChipStore, dict[str, str], dict[str, str]]:
    """Make the places, or take what is there: the store, and by place its kind of landscape and its class."""
    if not (out / "images").exists():
        sensors = ("sentinel2-l2a", "sentinel1-grd")
        simulate(
            out / "images",
            SimulateOptions(num_places=num_places, sensors=sensors, detail_m=10.0, cloud_share=0.0, edge_share=0.0),
        )
    if not (out / "store").exists():
        prepare(
            read_manifest(out / "images" / "manifest.csv"), out / "store", PrepareOptions(statistics=True), workers=1
        )
    with (out / "images" / "labels.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return (
        ChipStore.open(out / "store"),
        {row["place"]: row["theme"] for row in rows},
        {row["place"]: row["label"] for row in rows},
    )


def _skewed(out: Path, store: ChipStore, themes: dict[str, str]) -> Path:
    path, kept, seen = out / "skewed", set(), Counter[str]()
    for chip in store.index.select(["place", "cell", "split"]).to_pylist():
        key, theme = (chip["place"], chip["cell"]), themes[chip["place"]]
        if chip["split"] == "train" and key not in kept and (theme in _COMMON or seen[theme] < _RARE):
            kept.add(key)
            seen[theme] += 1
    if not path.exists():
        restrict_store(store, path, kept, {"recipe": {"by": "skew"}})
    return path


def _half(out: Path, skewed: Path, way: str, seed: int, themes: dict[str, str]) -> Path:
    path, recipe = out / f"{way}_{seed}", PruneRecipe(by="clusters" if way == "random" else way, seed=seed)
    if path.exists():
        return path
    if way != "random":
        prune_store(skewed, recipe, path, strata=themes)
        return path
    store = ChipStore.open(skewed)
    rows = store.index.select(["place", "cell", "split"]).to_pylist()
    names = sorted({(row["place"], row["cell"]) for row in rows if row["split"] == "train"})
    order = permutation(seed, step=0, purpose="random half", size=len(names))
    kept = {names[at] for at in order[: round(recipe.kept * len(names))].tolist()}
    restrict_store(store, path, kept, {"recipe": {"by": "random", "seed": seed}})
    return path


def _score(
    options: argparse.Namespace, data: Path, way: str, seed: int, store: ChipStore, labels: dict[str, str]
) -> float:
    recipe = load_recipe("smarties_tiny").changed(seed=seed)
    recipe = recipe.changed(
        data=recipe.data.changed(statistics="store"),
        optim=recipe.optim.changed(steps=options.steps, batch_size=options.batch, precision="32-true"),
        run=recipe.run.changed(panel_every_steps=0, val_batches=0, accelerator="cpu"),
    )
    result = pretrain(recipe, data=data, out=options.out / f"run_{way}_{seed}_{options.steps}", shown=False)
    encoder = load_encoder(result.checkpoint)
    seen = set(ChipStore.open(options.out / "skewed").index.column("place").to_pylist())
    array = next(name for name, info in store.arrays.items() if info.sensor == "sentinel2-l2a")
    index = store.index.select(["array", "array_row", "place", "split"]).to_pylist()
    new = [row for row in index if row["array"] == array and (row["split"] != "train" or row["place"] not in seen)]
    rows = np.array([row["array_row"] for row in new])
    known = store.statistics["sentinel2-l2a"]
    features = store_features(
        {"mean": lambda batch: pooled(encoder.encode_batch(batch), "mean")},
        encoder,
        store,
        array,
        rows,
        statistics=known,
    )["mean"]
    features = features - features.mean(axis=0)
    return _balanced_accuracy(features, np.array([labels[row["place"]] for row in new]))


def _balanced_accuracy(features: np.ndarray, labels: np.ndarray) -> float:
    """Classify each half of each class by the other; the mean over classes of what is right."""
    counts = Counter(labels.tolist())
    classes = tuple(sorted(name for name, count in counts.items() if count >= 4))
    half = np.array([labels[:at].tolist().count(name) % 2 for at, name in enumerate(labels)])
    right: dict[str, list[bool]] = {name: [] for name in classes}
    for fold in (0, 1):
        train, test = (
            LabelledFeatures(
                features=features[chosen],
                labels=np.array([classes.index(name) for name in labels[chosen]]),
                classes=classes,
            )
            for chosen in (np.isin(labels, classes) & (half == which) for which in (fold, 1 - fold))
        )
        found = knn_scores(train, test, k=_K).argmax(axis=1)
        for truth, one in zip(test.labels.tolist(), found.tolist(), strict=True):
            right[classes[truth]].append(truth == one)
    return float(np.mean([np.mean(one) for one in right.values()]))


if __name__ == "__main__":
    main()
