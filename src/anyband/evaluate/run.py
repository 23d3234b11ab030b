"""An evaluation from its recipe to what was found: the one way in for every protocol, and its dry run."""

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from anyband.data.store import SPLITS, Split
from anyband.encode.encoder import SensorEncoder, available_bytes, find_device, load_encoder, sequence_bytes
from anyband.encode.input_spec import checkpoint_sensors
from anyband.errors import AnybandError, AssignmentError, CheckpointError, InputError, OutputError, RecipeError, counted
from anyband.evaluate.features import Context, FusedEncoder, Result, have_equal_bands, probe_encoders
from anyband.evaluate.fitting import checkpoint_of, withhold_range
from anyband.evaluate.inputs import TaskReader
from anyband.evaluate.recipe import PROTOCOLS, CompareRecipe, Protocol, TransferRecipe
from anyband.evaluate.samples import labelled_pixels
from anyband.files import HUB_ID, check_target, chosen_weights, weights_file
from anyband.labelled import open_task_data
from anyband.labelled.samples import ONLY_BAND, TaskData, TaskKind, without_band
from anyband.models.autoencoder import Autoencoder, AutoencoderConfig
from anyband.models.checkpoint import Checkpoint, checkpoint_hash, locate, state_of
from anyband.models.vit import DecoderConfig, EncoderConfig
from anyband.progress import progress
from anyband.rasters.reader import said_once
from anyband.sensors.assignment import AssignmentRules, Unseen, assign
from anyband.sensors.ranges import load_ranges
from anyband.sensors.sensor import Sensor

__all__ = [
    "check_recipe",
    "dry_run",
    "dry_run_lines",
    "evaluate",
    "leave_one_band_out",
    "open_encoder",
    "run_protocol",
]

_KINDS: dict[Protocol, tuple[TaskKind, ...]] = {
    "knn": ("class", "labels"),
    "linear": ("class", "labels", "number"),
    "finetune": ("class", "labels", "number"),
    "segment": ("class_map",),
    "change": ("class_map",),
    "regress": ("number", "number_map"),
    "leave-one-band-out": ("class", "labels", "number", "class_map"),
}
_FOR_KIND = {
    "class": "knn, linear or finetune",
    "labels": "knn, linear or finetune",
    "number": "linear, finetune or regress",
    "class_map": "segment or change",
    "number_map": "regress",
}


def evaluate(
    recipe: TransferRecipe,
    protocol: Protocol,
    *,
    device: str = "cpu",
    cache: Path | None = None,
    download: bool = False,
    shown: bool = False,
) -> tuple[Context, list[Result]]:
    """Do an evaluation; give what it was done with, and what was found, the encoder's result first.
    Args:
        cache: folder where features are kept for the next probe; None: nowhere.
        download: whether a named data set may be fetched.
    Raises:
        RecipeError: the protocol is for another kind of data, or there is no checkpoint.
        ManifestError: the data are not there, or a table of them is wrong.
        InputError: splits, classes or samples that can't be used.
        CheckpointError: no such checkpoint.
    """
    if cache is not None:
        try:
            check_target(cache, is_folder=True)
        except OutputError as problem:
            raise OutputError(
                f"{problem}; features are kept there: name a folder by --cache, or use --no-cache"
            ) from problem
    check_recipe(recipe, protocol)
    encoder = open_encoder(recipe, device)
    known = checkpoint_sensors(encoder.checkpoint)
    data = open_task_data(recipe.data, seed=recipe.seed, download=download, sensors=known, test_only=recipe.eval_only)
    check_recipe(recipe, protocol, data)
    encoders = {"encoder": encoder}
    if recipe.compare.untrained and protocol != "leave-one-band-out":
        encoders["untrained encoder"] = encoder.untrained(seed=recipe.seed)
    context = Context(
        recipe=recipe,
        protocol=protocol,
        data=data,
        encoders=encoders,
        reader=TaskReader(encoder, data, recipe),
        cache=cache,
        checkpoint_hash=checkpoint_hash(locate(recipe.checkpoint or "")),
        device=device,
        shown=shown,
    )
    return context, run_protocol(context)


