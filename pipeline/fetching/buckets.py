"""Objects in buckets: s3://, gs:// and az:// through obstore."""

import os
import re
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import botocore.exceptions
import botocore.session
import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import AzureStore, GCSStore, ObjectStore, S3Store

from pipeline.config import FetchConfig, StorageConfig
from pipeline.errors import ConfigError
from pipeline.fetching.outcome import Content, FetchError, Span

SCHEMES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "azure"})
"""Schemes of uris of objects in buckets."""

_MOST_STORES = 64
_CREDENTIAL_LIFE = timedelta(minutes=5)
"""botocore renews its credentials by itself: they are asked for again after so long."""


def split_bucket(uri: str) -> tuple[str, str, str]:
    """(scheme, bucket, key) of `s3://bucket/key`; the key as it is, nothing in it is percent-decoded."""
    scheme, _, rest = uri.partition("://")
    bucket, _, key = rest.partition("/")
    if not re.fullmatch(r"[A-Za-z0-9_.\-]{2,255}(@[A-Za-z0-9.\-]+)?", bucket):
        raise FetchError("unsupported_uri", "this uri has no valid name of a bucket")
    return scheme.lower(), bucket, key


class Buckets:
    """Reads and lists objects; a client is kept for each bucket that was used lately. Its libraries never retry."""

    def __init__(self, fetch: FetchConfig, storage: StorageConfig) -> None:
        self._fetch, self._storage = fetch, storage
        self._stores: OrderedDict[tuple[str, str], ObjectStore] = OrderedDict()

    async def read(self, uri: str, span: Span | None, most: int) -> Content:
        """The object's bytes, or a span of them, `most` at most. Raises FetchError."""
        scheme, bucket, key = split_bucket(uri)
        if not key:
            raise FetchError("not_found", "a bucket, no object")
        with explained():
            result = await obstore.get_async(self.store(scheme, bucket), key, options={"range": span} if span else None)
            total = result.meta["size"]
            if span is None and total > most:
                raise FetchError("too_large", f"{total} bytes, over fetch.max_image_bytes={most}")
            return Content(bytes(await result.bytes_async()), total)

    async def blocks(self, uri: str) -> AsyncIterator[bytes]:
        """The whole object in blocks."""
        scheme, bucket, key = split_bucket(uri)
        with explained():
            result = await obstore.get_async(self.store(scheme, bucket), key)
            async for block in result.stream(min_chunk_size=4 << 20):
                yield bytes(block)

    async def size(self, uri: str) -> int:
        """Bytes of the object. Raises FetchError of kind not_found if there is none."""
        scheme, bucket, key = split_bucket(uri)
        if not key or key.endswith("/"):
            raise FetchError("not_found", "a bucket or prefix, no object")
        with explained():
            return int((await obstore.head_async(self.store(scheme, bucket), key))["size"])

    def objects(self, uri: str) -> Iterator[tuple[str, str]]:
        """(key, version) of all objects that begin with the uri's key, in the store's order, listed page by page.

        The version changes with the content: the store's etag, or else size and time of modification.
        """
        scheme, bucket, prefix = split_bucket(uri)
        folder = prefix if not prefix or prefix.endswith("/") else prefix + "/"
        with explained():
            for page in obstore.list(self.store(scheme, bucket), folder.rstrip("/") or None, chunk_size=1000):
                yield from ((entry["path"], _version(entry)) for entry in page if entry["path"].startswith(folder))

    def store(self, scheme: str, bucket: str) -> ObjectStore:
        """The client of a bucket. Raises ConfigError if it cannot be made of what is configured."""
        name = (scheme, bucket)
        if name not in self._stores:
            self._stores[name] = bucket_store(scheme, bucket, self._fetch, self._storage)
            if len(self._stores) > _MOST_STORES:
                self._stores.popitem(last=False)
        self._stores.move_to_end(name)
        return self._stores[name]


def _version(entry: "obstore.ObjectMeta") -> str:
    return (entry["e_tag"] or "").strip('"') or f"{entry['size']}-{entry['last_modified'].timestamp()}"


