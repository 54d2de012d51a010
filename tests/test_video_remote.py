import gc
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from tempo_fast.errors import OptionError, VideoError
from tempo_fast.options import OpenOptions
from tempo_fast.video import load_frames, open_source, remote

from .needs import needs_av

CLIP = Path(__file__).parent / "golden" / "clip.mp4"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

    def do_GET(self):
        self.server.asked.append(self.path)
        self.server.answers[self.path.partition("?")[0]](self)


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def address(self, path):
        return f"http://127.0.0.1:{self.server_port}{path}"


def answer(body=b"", status=200, length=None, **headers):
    def respond(handler):
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        if length is not False:
            handler.send_header("Content-Length", str(len(body) if length is None else length))
        handler.end_headers()
        handler.wfile.write(body)

    return respond


@pytest.fixture
def server():
    with Server(("127.0.0.1", 0), Handler) as found:
        found.asked, found.answers = [], {"/clip.mp4": answer(CLIP.read_bytes())}
        thread = threading.Thread(target=found.serve_forever, args=(0.01,))
        thread.start()
        yield found
        found.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Where temporary files go; empty again after each test."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    yield tmp_path
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def options(**changes):
    return OpenOptions(**{"allow_remote": True, "allow_private": True, **changes})


@needs_av
def test_a_video_is_fetched_read_and_removed(server, folder):
    expected, rate = load_frames(CLIP)
    with open_source(server.address("/clip.mp4"), options()) as source:
        assert len(list(folder.iterdir())) == 1
        assert source.real_fps == rate and np.array_equal(np.stack(list(source)), expected)
    assert list(folder.iterdir()) == []
    source = open_source(server.address("/clip.mp4?token=a b"), options())
    assert server.asked == ["/clip.mp4", "/clip.mp4?token=a%20b"]
    del source  # and so it is when nobody closes it
    gc.collect()
    assert list(folder.iterdir()) == []


@needs_av
def test_without_a_length_and_without_a_name(server):
    server.answers["/watch"] = answer(CLIP.read_bytes(), length=False, Content_Type="video/mp4")
    assert open_source(server.address("/watch"), options()).count == load_frames(CLIP)[0].shape[0]


def test_other_kinds(server, tmp_path):
    np.save(tmp_path / "frames.npy", np.zeros((5, 8, 8, 3), np.uint8))
    server.answers["/frames.npy"] = answer((tmp_path / "frames.npy").read_bytes())
    (tmp_path / "frames.npy").unlink()
    assert open_source(server.address("/frames.npy"), options()).count == 5


@needs_av
def test_letters_that_happen_to_be_in_a_video(server):
    body = CLIP.read_bytes() + b"\0\0\0\x10free<MPD " + b"\0" * 3
    server.answers["/clip.mp4"] = answer(body)
    assert open_source(server.address("/clip.mp4"), options()).count > 0


def test_nothing_is_fetched_unless_allowed(server):
    with pytest.raises(OptionError, match="allow_remote=True"):
        open_source(server.address("/clip.mp4"), OpenOptions())
    with pytest.raises(VideoError, match="not a public address; allow_private=True"):
        open_source(server.address("/clip.mp4"), OpenOptions(allow_remote=True))
    port = server.server_port
    for host in ("localhost", "0.0.0.0", "127.1", "2130706433", "[::1]", "[::ffff:127.0.0.1]"):
        with pytest.raises(VideoError, match=r"public address|can't be fetched"):
            open_source(f"http://{host}:{port}/clip.mp4", OpenOptions(allow_remote=True))
    assert server.asked == []


@pytest.mark.parametrize("scheme", ["file", "ftp", "rtsp", "data", "concat"])
def test_other_schemes(scheme):
    with pytest.raises(VideoError, match="only http"):
        open_source(f"{scheme}:///etc/passwd", options())