def check_recipe(recipe: TransferRecipe, protocol: Protocol, data: TaskData | None = None) -> None:
    """See that a recipe is for the protocol, and both for the kind of data, else raise `RecipeError`. Of `data`,
    samples must have as many images, and of such sensors, as protocol and fusion need, else `InputError`."""
    kind = recipe.data.kind if data is None else data.kind
    if recipe.protocol not in (None, protocol):
        raise RecipeError(f"recipe '{recipe.name}' is for '{recipe.protocol}', and '{protocol}' was asked for")
    if kind not in _KINDS[protocol]:
        raise RecipeError(
            f"'{protocol}' ({PROTOCOLS[protocol]}) is for data of kind {' or '.join(_KINDS[protocol])}, and these are "
            f"of kind '{kind}'; take {_FOR_KIND[kind]}, or say with data.kind what is predicted"
        )
    measure: Protocol = recipe.measures if protocol == "leave-one-band-out" else protocol
    if kind not in _KINDS[measure]:
        allowed = [one for one in ("knn", "linear", "segment") if kind in _KINDS[one]]
        raise RecipeError(
            f"leave-one-band-out measures '{measure}', which is for data of kind {' or '.join(_KINDS[measure])}, and "
            f"these are of kind '{kind}'; set measures={' or measures='.join(allowed)}"
        )
    if recipe.input.scales != (1.0,) and measure not in ("knn", "linear"):
        found = ", ".join(f"{scale:g}" for scale in recipe.input.scales)
        raise RecipeError(
            f"input.scales are for knn and linear, and '{measure}' takes images as they are; found {found}: set "
            "input.scales=[1.0]"
        )
    if recipe.eval_only and (protocol in ("knn", "leave-one-band-out") or recipe.compare != CompareRecipe()):
        able = ", ".join(one for one in PROTOCOLS if one not in ("knn", "leave-one-band-out"))
        raise RecipeError(
            f"eval_only scores one fitted head, by {able}, and fits nothing to compare it with; '{protocol}' was "
            f"requested with compare.untrained={str(recipe.compare.untrained).lower()} and "
            f"compare.baseline={str(recipe.compare.baseline).lower()}"
        )
    if data is None:
        return
    counts = sorted({len(slots) for slots in data.sensors})
    if protocol == "change":
        if any(count < 2 or count % 2 for count in counts):
            raise InputError(
                f"change is between images before and as many after, and samples of '{data.name}' have {counts[0]}; "
                "give a table with the columns `before` and `after`"
            )
        counts = [count // 2 for count in counts]
    if recipe.fusion == "single" and counts != [1]:
        raise InputError(
            f"samples of '{data.name}' have {counts[-1]} images; say with fusion (stack, concat, mixup_concat, "
            "joint or ltae) how they become one feature"
        )
    if recipe.fusion == "mixup_concat" and counts != [2]:
        raise InputError(
            f"fusion 'mixup_concat' exchanges tokens of two images, and samples of '{data.name}' have "
            f"{' or '.join(map(str, counts))}"
        )
    kinds = {tuple(sensor.name for sensor in slots) for slots in data.sensors}
    if recipe.fusion in ("stack", "concat", "ltae") and len(kinds) > 1:
        raise InputError(
            f"fusion '{recipe.fusion}' puts images side by side, so every sample needs the same sensors in the same "
            "order; take fusion 'joint', or samples of one kind"
        )


def open_encoder(recipe: TransferRecipe, device: str) -> SensorEncoder:
    """Load the encoder that a recipe names; none is a `RecipeError`, one that is not there a `CheckpointError`."""
    if recipe.checkpoint is None:
        raise RecipeError("an evaluation needs a checkpoint: name it in the recipe or with --checkpoint")
    rules = recipe.input
    return load_encoder(
        recipe.checkpoint,
        device=device,
        unseen=rules.unseen,
        min_support=rules.min_support,
        out_of_span=rules.out_of_span,
    )


def run_protocol(context: Context) -> list[Result]:
    """Do what the protocol says, for each encoder; then the baseline, where it is asked for."""
    # Late: each brings its libraries.
    match context.protocol:
        case _ if context.recipe.eval_only and context.data.targets is not None:
            from anyband.evaluate.probes import score_head

            return score_head(context)
        case "leave-one-band-out":
            return leave_one_band_out(context)
        case "knn":
            from anyband.evaluate.probes import knn

            results = knn(context)
        case "linear":
            from anyband.evaluate.probes import linear

            results = linear(context)
        case "finetune" | "regress" if context.data.targets is not None:
            from anyband.evaluate.finetune import finetune

            results = finetune(context)
        case _:
            from anyband.evaluate.maps import fit_maps

            results = fit_maps(context)
    if not context.recipe.compare.baseline:
        return results
    from anyband.evaluate.baselines import map_baselines, missing_baselines

    first, *others = results
    first = replace(first, notes=(*first.notes, *missing_baselines(context)))
    if context.data.targets is None:
        others += map_baselines(context, pictured=first.maps)
    elif context.protocol not in ("knn", "linear") and have_equal_bands(context.data):
        from anyband.evaluate.probes import probe_of, title_of

        title = title_of(context)
        others += probe_encoders(context, lambda features, _: probe_of(context, features), title=title, encoders={})
    return [first, *others]


_WAYS: dict[Unseen, str] = {"interpolate": "interpolated", "nearest": "by nearest"}


def leave_one_band_out(context: Context) -> list[Result]:
    """Score the encoder with every band, and without each band that it was trained on, in three ways.
    `B04 left out`: the images lack the band. `B04 interpolated`, `B04 by nearest`: the images have it, but the network
    is taken as if its range had never been trained, so the band is read through the ranges beside it. The first tells
    what the band is worth, the others what reading an unseen band through others loses of it. A network that knows no
    band of these data exactly is an `InputError`.
    """
    trained = _trained_bands(context)
    if not trained:
        raise InputError(
            f"'{context.data.name}' has no band that the checkpoint was trained on; leave-one-band-out asks what the "
            "absence of a trained band costs"
        )
    whole = replace(context, encoders={"encoder": context.encoders["encoder"]})
    first, *others = [_measured(whole, name="encoder")]
    notes = [ONLY_BAND.format(sensor.name, band) for sensor, band in trained if len(sensor.bands) == 1]
    # One bar over the others: bars of each would not tell how much is left.
    each, variants = replace(whole, shown=False), []
    several = len({sensor.name for sensor, _ in trained}) > 1
    for (sensor, band), range_name in trained.items():
        title = f"{sensor.name} {band}" if several else band
        if len(sensor.bands) > 1:
            variants.append((f"{title} left out", partial(_left_out, each, sensor.name, band)))
        for way, words in _WAYS.items():
            variants.append((f"{title} {words}", partial(_as_never_trained, each, range_name, way)))
    with progress("leave one band out", len(variants), shown=context.shown) as advance:
        for name, make in variants:
            try:
                others.append(_measured(make(), name=name))
            except (AssignmentError, CheckpointError) as problem:
                notes.append(f"{name}: {problem}")
            advance(1)
    return [replace(first, notes=(*first.notes, *notes)), *others]


def _measured(context: Context, *, name: str) -> Result:
    alone = context.recipe.changed(compare=CompareRecipe())
    return replace(run_protocol(replace(context, protocol=alone.measures, recipe=alone))[0], features=name)


def _trained_bands(context: Context) -> dict[tuple[Sensor, str], str]:
    """Find the bands that the network knows exactly, and the trained range of each."""
    encoder, found = context.encoders["encoder"], {}
    for sensor in dict.fromkeys(sensor for slots in context.data.sensors for sensor in slots):
        read = assign(sensor, encoder.checkpoint.ranges, encoder.rules)
        rows = {requested: row for row, requested in enumerate(read.kept_index)}
        for index, origin in enumerate(read.origin):
            if origin == "exact":
                column = int(np.argmax(read.mixing[rows[index]]))
                found[(sensor, read.requested[index])] = read.range_names[column]
    return found


def _left_out(context: Context, sensor: str, band: str) -> Context:
    data = without_band(context.data, sensor, band)
    return replace(context, data=data, reader=TaskReader(context.encoders["encoder"], data, context.recipe))


def _as_never_trained(context: Context, range_name: str, way: Unseen) -> Context:
    known = context.encoders["encoder"]
    checkpoint = withhold_range(checkpoint_of(known), range_name)
    rules = replace(known.rules, unseen=way, out_of_span="refuse")
    encoder = SensorEncoder(checkpoint, rules=rules).to(context.device).eval()
    reader, name = TaskReader(encoder, context.data, context.recipe), f"{context.checkpoint_hash} without {range_name}"
    return replace(context, encoders={"encoder": encoder}, reader=reader, checkpoint_hash=f"{name} {way}")


# What batch normalisation, mixup and two classes need at least.
_BATCH = 2
# chosen: so many training samples are looked at for two with labels.
_SEARCHED = 16
_FITTED: tuple[Protocol, ...] = ("finetune", "segment", "change", "regress")
# Source: the published SMARTIES v1 weights: width, blocks and heads of ViT-B and ViT-L (arXiv 2010.11929, table 1).
_SIZES = {"b": ("ViT-B", 768, 12, 12), "l": ("ViT-L", 1024, 24, 16)}
_SIZE_IN_NAME = re.compile(r"vit[-_]?([bl])", re.IGNORECASE)

_Made = TypeVar("_Made")


def dry_run(recipe: TransferRecipe, protocol: Protocol, *, device: str = "cpu") -> dict[str, Any]:
    """Check all that an evaluation needs, do its protocol on two batches, and estimate what the whole costs.
    Every check is made that can be, so one wrong thing does not hide another; only a device that is not there is an
    `InputError`. Nothing is downloaded: random weights stand for those of the hub that are not here, and that is said.
    Returns:
        `recipe`, `protocol`, whether all is `ok`, `checks` (each with `what`, `ok` and `message`), and `cost` in
        seconds, counts and bytes, None where nothing could be measured.
    """
    find_device(device)
    checks: list[dict[str, Any]] = []

    def look(what: str, make: Callable[[], tuple[_Made, str]]) -> _Made | None:
        made = None
        try:
            made, message = make()
        except AnybandError as problem:
            message = str(problem)
        except torch.OutOfMemoryError as problem:
            message = f"two samples do not fit the memory: {str(problem).splitlines()[0]}"
        checks.append({"what": what, "ok": made is not None, "message": message})
        return made

    def looked_at_recipe() -> tuple[bool, str]:
        check_recipe(recipe, protocol)
        return True, f"{recipe.name}: {protocol}, {PROTOCOLS[protocol]}"

    fits = look("recipe", looked_at_recipe)
    encoder = look("checkpoint", lambda: _encoder(recipe, device))
    data = look("data", lambda: _data(recipe, protocol, encoder))
    cost = None
    if fits and encoder is not None and data is not None:
        cost = look("shapes", lambda: _tried(recipe, protocol, data, encoder, device))
    if cost is not None and cost["free_bytes"] is not None and cost["needed_bytes"] > cost["free_bytes"]:
        message = (
            f"a batch needs at least {_size(cost['needed_bytes'])} on '{device}', and {_size(cost['free_bytes'])} are "
            "free; lower fit.batch_size (with lr_samples the rate follows), input.batch_size or input.img_size"
        )
        checks.append({"what": "memory", "ok": False, "message": message})
    if data is not None and data.said:
        checks.append({"what": "files", "ok": True, "message": "; ".join(said_once(data.said.items()))})
    ok = all(check["ok"] for check in checks)
    return {"recipe": recipe.name, "protocol": protocol, "ok": ok, "checks": checks, "cost": cost}


def _encoder(recipe: TransferRecipe, device: str) -> tuple[SensorEncoder, str]:
    """Load the encoder, or make one of the size that the name of the weights tells."""
    name, rules = recipe.checkpoint or "", recipe.input
    if not _is_on_the_hub_only(name):
        encoder = open_encoder(recipe, device)
        config = encoder.config
        size = f"{config.depth} blocks, {config.embed_dim} wide, {config.img_size} pixels"
        return encoder, f"{name}: {size}, patches of {config.patch_size}"
    size_in_name = _SIZE_IN_NAME.search(name)
    if size_in_name is None:
        raise CheckpointError(
            f"'{name}' is not on this machine, and its name tells no size to check with; fetch it, or give a file"
        )
    title, width, depth, heads = _SIZES[size_in_name[1].lower()]
    ranges = load_ranges("smarties_v1")
    network = EncoderConfig(
        img_size=224, patch_size=16, embed_dim=width, depth=depth, num_heads=heads, num_ranges=len(ranges.ranges)
    )
    # The decoder is not used.
    decoder = DecoderConfig(decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=1)
    made = AutoencoderConfig(encoder=network, decoder=decoder)
    checkpoint = Checkpoint(config=made, state=state_of(Autoencoder(made, seed=0)), ranges=ranges)
    chosen = AssignmentRules(unseen=rules.unseen, min_support=rules.min_support, out_of_span=rules.out_of_span)
    message = f"not on this machine, and a dry run fetches nothing; a {title} of random weights stands in"
    return SensorEncoder(checkpoint, rules=chosen).to(device).eval(), f"{name}: {message}"


def _is_on_the_hub_only(name: str) -> bool:
    """Tell whether a hub id's file of weights was not downloaded before."""
    named = HUB_ID.fullmatch(name)
    if not name or weights_file(name) is not None or named is None:
        return False
    try:
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(named["repository"], revision=named["revision"], local_files_only=True))
    except (ImportError, OSError, ValueError):
        return True
    files = [path.name for path in folder.iterdir()]
    file = named["file"] or chosen_weights(files, name=named["repository"].partition("/")[2])
    return file is None or not (folder / file).is_file()


