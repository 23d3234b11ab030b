"""Prune a chip store: duplicates go, clusters are balanced, hard and varied ground is kept, uniform ground not lost."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import numpy as np

from anyband.archive.places import places_apart
from anyband.arrays import Array, Bool, Float, Int
from anyband.data.harmonise import decode, picture
from anyband.data.store import ChipStore
from anyband.data.store_writer import Chip, ChipRecord, StoreWriter
from anyband.errors import InputError, StoreError, counted, nearest_name
from anyband.files import check_target, whole_directory
from anyband.randomness import permutation
from anyband.report.page import paragraph, places_png, sheet_png, table, write_page
from anyband.report.page import picture as page_picture
from anyband.training.recipes import Between0And1, CountOr0, From0, From0To1, Over0To1, Recipe

__all__ = ["PruneRecipe", "prune_store", "restrict_store", "spectral_entropy"]

# Published counts: 510 K of 1,045 K places of STSSD are kept. Source: arXiv 2406.08079.
_KEPT_SHARE = 0.49
# chosen: a tenth of a band's deviation over the store counts as noise.
_NOISE = 0.1
# chosen: pixels in flight, some hundred megabytes as float32.
_VALUES = 2**24
_SHOWN = 12
Footprint = tuple[str, str]
"""Place and cell."""


class PruneRecipe(Recipe):
    """What is kept of the training footprints of a store."""

    by: Literal["clusters", "entropy", "both"] = "clusters"
    """clusters: balanced, far from their centroid first; entropy: the most varied; both: balanced, and inside a cluster
    by the mean rank of distance and entropy."""
    kept: Over0To1 = _KEPT_SHARE
    """Share of the training footprints that is kept."""
    seed: CountOr0 = 0
    checkpoint: str | None = None
    """Encoder whose features are clustered; null: mean and deviation of each band."""
    num_clusters: CountOr0 = 0
    """0: the root of half the footprints."""
    hard_share: From0To1 = 0.5
    """Share of what a cluster keeps that is taken by score; the rest is drawn."""
    floor: Between0And1 = 0.2
    """Share that is kept at least of each cluster, or (by entropy) of the half that is least varied."""
    near: From0 = 0.02
    """Near duplicates: so far apart at most, as a share of the mean distance of a footprint's features from the mean of
    all; 0: exact ones alone."""


def prune_store(
    store: Path | str, recipe: PruneRecipe, out: Path, *, strata: Mapping[str, str] | None = None, shown: bool = False
) -> dict[str, Any]:
    """Write a store of the training footprints that are kept, and all of validation and test; beside it `OUT.html`.

    A store has each row of its arrays once in its index, so kept chips are copied. Equal input gives equal bytes.

    Args:
        store: a chip store.
        recipe: what is kept.
        out: the new store; must not exist.
        strata: place → its stratum, for the report.
        shown: whether progress is shown.

    Returns:
        Counts: footprints, exact and near duplicates, kept; kept by cluster and stratum.
    """
    check_target(out)
    opened = ChipStore.open(store)
    groups = _footprints(opened)
    if len(groups) < 2:
        raise StoreError(
            f"store '{opened.path}' has {counted(len(groups), 'training footprint')}; there is nothing to prune"
        )
    names = list(groups)
    statistics, entropy, digests = _measured(opened, groups)
    features = statistics if recipe.checkpoint is None else _encoded(opened, groups, recipe.checkpoint, shown=shown)
    _, first = np.unique(digests, return_index=True)
    exact = ~np.isin(np.arange(len(names)), first)
    near = _near(features, exact, recipe.near)
    free = np.flatnonzero(~(exact | near))
    clusters, distance = _clustered(features[free], recipe)
    target = min(len(free), max(1, round(recipe.kept * len(names))))
    kept = np.zeros(len(names), dtype=bool)
    kept[free[_kept(clusters, distance, entropy[free], target, recipe)]] = True
    before = np.bincount(clusters).tolist()
    after = np.bincount(clusters[kept[free]], minlength=len(before)).tolist()
    report: dict[str, Any] = {
        "recipe": recipe.model_dump(mode="json"),
        "footprints": len(names),
        "exact_duplicates": int(exact.sum()),
        "near_duplicates": int(near.sum()),
        "kept": int(kept.sum()),
        "clusters": [{"before": b, "after": a} for b, a in zip(before, after, strict=True)],
        "entropy": {"before": float(entropy.mean()), "after": float(entropy[kept].mean())},
        "strata": _by_stratum(names, kept, strata or {}),
    }
    restrict_store(opened, out, {name for name, one in zip(names, kept, strict=True) if one}, report)
    _write_report(out, opened, groups, kept, entropy, report)
    return report


def spectral_entropy(
    covariance: Float[Array, "*image band band"], *, scale: Float[Array, " band"], noise: float = _NOISE
) -> Float[Array, "*image"]:
    """Compute the spectral entropy of images: how far the spectra of their pixels differ by more than noise.

    H = ½ Σ_i ln(1 + λ_i / ε²), nats per pixel, where λ are the eigenvalues of the covariance of the pixels' spectra in
    units of `scale` (each band's deviation over the archive) and ε = `noise`. It is the entropy of a Gaussian with that
    covariance seen through noise of deviation ε, less that of the noise alone: 0 for one spectrum everywhere.

    Source:
        Cover and Thomas, "Elements of Information Theory", 2006, theorem 8.4.1 and section 9.4. arXiv 2604.21104 ranks
        samples by a spectral entropy too; its formula could not be read, so this one is ours.
    """
    eigenvalues = np.linalg.eigvalsh(covariance / np.outer(scale, scale))
    return np.asarray(0.5 * np.log1p(np.maximum(eigenvalues, 0.0) / noise**2).sum(axis=-1))


def _footprints(store: ChipStore) -> dict[Footprint, list[int]]:
    """Group the chips (rows of the index) of the train split by footprint, sorted."""
    columns = store.index.select(["place", "cell", "split"]).to_pylist()
    found: dict[Footprint, list[int]] = {}
    for row, chip in enumerate(columns):
        if chip["split"] == "train":
            found.setdefault((chip["place"], chip["cell"]), []).append(row)
    return dict(sorted(found.items()))


def _owners(groups: Mapping[Footprint, Sequence[int]], num_chips: int) -> Int[Array, " chip"]:
    """Give each chip of the index the number of its footprint; −1: of no training footprint."""
    owners = np.full(num_chips, -1)
    for number, rows in enumerate(groups.values()):
        owners[list(rows)] = number
    return owners


def _measured(store: ChipStore, groups: Mapping[Footprint, Sequence[int]]) -> tuple[Array, Array, Array]:
    """Measure each footprint in two passes: mean and deviation of each band of each array, standardised over the store
    (0 where an array lacks it); spectral entropy, standardised in each array; a hash of all its digital numbers."""
    owners = _owners(groups, store.index.num_rows)
    columns, scores, hashes = [], [], [blake2b(digest_size=16) for _ in groups]
    for number, name in enumerate(store.arrays):
        chips = np.flatnonzero((store.array_numbers == number) & (owners >= 0))
        if not len(chips):
            continue
        parts = [_chip_moments(store, name, some, owners, hashes) for some in _cut(store, name, chips)]
        moments, covariances = (np.concatenate(one) for one in zip(*parts, strict=True))
        # What entropy is in units of: the deviation of each band over all pixels of the array.
        num_bands = len(store.arrays[name].bands)
        scale = np.sqrt(np.nanmean(moments[:, num_bands:] ** 2, axis=0) + np.nanvar(moments[:, :num_bands], axis=0))
        scale = np.where(scale > 0, scale, 1.0)
        nats = spectral_entropy(covariances, scale=scale)
        columns.append(_standardised(_of_footprints(moments, owners[chips], len(groups))))
        scores.append(_of_footprints(nats[:, None], owners[chips], len(groups)))
    entropy = np.nanmean(np.concatenate([_standardised(one, missing=np.nan) for one in scores], axis=1), axis=1)
    return np.concatenate(columns, axis=1), entropy, np.array([one.hexdigest() for one in hashes])


def _cut(store: ChipStore, name: str, chips: Array) -> list[Array]:
    info = store.arrays[name]
    size = max(1, _VALUES // (len(info.bands) * info.height * info.width))
    return [chips[start : start + size] for start in range(0, len(chips), size)]


def _chip_moments(
    store: ChipStore, name: str, chips: Array, owners: Array, hashes: Sequence[Any]
) -> tuple[Array, Array]:
    """Compute mean and deviation of each band, and the covariance of the spectra, of some chips; hash their numbers."""
    dn, valid = store.read(name, store.array_rows[chips])
    physical = decode(dn, store.array_sensor(name)).astype(np.float64)
    moments, covariances = [], []
    for at, owner in enumerate(owners[chips].tolist()):
        hashes[owner].update(name.encode() + dn[at].tobytes() + (b"" if valid is None else valid[at].tobytes()))
        values = physical[at].reshape(len(physical[at]), -1)
        good = np.isfinite(values).all(axis=0) & (
            True if valid is None else valid[at].reshape(values.shape).all(axis=0)
        )
        known = values[:, good]
        enough = known.shape[1] > 1
        nothing = np.full(len(values), np.nan)
        moments.append(np.concatenate([known.mean(axis=1), known.std(axis=1)] if enough else [nothing, nothing]))
        covariances.append(np.cov(known).reshape(len(values), -1) if enough else np.zeros((len(values), len(values))))
    return np.stack(moments), np.stack(covariances)


def _of_footprints(values: Array, owners: Array, num_footprints: int) -> Array:
    """Average what chips have over each footprint; NaN where it has none."""
    known = np.isfinite(values)
    sums = np.zeros((num_footprints, values.shape[1]))
    counts = np.zeros_like(sums)
    np.add.at(sums, owners, np.where(known, values, 0.0))
    np.add.at(counts, owners, known)
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def _standardised(values: Array, *, missing: float = 0.0) -> Array:
    spread = np.nanstd(values, axis=0)
    scaled = (values - np.nanmean(values, axis=0)) / np.where(spread > 0, spread, 1.0)
    return np.where(np.isfinite(scaled), scaled, missing)


def _encoded(store: ChipStore, groups: Mapping[Footprint, Sequence[int]], checkpoint: str, *, shown: bool) -> Array:
    """Encode each footprint: the mean over its chips of each array, arrays one after the other, standardised."""
    from anyband.encode.encoder import load_encoder, pooled, store_features

    encoder, owners = load_encoder(checkpoint), _owners(groups, store.index.num_rows)
    makers = {"encoder": lambda batch: pooled(encoder.encode_batch(batch), "mean")}
    columns = []
    for number, name in enumerate(store.arrays):
        chips = np.flatnonzero((store.array_numbers == number) & (owners >= 0))
        if len(chips):
            known = store.statistics.get(store.arrays[name].sensor)
            made = store_features(makers, encoder, store, name, store.array_rows[chips], statistics=known, shown=shown)
            columns.append(_standardised(_of_footprints(made["encoder"], owners[chips], len(groups))))
    return np.concatenate(columns, axis=1)


def _near(features: Array, exact: Bool[Array, " footprint"], share: float) -> Bool[Array, " footprint"]:
    """Find near duplicates: footprints whose features are almost those of one before them that stays."""
    from scipy.spatial import KDTree

    near = np.zeros(len(features), dtype=bool)
    rows = np.flatnonzero(~exact)
    radius = share * float(np.linalg.norm(features - features.mean(axis=0), axis=1).mean())
    if radius > 0:
        pairs = KDTree(features[rows]).query_pairs(radius, output_type="ndarray")
        near[rows[~places_apart(np.sort(pairs, axis=1), len(rows))]] = True
    return near


def _clustered(features: Array, recipe: PruneRecipe) -> tuple[Int[Array, " footprint"], Float[Array, " footprint"]]:
    """Cluster footprints by k-means: the number of each one's cluster, and its distance from the centroid."""
    from sklearn.cluster import MiniBatchKMeans
    from threadpoolctl import threadpool_limits

    wanted = recipe.num_clusters or max(1, round(np.sqrt(len(features) / 2)))
    with threadpool_limits(1):  # so that sums come out in one order
        fitted = MiniBatchKMeans(min(wanted, len(features)), random_state=recipe.seed % 2**32, n_init=3).fit(features)
        distance = np.linalg.norm(features - fitted.cluster_centers_[fitted.labels_], axis=1)
    # Clusters that got nothing are left out of the numbers.
    return np.unique(fitted.labels_, return_inverse=True)[1], distance


def _kept(clusters: Array, distance: Array, entropy: Array, target: int, recipe: PruneRecipe) -> Int[Array, " kept"]:
    """Choose footprints: each group gets its quota, by score first and then drawn."""
    score = {"clusters": distance, "entropy": entropy, "both": _ranks(distance) + _ranks(entropy)}[recipe.by]
    if recipe.by == "entropy":
        # The less varied half, which gets its floor by lot, and the other, which is ranked.
        order = np.argsort(-entropy, kind="stable")
        groups = np.ones(len(entropy), dtype=np.int64)
        groups[order[: max(target, len(order) // 2)]] = 0
        low = min(round(recipe.floor * int(groups.sum())), target)
        quotas, hard = np.array([target - low, low]), np.array([1.0, 0.0])
    else:
        quotas = _balanced(np.bincount(clusters), target, recipe.floor)
        groups, hard = clusters, np.full(len(quotas), recipe.hard_share)
    drawn = np.argsort(permutation(recipe.seed, step=0, purpose="prune", size=len(score)))
    chosen = []
    for number, quota in enumerate(quotas.tolist()):
        members = np.flatnonzero(groups == number)
        by_score = members[np.argsort(-score[members], kind="stable")]
        first = round(hard[number] * quota)
        rest = by_score[first:]
        chosen += [by_score[:first], rest[np.argsort(drawn[rest])][: quota - first]]
    return np.sort(np.concatenate(chosen))


def _ranks(values: Array) -> Array:
    return np.asarray(np.argsort(np.argsort(values, kind="stable")))


def _balanced(sizes: Int[Array, " cluster"], target: int, floor: float) -> Int[Array, " cluster"]:
    """Share out a number of places: at most an equal cap for each cluster, at least its floor, at most its size."""
    least = np.minimum(np.ceil(floor * sizes).astype(np.int64), sizes)
    caps = np.arange(sizes.max() + 1)
    totals = np.array([np.clip(cap, least, sizes).sum() for cap in caps])
    cap = int(np.searchsorted(totals, target, side="right")) - 1
    if cap < 0:
        # The floors alone are more than the target: they shrink together, the largest remainders first.
        exact = least / least.sum() * target
        quotas = np.floor(exact).astype(np.int64)
        quotas[np.argsort(quotas - exact, kind="stable")[: target - quotas.sum()]] += 1
        return np.asarray(quotas)
    quotas = np.asarray(np.clip(cap, least, sizes))
    growing = np.flatnonzero((quotas == cap) & (sizes > cap))
    quotas[growing[: target - quotas.sum()]] += 1
    return quotas


def _by_stratum(names: Sequence[Footprint], kept: Array, strata: Mapping[str, str]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for (place, _), one in zip(names, kept.tolist(), strict=True):
        if place in strata:
            entry = counts.setdefault(strata[place], {"before": 0, "after": 0})
            entry["before"] += 1
            entry["after"] += one
    if strata and not counts:
        near = nearest_name(names[0][0], strata)
        raise InputError(f"no place of the store has a stratum, for example not '{names[0][0]}'{near}")
    return dict(sorted(counts.items()))


def restrict_store(store: ChipStore, out: Path, kept: Container[Footprint], report: Mapping[str, Any]) -> None:
    """Copy some training footprints of a store, and all of validation and test; count statistics anew where it
    has some. `report` with its `recipe` goes into the header."""
    specs = {
        name: replace(info, name="", num_chips=0, chips_per_shard=0, has_valid=False, digest="")
        for name, info in store.arrays.items()
    }
    rows = store.index.drop_columns(["chip"]).to_pylist()
    with whole_directory(out) as folder:
        writer = StoreWriter(folder)
        for row in rows:
            if row["split"] != "train" or (row["place"], row["cell"]) in kept:
                writer.add(specs[row["array"]], _record(row), _Stored(store, row["array"], row["array_row"]))
        options = {**store.options, "pruned": report["recipe"]}
        counts = {**store.report, "pruned": {key: report[key] for key in report if key != "recipe"}}
        writer.finish(store.sensors, options=options, report=counts)
    if store.statistics:
        ChipStore.open(out).compute_statistics()


class _Stored(Chip):
    """A chip of another store, read when its shard is written."""

    def __init__(self, store: ChipStore, array: str, row: int) -> None:
        self._store, self._array, self._row = store, array, row

    def load(self) -> tuple[Array, Array | None]:
        chips, valid = self._store.read(self._array, [self._row])
        return chips[0], None if valid is None else valid[0]


def _record(row: Mapping[str, Any]) -> ChipRecord:
    own = {name: value for name, value in row.items() if name not in ("array", "array_row")}
    transform = None if own["transform"] is None else tuple(own["transform"])
    return ChipRecord(**{**own, "transform": transform}, bounds=_bounds(own["geometry"]))


def _bounds(wkb: bytes | None) -> tuple[float, float, float, float] | None:
    """Give west, south, east, north of a footprint; west is larger than east where longitude ±180 splits it."""
    import shapely

    if wkb is None:
        return None
    shape = shapely.from_wkb(wkb)
    west, south, east, north = shape.bounds
    if shape.geom_type == "MultiPolygon" and west == -180 and east == 180:
        parts = [part.bounds for part in shapely.get_parts(shape)]
        west, east = min(one[0] for one in parts if one[0] >= 0), max(one[2] for one in parts if one[2] <= 0)
    return float(west), float(south), float(east), float(north)


def _write_report(
    out: Path, store: ChipStore, groups: Mapping[Footprint, Sequence[int]], kept: Array, entropy: Array, report: Any
) -> None:
    lead = (
        f"{report['kept']} of {counted(report['footprints'], 'training footprint')} are kept; "
        f"{counted(report['exact_duplicates'], 'exact duplicate')} and "
        f"{counted(report['near_duplicates'], 'near duplicate')} went first."
    )
    clusters = [[str(at + 1), str(one["before"]), str(one["after"])] for at, one in enumerate(report["clusters"])]
    strata = [[name, str(one["before"]), str(one["after"])] for name, one in report["strata"].items()]
    nats = [[when, f"{value:.3f}"] for when, value in report["entropy"].items()]
    lon, lat = _centres(store, groups)
    known = np.isfinite(lon)
    drawn = places_png(lon[known], lat[known], {"dropped": ~kept[known], "kept": kept[known]}) if known.any() else b""
    sheets = [
        page_picture(
            _sheet(store, groups, np.flatnonzero(kept == one), entropy), alt=f"Some footprints, {name}", caption=name
        )
        for name, one in (("kept", True), ("dropped", False))
        if (kept == one).any()
    ]
    sections = [
        ("Strata", [table(["stratum", "before", "after"], strata)] if strata else []),
        ("Clusters", [table(["cluster", "before", "after"], clusters)]),
        ("Spectral entropy", [table(["", "mean, in deviations of the store before"], nats)]),
        ("Map", [page_picture(drawn, alt="Footprints on a map, kept and dropped")] if drawn else []),
        ("Kept and dropped", sheets),
        ("Recipe", [paragraph(str(report["recipe"]))]),
    ]
    write_page(out.with_name(f"{out.name}.html"), "Pruned store", lead, sections)


def _centres(store: ChipStore, groups: Mapping[Footprint, Sequence[int]]) -> tuple[Array, Array]:
    import shapely

    rows = [chips[0] for chips in groups.values()]
    shapes = shapely.from_wkb(store.index.column("geometry").take(rows).to_numpy())
    points = shapely.centroid(shapes)
    return shapely.get_x(points), shapely.get_y(points)


def _sheet(store: ChipStore, groups: Mapping[Footprint, Sequence[int]], some: Array, entropy: Array) -> bytes:
    """Draw some footprints, evenly from the least to the most varied, in the array that has most chips."""
    order = some[np.argsort(entropy[some], kind="stable")]
    order = order[np.unique(np.linspace(0, len(order) - 1, min(_SHOWN, len(order))).round().astype(int))]
    array = max(store.arrays.values(), key=lambda info: (len(info.bands), info.num_chips)).name
    number, names, shown = list(store.arrays).index(array), list(groups), []
    sensor = store.array_sensor(array)
    for one in order.tolist():
        chips = [row for row in groups[names[one]] if store.array_numbers[row] == number]
        if chips:
            dn, valid = store.read(array, store.array_rows[chips[:1]])
            known = None if valid is None else valid[0]
            drawn = picture(decode(dn[0], sensor), sensor, valid=known).transpose(2, 0, 1)
            shown.append((drawn, [names[one][0], f"entropy {entropy[one]:+.2f}"]))
    return sheet_png(shown or [(np.full((1, 8, 8), np.nan), ["no image"])], num_columns=6)
