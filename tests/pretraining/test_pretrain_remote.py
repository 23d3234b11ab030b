"""A run learns from a store on object storage what it learns from the same store in a folder."""

from pathlib import Path

import pytest
import yaml
from chip_stores import upload

from anyband.cli import main
from anyband.data.store import StoreLocation
from anyband.pretraining.cost import read_metrics
from anyband.pretraining.loop import pretrain


@pytest.fixture
def url(pair_store: Path, bucket: str, object_server: str) -> str:
    """Where a copy of the store of pairs is."""
    upload(pair_store, StoreLocation.of(f"{bucket}/store", endpoint=object_server))
    return f"{bucket}/store"


def _losses(run: Path) -> list[tuple[str, str]]:
    """Give loss and validation loss of each row, with all their digits."""
    return [(row["loss"], row["val_loss"]) for row in read_metrics(run / "metrics.csv")]


def test_two_steps_have_the_losses_of_the_folder(pair_store, url, object_server, changed, tmp_path) -> None:
    two = {"steps": 2}
    pretrain(changed(optim=two, run={"log_every_steps": 1}), data=pair_store, out=tmp_path / "here", shown=False)
    far = changed(optim=two, run={"log_every_steps": 1, "endpoint": object_server})
    pretrain(far, data=url, out=tmp_path / "far", shown=False)
    assert len(_losses(tmp_path / "here")) == 2
    assert _losses(tmp_path / "far") == _losses(tmp_path / "here")


def test_a_run_that_was_stopped_goes_on_from_another_place_of_its_store(
    pair_store, url, object_server, changed, tmp_path
) -> None:
    here = changed(optim={"steps": 2})
    pretrain(here, data=pair_store, out=tmp_path / "run", shown=False)
    again = pretrain(
        changed(optim={"steps": 2}, run={"endpoint": object_server}), data=url, out=tmp_path / "run", shown=False
    )
    assert again.already_finished


def test_the_command_takes_a_url_and_an_endpoint(url, object_server, changed, tmp_path) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(changed(optim={"steps": 2}).model_dump(mode="json")))
    words = ["--data", url, "--out", str(tmp_path / "run"), "--quiet", f"run.endpoint={object_server}"]
    assert main(["pretrain", str(tmp_path / "recipe.yaml"), *words]) == 0
    assert (tmp_path / "run" / "encoder.safetensors").is_file()