def _data(recipe: TransferRecipe, protocol: Protocol, encoder: SensorEncoder | None) -> tuple[TaskData, str]:
    known = {} if encoder is None else checkpoint_sensors(encoder.checkpoint)
    data = open_task_data(recipe.data, seed=recipe.seed, sensors=known, test_only=recipe.eval_only)
    check_recipe(recipe, protocol, data)
    splits = ", ".join(f"{data.num_samples[split]:,} {split}" for split in SPLITS)
    kinds = dict.fromkeys(data.sensors)
    sensors = " or ".join(" + ".join(f"{one.name} ({len(one.bands)})" for one in slots) for slots in kinds)
    classes = f"; {counted(len(data.classes), 'class')}" if data.classes else ""
    notes = "".join(f"; {note}" for note in data.notes)
    return data, f"{data.name}: {splits}{classes}; sensors (bands): {sensors}{notes}"


def _tried(
    recipe: TransferRecipe, protocol: Protocol, data: TaskData, encoder: SensorEncoder, device: str
) -> tuple[dict[str, Any], str]:
    """Read samples of each split, and do the protocol on two training samples, which are validation and test too.
    Where nothing is fitted they are test samples; a head that would have to be fetched is not looked at."""
    chosen, fits = (data.split("test")[:_BATCH].tolist(), False) if recipe.eval_only else (_chosen(data), True)
    others = [int(one) for split in ("val", "test") for one in data.split(split)[:1]]
    few = data.take([*chosen, *others], fingerprint="")
    encode_s, shapes = _encoded(TaskReader(encoder, few, recipe), encoder, device)
    # Twice for training, so that an epoch has two steps.
    splits: tuple[Split, ...] = ("train",) * 4 + ("val",) * 2 + ("test",) * 2
    small = data.take(chosen * 4, fingerprint="dry run")
    names = tuple(f"{name} {index}" for index, name in enumerate(small.names))
    small = replace(small, names=names, splits=splits if fits else small.splits, places=(), contents=())
    short = recipe.changed(
        input=recipe.input.changed(batch_size=_BATCH),
        knn=recipe.knn.changed(k=min(recipe.knn.k, _BATCH)),
        linear=recipe.linear.changed(epochs=1, batch_size=_BATCH),
        fit=recipe.fit.changed(epochs=1, batch_size=_BATCH, warmup_epochs=0.0, patience=None),
        compare=CompareRecipe(),
    )
    context = Context(
        recipe=short,
        protocol=protocol,
        data=small,
        encoders={"encoder": encoder},
        reader=TaskReader(encoder, small, short),
        cache=None,
        checkpoint_hash="",
        device=device,
    )
    steps, whole = _Steps(), replace(context, recipe=recipe, data=data)
    if not fits and _is_on_the_hub_only(recipe.head.file or recipe.checkpoint or ""):
        return _cost(whole, steps, encode_s), f"{'; '.join(shapes)}; the head is not here and was not looked at"
    with steps.watched():
        width = run_protocol(context)[0].width
    message = (
        f"{_BATCH} {'training' if fits else 'test'} samples went through all of it"
        f"{', and one of val and test was read' * fits}; {'; '.join(shapes)}; "
        f"{width} numbers {'a pixel' if data.targets is None else 'a sample'}"
    )
    return _cost(whole, steps, encode_s), message


