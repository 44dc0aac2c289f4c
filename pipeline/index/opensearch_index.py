"""The index as files for OpenSearch's _bulk, and the way there.

    mapping.json           what the index is created with
    bulk-0000001.ndjson    actions in order; each file is the body of one request

The files are an outbox: `push` sends those that the server has not had, and notes each that it took. Documents have
their image_id as id, so that sending a file twice does no harm. Never run against a server by this project's tests:
they check the files by the rules of _bulk, and talk to a stand-in through the official client.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from pipeline.errors import InputError, StoreAwayError, last_line
from pipeline.fetching.redaction import redacted
from pipeline.index.backend import Batch, Reader, Writer, package
from pipeline.index.codes import above, bits, codes, has, level
from pipeline.index.documents import Found
from pipeline.index.expression import And, Expression, Has, Not, Or
from pipeline.index.ledger import Ledger, connect
from pipeline.index.names import Names
from pipeline.index.query import Query, QueryError

MAPPING = {
    "settings": {"index": {"number_of_shards": 1}},
    "mappings": {
        "dynamic": "strict",
        "properties": {
            "doc": {"type": "long"},
            "image_id": {"type": "keyword"},
            "uri": {"type": "keyword", "index": False, "doc_values": False},
            "width": {"type": "integer"},
            "height": {"type": "integer"},
            "caption": {"type": "text"},
            "tags": {"type": "keyword"},
            "tags_zh": {"type": "keyword"},
            "tag_ids": {"type": "integer"},
            "scores": {"type": "short", "index": False, "doc_values": False},
            "codes": {"type": "long", "doc_values": False},
        },
    },
}
"""One shard: counts of tags are exact then. tags, tags_zh are for queries of other programs."""

_FILE_BYTES = 8 << 20
"""A request is to be much smaller than a server's http.max_content_length, 100 MB."""
_MOST_ID_BYTES = 512
_WINDOW = 10_000
"""index.max_result_window: further pages a server refuses."""
_MOST_RANKED = 90
"""Ten clauses for each tag that ranks, of indices.query.bool.max_clause_count, 1,024."""
_SHOWN = ("image_id", "uri", "width", "height", "caption")
_TIMEOUT_S = 60
_RETRIES = 3


