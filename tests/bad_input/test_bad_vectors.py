"""Recorded vectors that are none, or do not go with the checkpoint."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

_FILE = "HERE/vectors.safetensors"

Tensors = dict[str, Tensor]


@pytest.fixture
def verify(golden: Path) -> tuple[str, ...]:
    return "verify", str(golden / "smarties" / "checkpoint.safetensors"), _FILE


@pytest.fixture
def write(golden: Path, tmp_path: Path) -> Callable[..., None]:
    """Write the golden vectors with other entries or another header."""

    def make(change: Callable[[Tensors], object] = lambda entries: None, header: dict[str, str] | None = None) -> None:
        source = golden / "smarties" / "vectors.safetensors"
        with safe_open(source, "pt") as file:
            metadata = dict(file.metadata() or {})
        entries = load_file(source)
        change(entries)
        whole = {name: entry.contiguous() for name, entry in entries.items()}
        save_file(whole, tmp_path / "vectors.safetensors", metadata=metadata | (header or {}))

    return make


def _keep_only(kind: str) -> Callable[[Tensors], object]:
    def change(entries: Tensors) -> None:
        for name in [name for name in entries if not name.endswith(kind)]:
            del entries[name]

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda entries: entries.clear(), "has no recorded images; it needs entries such as 's2_l2a.image'"),
        (_keep_only(".image"), "has images but no recorded outputs to compare"),
        (lambda entries: entries.update(colour=torch.zeros(1)), "has an entry 'colour', whose kind is not known"),
        (lambda entries: entries.update({"rgb.clss": torch.zeros(1)}), "did you mean 'cls'?"),
        (lambda entries: entries.pop("rgb.image"), "was recorded, but 'rgb.image' is missing"),
        (lambda entries: entries.pop("s2_s1.masked"), "was recorded, but 's2_s1.masked' is missing"),
        (lambda entries: entries.update({"rgb.image": torch.zeros(2, 3, 64)}), "it must be batch, band, row, column"),
        (lambda entries: entries.update({"rgb.image": torch.zeros(2, 3, 64, 50)}), "must be multiples of 16"),
        (lambda entries: entries.update({"rgb.image": torch.zeros(2, 3, 8, 8)}), "images of 8 × 8 pixels"),
        (lambda entries: entries.update({"rgb.image": torch.zeros(2, 4, 64, 64)}), "has 4 bands, 'rgb' has 3"),
        (lambda entries: entries.update({"rgb.cls": torch.zeros(2, 5)}), "shape (2, 5), the checkpoint gives (2, 64)"),
        (lambda entries: entries["s2_s1.ids_keep"].add_(1000), "must name some, not all, positions from 0 to 15"),
        (lambda entries: entries["s2_s1.ids_keep"].zero_(), "is not all that 's2_s1.ids_keep' leaves out"),
        (lambda entries: entries.update({"s2_s1.ids_keep": torch.zeros(4)}), "must be batch × positions"),
    ],
)  # fmt: skip
def test_wrong_entries_are_refused(refused, verify, write, change: Callable[[Tensors], object], message: str) -> None:
    write(change)
    assert message in refused(*verify)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("embed_dim", "65", "the vectors were recorded with embed_dim 65, the checkpoint has 64"),
        ("embed_dim", "nan", "the vectors were recorded with embed_dim nan"),
        ("embed_dim", "wide", "has an architecture that is not all numbers"),
        ("bands.rgb", "a,b", "the bands of 'rgb.image' are not known|band 'a' is not in sensor 'maxar-rgb'"),
        ("bands.rgb", "[1", "in the header of the vectors is no list of names"),
        ("bands.rgb", "[" * 100_000, "in the header of the vectors is no list of names"),
    ],
)
def test_a_wrong_header_is_refused(refused, verify, write, key: str, value: str, message: str) -> None:
    write(header={key: value})
    found = refused(*verify)
    assert any(part in found for part in message.split("|"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a whole safetensors file (0 bytes"),
        (b"PK\x03\x04 and more", "is a pickle or a PyTorch archive"),
        (None, "vectors.safetensors' does not exist"),
    ],
)
def test_a_file_that_is_none_is_refused(refused, verify, tmp_path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "vectors.safetensors").write_bytes(content)
    assert message in refused(*verify)


@pytest.mark.parametrize("tolerance", ["0", "-1", "nan", "inf"])
def test_a_tolerance_that_can_not_be_is_refused(refused, verify, write, tolerance: str) -> None:
    write()
    assert f"the tolerance must be over 0, found {float(tolerance):g}" in refused(*verify, f"--tolerance={tolerance}")


def test_outputs_that_are_no_numbers_fail_and_are_no_error(verify, write, tmp_path, capsys) -> None:
    from anyband.cli import main

    write(lambda entries: entries["rgb.cls"].fill_(float("nan")))
    assert main([word.replace("HERE", str(tmp_path)) for word in verify]) == 1
    assert "1 of 21 entries FAIL" in capsys.readouterr().out