@needs_av
def test_redirects_are_followed_a_few_times(server):
    server.answers["/a"] = answer(status=302, Location="/b?c=1")
    server.answers["/b"] = answer(status=307, Location=server.address("/clip.mp4"))
    assert open_source(server.address("/a"), options()).count > 4
    server.answers["/loop"] = answer(status=301, Location="/loop")
    with pytest.raises(VideoError, match="redirects more than 5 times"):
        open_source(server.address("/loop"), options())
    assert server.asked.count("/loop") == 6


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("file:///etc/passwd", "which isn't http"),
        ("", "nowhere"),
        ("http://user:word@127.0.0.1/", "name or password"),
    ],
)
def test_redirects_that_are_refused(server, location, message):
    server.answers["/a"] = answer(status=302, Location=location)
    with pytest.raises(VideoError, match=message):
        open_source(server.address("/a"), options())


@needs_av
def test_every_redirect_is_checked(server, monkeypatch):
    monkeypatch.setattr(remote, "is_public", lambda address: address == "127.0.0.1")
    with Server(("127.0.0.2", 0), Handler) as inner:
        server.answers["/a"] = answer(
            status=302, Location=f"http://127.0.0.2:{inner.server_port}/secret"
        )
        with pytest.raises(VideoError, match=r"127\.0\.0\.2, which is not a public"):
            open_source(server.address("/a"), options(allow_private=False))
        inner.socket.settimeout(0.05)
        with pytest.raises(TimeoutError):
            inner.socket.accept()
    assert open_source(server.address("/clip.mp4"), options(allow_private=False)).count > 4


def test_one_private_address_of_a_name_is_enough_to_refuse_it(monkeypatch):
    found = [(socket.AF_INET, 1, 6, "", (ip, 80)) for ip in ("93.184.215.14", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(VideoError, match=r"two\.example at 10\.0\.0\.1"):
        open_source("http://two.example/a.mp4", OpenOptions(allow_remote=True))


@needs_av
def test_the_checked_address_is_the_one_connected_to(server, monkeypatch):
    names = []

    def once(host, port, **_):
        names.append(host)
        return [(socket.AF_INET, 1, 6, "", ("127.0.0.1", server.server_port))]

    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *a, **k: real(host, *a, **k) if host == "127.0.0.1" else once(host, *a, **k),
    )
    source = open_source(f"http://video.example:{server.server_port}/clip.mp4", options())
    assert source.count > 4 and names == ["video.example"]


def test_a_name_that_nobody_resolves_takes_no_longer_than_allowed(monkeypatch):
    answer = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer.wait(30) and [])
    began = time.monotonic()
    with pytest.raises(VideoError, match=r"took longer than remote_seconds=0\.2"):
        open_source("http://slow.example/a.mp4", options(remote_seconds=0.2))
    assert time.monotonic() - began < 10
    answer.set()


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1%eth0",
        "fc00::1",
        "ff02::1",
        "::ffff:10.0.0.1",
        "64:ff9b::a00:1",
        "2002:a00:1::",
        "2001:db8::1",
    ],
)
def test_addresses_that_are_not_public(address):
    assert not remote.is_public(address)


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:4700::1111", "64:ff9b::808:808"])
def test_addresses_that_are_public(address):
    assert remote.is_public(address)


@needs_av
def test_limits_of_size(server):
    size = len(CLIP.read_bytes())
    server.answers["/unsaid.mp4"] = answer(CLIP.read_bytes(), length=False)
    for path in ("/clip.mp4", "/unsaid.mp4"):
        open_source(server.address(path), options(remote_max_bytes=size)).close()
        with pytest.raises(VideoError, match=f"larger than remote_max_bytes={size - 1}"):
            open_source(server.address(path), options(remote_max_bytes=size - 1))


def in_drops(part):
    """A server that never ends its headers, or its body."""

    def respond(handler):
        if part == "body":
            handler.send_response(200)
            handler.end_headers()
        try:
            for number in range(500):
                text = b"x" if part == "body" else b"X-%d: y\r\n" % number
                handler.wfile.write(text if number or part == "body" else b"HTTP/1.1 200 OK\r\n")
                time.sleep(0.02)
        except OSError:
            handler.close_connection = True

    return respond


