"""A chip store on object storage is read as one in a folder is, and what is wrong with the place is said."""

import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorstore as ts
from chip_stores import upload

from anyband.data.store import ChipStore, StoreLocation
from anyband.errors import OutputError, StoreError
from anyband.sensors.sensor import BandStatistics

_OPTICAL = "testoptical_8x8"


@pytest.fixture
def local(make_store) -> ChipStore:
    """A store in a folder, with chips that are not wholly valid."""
    return make_store(6, dates=2, holes=True)


@pytest.fixture
def remote(local: ChipStore, bucket: str, object_server: str) -> ChipStore:
    """The same on object storage."""
    upload(local.path, StoreLocation.of(f"{bucket}/deep/store", endpoint=object_server))
    return ChipStore.open(f"{bucket}/deep/store", endpoint=object_server)


@pytest.fixture
def few_retries(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give up soon."""
    from anyband.data import store

    quick = {"max_retries": 2, "initial_delay": "10ms", "max_delay": "10ms"}
    monkeypatch.setattr(store, "_FEW_RETRIES", quick)
    monkeypatch.setattr(store, "_MANY_RETRIES", quick)
    monkeypatch.setattr(store, "_ANSWER_S", 0.5)
    store.reading_context.cache_clear()
    yield
    store.reading_context.cache_clear()


def _remove(place: StoreLocation, key: str) -> None:
    ts.KvStore.open(place.kvstore("")).result().write(key, None).result()


def _free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def test_chips_and_validity_are_those_of_the_folder(local, remote) -> None:
    for name, info in local.arrays.items():
        rows = np.random.default_rng(0).integers(0, info.num_chips, 20)
        chips, valid = remote.read(name, rows)
        wanted_chips, wanted_valid = local.read(name, rows)
        np.testing.assert_array_equal(chips, wanted_chips)
        assert chips.dtype == wanted_chips.dtype
        np.testing.assert_array_equal(valid, wanted_valid)


def test_index_and_normalisation_are_those_of_the_folder(local, remote) -> None:
    assert remote.index.equals(local.index, check_metadata=True)
    for name in local.arrays:
        ours, theirs = (store.normalisation(name, source="catalogue").to_dict() for store in (local, remote))
        assert ours == theirs


def test_fingerprint_is_that_of_the_folder(local, remote) -> None:
    assert remote.fingerprint() == local.fingerprint()


def test_statistics_are_saved_on_object_storage(remote, object_server) -> None:
    saved = {"testoptical": {"B1": BandStatistics(p01=0.1, p99=0.9, mean=0.5, std=0.1)}}
    remote.save_statistics(saved)
    assert ChipStore.open(remote.path, endpoint=object_server).statistics == saved


def test_the_path_of_a_store_on_object_storage_is_its_url(remote, bucket) -> None:
    assert remote.path == f"{bucket}/deep/store"


def test_a_slash_at_the_end_of_a_url_is_nothing(remote, object_server) -> None:
    assert ChipStore.open(f"{remote.path}/", endpoint=object_server).path == remote.path


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_the_endpoint_can_stand_in_the_environment(remote, object_server, monkeypatch, variable: str) -> None:
    monkeypatch.setenv(variable, object_server)
    assert ChipStore.open(remote.path).index.num_rows == remote.index.num_rows


def test_a_whole_bucket_can_be_a_store(local, bucket, object_server) -> None:
    upload(local.path, StoreLocation.of(bucket, endpoint=object_server))
    assert ChipStore.open(bucket, endpoint=object_server).index.num_rows == local.index.num_rows


def test_a_folder_needs_no_endpoint(local) -> None:
    assert ChipStore.open(local.path, endpoint="http://127.0.0.1:9").location == local.location


def test_no_store_says_how_to_put_one_there(bucket, object_server) -> None:
    with pytest.raises(
        StoreError, match=r"there is no chip store at 's3://.*/x'.*copy it there, for example with `aws s3 sync`"
    ):
        ChipStore.open(f"{bucket}/x", endpoint=object_server)


def test_no_bucket_is_said(bucket, object_server) -> None:
    with pytest.raises(
        StoreError, match=r"there is no bucket 'nothing-here' at the server at http://127.* make it, or"
    ):
        ChipStore.open("s3://nothing-here/store", endpoint=object_server)


@pytest.mark.usefixtures("few_retries")
def test_a_server_that_is_not_there_is_named(bucket) -> None:
    address = _free_address()
    with pytest.raises(StoreError, match=rf"the server at {address} can't be reached .*check the URL, and --endpoint"):
        ChipStore.open(f"{bucket}/store", endpoint=address)


@pytest.mark.slow
def test_a_server_that_is_not_there_is_given_up_within_20_s(bucket) -> None:
    started = time.monotonic()
    with pytest.raises(StoreError, match="can't be reached"):
        ChipStore.open(f"{bucket}/store", endpoint=_free_address())
    assert time.monotonic() - started < 20


@pytest.mark.usefixtures("few_retries")
def test_a_server_that_never_answers_is_named(bucket) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(StoreError, match=rf"the server at {address} gave no answer within 0.5 s"):
            ChipStore.open(f"{bucket}/store", endpoint=address)


@pytest.mark.usefixtures("few_retries")
def test_a_server_that_goes_away_is_not_called_damage(local, bucket, object_server, monkeypatch) -> None:
    address = StoreLocation.of(f"{bucket}/store", endpoint=object_server)
    upload(local.path, address)
    store = ChipStore.open(f"{bucket}/store", endpoint=object_server)
    problem = ValueError("ABORTED: All 2 retry attempts failed: CURL error Could not connect to server [curl_code='7']")
    assert str(store.location.trouble(problem)).startswith(f"the server at {object_server} can't be reached")


def test_wrong_credentials_are_said(remote, object_server) -> None:
    _check_credentials(object_server, after=0)
    try:
        with pytest.raises(StoreError, match=r"refuses access to 's3://.*InvalidAccessKeyId.*AWS_ACCESS_KEY_ID and"):
            ChipStore.open(remote.path, endpoint=object_server)
    finally:
        _check_credentials(object_server, after=10**9)


def _check_credentials(object_server: str, *, after: int) -> None:
    """Let the server check credentials after so many more requests."""
    request = urllib.request.Request(
        f"{object_server}/moto-api/reset-auth", str(after).encode(), {"Content-Type": "text/plain"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 200


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda place: _remove(place, "chips/testradar_4x4/c/0/0/0/0"),
            r"is incomplete: 's3://.*c/0/0/0/0' is missing; co",
        ),
        (lambda place: _remove(place, "chips/testradar_4x4/zarr.json"), r"store 's3://.*testradar_4x4' can't be read"),
        (lambda place: _remove(place, "index.parquet"), r"no index: there is no 's3://.*/store/index.parquet'"),
        (lambda place: place.write("index.parquet", b"PAR1"), r"the index of the chip store can't be read: 's3://"),
        (lambda place: place.write("store.json", b"{"), r"'s3://.*/store/store.json' is broken"),
        (
            lambda place: _remove(place, "store.json"),
            r"store 's3://.*/store' is not whole .*; copy it again, 'store.json' last",
        ),
    ],
    ids=["no shard", "no array", "no index", "broken index", "broken header", "no header"],
)
def test_a_store_cut_short_is_said(remote, object_server, damage: Callable[[StoreLocation], None], message) -> None:
    damage(remote.location)
    with pytest.raises(StoreError, match=message):
        ChipStore.open(remote.path, endpoint=object_server)


@pytest.mark.parametrize("kept", [0, 10, 60])
def test_a_shard_cut_short_is_noticed_when_it_is_read(remote, kept: int) -> None:
    key = f"chips/{_OPTICAL}/c/0/0/0/0"
    remote.location.write(key, remote.location.read(key)[:kept])
    with pytest.raises(StoreError, match=r"store 's3://.* can't be read: .*; copy it again"):
        remote.read(_OPTICAL, [0])


def test_a_shard_that_is_gone_after_opening_is_not_read_as_zeros(remote) -> None:
    _remove(remote.location, f"chips/{_OPTICAL}/c/0/0/0/0")
    with pytest.raises(StoreError, match="is missing"):
        remote.read(_OPTICAL, [0])


@pytest.mark.parametrize(
    ("where", "endpoint", "message"),
    [
        ("http://a/b", None, "'http://a/b' is no place of a chip store; a folder is, or s3://bucket/path"),
        ("s3://", None, "'s3://' is no place of a chip store"),
        ("s3:///path", None, "is no place of a chip store"),
        (Path("s3://bucket/store"), None, "'s3:/bucket/store' was a URL and is a path now"),
        (
            "s3://bucket/store",
            "127.0.0.1:9000",
            "endpoint '127.0.0.1:9000' is no address such as http://127.0.0.1:9000",
        ),
        (
            "gs://bucket/store",
            "http://127.0.0.1:1",
            r"TENSORSTORE_GCS_HTTP_URL says \(not set\); for endpoint 'http://127",
        ),
    ],
)
def test_a_place_that_is_none_is_refused(monkeypatch, where, endpoint, message: str) -> None:
    monkeypatch.delenv("TENSORSTORE_GCS_HTTP_URL", raising=False)
    with pytest.raises(StoreError, match=message):
        StoreLocation.of(where, endpoint=endpoint)


def test_google_storage_takes_its_address_from_tensorstore(monkeypatch) -> None:
    monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", "http://127.0.0.1:1")
    location = StoreLocation.of("gs://bucket/store", endpoint="http://127.0.0.1:1")
    assert location.kvstore("store.json") == {"driver": "gcs", "bucket": "bucket", "path": "store/store.json"}
    assert location.server == "the server at http://127.0.0.1:1"


def test_without_an_endpoint_amazon_finds_the_region(monkeypatch) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID"):
        monkeypatch.delenv(name, raising=False)
    spec = StoreLocation.of("s3://bucket/a/b").kvstore("chips/x")
    assert spec == {"driver": "s3", "bucket": "bucket", "path": "a/b/chips/x"}


def test_a_key_that_cannot_be_written_is_said(bucket, object_server) -> None:
    with pytest.raises(OutputError, match=r"cannot write 's3://nothing-here/x/store.json': there is no bucket"):
        StoreLocation.of("s3://nothing-here/x", endpoint=object_server).write("store.json", b"{}")


def test_a_part_of_a_folder_holds_no_key_of_another_with_a_longer_name(tmp_path) -> None:
    for name in ("a", "ab"):
        (tmp_path / "chips" / name).mkdir(parents=True)
        (tmp_path / "chips" / name / "zarr.json").write_text("{}")
    part = ts.KvStore.open(StoreLocation.of(tmp_path).kvstore("chips/a/")).result()
    assert part.list().result() == [b"zarr.json"]
