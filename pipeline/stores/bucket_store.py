"""A run in a bucket: S3 and what speaks its language, Google Cloud Storage, Azure.

`create` is one plain PUT with `If-None-Match: *`, which the store decides atomically. It is never a multipart upload:
some stores do not look at the condition when one is completed.
"""

import errno
import io
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, cast

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import from_url

from pipeline.errors import StoreAwayError, StoreError
from pipeline.fetching.outcome import Span
from pipeline.fetching.range_file import RangeFile
from pipeline.stores.bucket_lock import BucketLock
from pipeline.stores.bucket_log import BucketLog
from pipeline.stores.cloud import CloudEnvironment
from pipeline.stores.run_store import TEMPORARY, Entry, RunStore

_TIMEOUTS = {"connect_timeout": "5s", "timeout": "60s"}
"""Of one request. What fails is asked again by obstore, and by nobody else."""
_RETRIES: dict[str, Any] = {
    "max_retries": 8,
    "retry_timeout": timedelta(seconds=90),
    "backoff": {"init_backoff": timedelta(milliseconds=200), "max_backoff": timedelta(seconds=10), "base": 2},
}
_FIRST_RETRIES: dict[str, Any] = {"max_retries": 2, "retry_timeout": timedelta(seconds=15)}
"""Before any work nobody waits for long to be told of a wrong endpoint."""
_UPLOAD_PIECE_BYTES = 16 << 20

_SAID = {
    "InvalidAccessKeyId": "the store does not know this access key: see AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "the secret key is wrong: see AWS_SECRET_ACCESS_KEY",
    "AccessDenied": "these keys may not do that: grant them reading, writing, listing and deleting below this prefix",
    "NoSuchBucket": "there is no such bucket: create it first",
    "ExpiredToken": "the keys have expired: renew AWS_SESSION_TOKEN and its keys",
    "InvalidToken": "the session token is wrong: see AWS_SESSION_TOKEN",
    "PermanentRedirect": "the bucket is in another region: set AWS_REGION",
    "AuthorizationHeaderMalformed": "the bucket is in another region: set AWS_REGION",
    "RequestTimeTooSkewed": "this machine's clock is wrong",
}
"""What is told of an error code of S3, instead of the store's own words, which may hold keys and signatures."""
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w{1,60})</Code>")
_METADATA_SERVICE = "169.254."


def open_bucket_store(scheme: str, path: str) -> "BucketStore":
    """The store of `scheme://path`. Raises StoreError if it does not answer or refuses to list."""
    if not path:
        raise StoreError(f"{scheme}://: names no bucket; write {scheme}://bucket/prefix")
    store = BucketStore(f"{scheme}://{path}", CloudEnvironment.capture())
    store.reach()
    return store


