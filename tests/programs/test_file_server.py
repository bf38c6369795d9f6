"""The file server's files: bodies, ranges, conditions, folders, names, and what must not be served."""

from __future__ import annotations

import email.message
import email.parser
import email.policy
import email.utils
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

import pytest

from . import support
from .file_servers import LARGE_BYTES, Running, make_site, request, serving


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server whose files no test changes."""
    folder = tmp_path_factory.mktemp("site")
    root = make_site(folder)
    links = {
        "outside": "/etc/passwd",
        "outside-relative": "../secret",
        "outside-folder": "../outer",
        "inside": "hello.txt",
        "inside-by-dots": "sub/../sub/deep/../../hello.txt",
        "inside-absolute": str(root / "hello.txt"),
        "folder-link": "sub",
        "out-and-in": "../served/hello.txt",
        "dangling": "nowhere",
        "loop": "loop",
        "chain": "inside",
        "file-with-slash": "hello.txt/",
        "magic": "/proc/self/cwd",
    }
    for name, target in links.items():
        root.joinpath(name).symlink_to(target)
    os.mkfifo(root / "fifo")
    root.joinpath("fifo-link").symlink_to("fifo")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(root / "socket"))
    # A year ago: then the files' dates count as strong validators.
    for path in root.rglob("*"):
        if not path.is_symlink():
            os.utime(path, (time.time() - 365 * 86400,) * 2)
    with listener, serving(root) as running:
        yield running


@pytest.fixture
def changing(tmp_path: Path) -> Iterator[Running]:
    """A server of its own, which looks at the disk for each request."""
    with serving(make_site(tmp_path)) as running:
        yield running


# --- bodies


def test_files(site: Running) -> None:
    for name, body in [
        ("hello.txt", b"hello, world\n"),
        ("small.bin", support.payload(10_000)),
        ("large.bin", support.payload(LARGE_BYTES)),
        ("empty", b""),
        ("sub/deep/file", b"deep"),
    ]:
        asked_s = time.time()
        answer = site.ask(f"/{name}")
        assert (answer.status, answer.body) == (200, body)
        assert answer["Accept-Ranges"] == "bytes"
        date = email.utils.parsedate_to_datetime(answer["Date"] or "").timestamp()
        assert int(asked_s) - 1 <= date <= time.time()
        modified = email.utils.parsedate_to_datetime(answer["Last-Modified"] or "").timestamp()
        assert modified == int(site.root.joinpath(name).stat().st_mtime)
        head = site.ask(f"/{name}", "HEAD")
        assert (head.status, head.body) == (200, b"")
        assert {name: head[name] for name in answer.headers if name != "date"} == {name: answer[name] for name in answer.headers if name != "date"}
    assert site.ask("/missing").status == 404
    assert site.ask("/hello.txt/").status == 404
    assert site.ask("/hello.txt/more").status == 404
    assert site.ask("/hello.txt?query=1&other=/../").body == b"hello, world\n"
    assert site.ask("/" + "n" * 300).status == 404
    # The body of a HEAD is no part of the answer: the next answer follows at once.
    with site.connect() as client:
        client.send(request("/missing", "HEAD") + request("/hello.txt"))
        assert client.answer("HEAD").status == 404
        assert client.answer().body == b"hello, world\n"


def test_media_types(changing: Running) -> None:
    for name, kind in [
        ("a.html", "text/html"),
        ("a.HTML", "text/html"),
        ("a.css", "text/css"),
        ("a.js", "text/javascript"),
        ("a.mjs", "text/javascript"),
        ("a.json", "application/json"),
        ("a.png", "image/png"),
        ("a.svg", "image/svg+xml"),
        ("a.webp", "image/webp"),
        ("a.wasm", "application/wasm"),
        ("a.woff2", "font/woff2"),
        ("a.txt", "text/plain"),
        ("a.tar.gz", "application/gzip"),
        ("a.unknown", "application/octet-stream"),
        ("noending", "application/octet-stream"),
        ("a.", "application/octet-stream"),
    ]:
        changing.root.joinpath(name).write_bytes(b"x")
        answer = changing.ask(f"/{name}")
        assert (name, answer["Content-Type"]) == (name, kind)
        assert answer["Content-Encoding"] is None


def test_a_file_larger_than_four_gibibytes(changing: Running) -> None:
    size = (5 << 30) + 12_345
    with changing.root.joinpath("huge").open("wb") as huge:
        huge.truncate(size)
        for offset, text in [(0, b"begin"), ((4 << 30) - 3, b"across"), (size - 3, b"end")]:
            huge.seek(offset)
            huge.write(text)
    assert changing.ask("/huge", "HEAD")["Content-Length"] == str(size)
    for asked, body in [(f"{(4 << 30) - 3}-{(4 << 30) + 2}", b"across"), ("-3", b"end"), ("0-4", b"begin"), (f"{size - 3}-", b"end")]:
        answer = changing.ask("/huge", Range=f"bytes={asked}")
        assert (answer.status, answer.body) == (206, body)
    # Seven million bytes on both sides of the place where 32 bits end.
    begin, end = (4 << 30) - 3_500_000, (4 << 30) + 3_500_000
    answer = changing.ask("/huge", Range=f"bytes={begin}-{end - 1}")
    assert answer.body == b"\0" * 3_499_997 + b"across" + b"\0" * 3_499_997


# --- ranges


@pytest.mark.parametrize("name", ["small.bin", "large.bin"])
def test_one_range(site: Running, name: str) -> None:
    size = site.root.joinpath(name).stat().st_size
    whole = support.payload(size)
    with site.connect() as client:
        for asked, begin, end in [
            ("0-0", 0, 1),
            ("5-9", 5, 10),
            ("0-", 0, size),
            ("5000-", 5000, size),
            (f"{size - 1}-{size - 1}", size - 1, size),
            (f"{size - 10}-{size + 10**6}", size - 10, size),
            (f"{size - 10}-{'9' * 5000}", size - 10, size),
            ("-1", size - 1, size),
            ("-5000", size - 5000, size),
            (f"-{'9' * 30}", 0, size),
            ("000005-0000009", 5, 10),
        ]:
            answer = client.ask(f"/{name}", Range=f"bytes={asked}")
            assert (answer.status, answer["Content-Range"]) == (206, f"bytes {begin}-{end - 1}/{size}")
            assert answer.body == whole[begin:end]
        for asked in (f"{size}-", f"{size}-{size + 1}", "-0", f"{'9' * 5000}-", f"{size}-{size},-0"):
            answer = client.ask(f"/{name}", Range=f"bytes={asked}")
            assert (answer.status, answer["Content-Range"]) == (416, f"bytes */{size}")
        # What is no range is ignored.
        for odd in ("bytes=", "bytes=-", "bytes=9-5", "bytes=a-b", "lines=1-2", "bytes 1-2", "bytes=1-2,x", "bytes=1--2", "bytes=+1-2"):
            answer = client.ask(f"/{name}", Range=odd)
            assert (answer.status, len(answer.body)) == (200, size), odd
        # RFC 9110, 14.2: only GET has ranges.
        answer = client.ask(f"/{name}", "HEAD", Range="bytes=0-9")
        assert (answer.status, answer["Content-Length"], answer["Content-Range"]) == (200, str(size), None)


def test_ranges_of_an_empty_file(site: Running) -> None:
    answer = site.ask("/empty", Range="bytes=0-")
    assert (answer.status, answer["Content-Range"]) == (416, "bytes */0")
    assert site.ask("/empty", Range="bytes=-5").status == 200


def parts_of(content_type: str, body: bytes) -> list[tuple[str, str, bytes]]:
    """The parts of a multipart answer, read by the standard library's own parser: type, range, bytes."""
    parser = email.parser.BytesParser(policy=email.policy.HTTP)
    message = parser.parsebytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body)
    assert message.is_multipart()
    assert not message.defects
    return [
        (part["Content-Type"], part["Content-Range"], part.get_payload(decode=True))  # type: ignore[misc]
        for part in message.iter_parts()  # type: ignore[attr-defined]
    ]


