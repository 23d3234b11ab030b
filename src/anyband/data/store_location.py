"""Where a chip store is: a folder, or a place on object storage; and how its keys are read, listed and written.

A store at `s3://bucket/path` or `gs://bucket/path` has the same keys as one in a folder, by TensorStore's drivers.
Credentials are found as TensorStore finds them: environment, profile, machine role, or none.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import tensorstore as ts

from anyband.errors import OutputError, StoreError
from anyband.files import whole_file

__all__ = ["TENSORSTORE_ERRORS", "StoreLocation", "reading_context"]

# What TensorStore raises: builtins, many of them; a wait that is over is a TimeoutError, which is an OSError.
TENSORSTORE_ERRORS = (ValueError, OSError, KeyError, RuntimeError, NotImplementedError)

_DRIVERS = {"s3": "s3", "gs": "gcs"}
_PROVIDERS = {"s3": "Amazon S3", "gs": "Google Cloud Storage"}

# chosen: a small object that is not here by then will not come; names the server instead of waiting for minutes.
_ANSWER_S = 30.0
# chosen: about 10 s in all, so that a wrong address is said soon; TensorStore's own 32 attempts take 15 minutes.
_FEW_RETRIES = {"max_retries": 5, "initial_delay": "0.5s", "max_delay": "4s"}
# chosen: about 3 minutes in all, so that a run outlives a server that starts again.
_MANY_RETRIES = {"max_retries": 10, "initial_delay": "1s", "max_delay": "32s"}
# chosen: a batch of 64 pairs, each chip a request; where an answer takes 30 ms, TensorStore's own 32 read 1,000 chips
# a second at most.
_REQUESTS = 128

_REFUSED = re.compile(
    r"PERMISSION_DENIED|UNAUTHENTICATED|AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|Forbidden|ExpiredToken"
)


@dataclass(frozen=True, kw_only=True)
class StoreLocation:
    """A folder, or a place on object storage. Its text is the path or URL, for messages."""

    root: Path | str
    """Folder; or URL, `s3://bucket/path` or `gs://bucket/path`, without a slash at its end."""
    endpoint: str | None = None
    """Address of an S3-compatible server; None: the provider's own."""

    @classmethod
    def of(cls, where: Path | str, *, endpoint: str | None = None) -> "StoreLocation":
        """Say where a store is. The endpoint of an S3-compatible server is, by default, what AWS_ENDPOINT_URL says, or
        the provider's own; a folder has none. `StoreError` where URL and endpoint are none or do not fit."""
        text = str(where)
        if isinstance(where, Path) and re.match(r"(s3|gs):/", text):
            raise StoreError(f"'{text}' was a URL and is a path now, with one slash less; give it as text")
        if "://" not in text:
            return cls(root=Path(where))
        found = re.fullmatch(r"(s3|gs)://([^/]+)(/.*)?", text)
        if not found:
            raise StoreError(
                f"'{text}' is no place of a chip store; a folder is, or s3://bucket/path or gs://bucket/path"
            )
        if found[1] == "gs":
            _check_google_endpoint(endpoint)
            endpoint = None
        else:
            endpoint = endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None
        if endpoint is not None and not re.match(r"https?://[^/]", endpoint):
            raise StoreError(f"endpoint '{endpoint}' is no address such as http://127.0.0.1:9000")
        return cls(root=text.rstrip("/"), endpoint=endpoint and endpoint.rstrip("/"))

    def __str__(self) -> str:
        return str(self.root)

    @property
    def is_remote(self) -> bool:
        """Whether it is on object storage."""
        return isinstance(self.root, str)

    @property
    def server(self) -> str:
        """Who keeps it, for messages."""
        if self.endpoint is not None:
            return f"the server at {self.endpoint}"
        scheme = str(self.root).split("://", 1)[0]
        address = os.environ.get("TENSORSTORE_GCS_HTTP_URL") if scheme == "gs" else None
        return f"the server at {address}" if address else _PROVIDERS[scheme]

    def file(self, key: str) -> Path | str:
        """Name a key of the store for messages."""
        return self.root / key if isinstance(self.root, Path) else f"{self.root}/{key}"

    def kvstore(self, key: str) -> dict[str, Any]:
        """Make TensorStore's spec of a key of the store, such as `chips/ARRAY`; with a slash at its end all below."""
        if isinstance(self.root, Path):
            return {"driver": "file", "path": str(self.root / key) + "/" * key.endswith("/")}
        scheme, rest = self.root.split("://", 1)
        bucket, _, path = rest.partition("/")
        spec: dict[str, Any] = {"driver": _DRIVERS[scheme], "bucket": bucket, "path": f"{path}/{key}".lstrip("/")}
        if scheme == "s3" and os.environ.get("AWS_ACCESS_KEY_ID"):
            # The first that TensorStore would try; asked for by name it does not complain of profiles that are missing.
            spec["aws_credentials"] = {"type": "environment"}
        if self.endpoint is not None:
            # With an endpoint requests go to ENDPOINT/BUCKET and need a region to be signed for. Servers of one's own
            # take any; Source: names and default of the AWS SDKs.
            region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
            spec |= {"endpoint": self.endpoint, "aws_region": region}
        return spec

    def read(self, key: str) -> bytes | None:
        """Read a key whole; None where it is missing. `StoreError` where object storage refuses or can't be reached,
        `OSError` where a file can't be read."""
        if isinstance(self.root, Path):
            file = self.root / key
            return file.read_bytes() if file.is_file() else None
        is_small = key.endswith(".json")
        result = self._answer(lambda store: store.read(key), within_s=_ANSWER_S if is_small else None)
        return None if result.state == "missing" else bytes(result.value)

    def list_keys(self, prefix: str = "") -> set[str]:
        """List the keys that start with `prefix`, in one go; `StoreError` as `read`, and for no bucket."""
        if isinstance(self.root, Path):
            found = (file for file in (self.root / prefix).rglob("*") if file.is_file())
            # What a killed `write` leaves beside is no key.
            return {file.relative_to(self.root).as_posix() for file in found if ".partial." not in file.name}
        wanted = ts.KvStore.KeyRange(prefix, f"{prefix}\U0010ffff") if prefix else None
        return {key.decode() for key in self._answer(lambda store: store.list(wanted))}

    def missing(self, keys: Iterable[str]) -> str | None:
        """Give the first of some keys that is not there; None where all are."""
        if isinstance(self.root, Path):
            return next((key for key in keys if not (self.root / key).is_file()), None)
        found = self.list_keys("chips/")
        return next((key for key in keys if key not in found), None)

    def write(self, key: str, content: bytes) -> None:
        """Write a key whole: it appears at once or not at all (`OutputError`)."""
        if isinstance(self.root, Path):
            with whole_file(self.root / key) as beside:
                beside.write_bytes(content)
            return
        try:
            ts.KvStore.open(self.kvstore(""), context=_asking_context()).result().write(key, content).result()
        except TENSORSTORE_ERRORS as problem:
            found = self.trouble(problem) or str(problem).split(" [")[0]
            raise OutputError(f"cannot write '{self.file(key)}': {found}") from problem

    def trouble(self, problem: Exception) -> str | None:
        """Say what is the matter with the object storage; None where it is not to blame, but the content is."""
        if not self.is_remote:
            return None
        text = str(problem).split(" [")[0]
        if isinstance(problem, TimeoutError):
            return f"{self.server} gave no answer within {_ANSWER_S:g} s (asked for '{self}'); {self._check_address}"
        if "NoSuchBucket" in text or "bucket does not exist" in text:
            missing = f"there is no bucket '{str(self.root).split('/')[2]}' at {self.server}"
            return f"{missing} (asked for '{self}'); make it, or {self._check_address}"
        if refused := _REFUSED.search(str(problem)):
            return (
                f"{self.server} refuses access to '{self}' ({refused[0]}: {text}); give credentials that may: "
                f"{self._credentials}"
            )
        if "CURL error" in text or "retry attempts" in text or "UNAVAILABLE" in text or "aws_region" in text:
            return f"{self.server} can't be reached (asked for '{self}': {text}); {self._check_address}"
        return None

    @property
    def _check_address(self) -> str:
        if str(self.root).startswith("gs://"):
            return "check the URL, and TENSORSTORE_GCS_HTTP_URL where the server is not Google's"
        return "check the URL, and --endpoint, run.endpoint or AWS_ENDPOINT_URL where the server is not Amazon's"

    @property
    def _credentials(self) -> str:
        if str(self.root).startswith("gs://"):
            return "GOOGLE_APPLICATION_CREDENTIALS, or `gcloud auth application-default login`"
        return "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile named by AWS_PROFILE"

    def _answer(self, ask: Any, *, within_s: float | None = None) -> Any:
        """Ask the object storage and wait; its errors become ours."""
        try:
            store = ts.KvStore.open(self.kvstore(""), context=_asking_context()).result()
            return ask(store).result(timeout=within_s)
        except TENSORSTORE_ERRORS as problem:
            found = self.trouble(problem) or f"'{self}' can't be read: {str(problem).split(' [')[0]}"
            raise StoreError(found) from problem


