"""Every kind of INPUT becomes the same stream of rows, or an error that says what to do."""

import json
import os
import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inputs import ANYWHERE, assert_refused, read, touch, write

from pipeline.manifests import readers as manifest_readers
from pipeline.manifests.manifest import BATCH_ROWS, open_input
from pipeline.plan import make_plan
from pipeline.stores.local_store import LocalStore

ROWS = [{"uri": "/a.jpg", "image_id": "007"}, {"uri": "/b.jpg", "image_id": "8"}]


def manifest_of(rows, path):
    """A manifest of the kind that the path's ending asks for, with columns uri and image_id."""
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path
    separator = "\t" if name.endswith(".tsv") else ","
    texts = {
        ".csv": "uri,image_id\n" + "".join(separator.join(row.values()) + "\n" for row in rows),
        ".tsv": "uri\timage_id\n" + "".join(separator.join(row.values()) + "\n" for row in rows),
        ".jsonl": "".join(json.dumps(row) + "\n" for row in rows),
        ".json": json.dumps(rows, indent=1),
    }
    return write(path, texts[name[name.index(".") :]])


@pytest.mark.parametrize("ending", [".parquet", ".csv", ".tsv", ".jsonl", ".json"])
@pytest.mark.parametrize("packed", ["", ".gz"])
def test_manifests_of_every_kind_give_the_same_rows(tmp_path, ending, packed):
    """The format of a manifest does not matter; ids keep their leading zeros."""
    if ending == ".parquet" and packed:
        assert_refused(write(tmp_path / "m.parquet.gz", b"PAR1"), "neither a picture nor a manifest")
        return
    path = manifest_of(ROWS, tmp_path / f"m{ending}{packed}")
    opened = open_input(str(path), config=ANYWHERE)
    assert opened.kind == "manifest"
    assert opened.schema.names == ["image_id", "uri"]
    assert opened.schema.types == [pa.string(), pa.string()]
    assert read(path) == [("007", "/a.jpg"), ("8", "/b.jpg")]


@pytest.mark.parametrize("name", ["list.txt", "list.txt.gz", "LIST.TXT"])
def test_text_manifest(tmp_path, name):
    """A line of a .txt is a uri; blank lines are no rows; Windows line ends and a byte order mark do not matter.

    Blanks at the end of a line belong to the name.
    """
    path = write(tmp_path / name, b"\xef\xbb\xbf/a.jpg\r\n\r\ns3://b/c d.jpg\n \t\n/b.jpg \r\n/e,f.jpg")
    assert read(path) == [(uri, uri) for uri in ("/a.jpg", "s3://b/c d.jpg", "/b.jpg ", "/e,f.jpg")]


def test_relative_uris_are_relative_to_the_manifest(tmp_path):
    """Only relative paths get the manifest's folder in front; the id is the uri as it was written."""
    written = ["a.jpg", "./b/c.jpg", "../d.jpg", "/abs.jpg", "file:///f.jpg", "https://h/x.jpg"]
    path = write(tmp_path / "m.txt", "\n".join(written))
    folder = str(tmp_path)
    uris = [f"{folder}/a.jpg", f"{folder}/b/c.jpg", f"{folder}/../d.jpg", *written[3:]]
    assert read(path) == list(zip(written, uris, strict=True))


def test_input_as_a_relative_path_or_file_uri(tmp_path, monkeypatch):
    """INPUT may be relative to the working directory, or a file:// uri with percent signs."""
    folder = tmp_path / "with space"
    touch(folder, "a.jpg")
    monkeypatch.chdir(tmp_path)
    expected = [("a.jpg", f"{folder}/a.jpg")]
    assert read("with space") == expected
    assert read(f"file://{tmp_path}/with%20space") == expected
    assert read(f"file://localhost{tmp_path}/with%20space/*.jpg") == expected


@pytest.mark.parametrize("name", ["uri", "url", "path", "image_path", "URL"])
@pytest.mark.parametrize("id_name", ["image_id", "id", "key", "__key__"])
def test_column_names(tmp_path, name, id_name):
    """Each accepted name of the uri and id columns is found."""
    path = write(tmp_path / "m.csv", f"other,{id_name},{name}\n1,x,/a.jpg\n")
    assert read(path) == [("x", "/a.jpg")]