@pytest.mark.parametrize("name", ["hello.txt", "large.bin"])
def test_many_ranges(site: Running, name: str) -> None:
    size = site.root.joinpath(name).stat().st_size
    whole = site.root.joinpath(name).read_bytes()
    kind = "text/plain" if name == "hello.txt" else "application/octet-stream"
    with site.connect() as client:
        for asked, expected in [
            ("0-1,5-6", [(0, 2), (5, 7)]),
            ("0-1 , 5-6", [(0, 2), (5, 7)]),
            ("-3,0-2", [(size - 3, size), (0, 3)]),  # in the order of the request
            (f"0-0,{size}-,2-2", [(0, 1), (2, 3)]),  # what does not exist is left out
            ("4-6,0-1,5-8", [(0, 2), (4, 9)]),  # what overlaps is joined
            (",0-1,,3-3,", [(0, 2), (3, 4)]),
        ]:
            answer = client.ask(f"/{name}", Range=f"bytes={asked}")
            assert answer.status == 206
            assert answer["Content-Range"] is None
            assert (answer["Content-Type"] or "").startswith("multipart/byteranges; boundary=")
            found = [(found_kind, place) for found_kind, place, _ in parts_of(answer["Content-Type"] or "", answer.body)]
            assert found == [(kind, f"bytes {begin}-{end - 1}/{size}") for begin, end in expected]
            # (The parser reads what is text as text: the bytes are compared as they came.)
            assert [answer.body.count(whole[begin:end]) >= 1 for begin, end in expected] == [True] * len(expected)
            pieces = re.split(rb"\r\n--\w+(?:--)?\r\n", answer.body)[1:-1]
            assert [piece.partition(b"\r\n\r\n")[2] for piece in pieces] == [whole[begin:end] for begin, end in expected]
        # One part is no multipart.
        answer = client.ask(f"/{name}", Range=f"bytes={size + 5}-,0-1,1-2")
        assert (answer.status, answer["Content-Range"], answer.body) == (206, f"bytes 0-2/{size}", whole[:3])
        # More parts than anybody needs.
        answer = client.ask(f"/{name}", Range="bytes=" + ",".join(f"{2 * place}-{2 * place}" for place in range(500)))
        assert (answer.status, len(answer.body)) == (200, size)
        # No more bytes than the file has, however often they are asked for.
        answer = client.ask(f"/{name}", Range="bytes=" + ",".join(["0-"] * 60))
        assert (answer.status, answer.body) == (206, whole)


