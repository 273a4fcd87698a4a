"""A path leads to the files that it names, in the order in which it names them; what is wrong with it is said."""

import http.server
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from raexla.data.layouts.find import common_names
from raexla.data.shards import index
from raexla.data.source import Source
from raexla.recipe import UserError
from tests.unit.data.layouts.written import write_files, write_tar

Open = Callable[..., Source]


def shard(path: Path, rows: int = 2) -> str:
    """A tar of `rows` texts that say which shard and row they are."""
    return str(write_tar(path, {f"{row}.txt": f"{path.stem}-{row}".encode() for row in range(rows)}))


def texts(source: Source) -> list[str]:
    """The texts of all samples."""
    places = [(number, row) for number, count in enumerate(source.shard_samples) for row in range(count)]
    return [str(source.load(*place, seed=0, epoch=0).caption) for place in places]


def uids(source: Source) -> list[str]:
    """The uid of each shard's first sample."""
    return [source.uid(number, 0) for number in range(len(source.shard_samples))]


@pytest.fixture
def ten(tmp_path: Path) -> Path:
    """Ten shards `x-000.tar` ... with a `y.tar` beside them."""
    for number in range(10):
        shard(tmp_path / f"x-{number:03d}.tar", rows=1)
    shard(tmp_path / "y.tar", rows=1)
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "shards"),
    [
        ("", ["x-000", "x-001", "x-002", "x-003", "x-004", "x-005", "x-006", "x-007", "x-008", "x-009", "y"]),
        ("/x-{003..005}.tar", ["x-003", "x-004", "x-005"]),
        ("/x-{000..009..4}.tar", ["x-000", "x-004", "x-008"]),
        ("/x-00{7,2}.tar", ["x-007", "x-002"]),
        ("/{y,x-{000..001}}.tar", ["y", "x-000", "x-001"]),
        ("/x-*[89].tar", ["x-008", "x-009"]),
        ("/?.tar", ["y"]),
        ("/{y,x-*1}.tar", ["y", "x-001"]),
        ("/x-004.tar", ["x-004"]),
    ],
)
@pytest.mark.parametrize("place", ["local", "memory", "indexed"])
def test_patterns(pattern: str, shards: list[str], place: str, ten: Path, open_source: Open) -> None:
    root = str(ten)
    if place == "indexed":
        index(root)
    if place == "memory":
        root = "memory://bucket/sets"
        fsspec.filesystem("memory").put(str(ten), "/bucket/sets", recursive=True)
    try:
        said: list[str] = []
        source = open_source(path=root + pattern, kind="text", say=said.append)
        assert texts(source) == [f"{name}-0" for name in shards]
        assert uids(source) == [f"s/{name}/0" for name in shards]
        assert bool(said) == (place != "indexed")
    finally:
        if place == "memory":
            fsspec.filesystem("memory").rm("/bucket", recursive=True)


def test_a_pattern_reads_the_part_of_an_index_that_it_names(ten: Path, open_source: Open) -> None:
    path = f"{ten}/x-{{008,001}}.tar"
    without = open_source(path=path, kind="text")
    index(str(ten))
    source = open_source(path=path, kind="text")
    assert source.order_hash == without.order_hash
    assert source.manifest_hash is not None
    assert texts(source) == ["x-008-0", "x-001-0"]
    shard(ten / "x-010.tar")
    with pytest.raises(UserError, match=r"index\.json: has no x-010\.tar \(1 of the 2 shards .* makes a new index"):
        open_source(path=f"{ten}/x-{{009..010}}.tar", kind="text")


def test_lists_name_files_beside_them_or_anywhere(tmp_path: Path, open_source: Open) -> None:
    far = shard(tmp_path / "far/away/z.tar", rows=1)
    for name in ("a", "b1", "b2"):
        shard(tmp_path / f"near/{name}.tar", rows=1)
    listed = write_files(
        tmp_path, {"near/list.txt": f"# the best ones\n\nb{{2,1}}.tar\n{far}\n", "near/empty.txt": "#\n"}
    )
    assert texts(open_source(path=f"{listed}/near/list.txt", kind="text")) == ["b2-0", "b1-0", "z-0"]
    assert uids(open_source(path=f"{listed}/near/list.txt", kind="text")) == [
        "s/near/b2/0",
        "s/near/b1/0",
        "s/far/away/z/0",
    ]
    several = open_source(path=[f"{tmp_path}/near/a.tar", f"{tmp_path}/near/b*.tar", far], kind="text")
    assert texts(several) == ["a-0", "b1-0", "b2-0", "z-0"]
    with pytest.raises(UserError, match=r"empty\.txt: lists nothing"):
        open_source(path=f"{listed}/near/empty.txt")
    manifest = {"dataset_name": "x", "tars": ["b1.tar", far]}
    write_files(tmp_path, {"near/wds_manifest.json": json.dumps(manifest)})
    for path in (f"{tmp_path}/near/wds_manifest.json", f"{tmp_path}/near"):
        assert texts(open_source(path=path, kind="text", layout="webdataset")) == ["b1-0", "z-0"]
    with pytest.raises(UserError, match=r"none of its 1 shards has a \*\.json.*`layout: webdataset`"):
        open_source(path=f"{tmp_path}/near/wds_manifest.json")