@pytest.mark.parametrize("part", ["headers", "body", "silence"])
def test_limit_of_time(server, part):
    silence = threading.Event()
    server.answers["/a"] = (lambda _: silence.wait(5)) if part == "silence" else in_drops(part)
    began = time.monotonic()
    with pytest.raises(VideoError, match=r"longer than remote_seconds=0\.3"):
        open_source(server.address("/a"), options(remote_seconds=0.3))
    assert time.monotonic() - began < 3
    silence.set()
    assert not [t for t in threading.enumerate() if isinstance(t, threading.Timer)]


@pytest.mark.parametrize(
    ("respond", "message"),
    [
        (answer(b"no", status=404), "answers 404"),
        (answer(b"part", length=99), "ended after 4 of 99 bytes"),
        (answer(b"x", Content_Encoding="gzip"), "comes compressed"),
        (answer(b"#EXTM3U\n/etc/passwd"), "playlist"),
        (answer(b"ffconcat version 1.0\nfile /etc/passwd"), "playlist"),
        (answer(b'<?xml version="1.0"?><MPD profiles="urn:mpeg:dash:profile">'), "playlist"),
        (answer(b"only words"), r"what came from http.* can't be used"),
        (answer(b""), r"what came from http.* can't be used"),
        (lambda handler: handler.wfile.write(b"nonsense\r\n\r\n"), "can't be fetched"),
    ],
)
def test_answers_that_are_no_video(server, respond, message):
    server.answers["/a.mp4"] = respond
    with pytest.raises(VideoError, match=message):
        open_source(server.address("/a.mp4"), options())


@pytest.mark.parametrize("url", ["http://", "http:///a", "http://[::1", "http://a:99999/"])
def test_addresses_that_are_none(url):
    with pytest.raises(VideoError, match=re.escape(url)):
        open_source(url, options())


def test_nobody_there():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(VideoError, match="can't be fetched: ConnectionRefusedError"):
        open_source(f"http://127.0.0.1:{port}/a.mp4", options())


@pytest.fixture(params=["127.0.0.1"])
def secure(server, request, tmp_path_factory):
    """The server behind TLS, and the file of its certificate, which is its own authority."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command to make a certificate")
    made = tmp_path_factory.mktemp("certificate")
    key, certificate = made / "key.pem", made / "certificate.pem"
    named = f"openssl req -x509 -subj /CN=tempo-fast -addext subjectAltName=IP:{request.param}"
    written = ["-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate]
    subprocess.run([*named.split(), *written], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    # The handshake is of the connection's own thread, or a client that fails it stops the server.
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    server.handle_error = lambda *_: None
    return f"https://127.0.0.1:{server.server_port}", str(certificate)


@needs_av
def test_https(server, secure, monkeypatch):
    address, certificate = secure
    monkeypatch.setenv("SSL_CERT_FILE", certificate)
    expected, _ = load_frames(CLIP)
    frames, _ = load_frames(address + "/clip.mp4", allow_remote=True, allow_private=True)
    assert np.array_equal(frames, expected)
    server.answers["/down"] = answer(status=302, Location="http://127.0.0.1/clip.mp4")
    with pytest.raises(VideoError, match="which isn't https"):
        open_source(address + "/down", options())


def test_a_certificate_of_nobody_known_is_refused(server, secure):
    with pytest.raises(VideoError, match="CERTIFICATE_VERIFY_FAILED"):
        open_source(secure[0] + "/clip.mp4", options())
    assert server.asked == []


@pytest.mark.parametrize("secure", ["127.0.0.2"], indirect=True)
def test_a_certificate_of_another_host_is_refused(server, secure, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", secure[1])
    with pytest.raises(VideoError, match="CERTIFICATE_VERIFY_FAILED"):
        open_source(secure[0] + "/clip.mp4", options())
    assert server.asked == []
