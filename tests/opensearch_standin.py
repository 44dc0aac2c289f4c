"""A stand-in for an OpenSearch server: as much of _bulk and _search as the project uses, by the published rules.

It is no OpenSearch: what it shows is that the official client takes our requests, that bodies keep the rules of _bulk,
and that the query means what it should if the server keeps to its documentation.
"""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

MAX_BODY_BYTES = 100 << 20
MAX_ID_BYTES = 512
MAX_CLAUSES = 1_024

Document = dict[str, Any]


class Indices(dict[str, dict[str, Document]]):
    """Documents by id, by index."""

    def bulk(self, index: str, body: bytes) -> Document:
        """Raises ValueError where a server would answer 400."""
        if not body.endswith(b"\n") or len(body) > MAX_BODY_BYTES:
            raise ValueError("The bulk request must be terminated by a newline [\\n]")
        lines = iter(body.decode().split("\n")[:-1])
        items = []
        for line in lines:
            [(action, about)] = json.loads(line).items()
            if not 0 < len(about["_id"].encode()) <= MAX_ID_BYTES:
                raise ValueError("id is too long, must be no longer than 512 bytes")
            if action == "delete":
                gone = self[index].pop(about["_id"], None)
                items.append({action: {"_id": about["_id"], "status": 404 if gone is None else 200}})
            elif action == "index":
                self[index][about["_id"]] = json.loads(next(lines))
                items.append({action: {"_id": about["_id"], "status": 201}})
            else:
                raise ValueError(f"Malformed action/metadata line, found [{action}]")
        return {"took": 1, "errors": False, "items": items}

    def search(self, index: str, body: Document) -> Document:
        """Hits of one shard, and counts of terms."""
        if _clauses(body["query"]) > MAX_CLAUSES:
            raise ValueError(f"maxClauseCount is set to {MAX_CLAUSES}")
        found = [(_score(body["query"], each), name, each) for name, each in self[index].items()]
        matching = [(score, name, each) for score, name, each in found if score is not None]
        assert body.get("sort", [{"_score": "desc"}, {"doc": "asc"}]) == [{"_score": "desc"}, {"doc": "asc"}]
        matching.sort(key=lambda row: (-row[0], row[2]["doc"]))
        first = body.get("from", 0)
        page = matching[first : first + body["size"]]
        hits = [{"_id": name, "_score": score, "_source": each} for score, name, each in page]
        answer: Document = {"hits": {"total": {"value": len(matching), "relation": "eq"}, "hits": hits}}
        for name, asked in body.get("aggs", {}).items():
            field, size = asked["terms"]["field"], asked["terms"]["size"]
            counts = Counter(value for _, _, each in matching for value in each[field])
            buckets = [{"key": key, "doc_count": count} for key, count in counts.most_common(size)]
            answer.setdefault("aggregations", {})[name] = {"buckets": buckets}
        return answer


def _score(query: Document, document: Document) -> float | None:
    """The score of a document in float32, as Lucene adds them up; None if it does not match."""
    [(kind, inner)] = query.items()
    if kind == "match_all":
        return 1.0
    if kind == "terms":
        [(field, values)] = inner.items()
        return 1.0 if set(document[field]) & set(values) else None
    if kind == "constant_score":
        return None if _score(inner["filter"], document) is None else float(inner["boost"])
    assert kind == "bool", kind
    if any(_score(each, document) is None for each in inner.get("filter", ())):
        return None
    if any(_score(each, document) is not None for each in inner.get("must_not", ())):
        return None
    scores = [_score(each, document) for each in inner.get("should", ())]
    matched = [score for score in scores if score is not None]
    if len(matched) < inner.get("minimum_should_match", 0):
        return None
    return float(np.sum(np.array(matched, np.float32), dtype=np.float32))


def _clauses(query: Any) -> int:
    if isinstance(query, list):
        return sum(map(_clauses, query))
    if not isinstance(query, dict):
        return 0
    return sum(1 if key in ("terms", "match_all") else _clauses(value) for key, value in query.items())


class _Handler(BaseHTTPRequestHandler):
    indices: Indices

    def do_HEAD(self) -> None:
        self._answer(200 if self.path.strip("/") in self.indices else 404, {})

    def do_PUT(self) -> None:
        body = json.loads(self._body())
        assert body["mappings"]["dynamic"] == "strict"
        self.indices[self.path.strip("/")] = {}
        self._answer(200, {"acknowledged": True})

    def do_POST(self) -> None:
        index, action = self.path.split("?")[0].strip("/").split("/")
        body = self._body()
        try:
            if action == "_bulk":
                self._answer(200, self.indices.bulk(index, body))
            elif action == "_search":
                self._answer(200, self.indices.search(index, json.loads(body)))
            else:
                self._answer(200, {})
        except ValueError as error:
            self._answer(400, {"error": {"type": "illegal_argument_exception", "reason": str(error)}, "status": 400})

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing."""

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, status: int, body: Document) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


@contextmanager
def serve() -> Iterator[tuple[str, Indices]]:
    """Its address, and what it holds."""
    indices = Indices()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"indices": indices}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", indices
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