def test_shards_in_folders_keep_apart_and_share_an_index_above_them(tmp_path: Path, open_source: Open) -> None:
    for folder in ("a", "b"):
        shard(tmp_path / folder / "00.tar", rows=2)
    path = f"{tmp_path}/{{b,a}}/00.tar"
    scanned: list[str] = []
    source = open_source(path=path, kind="text", say=scanned.append)
    assert len(scanned) == 2
    assert uids(source) == ["s/b/00/0", "s/a/00/0"]
    index(str(tmp_path))
    said: list[str] = []
    indexed = open_source(path=path, kind="text", say=said.append)
    assert (said, uids(indexed), texts(indexed)) == ([], uids(source), texts(source))
    # one folder read as a whole calls them the same
    assert sorted(uids(open_source(path=str(tmp_path), kind="text"))) == sorted(uids(source))


def test_only_takes_the_files_that_match(ten: Path, open_source: Open) -> None:
    assert texts(open_source(path=str(ten), kind="text", only=["*/y.tar", "*-007*"])) == ["x-007-0", "y-0"]
    index(str(ten))
    assert texts(open_source(path=str(ten), kind="text", only=["*/x-00[12].tar"])) == ["x-001-0", "x-002-0"]
    with pytest.raises(UserError, match=r"none of its files matches `only: \['z\*'\]`"):
        open_source(path=str(ten), only=["z*"])


@pytest.mark.parametrize("way", ["pattern", "list", "manifest", "index", "jsonl"])
def test_a_missing_file_stops_unless_the_recipe_allows_it(way: str, tmp_path: Path, open_source: Open) -> None:
    ending = "jsonl" if way == "jsonl" else "tar"
    for number in range(4):
        if way == "jsonl":
            write_files(tmp_path, {f"x-{number}.jsonl": json.dumps({"text": f"x-{number}-0"})})
        else:
            shard(tmp_path / f"x-{number}.tar", rows=1)
    names = [f"x-{number}.{ending}" for number in range(4)]
    write_files(tmp_path, {"list.txt": "\n".join(names), "wds_manifest.json": json.dumps({"tars": names})})
    paths = {"list": "list.txt", "manifest": "wds_manifest.json", "index": "index.json"}
    values: dict[str, Any] = {"path": f"{tmp_path}/{paths.get(way, 'x-{0..3}.' + ending)}", "kind": "text"}
    values |= {"layout": "webdataset"} if ending == "tar" else {}
    if way == "index":
        index(str(tmp_path))
    whole = open_source(**values)
    (tmp_path / names[1]).unlink()
    (tmp_path / names[3]).unlink()
    if way == "index":  # said when the shard is first wanted: an index is not checked against a listing
        with pytest.raises(UserError, match=r"x-1\.tar: there is no such file"):
            texts(open_source(**values))
    else:
        with pytest.raises(UserError, match=rf"2 of the 4 .* aren't there: {names[1]}, {names[3]}; .*`missing: skip`"):
            open_source(**values)
    said: list[str] = []
    rest = open_source(**values, missing="skip", say=said.append)
    assert texts(rest) == ["x-0-0", "x-2-0"]
    assert rest.order_hash != whole.order_hash
    assert f"{tmp_path}: 2 of 4 files aren't there and are left out (missing: skip): {names[1]}, {names[3]}" in said
    for name in (names[0], names[2]):
        (tmp_path / name).unlink()
    with pytest.raises(UserError, match="none of the 4 files that are named is there"):
        open_source(**values, missing="skip")


