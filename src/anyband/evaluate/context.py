"""Everything that a protocol needs: data, encoders, how images are read, and where it runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anyband.encode.encoder import SensorEncoder
from anyband.evaluate.recipe import Protocol, TransferRecipe
from anyband.labelled.samples import TaskData

if TYPE_CHECKING:
    from anyband.evaluate.features import FeatureCache, FusedEncoder
    from anyband.evaluate.inputs import TaskReader

__all__ = ["Context"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Context:
    """What is evaluated, on what, and where."""

    recipe: TransferRecipe
    """All choices."""
    protocol: Protocol
    """What is done."""
    data: TaskData
    """Labelled samples."""
    encoders: Mapping[str, SensorEncoder]
    """By name of the features: `encoder`, and `untrained encoder` where it is compared; on the device."""
    reader: "TaskReader"
    """How the samples become network input."""
    cache: "FeatureCache | None"
    """Where features are kept; None: nowhere."""
    checkpoint_hash: str
    """Of the weights, for the cache."""
    device: str = "cpu"
    """Where networks and heads run."""
    shown: bool = False
    """Show progress bars."""

    def fused(self, name: str) -> "FusedEncoder":
        """Make what turns samples into features with one of the encoders."""
        from anyband.evaluate.features import FusedEncoder

        recipe = self.recipe
        return FusedEncoder(
            self.encoders[name],
            fusion=recipe.fusion,
            pool=recipe.input.pool,
            seed=recipe.seed,
            metadata=recipe.input.metadata,
        )