def test_the_first_accepted_name_wins(tmp_path):
    """With several accepted columns, the order of the names decides, not that of the columns."""
    assert read(write(tmp_path / "m.csv", "URL,path,url,key,id\n1,2,/3,4,5\n")) == [("5", "/3")]


def test_numbers_become_ids(tmp_path):
    """Ids that are numbers become text, whole numbers without a decimal point."""
    for ids, expected in ([[1, 2], ["1", "2"]], [[1.0, 2.5], ["1", "2.5"]], [["a", "b"], ["a", "b"]]):
        table = pa.table({"id": ids, "uri": ["/a", "/b"]})
        pq.write_table(table, tmp_path / "m.parquet")
        write(tmp_path / "m.jsonl", "\n".join(map(json.dumps, table.to_pylist())))
        for name in ("m.parquet", "m.jsonl"):
            assert [row[0] for row in read(tmp_path / name)] == expected


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())])
def test_other_text_types_of_parquet(tmp_path, kind):
    """Text in any of Arrow's encodings is text."""
    column = pa.array(["/a", "/b"]).cast(kind)
    pq.write_table(pa.table({"uri": column, "id": column, "k": column}), tmp_path / "m.parquet")
    assert read(tmp_path / "m.parquet", ["k"]) == [("/a", "/a", "/a"), ("/b", "/b", "/b")]


def test_rows_without_uri_or_id_do_not_vanish(tmp_path):
    """A missing uri is "", a missing id the uri, and where both are missing the row's number."""
    rows = [("/a", "1"), (None, "2"), ("", "3"), ("/d", None), (None, None), ("", ""), ("/g", "")]
    expected = [("1", "/a"), ("2", ""), ("3", ""), ("/d", "/d"), ("row:4", ""), ("row:5", ""), ("/g", "/g")]
    table = pa.table({"uri": [uri for uri, _ in rows], "id": [key for _, key in rows]})
    pq.write_table(table, tmp_path / "m.parquet")
    write(tmp_path / "m.jsonl", "\n".join(map(json.dumps, table.to_pylist())))
    write(tmp_path / "m.csv", "uri,id\n" + "".join(f"{uri or ''},{key or ''}\n" for uri, key in rows))
    for name in ("m.parquet", "m.jsonl", "m.csv"):
        for batch_rows in (BATCH_ROWS, 1, 3):
            assert read(tmp_path / name, batch_rows=batch_rows) == expected


def test_kept_columns_keep_their_types(tmp_path):
    """Kept columns come in the asked order, with the manifest's types, nulls included."""
    table = pa.table(
        {
            "n": pa.array([1, None], pa.int16()),
            "uri": ["/a", "/b"],
            "list": pa.array([[1.5], None], pa.list_(pa.float32())),
            "when": pa.array([0, 1], pa.timestamp("ms", tz="UTC")),
        }
    )
    pq.write_table(table, tmp_path / "m.parquet")
    opened = open_input(str(tmp_path / "m.parquet"), ["when", "n", "list"], config=ANYWHERE)
    assert opened.schema.names == ["image_id", "uri", "when", "n", "list"]
    assert opened.schema.types[2:] == [table.schema.field(name).type for name in ("when", "n", "list")]
    assert pa.Table.from_batches(opened.batches()).select(["n", "list"]).equals(table.select(["n", "list"]))


def test_kept_columns_of_text_manifests(tmp_path):
    """CSV columns stay text; JSON columns get the type that holds all their values, wherever they appear."""
    path = write(tmp_path / "m.csv", "uri,n,zip\n/a,1,01234\n/b,,x\n")
    assert read(path, ["zip", "n"]) == [("/a", "/a", "01234", "1"), ("/b", "/b", "x", "")]
    lines = [{"uri": "/a", "n": 1, "t": None, "deep": None}, {"uri": "/b", "n": 2.5, "deep": {"x": 1}}, {"uri": "/c"}]
    path = write(tmp_path / "m.jsonl", "\n".join(map(json.dumps, lines)))
    opened = open_input(str(path), ["n", "t", "deep"], batch_rows=1, config=ANYWHERE)
    table = pa.Table.from_batches(opened.batches())
    assert table.schema.field("n").type == pa.float64()
    assert table.schema.field("t").type == pa.string()
    assert table["n"].to_pylist() == [1.0, 2.5, None]
    assert table["deep"].to_pylist() == [None, {"x": 1}, None]