@pytest.mark.parametrize(
    ("files", "path", "options", "message"),
    [
        ({"a.md": ""}, "", {}, r"no data in its 1 files: looked for index\.json, wds_manifest\.json, \*\.tar, \*\.js"),
        ({}, "gone", {}, "there is no such folder; `raexla shards pack FOLDER"),
        ({"a.parquet": ""}, "a.parquet", {}, r"neither a folder nor a file that is known: \*\.tar"),
        ({}, "index.json", {}, r"index\.json: there is no such file; `raexla shards index` makes it"),
        ({"a.tar": "", "b.jsonl": ""}, "", {}, r"has 1 \*\.tar and 1 \*\.jsonl; say which with `layout: webdataset`"),
        ({"a.jsonl": "", "b.tar": ""}, "{a.jsonl,b.tar}", {}, r"names \*\.tar and \*\.jsonl; make them two sources"),
        ({"a.png": ""}, "*.png", {}, r"a\.png: files of data are \*\.tar or \*\.jsonl"),
        ({"a.md": ""}, "*.tar", {}, r"\*\.tar: matches no file below "),
        ({}, "x-{000..009.tar", {}, r"its braces aren't balanced; a range is written \{000\.\.099\}"),
        ({"m.json": "[1]"}, "m.json", {}, r"a JSON list, .*`jq -c '\.\[\]' .*m\.json > .*m\.jsonl`"),
        ({"m.json": "{"}, "m.json", {}, r"m\.json: not JSON"),
        ({"m.json": '{"tars": []}'}, "m.json", {}, r"not a manifest: no list of paths under `tars`"),
        ({"m.json": '{"tars": ["a.tar", "a.tar"]}'}, "m.json", {"missing": "skip"}, r"a\.tar: named twice; a source's"),
        ({"a.tar": ""}, "a.tar", {"layout": "jsonl"}, r"names \.tar files, its layout is said to be jsonl"),
        ({"a.png": ""}, "", {"layout": "jsonl"}, r"no \*\.jsonl in its 1 files \(jsonl\)"),
        ({"a.png": ""}, "", {"layout": "scale_rae"}, r"no \*\.tar in its 1 files \(scale_rae\)"),
        ({"a.png": ""}, "", {"images": "/"}, "is of the layout folder; `images` is for lists"),
        ({"list.txt": "pipe:cat x.tar"}, "list.txt", {}, "x.tar"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_path(
    files: dict[str, bytes | str], path: str, options: dict[str, Any], message: str, tmp_path: Path, open_source: Open
) -> None:
    write_files(tmp_path, files)
    with pytest.raises(UserError, match=message):
        open_source(path=f"{tmp_path}/{path}" if path else str(tmp_path), **options)


def test_no_shell_is_run(tmp_path: Path, open_source: Open) -> None:
    for path in (f"pipe:touch {tmp_path}/ran; cat x.tar", f"pipe://touch {tmp_path}/ran.tar"):
        with pytest.raises(UserError):
            open_source(path=path)
    assert not list(tmp_path.iterdir())


def test_a_folder_may_be_called_like_a_pattern(tmp_path: Path, open_source: Open) -> None:
    shard(tmp_path / "cats [old] {1,2}" / "a.tar", rows=1)
    assert texts(open_source(path=f"{tmp_path}/cats [old] {{1,2}}", kind="text")) == ["a-0"]


def test_what_tells_folders_apart() -> None:
    assert common_names(["gs://b/x/a", "gs://b/x/c/d"]) == ["a", "c/d"]
    assert common_names(["gs://b/x", "gs://c/x"]) == ["gs://b/x", "gs://c/x"]
    assert common_names(["/a/x", "/b/x"]) == ["a/x", "b/x"]
    assert common_names(["/a/x", "/a/x/b"]) == ["", "b"]
    assert common_names(["gs://b/a", "/b/a"]) == ["gs://b/a", "/b/a"]


class _Ranges(http.server.SimpleHTTPRequestHandler):
    """Serves byte ranges."""

    def do_GET(self) -> None:
        path, asked = Path(self.translate_path(self.path)), self.headers.get("Range")
        if not asked or not path.is_file():
            return super().do_GET()
        first, _, last = asked.removeprefix("bytes=").partition("-")
        data = path.read_bytes()
        part = data[int(first) : int(last) + 1 if last else None]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)
        return None

    def log_message(self, *arguments: Any) -> None:
        """Nothing."""


@pytest.fixture
def served(ten: Path) -> Iterator[str]:
    """The ten shards on a web server of this machine."""
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), lambda *arguments: _Ranges(*arguments, directory=str(ten))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_web_servers(served: str, ten: Path, open_source: Open) -> None:
    assert texts(open_source(path=served + "/x-{001..002}.tar", kind="text")) == ["x-001-0", "x-002-0"]
    index(str(ten))
    (ten / "x-002.tar").unlink()
    said: list[str] = []
    source = open_source(path=served + "/x-{001..003}.tar", kind="text", missing="skip", say=said.append)
    assert texts(source) == ["x-001-0", "x-003-0"]
    assert "1 of 3 files aren't there and are left out" in said[0]
    shutil.rmtree(ten)
