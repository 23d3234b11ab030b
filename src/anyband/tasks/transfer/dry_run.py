"""A dry run: recipe, checkpoint, data and shapes are checked, time and memory estimated, and nothing is scored."""

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from anyband.data.chip_index import SPLITS
from anyband.data.supervised.opening import open_task_data
from anyband.data.supervised.records import TaskData
from anyband.errors import AnybandError, CheckpointError, RecipeError
from anyband.models.autoencoder import AutoencoderConfig
from anyband.models.checkpoint import Checkpoint, load_checkpoint, state_of
from anyband.models.decoder import DecoderConfig
from anyband.models.encoder import EncoderConfig
from anyband.models.smarties import Smarties
from anyband.sensors.assignment import AssignmentRules, load_ranges
from anyband.tasks.features import SensorEncoder, find_device
from anyband.tasks.readings import checkpoint_sensors
from anyband.tasks.transfer.cost import Cost, cost_of
from anyband.tasks.transfer.inputs import TaskReader
from anyband.tasks.transfer.recipe import PROTOCOLS, Protocol, TransferRecipe
from anyband.tasks.transfer.rehearsal import NUM_REHEARSED, rehearse
from anyband.tasks.transfer.run import RunOptions, check_data, check_kind
from anyband.tasks.transfer.setting import Setting

__all__ = ["Check", "DryRun", "dry_run"]

_Made = TypeVar("_Made")

# Source: the published SMARTIES v1 weights: width, blocks and heads of ViT-B and ViT-L (arXiv 2010.11929, table 1).
_SIZES = {"b": ("ViT-B", 768, 12, 12), "l": ("ViT-L", 1024, 24, 16)}
_SIZE_IN_NAME = re.compile(r"vit[-_]?([bl])", re.IGNORECASE)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_WEIGHTS = "model.safetensors"
_IMG_SIZE, _PATCH_SIZE = 224, 16


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    what: str
    """`recipe`, `checkpoint`, `data`, `shapes` or `memory`."""
    ok: bool
    """Whether the evaluation can go on with it."""
    said: str
    """What was found, or what is wrong and what to do."""


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """What an evaluation would meet."""

    recipe: str
    """Its name."""
    protocol: Protocol
    """What would be done."""
    checks: tuple[Check, ...]
    """In the order in which they were made."""
    cost: Cost | None
    """Time and memory; None: nothing could be measured."""

    @property
    def ok(self) -> bool:
        """Whether nothing is in the way."""
        return all(check.ok for check in self.checks)

    @property
    def lines(self) -> tuple[str, ...]:
        """What was found, for people."""
        checks = [f"{check.what:<11} {'' if check.ok else 'NOT OK: '}{check.said}" for check in self.checks]
        costs = [] if self.cost is None else [f"{what:<11} {said}" for what, said in self.cost.said()]
        end = "nothing was scored; the evaluation can start" if self.ok else "nothing was scored; see NOT OK"
        return (*checks, *costs, end)

    def to_dict(self) -> dict[str, Any]:
        """Give the same as plain JSON values."""
        return {
            "recipe": self.recipe,
            "protocol": self.protocol,
            "ok": self.ok,
            "checks": [asdict(check) for check in self.checks],
            "cost": None if self.cost is None else self.cost.to_dict(),
        }


def dry_run(recipe: TransferRecipe, *, protocol: Protocol, options: RunOptions | None = None) -> DryRun:
    """Check all that an evaluation needs, do its protocol on two samples, and estimate what the whole costs.

    Every check is made that can be, so one wrong thing does not hide another. Nothing is downloaded: weights of the
    hub that are not here are stood for by random ones of the size in their name, and that is said.

    Args:
        recipe: of the evaluation.
        protocol: what is done.
        options: where it would run.

    Raises:
        InputError: there is no such device.
    """
    options = options or RunOptions()
    find_device(options.device)
    checks: list[Check] = []
    _look(checks, "recipe", lambda: (None, _checked_recipe(recipe, protocol)))
    encoder = _look(checks, "checkpoint", lambda: _encoder(recipe, options))
    data = _look(checks, "data", lambda: _data(recipe, protocol, encoder))
    if encoder is None or data is None or not checks[0].ok:
        return DryRun(recipe=recipe.name, protocol=protocol, checks=tuple(checks), cost=None)
    cost = _look(checks, "shapes", lambda: _rehearsed(recipe, protocol, options, encoder, data))
    if cost is not None and cost.advice:
        checks.append(Check(what="memory", ok=False, said=cost.advice))
    return DryRun(recipe=recipe.name, protocol=protocol, checks=tuple(checks), cost=cost)