def test_if_range(site: Running) -> None:
    for name in ("small.bin", "large.bin"):
        whole = site.ask(f"/{name}", "HEAD")
        tag, modified = whole["ETag"], whole["Last-Modified"]
        assert tag is not None and modified is not None and tag.startswith('"')
        later = email.utils.formatdate(email.utils.parsedate_to_datetime(modified).timestamp() + 1, usegmt=True)
        for condition, status in [
            (tag, 206),
            (modified, 206),
            ('"other"', 200),
            (f"W/{tag}", 200),  # a weak tag does not say that the bytes are the same
            (later, 200),  # exactly this date, not a later one
            ("yesterday", 200),
            ("", 200),
        ]:
            assert (name, condition, site.ask(f"/{name}", Range="bytes=0-9", If_Range=condition).status) == (name, condition, status)


def test_if_range_with_a_date_of_just_now(changing: Running) -> None:
    """The file can change again within that second: its date says nothing of its bytes."""
    changing.root.joinpath("new").write_bytes(b"new file")
    modified = changing.ask("/new", "HEAD")["Last-Modified"]
    assert modified is not None
    assert changing.ask("/new", Range="bytes=0-2", If_Range=modified).status == 200


# --- conditions


@pytest.mark.parametrize("name", ["hello.txt", "large.bin"])
def test_conditions(site: Running, name: str) -> None:
    """RFC 9110, 13.2.2: which condition counts, and in which order."""
    whole = site.ask(f"/{name}", "HEAD")
    tag, modified = whole["ETag"], whole["Last-Modified"]
    assert tag is not None and modified is not None
    stamp = email.utils.parsedate_to_datetime(modified).timestamp()
    before, after = (email.utils.formatdate(stamp + shift, usegmt=True) for shift in (-1, 1))
    moment = time.gmtime(stamp)
    rfc850, asctime = time.strftime("%A, %d-%b-%y %H:%M:%S GMT", moment), time.asctime(moment)
    with site.connect() as client:
        for conditions, status in [
            ({"If_None_Match": tag}, 304),
            ({"If_None_Match": f"W/{tag}"}, 304),
            ({"If_None_Match": f'"a", {tag},"b"'}, 304),
            ({"If_None_Match": f'"with,comma", W/{tag}'}, 304),
            ({"If_None_Match": "*"}, 304),
            ({"If_None_Match": '"other"'}, 200),
            ({"If_None_Match": tag.strip('"')}, 200),
            ({"If_None_Match": tag.upper()}, 304 if tag.upper() == tag else 200),
            ({"If_Modified_Since": modified}, 304),
            ({"If_Modified_Since": after}, 304),
            ({"If_Modified_Since": before}, 200),
            ({"If_Modified_Since": rfc850}, 304),
            ({"If_Modified_Since": asctime}, 304),
            ({"If_Modified_Since": "nonsense"}, 200),
            ({"If_Modified_Since": "Mon, 99 Jan 2024 00:00:00 GMT"}, 200),
            # If-Modified-Since is ignored beside If-None-Match.
            ({"If_None_Match": '"other"', "If_Modified_Since": after}, 200),
            ({"If_None_Match": tag, "If_Modified_Since": before}, 304),
            ({"If_Match": tag}, 200),
            ({"If_Match": f'"a", {tag}'}, 200),
            ({"If_Match": "*"}, 200),
            ({"If_Match": '"other"'}, 412),
            ({"If_Match": f"W/{tag}"}, 412),  # strong comparison
            ({"If_Match": "nonsense"}, 412),
            ({"If_Unmodified_Since": modified}, 200),
            ({"If_Unmodified_Since": after}, 200),
            ({"If_Unmodified_Since": before}, 412),
            ({"If_Unmodified_Since": "nonsense"}, 200),
            # If-Unmodified-Since is ignored beside If-Match.
            ({"If_Match": tag, "If_Unmodified_Since": before}, 200),
            ({"If_Match": '"other"', "If_Unmodified_Since": after}, 412),
            # What fails first counts.
            ({"If_Match": '"other"', "If_None_Match": tag}, 412),
            ({"If_Match": tag, "If_None_Match": tag}, 304),
            ({"If_Unmodified_Since": before, "If_None_Match": tag}, 412),
            ({"If_Match": tag, "If_Modified_Since": modified}, 304),
            # Conditions come before ranges.
            ({"If_None_Match": tag, "Range": "bytes=0-1"}, 304),
            ({"If_None_Match": '"other"', "Range": "bytes=0-1"}, 206),
            ({"If_Match": tag, "Range": "bytes=0-1"}, 206),
            ({"If_Match": '"other"', "Range": "bytes=0-1"}, 412),
        ]:
            answer = client.ask(f"/{name}", **conditions)
            assert (conditions, answer.status) == (conditions, status)
            if status == 304:
                assert answer["ETag"] == tag
                assert answer.body == b""
            head = client.ask(f"/{name}", "HEAD", **conditions)
            assert head.status == (200 if status == 206 else status)
        # Of what is not there nothing is conditional.
        assert client.ask("/missing", If_Match="*").status == 404
        assert client.ask("/sub", If_None_Match="*").status == 301