class BucketStore(RunStore):
    """Objects below a prefix of a bucket.

    conditional: the store refuses to create an object that exists. Where it does not, which only a run with one
    writer may accept, `create` asks first and then writes.
    """

    def __init__(self, root: str, environment: CloudEnvironment, conditional: bool = True) -> None:
        self.root = root
        self.environment = environment
        self.conditional = conditional

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("root", "environment", "conditional")}

    def reach(self) -> None:
        """Raises StoreError unless the bucket is there and can be listed."""
        try:
            with _explained(self, "list it"):
                obstore.list_with_delimiter(self._connect(_FIRST_RETRIES), TEMPORARY + "reach")
        except StoreAwayError as error:
            raise StoreError(str(error)) from error

    def create(self, name: str, data: bytes) -> bool:
        """As `RunStore.create`."""
        if not self.conditional:
            if self.exists(name):
                return False
            self.replace(name, data)
            return True
        try:
            with _explained(self, f"write {name}"):
                obstore.put(self._client, name, data, mode="create", use_multipart=False)
        except FileExistsError:
            return False
        return True

    def upload(self, name: str, local_path: str | Path) -> bool:
        """As `RunStore.upload`: in pieces, so that a part is never held in memory as a whole."""
        if self.exists(name):
            return False
        with _explained(self, f"write {name}"):
            obstore.put(self._client, name, Path(local_path), chunk_size=_UPLOAD_PIECE_BYTES, max_concurrency=4)
        return True

    def replace(self, name: str, data: bytes) -> None:
        """As `RunStore.replace`."""
        with _explained(self, f"write {name}"):
            obstore.put(self._client, name, data, use_multipart=False)

    def read(self, name: str) -> bytes:
        """As `RunStore.read`."""
        with _explained(self, f"read {name}"):
            return bytes(obstore.get(self._client, name).bytes())

    def open(self, name: str) -> BinaryIO:
        """As `RunStore.open`: read by ranges."""
        with _explained(self, f"read {name}"):
            size = obstore.head(self._client, name)["size"]
        return cast(BinaryIO, io.BufferedReader(RangeFile(lambda span: self._read_span(name, span), size)))

    def _read_span(self, name: str, span: Span) -> bytes:
        with _explained(self, f"read {name}"):
            return bytes(obstore.get_range(self._client, name, start=span[0], end=span[1]))

    def exists(self, name: str) -> bool:
        """As `RunStore.exists`."""
        try:
            with _explained(self, f"look for {name}"):
                obstore.head(self._client, name)
        except FileNotFoundError:
            return False
        return True

    def entries(self, prefix: str) -> Iterator[Entry]:
        """As `RunStore.entries`; the listing streams."""
        if not prefix:
            with _explained(self, "list it"):
                found = obstore.list_with_delimiter(self._client)["objects"]
            yield from _entries(found, prefix)
            return
        with _explained(self, f"list {prefix}"):
            for page in obstore.list(self._client, prefix):
                yield from _entries(page, prefix)

    def is_empty(self) -> bool:
        """As `RunStore.is_empty`."""
        with _explained(self, "list it"):
            return not any(obstore.list(self._client, chunk_size=1))

    def delete(self, name: str) -> None:
        """As `RunStore.delete`."""
        try:
            with _explained(self, f"delete {name}"):
                obstore.delete(self._client, name)
        except FileNotFoundError:
            return

    def append_log(self, name: str) -> BucketLog:
        """As `RunStore.append_log`: objects `NAME.000000.jsonl`, …; the last seconds of a killed writer are lost."""
        return BucketLog(self, name)

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """As `RunStore.alone`: a lock that its holder renews, and that others break when that has stopped."""
        with BucketLock(self, f"locks/{name}-"):
            yield

    def probe(self, single_writer: bool = False) -> None:
        """As `RunStore.probe`."""
        name = f"{TEMPORARY}probe-{uuid.uuid4().hex}"
        try:
            refuses, why = self._refuses_second(name)
        except StoreAwayError as error:
            raise StoreError(str(error)) from error
        if refuses:
            return
        if not single_writer:
            raise StoreError(
                f"{self.root}: {why}: two commands at once could overwrite each other's chunks. Use a store with "
                "conditional writes, or, if only one command ever works on this run, add --set run.single_writer=true"
            )
        self.conditional = False

    def _refuses_second(self, name: str) -> tuple[bool, str]:
        try:
            self.create(name, b"first")
            second = self.create(name, b"second")
            kept = self.read(name)
        except StoreAwayError as error:
            # Some stores answer 501 to a header that they do not know.
            if "HTTP 501" not in str(error):
                raise
            return False, "this store does not know conditional writes"
        finally:
            self.delete(name)
        return not second and kept == b"first", "this store overwrites an object although told not to (If-None-Match)"

    @cached_property
    def _client(self) -> Any:
        return self._connect(_RETRIES)

    def _connect(self, retries: dict[str, Any]) -> Any:
        client: dict[str, Any] = {**_TIMEOUTS}
        if any(value.startswith("http://") for value in self.environment.variables.values()):
            client["allow_http"] = True  # the operator named such an endpoint
        try:
            options = self.environment.options(self.root)
            return from_url(self.root, config=options, client_options=client, retry_config=retries)  # type: ignore[call-overload]
        except (BaseError, ValueError) as error:
            raise StoreError(f"{self.root}: {_first_line(error)}") from error


def _entries(found: Any, prefix: str) -> Iterator[Entry]:
    for item in found:
        name = item["path"]
        own = name.removeprefix(prefix)
        if "/" not in own and not own.startswith(TEMPORARY):
            yield Entry(name, item["size"], item["last_modified"].timestamp())


@contextmanager
def _explained(store: BucketStore, doing: str) -> Iterator[None]:
    """obstore's errors as FileNotFoundError, FileExistsError or StoreAwayError, in one line without keys."""
    try:
        yield
    except AlreadyExistsError as error:
        raise FileExistsError(errno.EEXIST, "the object exists", store.root) from error
    except (BaseError, OSError) as error:
        if isinstance(error, FileNotFoundError) and _code(error) != "NoSuchBucket":
            name = doing.split(" ", 1)[-1]
            raise FileNotFoundError(errno.ENOENT, "there is no such object", f"{store.root}/{name}") from None
        # `from None`: the store's own text may quote the request.
        raise StoreAwayError(f"{store.root}: cannot {doing}: {_reason(error, store.environment)}") from None


def _code(error: Exception) -> str | None:
    found = _CODE.search(str(error))
    return found[1] if found else None


def _reason(error: Exception, environment: CloudEnvironment) -> str:
    text = str(error)
    code, status = _code(error), _STATUS.search(text)
    where = f" at {environment.endpoint}" if environment.endpoint else ""
    if code in _SAID:
        return f"{_SAID[code]} ({code})"
    if _METADATA_SERVICE in text:
        return "no keys: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give the machine a role"
    if status is None:
        return f"the store{where} does not answer"
    meaning = {"401": "the keys are wrong", "403": "the keys are wrong, or may not do that"}.get(status[1], "it failed")
    return f"{meaning} (HTTP {status[1]}{', ' + code if code else ''})"


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0][:200]
