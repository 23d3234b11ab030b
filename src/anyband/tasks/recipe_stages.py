"""What a recipe says of stages: parts of a run that draw from different footprints, one after the other."""

from collections.abc import Sequence
from dataclasses import dataclass

from anyband.tasks.recipe_checks import need, need_at_least

__all__ = ["StageRecipe", "check_stages"]


@dataclass(frozen=True, kw_only=True)
class StageRecipe:
    """Some epochs over some of the footprints."""

    epochs: int
    """Passes over the footprints of the stage."""
    with_sensors: tuple[str, ...] = ()
    """The stage takes the footprints that show at least one of these sensors; empty: those that no other stage takes.
    Sets are drawn from all images of such a footprint."""

    def __post_init__(self) -> None:
        need_at_least("data.stages.epochs", self.epochs, 1)


def check_stages(stages: Sequence[StageRecipe], *, epochs: int, on_sets: bool) -> None:
    """Refuse stages that do not go with the rest of a recipe.

    Args:
        stages: in their order.
        epochs: of the whole run, as `optim.epochs` says.
        on_sets: whether the recipe trains on sets.

    Raises:
        RecipeError: what is wrong, and what to change.
    """
    need(
        on_sets, "data.stages is for sets of images, and this recipe trains on pairs; write data.sets, or leave it null"
    )
    need(bool(stages), "data.stages is empty; name at least one stage, or write `stages: null` for one of everything")
    total = sum(stage.epochs for stage in stages)
    need(
        total == epochs,
        f"the stages of data.stages have {total} epochs ({' + '.join(str(stage.epochs) for stage in stages)}), but "
        f"optim.epochs is {epochs}; make them equal (optim.steps may shorten the run and keeps their shares)",
    )
    rest = [number for number, stage in enumerate(stages) if not stage.with_sensors]
    need(
        len(rest) < 2,
        f"stages {' and '.join(str(number) for number in rest)} of data.stages (from 0) both name no sensors, and so "
        "both take what no other stage takes; name sensors in all of them but one",
    )