def test_a_changed_file_is_another_version(changing: Running) -> None:
    path = changing.root / "hello.txt"
    answer = changing.ask("/hello.txt")
    tag, status = answer["ETag"], path.stat()
    assert tag is not None
    path.write_bytes(b"HELLO, WORLD\n")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # by its size and its time it is still the same
    assert changing.ask("/hello.txt").body == b"HELLO, WORLD\n"
    # Another file in its place, with the same size and time, has another tag.
    path.with_name("new").write_bytes(b"another file\n")
    os.utime(path.with_name("new"), ns=(status.st_atime_ns, status.st_mtime_ns))
    path.with_name("new").replace(path)
    answer = changing.ask("/hello.txt", If_None_Match=tag)
    assert (answer.status, answer.body) == (200, b"another file\n")
    path.unlink()
    assert changing.ask("/hello.txt").status == 404


def test_a_date_in_the_future_is_not_told(changing: Running) -> None:
    os.utime(changing.root / "hello.txt", (time.time() + 86400,) * 2)
    answer = changing.ask("/hello.txt")
    assert (answer.status, answer["Last-Modified"]) == (200, None)
    os.utime(changing.root / "hello.txt", (-86400,) * 2)
    answer = changing.ask("/hello.txt")
    assert (answer.status, answer["Last-Modified"]) == (200, None)


