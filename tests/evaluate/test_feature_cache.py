"""Features that are kept on the disk."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from anyband.evaluate.features import keep_features, kept_features, tensors_hash

_KEY, _OTHER_KEY = "a" * 64, "b" * 64


def _found(cache: Path, samples: list[int], key: str = _KEY) -> dict[int, list[torch.Tensor]]:
    return {
        int(sample): [tensor[row] for tensor in tensors]
        for positions, tensors in kept_features(cache, key, np.array(samples), {})
        for row, sample in enumerate(positions)
    }


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """Two parts with five samples, one of them in both."""
    cache = tmp_path
    first = np.array([4, 2]), (torch.tensor([[4.0], [2.0]]), torch.tensor([[[40.0]], [[20.0]]]))
    second = np.array([7, 2, 1]), (torch.tensor([[7.0], [2.0], [1.0]]), torch.ones(3, 1, 1))
    for one in (first, second):
        keep_features(cache, _KEY, [one], {})
    return cache


def test_what_was_added_comes_back_sample_by_sample(filled: Path) -> None:
    found = _found(filled, [1, 4, 7])
    assert {sample: one[0].tolist() for sample, one in found.items()} == {1: [1.0], 4: [4.0], 7: [7.0]}
    assert found[4][1].tolist() == [[40.0]]


def test_a_sample_in_two_parts_comes_once(filled: Path) -> None:
    positions = np.concatenate([found for found, _ in kept_features(filled, _KEY, np.arange(10), {})])
    assert sorted(positions.tolist()) == [1, 2, 4, 7]


def test_another_key_has_nothing(filled: Path) -> None:
    assert _found(filled, [1, 2, 4], key=_OTHER_KEY) == {}


def test_nothing_is_found_and_made_where_there_is_no_folder(tmp_path: Path) -> None:
    assert _found(tmp_path / "none", [1]) == {}
    assert not (tmp_path / "none").exists()


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _text(path: Path) -> None:
    path.write_text("not tensors")


@pytest.mark.parametrize("damage", [_truncate, _flip, _empty, _text])
def test_a_damaged_part_counts_as_absent_and_is_replaced(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    cache = tmp_path
    keep_features(cache, _KEY, [(np.array([3]), (torch.tensor([[3.0]]),))], {})
    (path,) = tmp_path.rglob("*.safetensors")
    damage(path)
    assert _found(cache, [3]) == {}
    keep_features(cache, _KEY, [(np.array([3]), (torch.tensor([[3.0]]),))], {})
    assert _found(cache, [3])[3][0].tolist() == [3.0]
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1


def test_a_part_of_another_key_in_the_same_folder_counts_as_absent(tmp_path: Path) -> None:
    cache, other = tmp_path, _OTHER_KEY
    keep_features(cache, other, [(np.array([3]), (torch.tensor([[3.0]]),))], {})
    (path,) = tmp_path.rglob("*.safetensors")
    place = tmp_path / _KEY[:2] / _KEY
    place.mkdir(parents=True)
    path.rename(place / path.name)
    assert _found(cache, [3]) == {}


def test_a_part_without_samples_counts_as_absent(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    place = tmp_path / _KEY[:2] / _KEY
    place.mkdir(parents=True)
    save_file({"level_0": torch.ones(1, 1)}, place / "a.safetensors", metadata={"key": _KEY})
    assert _found(tmp_path, [0]) == {}


def test_equal_weights_have_equal_hashes_and_any_change_another() -> None:
    one, same = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    same.load_state_dict(one.state_dict())
    assert tensors_hash(one.state_dict()) == tensors_hash(same.state_dict())
    with torch.no_grad():
        same.bias[1] += 1e-6
    assert tensors_hash(one.state_dict()) != tensors_hash(same.state_dict())
    assert tensors_hash(one.to(torch.bfloat16).state_dict()) != tensors_hash(same.state_dict())


def test_what_was_said_of_files_is_said_again_where_features_are_kept(tmp_path) -> None:
    found = [(np.array([3]), (torch.tensor([[3.0]]),))]
    keep_features(tmp_path, _KEY, found, {"a.tif": ("x is ignored", "y is taken"), "b.tif": ("x is ignored",)})
    said: dict[str, tuple[str, ...]] = {"c.tif": ("z",)}

    assert len(list(kept_features(tmp_path, _KEY, np.array([3]), said))) == 1
    assert {name: set(notes) for name, notes in said.items()} == {
        "c.tif": {"z"},
        "a.tif": {"x is ignored", "y is taken"},
    }