def _chosen(data: TaskData) -> list[int]:
    """Choose two training samples: of two classes, or with labels in their maps."""
    train = [int(one) for one in data.split("train")]
    if len(train) < _BATCH:
        raise InputError(
            f"'{data.name}' has {counted(len(train), 'training sample')}, and nothing can be learned from under two"
        )
    if data.targets is None:
        found = [
            one for one in train[:_SEARCHED] if (seen := labelled_pixels(data.read(one))) is not None and seen.any()
        ]
        if len(found) < _BATCH:
            raise InputError(
                f"of the first {counted(len(train[:_SEARCHED]), 'training sample')} of '{data.name}', {len(found)} "
                "have a labelled pixel; look at data.classes and data.ignore"
            )
        return found[:_BATCH]
    if data.kind != "class" or data.targets is None:
        return train[:_BATCH]
    others = [one for one in train if data.targets[one] != data.targets[train[0]]]
    if not others:
        raise InputError(f"the training samples of '{data.name}' are all of one class")
    return [train[0], others[0]]


def _encoded(reader: TaskReader, encoder: SensorEncoder, device: str) -> tuple[float, list[str]]:
    """Read samples as the network takes them and encode their images one by one: seconds a sample, and shapes."""
    alone = FusedEncoder(encoder, fusion="single", pool="cls", seed=0, metadata=False)
    every, shapes, started = range(len(reader.data)), [], time.perf_counter()
    if reader.data.targets is None:
        for position in every:
            reader.target(position)
        batches = (batch for position in every for batch, _ in reader.windows(position))
    else:
        scales = reader.recipe.input.scales
        batches = (one for scale in scales for one in reader.batches(every, scale=scale, targets=True))
    with torch.inference_mode():
        for batch in batches:
            for sensor, image in zip(batch.sensors, batch.images, strict=True):
                bands, rows, cols = image.pixels.shape[1:]
                shapes.append(f"{sensor}: {bands} bands, {rows} × {cols}")
                one = replace(batch, images=(image,), sensors=(sensor,), metadata=None, targets=None)
                alone(one.to(device)).cpu()
    return (time.perf_counter() - started) / len(every), list(dict.fromkeys(shapes))