def test_a_file_in_memory_is_looked_at_again_when_its_time_is_over(tmp_path: Path) -> None:
    root = make_site(tmp_path)
    with serving(root, "--valid", "0.2", "--stats") as running, running.connect() as client:
        for _ in range(20):
            assert client.ask("/hello.txt").body == b"hello, world\n"
        assert b'"requests_from_known_heads": 0,' not in client.ask("/-/stats.json").body
        root.joinpath("hello.txt").write_bytes(b"changed")
        deadline_s = time.monotonic() + support.PATIENCE_S
        while client.ask("/hello.txt").body != b"changed":
            assert time.monotonic() < deadline_s
        # And once it was seen it stays seen.
        assert [client.ask("/hello.txt").body for _ in range(100)] == [b"changed"] * 100
        root.joinpath("hello.txt").unlink()
        while client.ask("/hello.txt").status != 404:
            assert time.monotonic() < deadline_s


# --- folders


def links_of(page: bytes) -> list[bytes]:
    return [unquote_to_bytes(link) for link in re.findall(rb'href="\./([^"]*)"', page)]


def test_listing(site: Running) -> None:
    answer = site.ask("/")
    assert (answer.status, answer["Content-Type"]) == (200, "text/html; charset=utf-8")
    # Folders first, each in order; nothing hidden, nothing that leads out or nowhere, nothing that is no file.
    assert links_of(answer.body) == [
        *(b"folder-link/", b"indexed/", b"sub/"),
        *(b"chain", b"empty", b"hello.txt", b"inside", b"inside-by-dots", b"large.bin", b"small.bin"),
    ]
    assert b"3,000,000" in answer.body
    head = site.ask("/", "HEAD")
    assert (head.status, head["Content-Length"]) == (200, str(len(answer.body)))
    answer = site.ask("/sub/")
    assert b'href="../"' in answer.body
    assert b"&lt;tag&gt;" in answer.body
    assert b"<tag>" not in answer.body
    (folder, name) = re.findall(r'href="\./([^"]*)"', answer.body.decode())
    assert folder == "deep/"
    assert site.ask(f"/sub/{name}").body == b"<p>x"
    # Conditions and ranges are a file's.
    assert site.ask("/", If_None_Match="*", Range="bytes=0-1").status == 200
    assert site.ask("/folder-link/deep/file").body == b"deep"


def test_listing_of_awkward_names(changing: Running) -> None:
    folder = os.fsencode(changing.root / "awkward")
    os.mkdir(folder)
    names = [b"a:b", b"%41", b"a+b", b"a b", b'"quoted"', b"it's", b"back\\slash", b"not-utf8-\xff\xfe", b"new\nline", b"#hash", b"?query", b"&amp;"]
    names += ["snowman \N{SNOWMAN}".encode(), b"<script>alert(1)</script>"[:8], b"C:", b"..a", b"a.."]
    for name in names:
        Path(os.fsdecode(folder), os.fsdecode(name)).write_bytes(b"this is " + name)
    page = changing.ask("/awkward/").body
    assert sorted(links_of(page)) == sorted(name for name in names if not name.startswith(b"."))
    assert b"<script" not in page
    for link in re.findall(r'href="(\./[^"]*)"', page.decode()):
        assert changing.ask(f"/awkward/{link}").body == b"this is " + unquote_to_bytes(link.removeprefix("./"))
    # The title is a name as well.
    changing.root.joinpath("<b>bold & co").mkdir()
    page = changing.ask("/" + quote("<b>bold & co") + "/").body
    assert b"&lt;b&gt;bold &amp; co" in page
    assert b"<b>" not in page


