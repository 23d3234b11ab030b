"""A sensor with two arrays, one of fewer bands: the checkpoint must know the normalisation of all its bands."""

import numpy as np

from anyband.data.store import ArraySpec, ChipStore
from anyband.data.store_writer import Chip, ChipRecord, write_store
from anyband.models.autoencoder import Autoencoder
from anyband.pretraining.plan import plan_run
from anyband.pretraining.recipe import DataRecipe, ModelRecipe, OptimRecipe, PretrainRecipe
from anyband.sensors.catalogue import get_sensor
from anyband.sensors.sensor import Encoding

_FEW, _MANY, _RADAR = ("B02", "B03"), ("B02", "B03", "B04"), ("VV", "VH")


def _chips():
    images = [("p0", "sentinel2-l2a", _FEW), ("p1", "sentinel2-l2a", _MANY)]
    images += [(place, "sentinel1-grd", _RADAR) for place in ("p0", "p1")]
    for place, sensor, bands in images:
        spec = ArraySpec(
            sensor=sensor,
            bands=bands,
            height=16,
            width=16,
            dtype="int16",
            encoding=dict.fromkeys(bands, Encoding(scale=0.01)),
            nodata=-32768.0,
        )
        record = ChipRecord(place=place, cell="r000c000", sensor=sensor, source_path=place, valid_fraction=1.0)
        yield spec, record, Chip(pixels=np.ones((len(bands), 16, 16), np.int16))


def test_the_checkpoint_has_the_normalisation_of_all_bands(tmp_path) -> None:
    sensors = {name: get_sensor(name) for name in ("sentinel2-l2a", "sentinel1-grd")}
    write_store(tmp_path / "store", _chips(), sensors)
    model = ModelRecipe(
        img_size=32,
        embed_dim=8,
        depth=1,
        num_heads=1,
        decoder_embed_dim=8,
        decoder_depth=1,
        decoder_num_heads=1,
    )
    recipe = PretrainRecipe(
        name="two arrays",
        model=model,
        data=DataRecipe(pairs=(("sentinel2-l2a", "sentinel1-grd"),)),
        optim=OptimRecipe().changed(batch_size=2, steps=1),
    )
    plan = plan_run(recipe, ChipStore.open(tmp_path / "store"))
    checkpoint = plan.checkpoint(Autoencoder(plan.config, seed=0).state_dict(), step=0)
    assert checkpoint.normalisations["sentinel2-l2a"]["bands"] == list(_MANY)
