"""Samples to features: how several images of a sample become one, extraction, a cache, and probes of features."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from anyband.arrays import Array, Bool, Float, Int, Shaped
from anyband.data.store import Split
from anyband.encode.encoder import SensorEncoder, check_memory
from anyband.encode.metadata import Pool, same_features
from anyband.errors import InputError, RecipeError, counted
from anyband.evaluate.inputs import TaskReader
from anyband.evaluate.metrics import LabelledFeatures, Predictions
from anyband.evaluate.recipe import Fusion, Protocol, TransferRecipe
from anyband.evaluate.samples import TaskBatch
from anyband.labelled.samples import TaskData
from anyband.models.checkpoint import Checkpoint, write_weights
from anyband.models.inputs import ImageBatch, SetBatch, SetMetadata
from anyband.models.masking import smallest_first
from anyband.models.vit import TokenSets
from anyband.randomness import uniform

__all__ = [
    "BAND_MEANS",
    "BandMeans",
    "Context",
    "Difference",
    "Features",
    "FusedEncoder",
    "Levels",
    "Redraw",
    "Result",
    "SiameseEncoder",
    "band_means",
    "check_splits",
    "extract_features",
    "have_equal_bands",
    "keep_features",
    "kept_features",
    "kept_tokens",
    "labelled_features",
    "mixed_tokens",
    "probe_encoders",
    "stacked_images",
    "tensors_hash",
]

Levels = Sequence[int] | Literal["final"]
"""Blocks of the encoder, from 0, before the final norm; or the last block after it."""

Difference = Literal["absolute", "signed"]
"""How levels of two dates become one: |after − before|; or before beside after − before."""

# Source: SMARTIES, section 3.2: half of the tokens of a' are of a.
_MIXUP_RATIO = 0.5


class FusedEncoder(nn.Module):
    """Encode samples whose images are fused; the order of a batch's samples changes no sample's features.

    - `single`: the sample's only image.
    - `stack`: one token from the bands of all images; what is known of the first image is told.
    - `concat`: each image by itself, their features side by side.
    - `mixup_concat`: two images a and b exchange half of their tokens, drawn for each sample by `seed`; the mixed
      images are encoded whole, their features side by side. A token that is hidden stays so wherever it goes.
    - `joint`: the images are one sequence.
    - `ltae`: for maps, as `concat`; the head learns to weigh the images, patch by patch (`models.heads`).

    The encoder's weights are shared, not copied. By `pool` a vector is the CLS token, or the mean of the patches that
    are not hidden; of a joint sequence the mean over its images of theirs. With `metadata` the network is told what a
    batch knows of its images.
    Source: SMARTIES (arXiv 2506.19585), table 8; joint sequences are those of A²-MAE (arXiv 2406.08079).
    """

    def __init__(self, encoder: SensorEncoder, *, fusion: Fusion, pool: Pool, seed: int, metadata: bool) -> None:
        super().__init__()
        self.encoder = encoder
        self.fusion, self.pool, self.seed, self.metadata = fusion, pool, seed, metadata
        self.settings: dict[str, Any] = {"fusion": fusion, "pool": pool, "metadata": metadata}
        self.settings |= {"seed": seed} if fusion == "mixup_concat" else {}

    def width(self, num_slots: int) -> int:
        """Count the numbers of the vector of a sample with so many images."""
        return self.encoder.config.embed_dim if self.fusion == "joint" else self.map_width(num_slots)

    def map_width(self, num_slots: int) -> int:
        """Count the numbers of each patch in a level of a sample with so many images."""
        return self.encoder.config.embed_dim * (1 if self.fusion in ("single", "stack") else num_slots)

    def forward(self, batch: TaskBatch, *, step: int = 0) -> Float[Tensor, "sample width"]:
        """Make one vector a sample, with gradients; `step` is of training, for what is drawn, 0 where nothing is."""
        if self.fusion == "ltae":
            raise RecipeError(
                "fusion=ltae is learned by a head for maps, and a vector a sample was requested; set fusion=concat or "
                "fusion=joint"
            )
        (embedded, hidden, _), sequences = self._embedded(batch, step)
        sequence, samples = self.encoder.encoder.encode_tokens(*sequences), len(embedded)
        if self.pool == "cls":
            return rearrange(sequence[:, 0], "(s q) d -> s (q d)", s=samples)
        tokens = rearrange(sequence[:, 1:], "(s q) (k n) d -> s (q k) n d", s=samples, n=embedded.shape[2])
        seen = tokens.new_ones(tokens.shape[:3]) if hidden is None else (~hidden).to(tokens.dtype)
        counts = seen.sum(dim=2, keepdim=True)
        means = (tokens * seen[..., None]).sum(dim=2) / counts.clamp(min=1)
        if self.fusion != "joint":
            return means.flatten(1)
        known = (counts > 0).to(tokens.dtype)
        return (means * known).sum(dim=1) / known.sum(dim=1).clamp(min=1)

    def levels(
        self, batch: TaskBatch, blocks: Levels, *, step: int = 0
    ) -> tuple[Float[Tensor, "sample width row col"], ...]:
        """Make maps of patch features after chosen blocks, with gradients; a block must be there, else `InputError`.
        A map has the first image's channels, then the next one's; patches that are hidden have numbers without meaning.
        """
        encoder, ((*_, grid), sequences) = self.encoder.encoder, self._embedded(batch, step)
        if blocks == "final":
            levels: tuple[Tensor, ...] = (encoder.encode_tokens(*sequences)[:, 1:],)
        else:
            levels = encoder.token_levels(*sequences, blocks=blocks)
        (rows, cols), samples = grid, len(batch.samples)
        return tuple(rearrange(one, "(s q) (k h w) d -> s (q k d) h w", s=samples, h=rows, w=cols) for one in levels)

    def _embedded(self, batch: TaskBatch, step: int) -> tuple[TokenSets, tuple[Tensor, Tensor | None]]:
        """Project the images to tokens (sample, slot, token, width); give them, and what goes into the first block.
        Sequences are one a sample for joint sets, else one a slot; beside them stands which tokens are hidden.
        """
        images, metadata = batch.images, batch.metadata if self.metadata else None
        if self.fusion == "stack":
            images, metadata = (stacked_images(images),), None if metadata is None else _slots_of(metadata, slice(0, 1))
        tokens, hidden, grid = self.encoder.encoder.embed_sets(SetBatch(groups=tuple(images), metadata=metadata))
        if self.fusion == "mixup_concat":
            from_a = kept_tokens(batch.samples.tolist(), tokens.shape[2], seed=self.seed, step=step)
            tokens, hidden = mixed_tokens(tokens, hidden, from_a.to(tokens.device))
        first = 1 if self.fusion == "joint" else 0
        sequences = tokens.flatten(first, first + 1), None if hidden is None else hidden.flatten(first, first + 1)
        return (tokens, hidden, grid), sequences


class SiameseEncoder(nn.Module):
    """Levels of the change between two dates, which one encoder sees by themselves.
    `absolute` is for changed or not: exchanging the dates changes nothing. `signed` is for kinds of change: what was
    there, beside what was added; exchanging the dates turns the sign of the second half.
    Source: Daudt et al., "Fully convolutional siamese networks for change detection" (arXiv 1810.08462).
    """

    def __init__(self, encoder: FusedEncoder, *, difference: Difference) -> None:
        super().__init__()
        self.encoder = encoder
        self.difference = difference
        self.settings: dict[str, Any] = {**encoder.settings, "difference": difference}

    def map_width(self, num_slots: int) -> int:
        """Count the numbers of each patch in a level of a sample with so many images, of both dates."""
        return self.encoder.map_width(num_slots // 2) * (1 if self.difference == "absolute" else 2)

    def levels(
        self, batch: TaskBatch, blocks: Levels, *, step: int = 0
    ) -> tuple[Float[Tensor, "sample width row col"], ...]:
        """Make maps of the change in patch features from images before, then as many after; both see the same draw."""
        half = len(batch.images) // 2
        before, after = (
            self.encoder.levels(_with_slots(batch, date), blocks, step=step)
            for date in (slice(0, half), slice(half, None))
        )
        changes = tuple(late - early for early, late in zip(before, after, strict=True))
        if self.difference == "absolute":
            return tuple(change.abs() for change in changes)
        return tuple(torch.cat([early, change], dim=1) for early, change in zip(before, changes, strict=True))


def kept_tokens(samples: Sequence[int], num_tokens: int, *, seed: int, step: int = 0) -> Bool[Tensor, "sample token"]:
    """Draw which tokens mixup concatenation leaves in the first sequence; the others are exchanged."""
    noise = uniform(seed, step=step, samples=samples, purpose="mixup concatenation", shape=(num_tokens,))
    return smallest_first(torch.from_numpy(noise), round(_MIXUP_RATIO * num_tokens))


def mixed_tokens(
    tokens: Float[Tensor, "set 2 token width"],
    hidden: Bool[Tensor, "set 2 token"] | None,
    from_a: Bool[Tensor, "set token"],
) -> tuple[Float[Tensor, "set 2 token width"], Bool[Tensor, "set 2 token"] | None]:
    """Exchange tokens of the images a and b of each set: a' takes those of a where `from_a`, b' the others.
    Tokens keep what they carry: a' + b' = a + b. A hidden token is hidden wherever it goes.
    Source: SMARTIES (arXiv 2506.19585), equations 1 and 2.
    """
    # Slot 0 keeps its own where `from_a`, and so does slot 1.
    mixed = torch.where(from_a[:, None, :, None], tokens, tokens.flip(1))
    return mixed, None if hidden is None else torch.where(from_a[:, None], hidden, hidden.flip(1))


def stacked_images(images: Sequence[ImageBatch]) -> ImageBatch:
    """Put the bands of several images of each sample, given by slot and all of one size, into one image."""
    valid = None
    if any(image.valid is not None for image in images):
        valid = torch.cat(
            [torch.ones_like(one.pixels, dtype=torch.bool) if one.valid is None else one.valid for one in images], dim=1
        )
    return ImageBatch(
        pixels=torch.cat([image.pixels for image in images], dim=1),
        valid=valid,
        mixing=torch.cat([image.mixing for image in images]),
    )


def _with_slots(batch: TaskBatch, slots: slice) -> TaskBatch:
    metadata = None if batch.metadata is None else _slots_of(batch.metadata, slots)
    return TaskBatch(images=batch.images[slots], sensors=batch.sensors[slots], samples=batch.samples, metadata=metadata)


def _slots_of(metadata: SetMetadata, slots: slice) -> SetMetadata:
    return SetMetadata(**{name: one[:, slots] for name, one in vars(metadata).items()})


Features = Float[Array, "sample width"]

Redraw = Callable[[Int[Array, " sample"], int], Features]
"""Draws what is exchanged anew: gives the features of samples at a step."""

BAND_MEANS = "band means"
"""Name of what a user would try first on whole images."""


def band_means(batch: ImageBatch) -> Float[Tensor, "batch width"]:
    """Describe images by mean and deviation of each standardised band over its valid pixels; without any, by 0."""
    seen = torch.ones_like(batch.pixels) if batch.valid is None else batch.valid.to(batch.pixels.dtype)
    counts = seen.sum(dim=(2, 3)).clamp(min=1)
    mean = (batch.pixels * seen).sum(dim=(2, 3)) / counts
    spread = ((batch.pixels - mean[:, :, None, None]) * seen).square().sum(dim=(2, 3)) / counts
    return torch.cat([mean, spread.sqrt()], dim=1)


class BandMeans(nn.Module):
    """Describes each sample by `band_means` of all its images, side by side."""

    settings: ClassVar[dict[str, Any]] = {"vectors": "band means"}

    def forward(self, batch: TaskBatch) -> Float[Tensor, "sample width"]:
        return torch.cat([band_means(image) for image in batch.images], dim=1)


def extract_features(
    encoders: Mapping[str, FusedEncoder | SiameseEncoder | BandMeans],
    reader: TaskReader,
    samples: Sequence[int] | Int[Array, " sample"],
    *,
    blocks: Levels | None = None,
    cache: Path | None,
    scale: float = 1.0,
    step: int = 0,
    shown: bool = False,
) -> dict[str, tuple[Float[Tensor, "sample ..."], ...]]:
    """Make features of samples by each encoder, without gradients; nothing is varied, and each image is read once.
    What is kept is taken, what is missing is made and kept. All are held in CPU memory, once.
    Args:
        samples: positions in the data.
        blocks: after which maps of patch features are made, one tensor for each; None: one vector a sample.
        cache: folder where features are kept; None: nowhere.
        scale: share of their size to which images are reduced first.
        step: of what is drawn (mixup concatenation).
    A sample with features that are not finite, or of another size than others', is an `InputError` that names it.
    """
    wanted = [int(sample) for sample in samples]
    if not wanted:
        raise InputError(f"no samples of '{reader.data.name}' were requested; there is nothing to encode")
    rows, modes = {}, [(module, module.training) for module in encoders.values()]
    of = {"of": "vectors"} if blocks is None else {"of": "levels", "blocks": blocks if blocks == "final" else [*blocks]}
    for name, module in encoders.items():
        described = {**of, **module.settings} | ({"step": step} if step else {})
        rows[name] = _Rows(module, described, reader, wanted, cache=cache, scale=scale)
    todo = list(dict.fromkeys(sample for one in rows.values() for sample in one.missing))
    try:
        for module in encoders.values():
            module.eval()
        for batch in reader.batches(todo, scale=scale, shown=shown) if todo else ():
            for name, module in encoders.items():
                lacking = np.flatnonzero([sample in rows[name].missing for sample in batch.samples.tolist()])
                if len(lacking):
                    made = _encoded(module, batch, blocks, reader, step)
                    rows[name].add(batch.samples[lacking], tuple(one[torch.from_numpy(lacking)] for one in made))
    finally:
        for module, was_training in modes:
            module.train(was_training)
    for one in rows.values():
        if cache is not None and one.waiting:
            keep_features(cache, one.key, one.waiting, reader.data.said)
    found = {name: one.made for name, one in rows.items()}
    for name, made in found.items():
        equal = [note for one in made for note in same_features(one, what="samples")]
        reader.same_features |= dict.fromkeys(f"{name}: {note}" for note in equal)
    if len(set(wanted)) == len(wanted):
        return found
    row = {sample: number for number, sample in enumerate(dict.fromkeys(wanted))}
    return {name: tuple(level[[row[sample] for sample in wanted]] for level in made) for name, made in found.items()}


def _encoded(module: Any, batch: TaskBatch, blocks: Levels | None, reader: TaskReader, step: int) -> tuple[Tensor, ...]:
    weights = next(module.parameters(), None)
    device = torch.device("cpu") if weights is None else weights.device
    if isinstance(module, FusedEncoder) and module.fusion == "joint":
        encoder = module.encoder.encoder
        rows, cols = (side // encoder.config.patch_size for side in batch.images[0].pixels.shape[2:])
        check_memory(encoder, num_sets=len(batch.samples), num_images=len(batch.images), num_tokens=rows * cols)
    in_bf16 = reader.recipe.input.precision == "bf16"
    with torch.no_grad(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=in_bf16):
        batch = batch.to(device)
        drawn = {"step": step} if isinstance(module, FusedEncoder) else {}
        made = (module(batch, **drawn),) if blocks is None else module.levels(batch, blocks)
    made = tuple(one.float().cpu() for one in made)
    for one in made:
        wrong = np.flatnonzero(~one.flatten(1).isfinite().all(dim=1).numpy())
        if len(wrong):
            name = reader.data.names[int(batch.samples[wrong[0]])]
            raise InputError(
                f"the features of '{name}' are no finite numbers ({len(wrong)} of {counted(len(one), 'sample')} "
                "of its batch); look at its pixels and its normalisation, or leave it out"
            )
    return made


# chosen: what an interrupted run loses at most, and what is in memory twice while it is written.
_PART_BYTES = 1 << 26
_Found = tuple[Int[Array, "_"], tuple[Float[Tensor, "_ ..."], ...]]


class _Rows:
    """Features of some samples, one tensor or one for each level; they come in any order, and what is new is kept."""

    def __init__(
        self,
        module: nn.Module,
        described: Mapping[str, Any],
        reader: TaskReader,
        samples: Sequence[int],
        *,
        cache: Path | None,
        scale: float,
    ) -> None:
        self.missing = dict.fromkeys(samples)
        self._row = {sample: row for row, sample in enumerate(self.missing)}
        self.made: tuple[Tensor, ...] = ()
        self._names, self._said, self._cache, self.key = reader.data.names, reader.data.said, cache, ""
        self.waiting: list[_Found] = []
        if cache is None:
            return
        # All that features depend on.
        whole = {
            "version": _VERSION,
            "weights": tensors_hash(module.state_dict()),
            "features": described,
            "data": reader.data.fingerprint,
            "state": reader.data.state,
            "input": reader.settings(),
            "scale": scale,
            "precision": reader.recipe.input.precision,
        }
        text = json.dumps(whole, sort_keys=True, separators=(",", ":"), allow_nan=False)
        self.key = hashlib.sha256(text.encode()).hexdigest()
        for found, made in kept_features(cache, self.key, samples, self._said):
            self.add(found, made, is_kept=True)

    def add(self, samples: Int[Array, " found"], made: tuple[Tensor, ...], *, is_kept: bool = False) -> None:
        if not self.made:
            self.made = tuple(torch.empty(len(self._row), *one.shape[1:]) for one in made)
        widths, found = ([tuple(one.shape[1:]) for one in tensors] for tensors in (self.made, made))
        if found != widths:
            raise InputError(
                f"'{self._names[int(samples[0])]}' has features of another size than the samples before it ({found[0]} "
                f"and not {widths[0]}), because it has another number of images; use fusion=joint, or samples of one "
                "kind"
            )
        for held, one in zip(self.made, made, strict=True):
            held[[self._row[sample] for sample in samples.tolist()]] = one
        for sample in samples.tolist():
            self.missing.pop(sample, None)
        if self._cache is not None and not is_kept:
            self.waiting.append((samples, made))
            if sum(one.nbytes for _, tensors in self.waiting for one in tensors) >= _PART_BYTES:
                keep_features(self._cache, self.key, self.waiting, self._said)
                self.waiting = []


# Counts up when the same inputs would give other features.
_VERSION = 1
_ENDING = ".safetensors"
_DIGEST_BYTES = 16


def kept_features(
    folder: Path, key: str, samples: Sequence[int] | Int[Array, " sample"], said: dict[str, tuple[str, ...]]
) -> Iterator[_Found]:
    """Give what a cache has of some samples, part by part, each sample once; several tensors of several levels.
    A part that is damaged, or that is of something else, counts as absent. What was said of files is added to `said`.
    """
    wanted = {int(sample) for sample in samples}
    for path in sorted((folder / key[:2] / key).glob(f"*{_ENDING}")):
        found = _read_part(path, key, wanted, said)
        if found is not None:
            wanted -= set(found[0].tolist())
            yield found
        if not wanted:
            return


def keep_features(folder: Path, key: str, found: Sequence[_Found], said: Mapping[str, tuple[str, ...]]) -> None:
    """Add features of some samples, float32 on the CPU, to a cache; several processes may write at once. Of what was
    said of their files, each text is kept once."""
    first = {note: name for name, notes in list(said.items())[::-1] for note in notes}
    levels = zip(*(made for _, made in found), strict=True)
    tensors = {f"level_{index}": torch.cat(level).contiguous() for index, level in enumerate(levels)}
    tensors["samples"] = torch.from_numpy(np.concatenate([samples for samples, _ in found]))
    name = hashlib.blake2b(tensors["samples"].numpy().tobytes(), digest_size=_DIGEST_BYTES).hexdigest()
    write_weights(
        folder / key[:2] / key / f"{name}{_ENDING}",
        tensors,
        {"key": key, "digest": tensors_hash(tensors)} | ({"said": json.dumps(first)} if first else {}),
    )


def _read_part(path: Path, key: str, wanted: set[int], said: dict[str, tuple[str, ...]]) -> _Found | None:
    """Read the samples of a part that are wanted; None where there is none, or it is damaged or of something else."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata, names = file.metadata() or {}, list(file.keys())
            if metadata.get("key") != key or "samples" not in names:
                return None
            samples = file.get_tensor("samples").numpy()
            rows = [row for row, sample in enumerate(samples.tolist()) if sample in wanted]
            if not rows:
                return None
            tensors = {name: file.get_tensor(name) for name in names}
        told = json.loads(metadata.get("said", "{}"))
    except (SafetensorError, OSError, ValueError):
        return None
    if metadata.get("digest") != tensors_hash(tensors):
        return None
    for note, name in told.items():
        said[name] = tuple(dict.fromkeys((*said.get(name, ()), note)))
    return samples[rows], tuple(tensors[f"level_{index}"][rows] for index in range(len(tensors) - 1))


def tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    """Hash named tensors: equal ones, and no others, have equal hashes."""
    state = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for name, tensor in sorted(tensors.items()):
        state.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        # As bytes and not as numbers: NumPy knows no bfloat16.
        state.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return state.hexdigest()


@dataclass(frozen=True, kw_only=True, eq=False)
class Context:
    """What is evaluated, on what, and where."""

    recipe: TransferRecipe
    protocol: Protocol
    data: TaskData
    encoders: Mapping[str, SensorEncoder]
    """By name of the features: `encoder`, and `untrained encoder` where it is compared; on the device."""
    reader: TaskReader
    cache: Path | None
    """Folder where features are kept; None: nowhere."""
    checkpoint_hash: str
    device: str = "cpu"
    shown: bool = False

    def fused(self, encoder: SensorEncoder) -> FusedEncoder:
        rules = self.recipe.input
        return FusedEncoder(
            encoder, fusion=self.recipe.fusion, pool=rules.pool, seed=self.recipe.seed, metadata=rules.metadata
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """What a protocol found with one kind of features."""

    features: str
    """`encoder`, `untrained encoder`, `band means + logistic regression`, …"""
    width: int
    """Numbers a sample, or a pixel of a map of features."""
    predictions: Predictions
    chosen: Mapping[str, Any] = field(default_factory=dict)
    """What validation chose, such as the epoch, and its score there."""
    curves: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """By epoch: `training loss`, `validation`."""
    maps: Mapping[int, Shaped[Array, "row col"]] = field(default_factory=dict)
    """Predicted maps of some test samples, by position in the data, for pictures."""
    model: Mapping[str, Tensor] = field(default_factory=dict)
    """Weights of what was fitted; empty where nothing was, or not kept."""
    checkpoint: Checkpoint | None = None
    """The encoder as it was trained here, to be used like any other; None: it was not."""
    notes: tuple[str, ...] = ()


def check_splits(data: TaskData, *, protocol: str, splits: Sequence[Split] = ("train", "val", "test")) -> None:
    """See that data are of whole images and have the splits that a protocol needs, else raise `InputError`."""
    if data.targets is None:
        raise InputError(f"{protocol} is for whole images, and '{data.name}' has maps; use segment, change or regress")
    counts = data.num_samples
    if not all(counts[split] for split in splits):
        found = ", ".join(f"{count} {split}" for split, count in counts.items())
        raise InputError(
            f"{protocol} needs samples in {', '.join(splits)}; '{data.name}' has {found}; validation chooses, test "
            "reports: say with data.split how samples come into splits"
        )


def have_equal_bands(data: TaskData) -> bool:
    """Tell whether all samples have the same bands in the same order."""
    return len({tuple((one.name, one.band_names) for one in slots) for slots in dict.fromkeys(data.sensors)}) == 1


def labelled_features(data: TaskData, features: Features, split: Split) -> LabelledFeatures:
    """Take the features of a split, with their labels."""
    samples = data.split(split)
    assert data.targets is not None
    return LabelledFeatures(features=features[samples], labels=data.targets[samples], classes=data.classes)


def probe_encoders(
    context: Context,
    probe: Callable[[Features, Redraw | None], Result],
    *,
    title: str,
    encoders: Mapping[str, SensorEncoder] | None = None,
    samples: Int[Array, " sample"] | None = None,
) -> list[Result]:
    """Probe the features of samples by each encoder and, where the recipe asks for a baseline, their band means.
    With several `input.scales` the first result of each holds its predictions at all scales, so that its accuracy is
    their mean, and one for each scale follows.
    Args:
        probe: takes the features of all samples, and what draws those of some anew, where anything is drawn.
        title: of the classifier, in the name of the baseline.
        encoders: None: those of the context.
        samples: None: all.
    """
    named = context.encoders if encoders is None else encoders
    makers: dict[str, FusedEncoder | BandMeans] = {name: context.fused(encoder) for name, encoder in named.items()}
    if context.recipe.compare.baseline and have_equal_bands(context.data):
        makers[f"{BAND_MEANS} + {title}"] = BandMeans()
    scales, every = context.recipe.input.scales, np.arange(len(context.data)) if samples is None else samples
    found: dict[str, list[Result]] = {name: [] for name in makers}
    for scale in scales:
        made = extract_features(makers, context.reader, every, cache=context.cache, shown=context.shown, scale=scale)
        for name, (features,) in made.items():
            redraw = _redraw(context, makers[name], scale) if context.recipe.fusion == "mixup_concat" else None
            found[name].append(replace(probe(features.numpy(), redraw), features=name))
    if len(scales) == 1:
        return [result for results in found.values() for result in results]
    return [result for results in found.values() for result in _over_scales(results, scales)]


def _redraw(context: Context, module: FusedEncoder | BandMeans, scale: float) -> Redraw | None:
    def drawn(samples: Int[Array, " sample"], step: int) -> Features:
        # Not kept: each epoch has its own.
        made = extract_features({"one": module}, context.reader, samples, cache=None, scale=scale, step=step)
        (features,) = made["one"]
        return np.asarray(features.numpy())

    return drawn if isinstance(module, FusedEncoder) else None


def _over_scales(results: Sequence[Result], scales: Sequence[float]) -> list[Result]:
    """Put what was found at several scales together: the mean over them first, then each."""
    labels = [f"{100 * scale:g} %" for scale in scales]
    first, each = results[0].predictions, [one.predictions for one in results]
    together = replace(
        first,
        samples=tuple(f"{name} @ {label}" for one, label in zip(each, labels, strict=True) for name in one.samples),
        arrays={name: np.concatenate([one.arrays[name] for one in each]) for name in first.arrays},
        # Predictions for one image are drawn together.
        groups=(first.groups or first.samples) * len(labels),
    )
    mean = Result(
        features=results[0].features,
        width=results[0].width,
        predictions=together,
        notes=(f"mean over images reduced to {', '.join(labels)}",),
    )
    return [
        mean,
        *(replace(one, features=f"{one.features} @ {label}") for one, label in zip(results, labels, strict=True)),
    ]