def test_listing_of_a_long_folder(changing: Running) -> None:
    folder = changing.root / "long"
    folder.mkdir()
    for number in range(10_010):
        folder.joinpath(f"{number:05}").touch()
    page = changing.ask("/long/").body
    assert len(links_of(page)) == 10_000
    assert b"and more than these 10,000" in page


def test_no_listing(tmp_path: Path) -> None:
    with serving(make_site(tmp_path), "--no-listing") as running:
        assert running.ask("/").status == 403
        assert running.ask("/sub/").status == 403
        assert b"deep" not in running.ask("/sub/").body
        assert running.ask("/sub").status == 301
        assert running.ask("/indexed/").body == b"<p>the index"
        assert running.ask("/hello.txt/").status == 404
        assert running.ask("/missing/").status == 404
        assert running.ask("/hello.txt").status == 200


def test_index(changing: Running) -> None:
    answer = changing.ask("/indexed/")
    assert (answer.status, answer.body, answer["Content-Type"]) == (200, b"<p>the index", "text/html")
    tag = answer["ETag"]
    assert tag is not None
    assert changing.ask("/indexed/", If_None_Match=tag).status == 304
    assert changing.ask("/indexed/", Range="bytes=0-2").body == b"<p>"
    # One that appears, one that goes, one that is a folder, one that is large.
    changing.root.joinpath("sub", "index.html").write_bytes(b"new")
    assert changing.ask("/sub/").body == b"new"
    changing.root.joinpath("sub", "index.html").write_bytes(support.payload(LARGE_BYTES))
    assert changing.ask("/sub/").body == support.payload(LARGE_BYTES)
    changing.root.joinpath("sub", "index.html").unlink()
    assert b"deep" in changing.ask("/sub/").body
    changing.root.joinpath("sub", "index.html").mkdir()
    assert b"index.html/" in changing.ask("/sub/").body
    changing.root.joinpath("indexed", "index.html").unlink()
    changing.root.joinpath("indexed", "index.html").symlink_to("/etc/passwd")
    assert changing.ask("/indexed/").status == 403


def test_redirects(changing: Running) -> None:
    changing.root.joinpath("ä b").mkdir()
    for target, location in [
        ("/sub", "/sub/"),
        ("/sub?a=b&c=%20", "/sub/?a=b&c=%20"),
        ("//sub", "/sub/"),  # two slashes would name another host
        ("///sub", "/sub/"),
        ("/./sub", "/sub/"),
        ("/sub/deep", "/sub/deep/"),
        ("/%73ub", "/sub/"),
        ("/%C3%A4%20b", "/%C3%A4%20b/"),
        ("http://example.com/sub", "/sub/"),
    ]:
        answer = changing.ask(target)
        assert (target, answer.status, answer["Location"]) == (target, 301, location)
        assert changing.ask(answer["Location"] or "").status == 200
    answer = changing.ask('/sub?"><script>')
    assert b"<script>" not in answer.body


# --- names


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/%68ello.txt", 200),
        ("/hello%2Etxt", 200),
        ("/hello%2etxt", 200),
        ("/sub/%C3%BCml%C3%A4ut%20%26%20%3Ctag%3E%3F.html", 200),
        ("/./hello.txt", 200),
        ("/sub/./deep//file", 200),
        ("/%2e/hello.txt", 200),
        ("http://localhost/hello.txt", 200),
        ("HTTP://localhost:80/hello.txt", 200),
        ("https://user@localhost/hello.txt?x", 200),
        ("http://localhost", 200),
        ("http://localhost?x", 200),
        ("/hello%2", 400),
        ("/hello%", 400),
        ("/hello%zz", 400),
        ("/%-1", 400),
        ("/%+1", 400),
        ("/% 1", 400),
        ("/hello.txt%00", 400),
        ("/hello.txt%00.html", 400),
        ("/hello.txt#fragment", 400),
        ("hello.txt", 400),
        ("*", 400),
        ("http:///hello.txt", 400),
        ("ftp://localhost/hello.txt", 400),
        ("/hello%252etxt", 404),  # decoded once, not twice
        ("/HELLO.TXT", 404),
        ("/hello.txt%20", 404),
        ("/hello+txt", 404),
    ],
)
def test_spelling(site: Running, target: str, status: int) -> None:
    assert site.ask(target).status == status