@cache
def reading_context() -> ts.Context:
    """Give what all arrays share: so many requests in flight, and patience with a server."""
    limit = {
        # Who sets the variable decides.
        driver: "shared" if f"TENSORSTORE_{driver.upper()}_REQUEST_CONCURRENCY" in os.environ else _REQUESTS
        for driver in _DRIVERS.values()
    }
    requests = {f"{driver}_request_concurrency": {"limit": number} for driver, number in limit.items()}
    return ts.Context({**requests, **_retries(_MANY_RETRIES)})


@cache
def _asking_context() -> ts.Context:
    """As `reading_context`, with less patience: for whole keys, which are asked for first."""
    return ts.Context(_retries(_FEW_RETRIES), reading_context())


def _retries(number: dict[str, Any]) -> dict[str, Any]:
    return {f"{driver}_request_retries": number for driver in _DRIVERS.values()}


def _check_google_endpoint(endpoint: str | None) -> None:
    address = os.environ.get("TENSORSTORE_GCS_HTTP_URL")
    if endpoint is not None and endpoint != address:
        raise StoreError(
            f"a store at gs:// is at Google's, or where TENSORSTORE_GCS_HTTP_URL says ({address or 'not set'}); "
            f"for endpoint '{endpoint}' set that variable, or use s3:// if the server speaks S3"
        )