class _Steps:
    """Measures training steps: when they end, what they keep for the gradient, and what is fitted."""

    def __init__(self) -> None:
        self.ends_s: list[float] = []
        self.fitted_bytes = self.kept_bytes = 0
        self._kept: dict[int, int] = {}

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        handle = register_optimizer_step_post_hook(self._stepped)
        try:
            with torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor):
                yield
        finally:
            handle.remove()

    def _keep(self, tensor: Tensor) -> Tensor:
        if not isinstance(tensor if tensor._base is None else tensor._base, nn.Parameter):
            # A storage that several layers keep is there once.
            storage = tensor.untyped_storage()
            self._kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    def _stepped(self, optimizer: Optimizer, _arguments: object, _named: object) -> None:
        fitted = [one for group in optimizer.param_groups for one in group["params"]]
        state = [value for values in optimizer.state.values() for value in values.values()]
        held = (*fitted, *state, *(one.grad for one in fitted))
        self.fitted_bytes = max(self.fitted_bytes, sum(one.nbytes for one in held if isinstance(one, Tensor)))
        self.kept_bytes = max(self.kept_bytes, sum(self._kept.values()))
        self._kept.clear()
        self.ends_s.append(time.perf_counter())


def _cost(context: Context, steps: _Steps, encode_s: float) -> dict[str, Any]:
    """Estimate seconds and bytes of the whole from those of two steps."""
    recipe, counts, encoder = context.recipe, context.data.num_samples, context.encoders["encoder"]
    measured = recipe.measures if context.protocol == "leave-one-band-out" else context.protocol
    by_fit = measured in _FITTED
    # A trained encoder encodes its test samples at the end; the others come with the epochs.
    of_test_only = recipe.eval_only or (by_fit and recipe.fit.encoder != "frozen")
    num_encoded = counts["test"] if of_test_only else sum(counts.values())
    num_epochs = 0 if not steps.ends_s else recipe.fit.epochs if by_fit else recipe.linear.epochs
    num_in_epoch, num_encoders = counts["train"] + counts["val"], 1 + recipe.compare.untrained
    if context.protocol == "leave-one-band-out":
        # With every band, and without each in three ways.
        num_encoders = 1 + 3 * max(sum(len(one.bands) for one in slots) for slots in context.data.sensors)
    epoch_s = (steps.ends_s[1] - steps.ends_s[0]) / _BATCH if steps.ends_s else 0.0
    slots, tokens = max(map(len, context.data.sensors)), (context.reader.img_size // encoder.config.patch_size) ** 2
    num_sets, num_tokens = (1, tokens * slots) if recipe.fusion == "joint" else (slots, tokens)
    encoding = sequence_bytes(encoder.encoder, num_sets=recipe.input.batch_size * num_sets, num_tokens=num_tokens)
    batch_size = min(recipe.fit.batch_size if by_fit else recipe.linear.batch_size, counts["train"])
    weights = sum(one.nbytes for one in encoder.parameters())
    batch = max(encoding, steps.kept_bytes // _BATCH * batch_size)
    return {
        "device": context.device,
        "num_encoded": num_encoded,
        "encode_s": encode_s,
        "num_epochs": num_epochs,
        "num_in_epoch": num_in_epoch,
        "epoch_s": epoch_s,
        "num_encoders": num_encoders,
        "weights_bytes": weights,
        "fitted_bytes": steps.fitted_bytes,
        "batch_bytes": batch,
        "free_bytes": available_bytes(torch.device(context.device)),
        "total_s": (num_encoded * encode_s + num_epochs * num_in_epoch * epoch_s) * num_encoders,
        "needed_bytes": weights + steps.fitted_bytes + batch,
    }


def dry_run_lines(found: dict[str, Any]) -> list[str]:
    """Tell people what a dry run found."""
    lines = [f"{one['what']:<11} {'' if one['ok'] else 'NOT OK: '}{one['message']}" for one in found["checks"]]
    cost = found["cost"]
    if cost is not None:
        each = _duration(cost["num_in_epoch"] * cost["epoch_s"])
        told = [f"{cost['num_encoded']:,} samples encoded once, {_duration(cost['num_encoded'] * cost['encode_s'])}"]
        told += [f"{cost['num_epochs']} epochs, {each} each"] * bool(cost["num_epochs"])
        told += [f"{cost['num_encoders']} times"] * (cost["num_encoders"] > 1)
        shares = ", ".join(f"{_size(cost[f'{key}_bytes'])} {key}" for key in ("weights", "fitted", "batch"))
        free = "" if cost["free_bytes"] is None else f"; {_size(cost['free_bytes'])} are free"
        lines += [
            f"time        about {_duration(cost['total_s'])} on '{cost['device']}', measured in batches of {_BATCH}, "
            f"so rather less in larger ones: {'; '.join(told)}",
            f"memory      at least {_size(cost['needed_bytes'])}: {shares}{free}",
        ]
    return [*lines, f"nothing was scored; {'the evaluation can start' if found['ok'] else 'see NOT OK'}"]


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:,.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:,.1f} MB"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:,.1f} h"