def test_unencoded_bytes_are_taken_as_they_are(site: Running) -> None:
    answer = site.raw("GET /sub/ümläut%20&%20<tag>%3F.html HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert answer.endswith(b"\r\n\r\n<p>x")


@pytest.mark.parametrize(
    "target",
    [
        "/../secret",
        "/sub/../../secret",
        "/sub/../hello.txt",
        "/..",
        "/../",
        "/%2e%2e/secret",
        "/%2E%2E/secret",
        "/.%2e/secret",
        "/%2e./secret",
        "/..%2fsecret",
        "/..%2Fsecret",
        "/%2e%2e%2fsecret",
        "/sub/%2e%2e/%2e%2e/secret",
        "/sub%2f..%2f..%2fsecret",
        "/./../secret",
        "//../secret",
        "/%2fetc/passwd",
        "/%2f%2e%2e%2fsecret",
        "http://localhost/../secret",
        "/outside",
        "/outside-relative",
        "/outside-folder/",
        "/outside-folder/file",
        "/folder-link/../../secret",
        "/inside-absolute",
        "/out-and-in",
        "/magic/",
        "/loop",
    ],
)
def test_nobody_gets_out(site: Running, target: str) -> None:
    answer = site.ask(target)
    assert answer.status == 403
    assert b"top secret" not in answer.body
    assert b"root:" not in answer.body


@pytest.mark.parametrize(
    "target",
    [
        "/..\\secret",
        "/..%5csecret",
        "/sub\\..\\..\\secret",
        "/sub%5c..%5c..%5csecret",
        "\\..\\secret",
        "//etc/passwd",
        "/etc/passwd",
        "/...//secret",
        "/%252e%252e/secret",
        "/%c0%ae%c0%ae/secret",
        "/..%c0%afsecret",
        "/..;/secret",
        "/secret",
        "/dangling",
        "/file-with-slash",
    ],
)
def test_nobody_gets_out_by_other_spellings(site: Running, target: str) -> None:
    """These name nothing: a backslash is a character like any other, nothing is decoded twice, and UTF-8 has one spelling."""
    answer = site.ask(target)
    assert answer.status in (400, 404)
    assert b"top secret" not in answer.body
    assert b"root:" not in answer.body


def test_links_inside(site: Running) -> None:
    for name in ("inside", "inside-by-dots", "chain"):
        assert site.ask(f"/{name}").body == b"hello, world\n"
    assert site.ask("/folder-link").status == 301


def test_a_file_that_is_replaced_by_a_link_all_the_time(changing: Running) -> None:
    """Between the check and the use there is no name that somebody could change."""
    root = changing.root
    root.joinpath("swapped").write_bytes(b"public")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            root.joinpath("next").unlink(missing_ok=True)
            root.joinpath("next").symlink_to("../secret")
            root.joinpath("next").replace(root / "swapped")
            root.joinpath("next").write_bytes(b"public")
            root.joinpath("next").replace(root / "swapped")

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        seen = set()
        with changing.connect() as client:
            for _ in range(2000):
                answer = client.ask("/swapped")
                seen.add((answer.status, answer.body if answer.status == 200 else b""))
    finally:
        stop.set()
        swapper.join()
    assert seen <= {(200, b"public"), (403, b"")}
    assert (200, b"public") in seen


def test_a_folder_that_is_moved_out_all_the_time(changing: Running) -> None:
    """A link with ".." in it must not be followed from where the folder has gone meanwhile."""
    root = changing.root
    root.joinpath("sub", "deep", "up").symlink_to("../../hello.txt")
    stop = threading.Event()
    outside = root.parent / "moved"

    def move() -> None:
        while not stop.is_set():
            root.joinpath("sub", "deep").rename(outside)
            outside.rename(root / "sub" / "deep")

    root.parent.parent.joinpath("hello.txt").write_bytes(b"top secret")
    mover = threading.Thread(target=move)
    mover.start()
    try:
        with changing.connect() as client:
            seen = {(answer.status, b"secret" in answer.body) for answer in (client.ask("/sub/deep/up") for _ in range(2000))}
    finally:
        stop.set()
        mover.join()
    assert not any(secret for _, secret in seen)
    assert {status for status, _ in seen} <= {200, 403, 404, 503}


def test_what_is_no_file_is_refused(site: Running) -> None:
    for name in ("fifo", "fifo-link", "socket"):
        answer = site.ask(f"/{name}")
        assert (name, answer.status) == (name, 403)


def test_a_pipe_is_not_even_opened(changing: Running) -> None:
    """Somebody who waits for a reader would take the server for one."""
    os.mkfifo(changing.root / "fifo")
    written = []

    def write() -> None:
        fd = os.open(changing.root / "fifo", os.O_WRONLY)
        try:
            written.append(os.write(fd, b"for the reader"))
        finally:
            os.close(fd)

    writer = threading.Thread(target=write)
    writer.start()
    deadline_s = time.monotonic() + support.PATIENCE_S
    openat = {"x86_64": "257 ", "aarch64": "56 "}[os.uname().machine]
    while not Path(f"/proc/self/task/{writer.native_id}/syscall").read_text().startswith(openat):
        assert time.monotonic() < deadline_s
        time.sleep(0.001)
    assert [changing.ask("/fifo").status for _ in range(10)] == [403] * 10
    assert not written
    with changing.root.joinpath("fifo").open("rb") as reader:
        assert reader.read() == b"for the reader"
    writer.join()


def test_dot_files(changing: Running, tmp_path: Path) -> None:
    for target in ("/.hidden", "/%2ehidden", "/.hidden-folder/", "/.hidden-folder/file", "/sub/.hidden"):
        assert changing.ask(target).status == 404
    with serving(changing.root, "--dot-files") as running:
        assert running.ask("/.hidden").body == b"hidden"
        assert running.ask("/.hidden-folder/file").body == b"hidden"
        assert b".hidden" in links_of(running.ask("/").body)
        assert running.ask("/../secret").status == 403
        assert running.ask("/..\\secret").status == 404


# --- files that change while they are sent


@pytest.mark.skipif(
    support.LOOP == "asyncio", reason="needs kernel: os.sendfile(), which asyncio's loop uses, sends zeros for what was cut off and tells nobody"
)
def test_a_file_that_is_truncated_while_it_is_sent(changing: Running) -> None:
    """The client learns that it has not got all, and nothing but the file's bytes reaches it."""
    size = 64 << 20
    path = changing.root / "shrinking"
    pattern = bytes(range(1, 256)) * (size // 255 + 1)
    path.write_bytes(pattern[:size])
    with changing.connect() as client:
        client.send(request("/shrinking"))
        first = client.sock.recv(1000)
        assert first.startswith(b"HTTP/1.1 200 ")
        os.truncate(path, 1_000_001)
        received = first + client.rest()
    head, _, body = received.partition(b"\r\n\r\n")
    assert f"Content-Length: {size}".encode() in head
    assert len(body) < size
    assert body == pattern[: len(body)]
    assert changing.ask("/shrinking").body == pattern[:1_000_001]


def test_a_file_that_grows_while_it_is_sent(changing: Running) -> None:
    size = 16 << 20
    path = changing.root / "growing"
    path.write_bytes(support.payload(size))
    with changing.connect() as client:
        client.send(request("/growing") + request("/hello.txt"))
        first = client.sock.recv(1000)
        with path.open("ab") as appender:
            appender.write(b"more" * 1000)
        client._buffer = first
        assert client.answer().body == support.payload(size)
        assert client.answer().body == b"hello, world\n"
    assert len(changing.ask("/growing").body) == size + 4000


def test_a_file_that_is_replaced_while_it_is_sent(changing: Running) -> None:
    size = 16 << 20
    path = changing.root / "replaced"
    path.write_bytes(support.payload(size))
    with changing.connect() as client:
        client.send(request("/replaced"))
        client._buffer = client.sock.recv(1000)
        path.with_name("next").write_bytes(b"short")
        path.with_name("next").replace(path)
        assert client.answer().body == support.payload(size)
        assert client.ask("/replaced").body == b"short"
