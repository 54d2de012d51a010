"""Videos behind http(s) addresses: fetched whole into a temporary file, within limits.

A caller's words may name the address, so nothing is fetched unless `allow_remote` says so, and then
from public addresses only: what a name resolves to is checked, and that very address connected to,
for the first request and for every redirect. Proxies of the environment are not used, since what
they resolve can't be checked.
"""

from __future__ import annotations

import re
import socket
import ssl
import time
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from mimetypes import guess_extension
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread, Timer
from typing import BinaryIO
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from tempo_fast.errors import OptionError, VideoError
from tempo_fast.options import OpenOptions

_CHUNK = 1 << 18
_MOST_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_WAIT_SECONDS = 30.0
_NAT64 = IPv6Network("64:ff9b::/96")
# FFmpeg follows what a playlist names, files of this machine included. It looks this far for them.
_PLAYLISTS = (
    (b"#extm3u",),
    (b"ffconcat",),
    (b"<mpd", b"dash:profile"),  # the first alone is found in some videos by chance
    (b"<compositionplaylist",),
    (b"c=in ip",),
)
_PROBED = 1 << 20


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet, by any IPv4 address within it too."""
    ip = ip_address(address.partition("%")[0])
    within: list[IPv4Address | IPv6Address | None] = [ip]
    if isinstance(ip, IPv6Address):
        within += [ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())]
        if ip in _NAT64:
            within.append(IPv4Address(int(ip) & 0xFFFFFFFF))
    return all(one.is_global and not one.is_multicast for one in within if one is not None)


def download(url: str, options: OpenOptions, folder: Path) -> Path:
    """Fetch an address into a file in `folder`, an empty one, named so that its kind can be told.

    Raises OptionError where the options don't allow it, VideoError for whatever else goes wrong.
    """
    if url.partition("://")[0].lower() not in ("http", "https"):
        raise VideoError(f"{url} can't be read: of addresses, only http:// and https:// are")
    if not options.allow_remote:
        raise OptionError(f"{url} is a remote address: allow_remote=True allows fetching it")
    fetch = _Fetch(url, options, time.monotonic() + options.remote_seconds)
    try:
        return fetch.into(folder)
    except (OSError, HTTPException, ValueError) as error:
        if time.monotonic() >= fetch.deadline:
            raise fetch.late() from error
        raise VideoError(f"{url} can't be fetched: {error!r}") from error


def _addresses(host: str, port: int, seconds: float) -> list[str]:
    """What a host's name resolves to, asked for in a thread, since that knows no time limit.

    Raises TimeoutError after these seconds, and otherwise what resolving raises.
    """
    answers: SimpleQueue[list[str] | Exception] = SimpleQueue()

    def ask() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answers.put([address[0] for *_, address in found])
        except Exception as error:  # whatever it is, it belongs to the caller
            answers.put(error)

    Thread(target=ask, name="tempo-fast-resolve", daemon=True).start()
    try:
        answer = answers.get(timeout=max(0.0, seconds))
    except Empty:
        raise TimeoutError(f"nobody says where {host} is") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


@dataclass
class _Fetch:
    """One download. deadline: of time.monotonic()."""

    url: str
    options: OpenOptions
    deadline: float

    def late(self) -> VideoError:
        return VideoError(
            f"{self.url} took longer than remote_seconds={self.options.remote_seconds:g}"
        )

    def large(self) -> VideoError:
        return VideoError(
            f"{self.url} is larger than remote_max_bytes={self.options.remote_max_bytes}"
        )

    def into(self, folder: Path) -> Path:
        at = self.url
        for _ in range(_MOST_REDIRECTS + 1):
            parts = urlsplit(at)
            connection = self._connect(parts)
            # Each wait has its own limit; this one ends an answer that comes in drops.
            timer = Timer(max(0.0, self.deadline - time.monotonic()), connection.abort)
            timer.daemon = True
            timer.start()
            try:
                response = connection.ask(parts)
                if response.status not in _REDIRECTS:
                    return self._save(response, parts, folder)
                at = self._redirected(parts, response.getheader("Location"))
            finally:
                timer.cancel()
                timer.join()
                connection.close()
        raise VideoError(f"{self.url} redirects more than {_MOST_REDIRECTS} times")

    def _redirected(self, parts: SplitResult, location: str | None) -> str:
        if not location:
            raise VideoError(f"{self.url} redirects to nowhere")
        target = urljoin(parts.geturl(), location)
        allowed = ("https",) if parts.scheme.lower() == "https" else ("http", "https")
        if urlsplit(target).scheme.lower() not in allowed:
            raise VideoError(f"{self.url} redirects to {target}, which isn't {allowed[-1]}")
        return target

    def _connect(self, parts: SplitResult) -> _Connection:
        if parts.username is not None or parts.password is not None:
            raise VideoError("an address with a name or password in it isn't fetched")
        if not parts.hostname:
            raise VideoError(f"{self.url} names no host")
        tls = parts.scheme.lower() == "https"
        port = parts.port or (443 if tls else 80)
        addresses = _addresses(parts.hostname, port, self.deadline - time.monotonic())
        if not self.options.allow_private:
            for address in addresses:
                if not is_public(address):
                    raise VideoError(
                        f"{self.url} leads to {parts.hostname} at {address}, which is not a public "
                        "address; allow_private=True allows those"
                    )
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise self.late()
        return _Connection(parts.hostname, port, addresses[0], tls, min(left, _WAIT_SECONDS))

    def _save(self, response: HTTPResponse, parts: SplitResult, folder: Path) -> Path:
        if response.status != 200:
            raise VideoError(f"{self.url} answers {response.status} {response.reason}")
        if response.getheader("Content-Encoding", "identity").lower() != "identity":
            raise VideoError(f"{self.url} comes compressed, though that wasn't asked for")
        stated = response.length
        if stated is not None and stated > self.options.remote_max_bytes:
            raise self.large()
        suffix = _suffix(parts, response) or _suffix(urlsplit(self.url), response, by_type=True)
        path = folder / f"video{suffix}"
        with path.open("wb") as file:
            received = self._copy(response, file)
        if stated is not None and received != stated:
            raise VideoError(f"{self.url} ended after {received} of {stated} bytes")
        _refuse_playlists(self.url, path)
        return path

    def _copy(self, response: HTTPResponse, file: BinaryIO) -> int:
        received = 0
        while chunk := response.read1(_CHUNK):
            received += len(chunk)
            if received > self.options.remote_max_bytes:
                raise self.large()
            file.write(chunk)
            if time.monotonic() >= self.deadline:
                raise self.late()
        if time.monotonic() >= self.deadline:  # an aborted answer without a length ends like this
            raise self.late()
        return received


class _Connection(HTTPConnection):
    """A connection to a host at an address that was checked."""

    def __init__(self, host: str, port: int, address: str, tls: bool, timeout: float) -> None:
        super().__init__(host, port, timeout=timeout)
        self._address, self._tls = address, tls

    def connect(self) -> None:
        self.sock = socket.create_connection((self._address, self.port), self.timeout)
        if self._tls:
            context = ssl.create_default_context()
            self.sock = context.wrap_socket(self.sock, server_hostname=self.host)

    def ask(self, parts: SplitResult) -> HTTPResponse:
        target = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~")
        if parts.query:
            target += "?" + quote(parts.query, safe="/%:@!$&'()*+,;=~?")
        host = parts.netloc.encode("idna").decode() if not parts.netloc.isascii() else parts.netloc
        headers = {"Host": host, "Accept-Encoding": "identity", "User-Agent": "tempo-fast"}
        self.request("GET", target, headers=headers)
        self._socket = self.sock  # the response takes it over where the server won't go on
        return self.getresponse()

    def abort(self) -> None:
        """End every wait of this connection, from another thread."""
        held = getattr(self, "_socket", None) or self.sock
        if held is not None:
            try:
                held.shutdown(socket.SHUT_RDWR)
            except OSError:
                return  # already over


def _suffix(parts: SplitResult, response: HTTPResponse, by_type: bool = False) -> str:
    """The ending of an address's file name; by_type: or else that of what the server calls it."""
    suffix = Path(parts.path).suffix.lower()
    if re.fullmatch(r"\.[a-z0-9]{1,5}", suffix):
        return suffix
    kind = response.getheader("Content-Type", "").partition(";")[0].strip()
    return (guess_extension(kind) or "") if by_type else ""


def _refuse_playlists(url: str, path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(_PROBED).lower()
    if any(all(mark in head for mark in marks) for marks in _PLAYLISTS):
        raise VideoError(f"{url} is a playlist, which may lead anywhere; give a video's address")