def test_kept_views_become_what_the_plan_can_hold(tmp_path):
    """string_view and binary_view, alone or within lists and structs, are kept as string and binary."""
    texts = pa.array(["x", None]).cast(pa.string_view())
    bytes_ = pa.array([b"x", None]).cast(pa.binary_view())
    kept = {
        "text": (texts, pa.string()),
        "bytes_": (bytes_, pa.binary()),
        "list": (pa.ListArray.from_arrays([0, 1, 2], texts), pa.list_(pa.string())),
        "struct": (pa.StructArray.from_arrays([texts], ["s"]), pa.struct([("s", pa.string())])),
        "map": (pa.MapArray.from_arrays([0, 1, 2], pa.array(["k", "l"]), texts), pa.map_(pa.string(), pa.string())),
    }
    table = pa.table({"uri": ["/a", "/b"], **{name: column for name, (column, _) in kept.items()}})
    pq.write_table(table, tmp_path / "m.parquet")
    opened = open_input(str(tmp_path / "m.parquet"), list(kept), config=ANYWHERE)
    assert all(kind.equals(want) for kind, (_, want) in zip(opened.schema.types[2:], kept.values(), strict=True))
    store = LocalStore(tmp_path / "run")
    found = make_plan(opened.batches(), store, 2, None, {}).read_chunk(store, 0)
    assert found.select(list(kept)).to_pylist() == table.select(list(kept)).to_pylist()


def test_kept_columns_of_types_that_cannot_be_kept(tmp_path):
    """Dictionaries within lists and structs, and structs of nothing, are refused by the column's name."""
    codes = pa.array(["x", "y"]).dictionary_encode()
    lists = pa.ListArray.from_arrays([0, 1, 2], codes)
    columns = {
        "list": lists,
        "struct": pa.StructArray.from_arrays([codes], ["s"]),
        "deep": pa.StructArray.from_arrays([lists], ["s"]),
    }
    pq.write_table(pa.table({"uri": ["/a", "/b"], **columns}), tmp_path / "m.parquet", row_group_size=1)
    assert len(read(tmp_path / "m.parquet")) == 2
    for name in columns:
        assert_refused(tmp_path / "m.parquet", "m.parquet", repr(name), "dictionary", keep=[name])
    path = write(tmp_path / "m.jsonl", '{"uri": "/a", "empty": {}}')
    assert_refused(path, "m.jsonl", "'empty'", "leave it out", keep=["empty"])


@pytest.mark.parametrize("fault", [pa.ArrowNotImplementedError, pa.ArrowKeyError, pa.ArrowInvalid])
def test_any_fault_of_arrow_is_explained(tmp_path, monkeypatch, fault):
    """Whatever Arrow raises while a manifest is read becomes one line that names it."""
    pq.write_table(pa.table({"uri": ["/a"]}), tmp_path / "m.parquet")

    def fail(*_):
        raise fault("cannot\ndo this")

    monkeypatch.setattr(manifest_readers, "_as_text", fail)
    assert_refused(tmp_path / "m.parquet", "m.parquet", "cannot do this")


@pytest.mark.parametrize("name", ["pipe", "pipe.jpg", "pipe.csv", "pipe.txt.gz"])
def test_a_pipe_as_input_is_refused_at_once(tmp_path, name):
    """INPUT is not waited for."""
    os.mkfifo(tmp_path / name)
    done = threading.Event()

    def open_it():
        assert_refused(tmp_path / name, name, "pipe, socket")
        done.set()

    threading.Thread(target=open_it, daemon=True).start()
    assert done.wait(10)


def test_the_uri_column_can_be_kept_under_its_own_name(tmp_path):
    """A column url may serve as uri and be kept as well."""
    for path in (write(tmp_path / "m.csv", "url\na.jpg\n"), write(tmp_path / "m.jsonl", '{"url": "a.jpg"}')):
        assert read(path, ["url"]) == [("a.jpg", f"{tmp_path}/a.jpg", "a.jpg")]


def test_csv_quotes_and_newlines(tmp_path):
    """Quoted fields hold separators, quotes and line ends; null and NA are text."""
    path = write(tmp_path / "m.csv", '\ufeffuri,id\r\n"/a,b ""c"".jpg","two\nlines"\r\n/NA,null\r\n\r\n')
    assert read(path) == [("two\nlines", '/a,b "c".jpg'), ("null", "/NA")]