def _look(checks: list[Check], what: str, make: Callable[[], tuple[_Made, str]]) -> _Made | None:
    """Make something and note what was found, or why it can't be made."""
    try:
        made, said = make()
    except AnybandError as problem:
        checks.append(Check(what=what, ok=False, said=str(problem)))
        return None
    except torch.OutOfMemoryError as problem:
        reason = str(problem).partition("\n")[0]
        checks.append(Check(what=what, ok=False, said=f"two samples do not fit the memory: {reason}"))
        return None
    checks.append(Check(what=what, ok=True, said=said))
    return made


def _checked_recipe(recipe: TransferRecipe, protocol: Protocol) -> str:
    if recipe.protocol not in (None, protocol):
        raise RecipeError(f"recipe '{recipe.name}' is for '{recipe.protocol}', and '{protocol}' was asked for")
    check_kind(recipe.data.kind, protocol)
    return f"{recipe.name}: {protocol}, {PROTOCOLS[protocol]}"


def _encoder(recipe: TransferRecipe, options: RunOptions) -> tuple[SensorEncoder, str]:
    """Load the encoder, or make one of the size that the name of the weights tells."""
    name = recipe.checkpoint
    if name is None:
        raise RecipeError("an evaluation needs a checkpoint: name it in the recipe or with --checkpoint")
    path, rules = _at_hand(name), recipe.input
    checkpoint, said = _stand_in(name) if path is None else (load_checkpoint(path), "")
    encoder = SensorEncoder(
        checkpoint,
        rules=AssignmentRules(unseen=rules.unseen, min_support=rules.min_support, out_of_span=rules.out_of_span),
    )
    config = encoder.config
    size = f"{config.depth} blocks, {config.embed_dim} wide, {config.img_size} pixels, patches of {config.patch_size}"
    return encoder.to(options.device).eval(), f"{name}: {said or size}"


def _at_hand(name: str) -> Path | None:
    """Find weights on this machine; None: a hub id whose file has not been fetched."""
    path = Path(name)
    if path.exists() or not _HUB_ID.fullmatch(name) or path.suffix:
        return path
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    found = try_to_load_from_cache(name, _WEIGHTS)
    return Path(found) if isinstance(found, str) else None


def _stand_in(name: str) -> tuple[Checkpoint, str]:
    size = _SIZE_IN_NAME.search(name)
    if size is None:
        raise CheckpointError(
            f"'{name}' is not on this machine, and its name tells no size to check with; fetch it, or give a file"
        )
    title, width, depth, heads = _SIZES[size[1].lower()]
    ranges = load_ranges("smarties_v1")
    encoder = EncoderConfig(
        img_size=_IMG_SIZE,
        patch_size=_PATCH_SIZE,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        num_ranges=len(ranges.ranges),
    )
    # The decoder is not used.
    decoder = DecoderConfig(decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=1)
    config = AutoencoderConfig(encoder=encoder, decoder=decoder)
    checkpoint = Checkpoint(config=config, state=state_of(Smarties(config, seed=0)), ranges=ranges)
    return checkpoint, f"not on this machine, and a dry run fetches nothing; a {title} of random weights stands in"


def _data(recipe: TransferRecipe, protocol: Protocol, encoder: SensorEncoder | None) -> tuple[TaskData, str]:
    known = {} if encoder is None else checkpoint_sensors(encoder.checkpoint)
    data = open_task_data(recipe.data, seed=recipe.seed, download=False, sensors=known)
    check_data(data, recipe, protocol)
    parts = ", ".join(f"{data.num_samples[part]:,} {part}" for part in SPLITS)
    kinds = dict.fromkeys(data.sensors)
    sensors = " or ".join(" + ".join(f"{one.name} ({len(one.bands)})" for one in slots) for slots in kinds)
    classes = f"; {len(data.classes)} classes" if data.classes else ""
    notes = "".join(f"; {note}" for note in data.notes)
    return data, f"{data.name}: {parts}{classes}; sensors (bands): {sensors}{notes}"


def _rehearsed(
    recipe: TransferRecipe, protocol: Protocol, options: RunOptions, encoder: SensorEncoder, data: TaskData
) -> tuple[Cost, str]:
    setting = Setting(
        recipe=recipe,
        protocol=protocol,
        data=data,
        encoders={"encoder": encoder},
        reader=TaskReader(encoder, data, recipe),
        cache=None,
        checkpoint_hash="",
        device=options.device,
        shown=options.shown,
    )
    rehearsal = rehearse(setting)
    said = (
        f"{NUM_REHEARSED} training samples went through all of it, and one of val and test was read; "
        f"{'; '.join(rehearsal.shapes)}; {rehearsal.outcome.width} numbers "
        f"{'a pixel' if setting.data.is_dense else 'a sample'}"
    )
    return cost_of(setting, rehearsal), said
