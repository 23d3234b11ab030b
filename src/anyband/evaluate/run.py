"""An evaluation from its recipe to what was found: the one way in for every protocol."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from anyband.encode.encoder import SensorEncoder, load_encoder
from anyband.encode.input_spec import checkpoint_sensors
from anyband.errors import InputError, OutputError, RecipeError
from anyband.evaluate.context import Context
from anyband.evaluate.predictions import Result
from anyband.evaluate.recipe import PROTOCOLS, Protocol, TransferRecipe
from anyband.files import check_writable
from anyband.labelled.open import open_task_data
from anyband.labelled.samples import TaskData, TaskKind
from anyband.models.checkpoint import checkpoint_hash
from anyband.models.weight_files import locate

__all__ = ["RunOptions", "check_data", "check_kind", "evaluate", "make_context", "run_protocol"]

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


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Where an evaluation runs, and what it may use."""

    device: str = "cpu"
    """Where networks and heads run."""
    cache: Path | None = None
    """Folder where features are kept for the next probe; None: nowhere."""
    download: bool = False
    """Whether a named data set may be fetched."""
    shown: bool = False
    """Show progress bars."""


def evaluate(
    recipe: TransferRecipe, protocol: Protocol, options: RunOptions | None = None
) -> tuple[Context, list[Result]]:
    """Do an evaluation.

    Args:
        recipe: with the checkpoint.
        protocol: what is done.
        options: where.

    Returns:
        What it was done with, and what was found: the encoder's result first, then what it is compared with.

    Raises:
        RecipeError: the protocol is for another kind of data, or there is no checkpoint.
        ManifestError: the data are not there, or a table of them is wrong.
        InputError: parts, classes or samples that can't be used.
        CheckpointError: no such checkpoint.
    """
    context = make_context(recipe, protocol, options)
    return context, run_protocol(context)


def make_context(recipe: TransferRecipe, protocol: Protocol, options: RunOptions | None = None) -> Context:
    """Open data and checkpoint, and see that they go with the protocol; nothing is fitted yet. See `evaluate`."""
    from anyband.evaluate.features import FeatureCache
    from anyband.evaluate.inputs import TaskReader

    options = options or RunOptions()
    if recipe.checkpoint is None:
        raise RecipeError("an evaluation needs a checkpoint: name it in the recipe or with --checkpoint")
    _check_cache(options.cache)
    if recipe.protocol not in (None, protocol):
        raise RecipeError(f"recipe '{recipe.name}' is for '{recipe.protocol}', and '{protocol}' was asked for")
    check_kind(recipe.data.kind, protocol)
    encoder = _encoder(recipe, options)
    known = checkpoint_sensors(encoder.checkpoint)
    data = open_task_data(recipe.data, seed=recipe.seed, download=options.download, sensors=known)
    check_data(data, recipe, protocol)
    encoders = {"encoder": encoder}
    if recipe.compare.untrained and protocol != "leave-one-band-out":
        encoders["untrained encoder"] = encoder.untrained(seed=recipe.seed)
    return Context(
        recipe=recipe,
        protocol=protocol,
        data=data,
        encoders=encoders,
        reader=TaskReader(encoder, data, recipe),
        cache=None if options.cache is None else FeatureCache(options.cache),
        checkpoint_hash=checkpoint_hash(locate(recipe.checkpoint)),
        device=options.device,
        shown=options.shown,
    )


def run_protocol(context: Context) -> list[Result]:
    """Do what the protocol says, for each encoder; then the baseline, where it is asked for."""
    if not context.recipe.compare.baseline or context.protocol == "leave-one-band-out":
        return _protocol(context)(context)
    from anyband.evaluate.baselines import baselines, keep_with_encoders, missing_baselines

    keep_with_encoders(context)
    first, *others = _protocol(context)(context)
    first = replace(first, notes=(*first.notes, *missing_baselines(context)))
    return [first, *others, *baselines(context, pictured=first.maps)]


def _check_cache(folder: Path | None) -> None:
    """See before any work that features can be kept."""
    if folder is None:
        return
    try:
        check_writable(folder)
    except OutputError as problem:
        raise OutputError(
            f"{problem}; features are kept there: name a folder by --cache, or use --no-cache"
        ) from problem


def _encoder(recipe: TransferRecipe, options: RunOptions) -> SensorEncoder:
    assert recipe.checkpoint is not None
    rules = recipe.input
    return load_encoder(
        recipe.checkpoint,
        device=options.device,
        unseen=rules.unseen,
        min_support=rules.min_support,
        out_of_span=rules.out_of_span,
    )


def _protocol(context: Context) -> Callable[[Context], list[Result]]:
    # Late: each brings its libraries.
    match context.protocol:
        case "knn":
            from anyband.evaluate.probes import knn

            return knn
        case "linear":
            from anyband.evaluate.probes import linear

            return linear
        case "finetune":
            from anyband.evaluate.finetune import finetune

            return finetune
        case "segment":
            from anyband.evaluate.maps import segment

            return segment
        case "change":
            from anyband.evaluate.maps import change

            return change
        case "regress":
            return _regress
        case "leave-one-band-out":
            from anyband.evaluate.leave_one_band_out import leave_one_band_out

            return leave_one_band_out


def _regress(context: Context) -> list[Result]:
    if context.data.is_dense:
        from anyband.evaluate.maps import regress_maps

        return regress_maps(context)
    from anyband.evaluate.finetune import finetune

    return finetune(context)


def check_kind(kind: TaskKind, protocol: Protocol) -> None:
    """See that a protocol is for what is predicted.

    Raises:
        RecipeError: it is for other kinds; they are named.
    """
    if kind not in _KINDS[protocol]:
        raise RecipeError(
            f"'{protocol}' ({PROTOCOLS[protocol]}) is for data of kind {' or '.join(_KINDS[protocol])}, and these are "
            f"of kind '{kind}'; take {_FOR_KIND[kind]}, or say with data.kind what is predicted"
        )


def check_data(data: TaskData, recipe: TransferRecipe, protocol: Protocol) -> None:
    """See that samples have as many images, and of such sensors, as protocol and fusion need.

    Raises:
        RecipeError: the protocol, or what leave-one-band-out measures, is for other kinds of data, or takes no scales.
        InputError: too few images, too many, or of differing sensors.
    """
    check_kind(data.kind, protocol)
    _check_measure(data.kind, recipe, protocol)
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
            f"samples of '{data.name}' have {counts[-1]} images; say with fusion (stack, concat, mixup_concat or "
            "joint) how they become one feature"
        )
    if recipe.fusion == "mixup_concat" and counts != [2]:
        raise InputError(
            f"fusion 'mixup_concat' exchanges tokens of two images, and samples of '{data.name}' have "
            f"{' or '.join(map(str, counts))}"
        )
    if recipe.fusion in ("stack", "concat") and len({tuple(s.name for s in slots) for slots in data.sensors}) > 1:
        raise InputError(
            f"fusion '{recipe.fusion}' puts images side by side, so every sample needs the same sensors in the same "
            "order; take fusion 'joint', or samples of one kind"
        )


def _check_measure(kind: TaskKind, recipe: TransferRecipe, protocol: Protocol) -> None:
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