@pytest.mark.parametrize("blank", ["\n", "\r\n\r\n", "  \n\n", ",\n", "\ufeff\n"])
def test_blank_lines_before_a_csv_header(tmp_path, blank):
    """The header is the first line that holds anything."""
    assert read(write(tmp_path / "m.csv", f"{blank}uri,id\n/a,1\n\n/b,2\n")) == [("1", "/a"), ("2", "/b")]
    assert_refused(write(tmp_path / "blank.csv", blank), "empty")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("m.csv", "name,size\na,1\n", ["'name', 'size'", "uri, url, path"]),
        ("m.csv", "uri,id\n/a,1\n/b\n", ["line 3", "1 fields instead of the header's 2", "'/b'"]),
        ("m.csv", "uri,id\n/a,1\n/b,2,3\n", ["line 3", "3 fields instead of the header's 2"]),
        ("m.csv", "uri,uri\n/a,1\n", ["two columns", "'uri'"]),
        ("m.csv", b"uri\n/a\n/\xff\xfe\n", ["line 3", "UTF-8"]),
        ("m.csv", "uri\n/a\n".encode("utf-16"), ["UTF-8"]),
        ("m.csv", 'uri,note\n/a,"x\n/b,x\n/c,x\n', ["line 4", "quote that is not closed"]),
        ("m.csv", 'uri,note\n/a,"x\n/b,x\n/c,"x"\n', ["line 4", "quote that is not closed"]),
        ("m.csv", 'uri\n"' + "x\n" * 100_000, ["line 65", "quote that is not closed"]),
        ("m.csv", "", ["empty"]),
        ("m.csv", "uri,id\n", ["no rows"]),
        ("m.csv.gz", b"uri\n/a\n", ["gzip"]),
        ("m.txt", b"/a\n/\xff\n", ["line 2", "UTF-8"]),
        ("m.txt", "\n \n", ["no rows"]),
        ("m.jsonl", '{"uri": "/a"}\n\n{"uri": \n', ["line 3", "not JSON"]),
        ("m.jsonl", '{"uri": "/a"}\n["/b"]\n', ["line 2", "not an object"]),
        ("m.jsonl", '{"uri": "/a"}\n{"uri": 1e999, "id": true}\n', ["line 2", "'id' is true"]),
        ("m.jsonl", '{"uri": "/a"}\n{"uri": ["/b"]}\n', ["line 2", "'uri'"]),
        ("m.jsonl", b'{"uri": "/a"}\n{"uri": "\xff"}\n', ["line 2", "not JSON"]),
        ("m.jsonl", '{"uri": "\\ud800"}\n', ["line 1", "surrogates"]),
        ("m.jsonl", "", ["empty"]),
        ("m.jsonl", '{"file": "/a"}\n', ["'file'", "uri, url, path"]),
        ("m.json", '[{"uri": "/a"}, 3]', ["item 2", "not an object"]),
        ("m.json", '[{"uri": "/a"}', ["not a JSON list"]),
        ("m.json", "[]", ["empty"]),
        ("m.json", "[" * 100_000, ["not a JSON list"]),
        ("m.parquet", b"PAR1 and then nothing", ["not a Parquet file"]),
        ("m.parquet", b"", ["not a Parquet file"]),
        ("m.tgz", b"ustar", ["neither a picture nor a manifest", ".parquet .csv"]),
        ("m.tar", b"ustar", ["no uncompressed tar"]),
    ],
)
def test_malformed_manifests(tmp_path, name, content, words):
    """A damaged manifest is refused with its name, and the place where that is known."""
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert_refused(path, name, *words)


def test_a_cut_gzip_is_refused(tmp_path):
    """Half of a compressed manifest is not taken for a whole one."""
    for name in ("m.csv.gz", "m.jsonl.gz", "m.txt.gz"):
        content = "".join(f'{{"uri": "/{number}.jpg"}}\n' for number in range(5000))
        path = write(tmp_path / name, "uri\n" + content if "csv" in name else content)
        path.write_bytes(path.read_bytes()[:-2000])
        assert_refused(path, name, "damaged or cut")