class OpensearchWriter(Writer):
    """Documents in files, the ledger beside them."""

    def __init__(self, folder: Path, state: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._db = connect(state, write=True)
        self.ledger = Ledger(self._db)
        self._lines: list[str] = []
        self._bytes = 0
        self._parts: list[Path] = []
        self._names = Names((), ())
        for left in folder.glob(".bulk-*"):
            left.unlink()

    def prepare(self, names: Names) -> None:
        """As `Writer.prepare`."""
        self._names = names
        (self._folder / "mapping.json").write_text(json.dumps(MAPPING, indent=2) + "\n", encoding="utf-8")

    def write(self, batch: Batch) -> None:
        """As `Writer.write`: a document of the same id takes the place of the older one."""
        documents = batch.documents
        tags, scores = documents.tags.tolist(), documents.scores.tolist()
        terms = codes(documents.tags, documents.scores).ravel().tolist()
        texts = zip(*(getattr(documents, f"{name}s") for name in _SHOWN), strict=True)
        rows = zip(batch.docs.tolist(), texts, pairwise(documents.starts.tolist()), strict=True)
        for doc, shown, (begin, end) in rows:
            names = [self._names.shown(tag) for tag in tags[begin:end]]
            fields = {
                "doc": doc,
                **dict(zip(_SHOWN, shown, strict=True)),
                "tags": [name for name, _ in names],
                "tags_zh": [name for _, name in names if name],
                "tag_ids": tags[begin:end],
                "scores": scores[begin:end],
                "codes": terms[3 * begin : 3 * end],
            }
            self._add({"index": {"_id": identity(shown[0])}}, fields)

    def remove(self, docs: Sequence[int], image_ids: Sequence[str]) -> None:
        """As `Writer.remove`."""
        for image_id in image_ids:
            self._add({"delete": {"_id": identity(image_id)}})

    def commit(self) -> None:
        """As `Writer.commit`: the files get their names, in order."""
        self._end_part()
        number = max((int(file.stem[5:]) for file in bulk_files(self._folder)), default=0)
        for turn, part in enumerate(self._parts, number + 1):
            part.rename(self._folder / f"bulk-{turn:07d}.ndjson")
        self._parts.clear()

    def finish(self) -> None:
        """As `Writer.finish`."""

    def close(self) -> None:
        """As `Writer.close`."""
        self._db.close()

    def _add(self, *lines: dict[str, Any]) -> None:
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        self._lines.append(text)
        self._bytes += len(text.encode())
        if self._bytes >= _FILE_BYTES:
            self._end_part()

    def _end_part(self) -> None:
        if self._lines:
            part = self._folder / f".bulk-{len(self._parts):07d}"
            with part.open("w", encoding="utf-8", newline="\n") as file:
                file.writelines(self._lines)
                file.flush()
                os.fsync(file.fileno())
            self._parts.append(part)
            self._lines.clear()
            self._bytes = 0


def identity(image_id: str) -> str:
    """The _id of an image: its image_id, or the SHA-256 of one that is longer than a server takes."""
    data = image_id.encode()
    return image_id if 0 < len(data) <= _MOST_ID_BYTES else hashlib.sha256(data).hexdigest()


def bulk_files(folder: Path) -> list[Path]:
    """The files, in the order in which they are to be sent."""
    return sorted(folder.glob("bulk-*.ndjson"))


def push(folder: Path, address: str, ledger: Ledger) -> int:
    """Send what the server has not had, and make the index there if need be; how many files were sent.

    address: http(s)://HOST:PORT/INDEX; user and password from there, or OPENSEARCH_USERNAME and OPENSEARCH_PASSWORD.
    Raises InputError for what the server refuses, StoreAwayError where it does not answer.
    """
    client, index = _connected(address)
    exceptions = package("opensearchpy", "opensearch").exceptions
    place = redacted(address)
    held = ledger.get("server") or {}
    sent = held["sent"] if held.get("address") == place else ""
    number = 0
    try:
        if not client.indices.exists(index=index):
            client.indices.create(index=index, body=MAPPING)
            sent = ""
        _note(ledger, place, sent)
        for file in bulk_files(folder):
            if file.name <= sent:
                continue
            _check(client.bulk(body=file.read_text(encoding="utf-8"), index=index), file)
            _note(ledger, place, file.name)
            number += 1
        client.indices.refresh(index=index)
    except exceptions.ConnectionError as error:
        raise StoreAwayError(f"--push {place}: no answer: {last_line(error)}") from error
    except exceptions.TransportError as error:
        raise InputError(f"--push {place}: the server refuses: {last_line(error)}") from error
    return number


def _note(ledger: Ledger, address: str, sent: str) -> None:
    """Which server has had the files up to which."""
    ledger.begin()
    ledger.put("server", {"address": address, "sent": sent})
    ledger.commit()


def _check(answer: dict[str, Any], file: Path) -> None:
    """Raises InputError if the server did not take an action; what is to be deleted may be gone."""
    for item in answer["items"]:
        [(action, outcome)] = item.items()
        if "error" in outcome and not (action == "delete" and outcome["status"] == 404):
            reason = outcome["error"]
            said = reason.get("reason", reason) if isinstance(reason, dict) else reason
            raise InputError(f"{file}: the server did not take {outcome.get('_id')!r}: {said}")


def _connected(address: str) -> tuple[Any, str]:
    opensearch = package("opensearchpy", "opensearch")
    parts = urlsplit(address)
    index = parts.path.strip("/")
    if parts.scheme not in ("http", "https") or not parts.hostname or not index or "/" in index:
        raise InputError(f"--push {redacted(address)}: give http(s)://HOST:PORT/INDEX")
    user = unquote(parts.username or "") or os.environ.get("OPENSEARCH_USERNAME")
    password = unquote(parts.password or "") or os.environ.get("OPENSEARCH_PASSWORD")
    client = opensearch.OpenSearch(
        hosts=[f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"],
        http_auth=(user, password or "") if user else None,
        timeout=_TIMEOUT_S,
        max_retries=_RETRIES,
        retry_on_timeout=True,
    )
    return client, index


class OpensearchReader(Reader):
    """Asks the server that the files were last sent to."""

    def __init__(self, folder: Path, state: Path) -> None:
        database = connect(state, write=False)
        held = Ledger(database).get("server")
        database.close()
        if held is None:
            raise InputError(
                f"{folder} was never sent to a server: `ramfleet index RUN --to opensearch --out {folder} "
                "--push http://HOST:9200/INDEX` does that"
            )
        self._address = held["address"]
        self._client, self._index = _connected(self._address)

    def find(self, query: Query, limit: int, offset: int) -> tuple[int, list[Found]]:
        """As `Reader.find`. Raises QueryError for pages and rankings beyond what a server allows."""
        if offset + limit > _WINDOW:
            raise QueryError(f"offset={offset}, limit={limit}: OpenSearch shows the first {_WINDOW:,} images only")
        answer = self._search({**search_body(query), "from": offset, "size": limit})
        hits = [_found(hit) for hit in answer["hits"]["hits"]]
        return int(answer["hits"]["total"]["value"]), hits

    def facets(self, query: Query, tags: int) -> dict[int, int]:
        """As `Reader.facets`."""
        asked = {"tags": {"terms": {"field": "tag_ids", "size": tags}}}
        answer = self._search({"size": 0, "query": {"bool": {"filter": [_condition(query.expression)]}}, "aggs": asked})
        return {int(bucket["key"]): int(bucket["doc_count"]) for bucket in answer["aggregations"]["tags"]["buckets"]}

    def close(self) -> None:
        """As `Reader.close`."""
        self._client.close()

    def _search(self, body: dict[str, Any]) -> dict[str, Any]:
        exceptions = package("opensearchpy", "opensearch").exceptions
        try:
            answer: dict[str, Any] = self._client.search(index=self._index, body=body)
        except exceptions.ConnectionError as error:
            raise StoreAwayError(f"{self._address}: no answer: {last_line(error)}") from error
        except exceptions.TransportError as error:
            raise InputError(f"{self._address}: the server refuses: {last_line(error)}") from error
        return answer


def search_body(query: Query) -> dict[str, Any]:
    """The query in OpenSearch's own language; `_score` is the rank."""
    if len(query.wanted) > _MOST_RANKED:
        raise QueryError(f"the query names {len(query.wanted)} tags: OpenSearch can rank by {_MOST_RANKED}; name fewer")
    matching = {
        "filter": [_condition(query.expression)],
        "should": list(_rank(query.wanted)),
        "minimum_should_match": 0,
    }
    order: list[dict[str, str]] = [{"_score": "desc"}, {"doc": "asc"}]
    return {"query": {"bool": matching}, "sort": order, "track_total_hits": True, "track_scores": True}


def _found(hit: dict[str, Any]) -> Found:
    source = hit["_source"]
    tags = list(zip(source["tag_ids"], source["scores"], strict=True))
    return Found.of([source[name] for name in _SHOWN], round(hit["_score"] or 0), tags)


def _condition(expression: Expression) -> dict[str, Any]:
    if isinstance(expression, Has):
        return _has(expression)
    if isinstance(expression, Not):
        return {"bool": {"must_not": [_condition(expression.part)]}}
    if isinstance(expression, And):
        return {"bool": {"filter": [_condition(part) for part in expression.parts]}}
    if isinstance(expression, Or):
        return _either([_condition(part) for part in expression.parts])
    return {"match_all": {}}


def _has(expression: Has) -> dict[str, Any]:
    if not expression.at_least:
        return _any([has(tag) for tag in expression.ids])
    return _either([_reaches(tag, expression.at_least) for tag in expression.ids])


def _reaches(tag: int, at_least: int) -> dict[str, Any]:
    high, lows = level(tag, at_least)
    equal = {"bool": {"filter": [_any([high]), _any(lows)]}}
    return _either([_any(above(tag, at_least)), equal])


def _rank(wanted: dict[int, int]) -> Iterator[dict[str, Any]]:
    for tag, at_least in wanted.items():
        for terms, value in bits(tag):
            counts = _any(terms)
            if at_least:
                counts = {"bool": {"filter": [counts, _reaches(tag, at_least)]}}
            yield {"constant_score": {"filter": counts, "boost": value}}


def _any(terms: list[int]) -> dict[str, Any]:
    return {"terms": {"codes": terms}}


def _either(parts: list[dict[str, Any]]) -> dict[str, Any]:
    return {"bool": {"should": parts, "minimum_should_match": 1}}