def bucket_store(scheme: str, bucket: str, fetch: FetchConfig, storage: StorageConfig) -> ObjectStore:
    """obstore's client of one bucket, without retries, with the time-outs of `fetch`.

    Raises ConfigError if what is configured makes none: a profile or a name of an account is missing, for instance.
    """
    client: Any = {
        "connect_timeout": timedelta(seconds=fetch.connect_timeout_s),
        "read_timeout": timedelta(seconds=fetch.read_timeout_s),
        "timeout": timedelta(seconds=fetch.total_timeout_s),
        "user_agent": fetch.user_agent,
    }
    common: Any = {"client_options": client, "retry_config": {"max_retries": 0, "retry_timeout": timedelta(seconds=1)}}
    try:
        if scheme in ("s3", "s3a"):
            return _s3_store(bucket, storage, client, common)
        if storage.anonymous:
            common["skip_signature"] = True
        if scheme in ("gs", "gcs"):
            return GCSStore(bucket, **common)
        return AzureStore.from_url(f"{scheme}://{bucket}", **common)
    except (BaseError, ValueError, botocore.exceptions.BotoCoreError) as error:
        reason = " ".join(str(error).split("Debug source")[0].split())[:200]
        raise ConfigError(f"{scheme}://{bucket}: cannot be reached: {reason}") from error


def _s3_store(bucket: str, storage: StorageConfig, client: dict[str, Any], common: dict[str, Any]) -> S3Store:
    session = botocore.session.Session(profile=storage.profile)
    profile = session.get_scoped_config()
    environment = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    endpoint = storage.endpoint or environment or profile.get("endpoint_url")
    if endpoint:
        common["endpoint"] = endpoint
        client["allow_http"] = endpoint.startswith("http://")
    region = storage.region or os.environ.get("AWS_REGION") or session.get_config_variable("region")
    if region:
        common["region"] = region
    if storage.requester_pays:
        common["request_payer"] = True
    if storage.anonymous or os.environ.get("AWS_SKIP_SIGNATURE", "").lower() in ("1", "true"):
        common["skip_signature"] = True
    else:
        common["credential_provider"] = _credentials(session)
    return S3Store(bucket, **common)


def _credentials(session: Any) -> Callable[[], Any]:
    """Credentials from wherever botocore finds them: environment, profiles, roles of containers and instances."""
    found = session.get_credentials()
    if found is None:
        raise ConfigError(
            "s3://: there are no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE or "
            "storage.profile, or storage.anonymous=true for public buckets"
        )

    def current() -> dict[str, Any]:
        frozen = found.get_frozen_credentials()
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(UTC) + _CREDENTIAL_LIFE,
        }

    return current


@contextmanager
def explained() -> Iterator[None]:
    """Faults of obstore as FetchError, whose details hold none of its texts: these may tell of requests and keys."""
    try:
        yield
    except FileNotFoundError as error:
        kind = "bucket" if "NoSuchBucket" in str(error) else "object"
        raise FetchError("not_found", f"there is no such {kind}") from error
    except (PermissionDeniedError, UnauthenticatedError) as error:
        raise FetchError("forbidden", f"the store refuses these credentials{_code(str(error))}") from error
    except ValueError as error:
        raise FetchError("not_found", "no object can have this key: a part of it is empty, . or ..") from error
    except TimeoutError as error:
        raise FetchError("timeout", "the store did not answer in time") from error
    except (BaseError, OSError) as error:
        raise _classified(str(error)) from error


def _classified(said: str) -> FetchError:
    found = re.search(r"status code: (\d{3})", said)
    if found:
        return _of_status(int(found[1]), _code(said), said)
    if re.search(r"kind: Timeout|TimedOut|operation timed out", said):
        return FetchError("timeout", "the store did not answer in time")
    if re.search(r"dns error|failed to lookup address|Name or service not known", said):
        return FetchError("dns", "the store's host has no address")
    if re.search(r"certificate|TlsError|invalid peer|HandshakeFailure|InvalidContentType", said):
        return FetchError("tls", "no trusted, encrypted connection to the store")
    if "Header missing" in said or "kind: Unknown" in said:
        return FetchError("bad_response", "the store's answer is none of its kind")
    if "Connect" in said:
        return FetchError("connection", "no connection to the store")
    return FetchError("connection", "the connection to the store broke")


def _of_status(status: int, code: str, said: str) -> FetchError:
    detail = f"status {status}{code}"
    if status == 404:
        return FetchError("not_found", "there is no such bucket" if "NoSuchBucket" in said else detail)
    if status in (401, 403):
        return FetchError("forbidden", detail)
    if status == 416:
        return FetchError("not_found", "the object is shorter than it was")
    if status == 429 or "SlowDown" in said:
        return FetchError("throttled", detail)
    if status == 408:
        return FetchError("timeout", detail)
    if status >= 500:
        return FetchError("http_5xx", detail)
    return FetchError("http_4xx" if status >= 400 else "bad_response", detail)


def _code(said: str) -> str:
    """S3's own word for the fault, such as " (AccessDenied)"."""
    found = re.search(r"<Code>(\w{1,60})</Code>", said)
    return f" ({found[1]})" if found else ""