def test_a_cut_parquet_column_is_refused(tmp_path):
    """Damage within a Parquet file is an InputError, too."""
    uris = [f"/{number}" for number in np.random.default_rng(0).integers(0, 10**9, 20_000)]
    pq.write_table(pa.table({"uri": uris}), tmp_path / "m.parquet", use_dictionary=False)
    data = bytearray((tmp_path / "m.parquet").read_bytes())
    data[200:30_000] = bytes(29_800)
    (tmp_path / "m.parquet").write_bytes(data)
    assert_refused(tmp_path / "m.parquet", "m.parquet", "Parquet")


def test_lines_have_a_limit(tmp_path, monkeypatch):
    """A line that never ends is refused instead of filling the memory."""
    monkeypatch.setattr(manifest_readers, "_MAX_LINE_BYTES", 100)
    assert_refused(write(tmp_path / "m.txt", "/a\n" + "x" * 200), "line 2", "100 bytes")


def test_columns_that_cannot_be_kept(tmp_path):
    """A missing column, a name of the output's own and a mixture of types are refused by name."""
    path = write(tmp_path / "m.csv", "uri,width\n/a,3\n")
    assert_refused(path, "'colour'", "'uri', 'width'", keep=["colour"])
    assert_refused(path, "'width'", "rename", keep=["width"])
    assert_refused(path, "'uri'", "rename", keep=["uri"])
    assert_refused(write(tmp_path / "k.csv", "uri,k\n/a,3\n"), "'k'", "twice", keep=["k", "k"])
    path = write(tmp_path / "m.jsonl", '{"uri": "/a", "k": 1}\n{"uri": "/b", "k": "x"}\n')
    assert_refused(path, "line 1 to line 2", "'k'", keep=["k"])
    assert_refused(path, "changes its type", "k", keep=["k"], batch_rows=1)
    touch(tmp_path / "pictures", "a.jpg")
    assert_refused(tmp_path / "pictures", "directory", "manifest.keep", keep=["k"])


def test_uri_columns_of_other_types_are_refused(tmp_path):
    """A uri must be text or a number."""
    pq.write_table(pa.table({"uri": [True]}), tmp_path / "c.parquet")
    assert_refused(tmp_path / "c.parquet", "'uri' is of type bool")


def test_inputs_that_hold_nothing(tmp_path):
    """Nothing there, nothing that matches, nothing that is an image: refused, each with its remedy."""
    assert_refused(tmp_path / "missing", "no such file or folder")
    assert_refused("", "INPUT is empty")
    assert_refused("ftp://host/x", "ftp:// is not read", "mount")
    assert_refused(f"{tmp_path}/*.jpg", "no file matches")
    assert_refused(f"{tmp_path}/missing/*.jpg", "no file matches")
    assert_refused(tmp_path, "no images in this folder", "0 files")
    touch(tmp_path, "a.md", "b.md")
    assert_refused(tmp_path, "no images in this folder", "2 files have other extensions", ".jpg")
    assert_refused(tmp_path / "a.md", "neither a picture nor a manifest")
    manifest_of(ROWS, tmp_path / "m.csv")
    assert_refused(f"{tmp_path}/*.csv", "matches manifests")


def test_rows_are_read_once(tmp_path):
    """A second reading would silently be empty: it is an error."""
    opened = open_input(str(manifest_of(ROWS, tmp_path / "m.csv")), config=ANYWHERE)
    list(opened.batches())
    with pytest.raises(RuntimeError, match="only once"):
        opened.batches()


text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)


@pytest.mark.lengthy
@given(st.lists(st.tuples(text, text), min_size=1, max_size=20), st.integers(1, 7))
@settings(max_examples=100, deadline=None)
def test_any_text_survives_csv_json_and_parquet(tmp_path_factory, rows, batch_rows):
    """Whatever an id or uri holds, the formats agree on the rows, at any size of batches."""
    folder = tmp_path_factory.mktemp("m")
    table = pa.table({"uri": [f"/{uri}" for uri, _ in rows], "id": [key for _, key in rows]})
    pq.write_table(table, folder / "m.parquet")
    write(folder / "m.jsonl", "".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    quoted = [[f'"{value.replace(chr(34), chr(34) * 2)}"' for value in row.values()] for row in table.to_pylist()]
    write(folder / "m.csv", "uri,id\n" + "".join(",".join(row) + "\n" for row in quoted))
    expected = [(key or f"/{uri}", f"/{uri}") for uri, key in rows]
    for name in ("m.parquet", "m.jsonl", "m.csv"):
        assert read(folder / name, batch_rows=batch_rows) == expected
