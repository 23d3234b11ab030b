"""What a recipe says of image sets. Defaults are those of A²-MAE's released code; see docs/parity.md."""

from dataclasses import dataclass

from anyband.tasks.recipe_checks import need, need_at_least

__all__ = ["SetRecipe"]


@dataclass(frozen=True, kw_only=True)
class SetRecipe:
    """How the images of one footprint become training samples."""

    size: tuple[int, int] = (3, 3)
    """Least and most images of a set. A footprint with fewer still trains, with all that it has."""
    gap_days: float = 0.0
    """Least days between two images of one sensor in a set."""
    needs_two_sources: bool = False
    """Whether footprints that only one sensor sees are left out."""
    metadata_dropout: float = 0.0
    """Share of images whose place, and likewise resolution and date, is hidden in training: so a model learns to do
    without."""

    def __post_init__(self) -> None:
        least, most = self.size
        need(1 <= least <= most, f"data.sets.size needs 1 <= least <= most, found {least} to {most}")
        need_at_least("data.sets.gap_days", self.gap_days, 0)
        need(
            0.0 <= self.metadata_dropout < 1.0,
            f"data.sets.metadata_dropout must be from 0 to under 1, found {self.metadata_dropout:g}",
        )
        need(
            most > 1 or not self.needs_two_sources,
            "data.sets.needs_two_sources asks for images of two sensors, but data.sets.size is at most 1",
        )
