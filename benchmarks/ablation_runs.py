"""The runs of an ablation: each trained, scored and written as one file; what is done is not done again."""

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from ablation_archive import Archive
from ablation_errors import error_scores
from ablation_scores import Score, band_mean_scores, knn_scores_of
from ablation_variants import MAE_EACH, UNTRAINED, TrainOptions, mae_of, recipe_of, variants
from measure import circumstances

from anyband.errors import OutputError
from anyband.files import whole_file
from anyband.models.autoencoder import Autoencoder
from anyband.models.checkpoint import Checkpoint, load_checkpoint
from anyband.pretraining.loop import pretrain
from anyband.pretraining.plan import plan_run
from anyband.pretraining.recipe import PretrainRecipe

__all__ = ["BAND_MEANS", "Ablation"]

BAND_MEANS = "band means"
"""No network: mean and deviation of each band."""

_FRESH = (UNTRAINED, BAND_MEANS)


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """A folder of runs that can be compared: one archive, and one way of training."""

    out: Path
    """The folder."""
    archive: Archive
    """What is trained and scored on."""
    options: TrainOptions
    """What all runs share."""

    def do(self, name: str, *, seed: int) -> bool:
        """Train and score one run, unless that is done.

        Args:
            name: of the variant.
            seed: of the run.

        Returns:
            Whether there was something to do.
        """
        path = self.out / "runs" / f"{name.replace(' ', '_')}_{seed}.json"
        if path.exists():
            return False
        start = time.monotonic()
        networks, losses = self._networks(name, seed)
        trained = time.monotonic()
        scores = self._scores(name, networks)
        result = {
            "variant": name,
            "seed": seed,
            "losses": losses,
            "training_s": round(trained - start, 1),
            "scoring_s": round(time.monotonic() - trained, 1),
            "scores": [asdict(score) for score in scores],
            **circumstances(("torch", "timm")),
        }
        _write_json(path, result)
        return True

    def runs(self) -> Iterator[dict[str, Any]]:
        """Read what is done, in the order of the variants and seeds."""
        found = [json.loads(path.read_text(encoding="utf-8")) for path in (self.out / "runs").glob("*.json")]
        order = [*variants(self.archive.trained), BAND_MEANS]
        yield from sorted(found, key=lambda run: (order.index(run["variant"]), run["seed"]))

    def check_same(self) -> None:
        """See that the folder holds runs of these settings; others could not be compared with them.

        Raises:
            OutputError: it holds others.
        """
        path = self.out / "ablation.json"
        settings = {"archive": self.archive.kind, "store": self.archive.store.fingerprint(), **asdict(self.options)}
        # Where a run is computed is no part of what it is.
        del settings["accelerator"]
        if not path.exists():
            _write_json(path, settings)
            return
        found = json.loads(path.read_text(encoding="utf-8"))
        requested = {key: value for key, value in settings.items() if key in found}
        differ = [f"{key}: {found[key]}, not {value}" for key, value in requested.items() if found[key] != value]
        if differ:
            raise OutputError(
                f"'{self.out}' holds runs of other settings ({'; '.join(differ)}); name another folder, or remove it"
            )

    def _networks(self, name: str, seed: int) -> tuple[dict[str, Checkpoint], dict[str, float | None]]:
        """Train what a variant needs: sensor → the network that reads it, and the loss at the end of each training."""
        if name != MAE_EACH:
            checkpoint, loss = self._trained(name, seed)
            return dict.fromkeys(checkpoint.sensors, checkpoint), {} if name in _FRESH else {name: loss}
        networks, losses = {}, {}
        for sensor in self.archive.trained:
            networks[sensor], losses[mae_of(sensor)] = self._trained(mae_of(sensor), seed)
        return networks, losses

    def _trained(self, name: str, seed: int) -> tuple[Checkpoint, float | None]:
        """Train a network, go on with it, or take it; or make the one that is compared with as it starts."""
        if name in _FRESH:
            plan = plan_run(self._recipe(UNTRAINED, seed), self.archive.store)
            return plan.checkpoint(Autoencoder(plan.config, seed=seed).state_dict(), step=0), None
        folder = self.out / "training" / f"{name}_{seed}"
        result = pretrain(self._recipe(name, seed), data=self.archive.store.path, out=folder)
        return load_checkpoint(result.checkpoint), result.loss

    def _recipe(self, name: str, seed: int) -> PretrainRecipe:
        return recipe_of(name, self.options, seed=seed, sensors=self.archive.trained, unseen=self.archive.unseen)

    def _scores(self, name: str, networks: Mapping[str, Checkpoint]) -> list[Score]:
        first = next(iter(networks.values()))
        if name == BAND_MEANS:
            return band_mean_scores(first, self.archive)
        device = "cpu" if self.options.accelerator == "cpu" or not torch.cuda.is_available() else "cuda"
        errors = [] if name == MAE_EACH else error_scores(first, self.archive, device=device)
        return [*knn_scores_of(networks, self.archive, device=device), *errors]


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as beside:
        beside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
