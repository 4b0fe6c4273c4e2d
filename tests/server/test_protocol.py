"""HTTP over real sockets to a real process. What a request is answered must not depend on how its bytes arrive."""

import asyncio
import gc
import gzip
import socket
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Final

import msgspec
import pytest
import uvloop

from edge.disk import RealDisk
from edge.metrics import Board
from edge.segment.record import RecordIds
from edge.server.admission import ServerSettings
from edge.server.forwarding import Forwarding
from edge.server.protocol import CaptureConnection
from edge.server.service import HEAD_PACKET_BYTES_MAX, Service
from edge.server.turn import Turn
from edge.server.upstream import Forwarder, Transfer
from edge.spool.writer import Clock, SpoolSettings, SpoolWriter
from edge.wire.forward import UpstreamSettings
from edge.wire.routes import CAPTURE_PATHS
from tests.server.running import LOW_LIMITS, PATIENCE_S, Answer, Client, Server, running, wait_until
from tests.upstreams import Asking, Gone, Incoming, ScriptedUpstream, echo, scripted

ORIGIN: Final = b"https://shop.example"
TOKEN: Final = b"phc_0000000000"
"""Stands for a key of a test's own, of the same length: so what one request stored is told from the rest."""
EVENT: Final = b'{"api_key":"%b","event":"signed up","distinct_id":"ada"}' % TOKEN
OTHER_EVENT: Final = b'{"api_key":"phc_other","event":"seen","distinct_id":"bob"}'

BODY_MAX: Final = 64 * 1024
REPLAY_BODY_MAX: Final = 128 * 1024
TARGET_MAX: Final = 4096
OTHER_TARGET_MAX: Final = 1024
HEADER_MAX: Final = 4096
HEADERS_MAX: Final = 20

_numbers: Final = count(1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("low-limits"), *LOW_LIMITS) as found:
        yield found


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Gives clients half a second for everything."""
    flags = ("--header-timeout", "500ms", "--body-timeout", "500ms", "--idle-timeout", "1s", "--write-timeout", "500ms")
    with running(tmp_path_factory.mktemp("hasty"), *LOW_LIMITS, *flags) as found:
        yield found


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Hasty with those who are in the middle of something only."""
    flags = ("--header-timeout", "500ms", "--body-timeout", "500ms", "--write-timeout", "500ms", "--idle-timeout", "1h")
    with running(tmp_path_factory.mktemp("patient"), *flags) as found:
        yield found


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Every number as low as it goes."""
    flags = ("--body-bytes-max", "4KiB", "--pipeline-max", "1", "--connections-max", "2")
    with running(tmp_path_factory.mktemp("tiny"), *flags) as found:
        yield found


# --- what is sent


def message(first_line: bytes, *headers: bytes, body: bytes = b"") -> bytes:
    """A request as written, nothing added but line ends."""
    return b"\r\n".join((first_line, *headers, b"", body))


def request(method: bytes, target: bytes, *headers: bytes, body: bytes | None = None) -> bytes:
    """With the headers that every sound request has, and an Origin, so that each answer shows its CORS headers."""
    length = () if body is None else (b"Content-Length: %d" % len(body),)
    top = (method + b" " + target + b" HTTP/1.1", b"Host: edge.example", b"Origin: " + ORIGIN)
    return message(*top, *headers, *length, body=body or b"")


def post(body: bytes, *headers: bytes, target: bytes = b"/e/") -> bytes:
    return request(b"POST", target, *headers, body=body)


def chunks(*pieces: bytes, extension: bytes = b"", trailers: bytes = b"") -> bytes:
    sized = b"".join(b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces)
    return sized + b"0\r\n" + trailers + b"\r\n"


def chunked(body: bytes, *headers: bytes, target: bytes = b"/e/") -> bytes:
    """A request whose body is chunked already."""
    return request(b"POST", target, b"Transfer-Encoding: chunked", *headers) + body


OTHER: Final = post(OTHER_EVENT)


def event_of(size: int) -> bytes:
    """An event of exactly so many bytes."""
    return EVENT[:-1] + b" " * (size - len(EVENT)) + b"}"


def query_of(size: int, path: bytes = b"/e/") -> bytes:
    """A target of exactly so many bytes that carries an event."""
    data = EVENT.replace(b" ", b"+").replace(b'"', b"%22")
    target = path + b"?data=" + data + b"&pad="
    return target + b"p" * (size - len(target))


def headed(size: int, target: bytes = b"/e/") -> bytes:
    """A POST whose head, but for its target, is exactly so many bytes."""
    bare = post(EVENT, b"X-Pad: ", target=target)
    head = bare.index(b"\r\n\r\n") + 4 - len(target)
    return post(EVENT, b"X-Pad: " + b"p" * (size - head), target=target)


def with_headers(number: int) -> bytes:
    """A POST of so many headers."""
    return post(EVENT, *(b"X-%d: v" % i for i in range(number - 3)))


class Case(msgspec.Struct, frozen=True):
    sent: bytes
    status: int
    stored: int = 0
    """Records."""
    stays: bool = True
    """The connection is usable afterwards."""

    @property
    def head(self) -> bool:
        return self.sent.startswith(b"HEAD ")


def stored(sent: bytes) -> Case:
    return Case(sent, 200, stored=1)


def refused(status: int, sent: bytes) -> Case:
    return Case(sent, status)


def closing(status: int, sent: bytes, stored: int = 0) -> Case:
    return Case(sent, status, stored, stays=False)


QUERY: Final = query_of(200).removeprefix(b"/e/")
UPGRADE: Final = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA")

CASES: Final[dict[str, Case]] = {
    # routes
    **{
        f"{method.decode()} /{path}{slash.decode()}": stored(sent)
        for path in CAPTURE_PATHS
        for slash in (b"", b"/")
        for method, sent in (
            (b"POST", post(EVENT, target=b"/" + path.encode() + slash)),
            (b"GET", request(b"GET", b"/" + path.encode() + slash + QUERY)),
        )
    },
    "HEAD with data is a GET": stored(request(b"HEAD", b"/e/" + QUERY)),
    "HEAD without data": refused(400, request(b"HEAD", b"/e/")),
    "HEAD of the banner": Case(request(b"HEAD", b"/"), 200),
    "HEAD of what is not there": refused(404, request(b"HEAD", b"/nothing")),
    "banner": Case(request(b"GET", b"/"), 200),
    "liveness": Case(request(b"GET", b"/_liveness"), 200),
    "liveness with a slash": Case(request(b"GET", b"/_liveness/"), 200),
    "readiness": Case(request(b"GET", b"/_readiness?verbose"), 200),
    "robots": Case(request(b"GET", b"/robots.txt"), 200),
    "page with a body": Case(request(b"GET", b"/", body=b"{}"), 200),
    "OPTIONS on a capture route": Case(request(b"OPTIONS", b"/e/?ip=1&_=1"), 200),
    "OPTIONS on a page": Case(request(b"OPTIONS", b"/_readiness"), 200),
    "OPTIONS on what is not there": Case(request(b"OPTIONS", b"/nothing/at/all"), 200),
    "OPTIONS *": Case(request(b"OPTIONS", b"*"), 200),
    "OPTIONS with a body": Case(request(b"OPTIONS", b"/e/", body=b"{}"), 200),
    "unknown path": refused(404, request(b"GET", b"/nothing")),
    "unknown path with a body": refused(404, post(EVENT, target=b"/capture/it")),
    "path in another case": refused(404, post(EVENT, target=b"/E/")),
    "double slash": refused(404, post(EVENT, target=b"//e/")),
    "asterisk with another method": refused(404, request(b"GET", b"*")),
    "PUT to a capture route": refused(405, request(b"PUT", b"/e/", body=EVENT)),
    "DELETE of a capture route": refused(405, request(b"DELETE", b"/e/")),
    "method nobody expects": refused(405, request(b"QUERY", b"/e/", body=EVENT)),
    "POST to a page": refused(405, post(EVENT, target=b"/")),
    "PUT to what is not there": refused(404, request(b"PUT", b"/nothing", body=EVENT)),
    "CONNECT": closing(405, request(b"CONNECT", b"edge.example:443")),
    "absolute form": stored(post(EVENT, target=b"http://edge.example/e/")),
    "absolute form with a query": stored(request(b"GET", b"https://edge.example:8000/e/" + QUERY)),
    "absolute form without a path": Case(request(b"GET", b"http://edge.example"), 200),
    "absolute form of another scheme": refused(404, request(b"GET", b"ftp://edge.example/e/")),
    # the connection
    "Connection: close": closing(200, post(EVENT, b"Connection: close"), stored=1),
    "refused with Connection: close": closing(404, post(EVENT, b"Connection: close", target=b"/nothing")),
    "page with Connection: close": closing(200, request(b"GET", b"/", b"Connection: close")),
    "HTTP/1.0": closing(
        200, message(b"POST /e/ HTTP/1.0", b"Origin: " + ORIGIN, b"Content-Length: %d" % len(EVENT), body=EVENT), 1
    ),
    "HTTP/1.0 with keep-alive": closing(
        200,
        message(
            *(b"POST /e/ HTTP/1.0", b"Origin: " + ORIGIN, b"Connection: keep-alive"),
            b"Content-Length: %d" % len(EVENT),
            body=EVENT,
        ),
        1,
    ),
    "HTTP/1.0 refused": closing(404, message(b"GET /nothing HTTP/1.0", b"Origin: " + ORIGIN)),
    "empty lines before a request": stored(b"\r\n\r\n" + post(EVENT)),
    # bodies
    "lower-case header names": stored(
        message(
            *(b"POST /e/ HTTP/1.1", b"host: edge.example", b"origin: " + ORIGIN, b"content-length: %d" % len(EVENT)),
            body=EVENT,
        )
    ),
    "mixed-case header names": stored(
        message(
            *(b"POST /e/ HTTP/1.1", b"HOST: edge.example", b"oRIGIN: " + ORIGIN, b"Content-length: %d" % len(EVENT)),
            body=EVENT,
        )
    ),
    "GET with a body": stored(request(b"GET", b"/e/", body=EVENT)),
    "no body at all": refused(400, request(b"POST", b"/e/")),
    "empty body": refused(400, post(b"")),
    "no key": refused(401, post(b'{"event":"e","distinct_id":"d"}')),
    "broken JSON": refused(400, post(b'{"event":')),
    "empty poll": Case(request(b"GET", b"/e/?ip=1&_=1694769302325&ver=1.20.0"), 200),
    "beacon": Case(post(EVENT, target=b"/e/?beacon=1"), 204, stored=1),
    "beacon with Connection: close": closing(204, post(EVENT, b"Connection: close", target=b"/e/?beacon=1"), stored=1),
    "chunked": stored(chunked(chunks(EVENT))),
    "chunked, with extensions": stored(chunked(chunks(EVENT[:9], EVENT[9:], extension=b';name="a value"'))),
    "chunked, with trailers": stored(chunked(chunks(EVENT, trailers=b"X-Sum: 1\r\nOrigin: https://evil\r\n"))),
    "chunked, empty": refused(400, chunked(chunks())),
    "chunked, Transfer-Encoding in capitals": stored(
        request(b"POST", b"/e/", b"TRANSFER-ENCODING: CHUNKED") + chunks(EVENT)
    ),
    # paths of other services
    "flags": Case(post(b'{"token":"t"}', target=b"/flags/?v=2"), 200),
    "flags with a chunked body": Case(chunked(chunks(b"{", b"}"), target=b"/flags"), 200),
    "decide, polled": Case(request(b"GET", b"/decide"), 200),
    "HEAD of decide": Case(request(b"HEAD", b"/decide/"), 200),
    "decide and Connection: close": closing(200, post(b"{}", b"Connection: close", target=b"/decide?v=3")),
    "surveys": Case(request(b"GET", b"/api/surveys/?token=t"), 200),
    "a configuration": refused(404, request(b"GET", b"/array/phc_x/config.js")),
    "logs": refused(404, post(b"{}", target=b"/i/v1/logs?token=t")),
    "PUT to flags": refused(404, request(b"PUT", b"/flags", body=EVENT)),
    "h2c to flags": Case(post(b"{}", *UPGRADE, target=b"/flags?v=2"), 200),
    # an offered upgrade is declined by answering
    "h2c with a body": stored(post(EVENT, *UPGRADE)),
    "h2c with a chunked body": stored(chunked(chunks(EVENT[:5], EVENT[5:]), *UPGRADE)),
    "h2c without a body": Case(request(b"GET", b"/", *UPGRADE), 200),
    "h2c with data in the query": stored(request(b"GET", b"/e/" + QUERY, *UPGRADE)),
    "h2c to what is not there": refused(404, post(EVENT, *UPGRADE, target=b"/nothing")),
    "h2c too large": refused(413, post(event_of(BODY_MAX + 1), *UPGRADE)),
    "h2c and Connection: close": closing(200, post(EVENT, b"Connection: Upgrade, close", b"Upgrade: h2c"), stored=1),
    "Upgrade without Connection": stored(post(EVENT, b"Upgrade: websocket")),
    # messages whose end is in doubt
    "Content-Length and Transfer-Encoding": closing(
        400, request(b"POST", b"/e/", b"Transfer-Encoding: chunked", b"X: y", body=EVENT)
    ),
    "Transfer-Encoding and Content-Length": closing(
        400, request(b"POST", b"/e/", b"Content-Length: 5", b"X: y", b"Transfer-Encoding: chunked") + chunks(EVENT)
    ),
    "two Content-Lengths": closing(400, post(EVENT, b"X: y", b"Content-Length: %d" % len(EVENT))),
    "Content-Length with a sign": closing(400, request(b"POST", b"/e/", b"X: y", b"Content-Length: +5")),
    "Content-Length in words": closing(400, request(b"POST", b"/e/", b"X: y", b"Content-Length: five")),
    "Content-Length of 30 digits": closing(400, request(b"POST", b"/e/", b"X: y", b"Content-Length: " + b"9" * 30)),
    "Content-Length of a list": closing(400, request(b"POST", b"/e/", b"X: y", b"Content-Length: 5, 5")),
    "Transfer-Encoding gzip, chunked": closing(
        501, request(b"POST", b"/e/", b"Transfer-Encoding: gzip, chunked") + chunks(EVENT)
    ),
    "Transfer-Encoding gzip": closing(501, request(b"POST", b"/e/", b"X: y", b"Transfer-Encoding: gzip")),
    "Transfer-Encoding on two lines": closing(
        501, request(b"POST", b"/e/", b"Transfer-Encoding: gzip", b"Transfer-Encoding: chunked") + chunks(EVENT)
    ),
    "Transfer-Encoding in HTTP/1.0": closing(
        501,
        message(b"POST /e/ HTTP/1.0", b"Origin: " + ORIGIN, b"Transfer-Encoding: chunked") + chunks(EVENT),
    ),
    "chunk size in another notation": closing(400, chunked(b"0x5\r\nhello\r\n0\r\n\r\n")),
    "chunk size that overflows": closing(400, chunked(b"f" * 17 + b"\r\nhello\r\n0\r\n\r\n")),
    "negative chunk size": closing(400, chunked(b"-1\r\nhello\r\n0\r\n\r\n")),
    "chunk longer than its size": closing(400, chunked(b"2\r\nhello\r\n0\r\n\r\n")),
    "chunk with bare line feeds": closing(400, chunked(b"5\nhello\n0\n\n")),
    "folded header": closing(400, request(b"POST", b"/e/", b"X: y", b"X-Long: a", b" b", body=EVENT)),
    "space before the colon": closing(400, request(b"POST", b"/e/", b"X: y", b"X-Bad : a", body=EVENT)),
    "space in a header's name": closing(400, request(b"POST", b"/e/", b"X: y", b"X Bad: a", body=EVENT)),
    "header without a name": closing(400, request(b"POST", b"/e/", b"X: y", b": a", body=EVENT)),
    "NUL in a header": closing(400, request(b"POST", b"/e/", b"X: y", b"X-Bad: a\0b", body=EVENT)),
    "bare line feeds": closing(400, b"GET / HTTP/1.1\nHost: edge.example\n\n"),
    "no Host": closing(
        400, message(b"POST /e/ HTTP/1.1", b"Origin: " + ORIGIN, b"Content-Length: %d" % len(EVENT), body=EVENT)
    ),
    "empty Host": closing(400, message(b"GET / HTTP/1.1", b"Origin: " + ORIGIN, b"Host: ")),
    "two Hosts": closing(400, post(EVENT, b"Host: other.example")),
    "two Hosts of one letter": closing(
        400,
        message(
            *(b"POST /e/ HTTP/1.1", b"Host: a", b"Host: a", b"Origin: " + ORIGIN, b"Content-Length: %d" % len(EVENT)),
            body=EVENT,
        ),
    ),
    "HTTP/2.0": closing(505, message(b"GET / HTTP/2.0", b"Host: edge.example", b"Origin: " + ORIGIN)),
    "HTTP/0.9": closing(505, message(b"GET / HTTP/0.9", b"Host: edge.example", b"Origin: " + ORIGIN)),
    "HTTP/1.2": closing(400, message(b"GET / HTTP/1.2", b"Host: edge.example")),
    "HTTP/2.0 preface": closing(400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "space in the target": closing(400, message(b"GET /e/ ?data=x HTTP/1.1", b"Host: edge.example")),
    "TLS": closing(400, bytes.fromhex("16030100c8010000c40303") + bytes(200)),
    "no HTTP": closing(400, b"hello\r\n\r\n"),
    # an expectation
    "Expect: 100-continue": stored(post(EVENT, b"Expect: 100-continue")),
    "Expect: 100-continue, chunked": stored(chunked(chunks(EVENT), b"Expect: 100-continue")),
    "Expect: 100-continue without a body": refused(400, request(b"POST", b"/e/", b"Expect: 100-continue")),
    "Expect: something else": refused(417, post(EVENT, b"Expect: a-miracle")),
    # limits, and one above
    "target at the limit": stored(request(b"GET", query_of(TARGET_MAX))),
    "target above the limit": closing(414, request(b"GET", query_of(TARGET_MAX + 1))),
    "target far above the limit": closing(414, request(b"GET", query_of(TARGET_MAX + HEADER_MAX - 500))),
    "target of a page at the limit": Case(request(b"GET", query_of(OTHER_TARGET_MAX, b"/")), 200),
    "target of a page above the limit": refused(414, request(b"GET", query_of(OTHER_TARGET_MAX + 1, b"/"))),
    "target of a page far above the limit": closing(414, request(b"GET", query_of(TARGET_MAX + 1, b"/"))),
    "target of no route above the limit": refused(414, request(b"GET", query_of(OTHER_TARGET_MAX + 1, b"/nothing"))),
    "head at the limit": stored(headed(HEADER_MAX)),
    "head above the limit": closing(431, headed(HEADER_MAX + 1)),
    "head twice the limit": closing(431, headed(2 * HEADER_MAX)),
    "target and head at their limits": stored(headed(HEADER_MAX, query_of(TARGET_MAX))),
    "target at its limit and head above": closing(431, headed(HEADER_MAX + 1, query_of(TARGET_MAX))),
    "as many headers as may be": stored(with_headers(HEADERS_MAX)),
    "one header more": closing(431, with_headers(HEADERS_MAX + 1)),
    "as many headers of a kind as may be": stored(post(EVENT, *[b"Cookie: a=b"] * (HEADERS_MAX - 3))),
    "one header more of a kind": closing(431, post(EVENT, *[b"Cookie: a=b"] * (HEADERS_MAX - 2))),
    "one header more of a kind that is looked at": closing(431, post(EVENT, *[b"User-Agent: a"] * (HEADERS_MAX - 2))),
    "one header more of a kind that nobody knows": closing(431, post(EVENT, *[b"X-A: b"] * (HEADERS_MAX - 2))),
    "body at the limit": stored(post(event_of(BODY_MAX))),
    "body above the limit": refused(413, post(event_of(BODY_MAX + 1))),
    "body of twice the limit": refused(413, post(event_of(2 * BODY_MAX))),
    "body above the limit, and Connection: close": closing(413, post(event_of(2 * BODY_MAX), b"Connection: close")),
    "replay body at its limit": stored(post(event_of(REPLAY_BODY_MAX), target=b"/s/")),
    "replay body above its limit": refused(413, post(event_of(REPLAY_BODY_MAX + 1), target=b"/s/")),
    "chunked body at the limit": stored(chunked(chunks(event_of(BODY_MAX)))),
    "chunked body above the limit": refused(413, chunked(chunks(event_of(BODY_MAX + 1)))),
    "trailers at their limit": stored(chunked(chunks(EVENT, trailers=b"X-Pad: %b\r\n" % (b"p" * (4096 - 9))))),
    "trailers above their limit": closing(431, chunked(chunks(EVENT, trailers=b"X-Pad: %b\r\n" % (b"p" * (4096 - 8))))),
    "trailers of twice their limit": closing(431, chunked(chunks(EVENT, trailers=b"X-Pad: p\r\n" * 820))),
    "body above the limit once inflated": refused(413, post(gzip.compress(event_of(300 * 1024), mtime=0))),
}
"""Where a head is malformed, something stands between Origin and the fault: the parser hands a header over with the next."""


def own_token() -> bytes:
    return b"phc_%010d" % next(_numbers)


def whole(client: Client, sent: bytes) -> None:
    client.send(sent)


def bytewise(client: Client, sent: bytes) -> None:
    client.send_bytewise(sent)


def behind_another(client: Client, sent: bytes) -> None:
    """One packet; the answer to the other is taken here."""
    client.send(OTHER + sent)
    assert client.answer().status == 200


def behind_a_refusal(client: Client, sent: bytes) -> None:
    client.send(post(b"x" * 100, target=b"/nothing") + sent)
    assert client.answer().status == 404


def behind_a_head(client: Client, sent: bytes) -> None:
    """Of another Origin: nothing of the request before may show in the answer."""
    client.send(message(b"HEAD / HTTP/1.1", b"Host: edge.example", b"Origin: https://first.example", body=sent))
    assert client.answer(head=True).status == 200


def behind_trailers(client: Client, sent: bytes) -> None:
    """A chunked body's end is known to the parser only, and its trailers are no headers of what follows."""
    trailers = b"Host: evil.example\r\nOrigin: https://evil.example\r\nX: y\r\n"
    client.send(chunked(chunks(OTHER_EVENT, trailers=trailers)) + sent)
    assert client.answer().status == 200


def behind_a_large_body(client: Client, sent: bytes) -> None:
    """In the packet that ends a body of several."""
    body = OTHER_EVENT[:-1] + b" " * HEAD_PACKET_BYTES_MAX + b"}"
    client.send(post(body) + sent)
    assert client.answer().status == 200


def behind_an_upgrade(client: Client, sent: bytes) -> None:
    client.send(post(OTHER_EVENT, *UPGRADE) + sent)
    assert client.answer().status == 200


DELIVERIES: Final = (
    *(whole, bytewise, behind_another, behind_a_refusal, behind_a_head, behind_trailers),
    *(behind_a_large_body, behind_an_upgrade),
)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_request_is_answered_alike_however_it_arrives(server: Server, case: Case) -> None:
    answers: dict[str, Answer] = {}
    for deliver in DELIVERIES:
        token = own_token()
        name = deliver.__name__
        with server.connect() as client:
            deliver(client, case.sent.replace(TOKEN, token))
            answers[name] = answer = client.answer(head=case.head)
            assert answer.status == case.status, (name, answer)
            assert ("connection" not in answer.headers) == case.stays, (name, answer)
            if case.stays:
                assert client.ask(OTHER).status == 200, name
            else:
                client.half_close()
                assert client.is_closed(), name
        records = server.records_of(token.decode())
        assert len(records) == case.stored, name
        assert all(record.ip == "127.0.0.1" for record in records), name
    answer = answers["whole"]
    assert {name: found.lasting for name, found in answers.items()} == dict.fromkeys(answers, answer.lasting)
    if b"Origin: " in case.sent or b"rigin: " in case.sent.lower():
        assert answer.headers["access-control-allow-origin"] == ORIGIN.decode()
    assert answer.headers["access-control-allow-credentials"] == "true"
    assert answer.headers["vary"].startswith("origin")
    if case.status >= 400 and not case.head:
        assert list(answer.json()) == ["type", "code", "detail", "attr"]


CUT_EVERYWHERE: Final = {
    "plain": post(EVENT),
    "chunked with a trailer": chunked(chunks(EVENT[:7], EVENT[7:], trailers=b"Host: evil.example\r\nX: y\r\n")),
    "upgrade": post(EVENT, *UPGRADE),
    "chunked upgrade": chunked(chunks(EVENT), *UPGRADE),
    "in the query": request(b"GET", b"/e/" + QUERY),
    "at the head's limit": headed(HEADER_MAX),
}


@pytest.mark.parametrize("sent", CUT_EVERYWHERE.values(), ids=CUT_EVERYWHERE)
def test_a_request_may_be_cut_anywhere(server: Server, sent: bytes) -> None:
    token = own_token()
    sent = sent.replace(TOKEN, token)
    cuts = range(1, len(sent)) if len(sent) < 1000 else [*range(1, 150), *range(len(sent) - 150, len(sent))]
    with server.connect() as client:
        for cut in cuts:
            # The next request begins in the packet in which this one ends.
            client.send(sent[:cut])
            client.send(sent[cut:] + sent[:cut])
            assert client.answer().status == 200, cut
            client.send(sent[cut:])
            assert client.answer().status == 200, cut
    assert len(server.records_of(token.decode())) == 2 * len(cuts)


# --- answers


def test_a_preflight_allows_what_it_asks_for(server: Server) -> None:
    asked = (b"Access-Control-Request-Method: POST", b"Access-Control-Request-Headers: content-encoding,x-odd")
    answer = server.ask(request(b"OPTIONS", b"/e/?_=1", *asked, b"Access-Control-Request-Private-Network: true"))
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["access-control-allow-origin"] == ORIGIN.decode()
    assert answer.headers["access-control-allow-methods"] == "GET,POST,OPTIONS"
    assert answer.headers["access-control-allow-headers"] == "content-encoding,x-odd"
    assert answer.headers["access-control-allow-private-network"] == "true"
    assert answer.headers["access-control-max-age"] == "86400"


def test_a_preflight_is_not_given_what_it_did_not_ask_for(server: Server) -> None:
    answer = server.ask(request(b"OPTIONS", b"/e/"))
    assert not {"access-control-allow-headers", "access-control-allow-private-network"} & set(answer.headers)


ORIGINS: Final = {
    "null, as of sandboxed pages": (b"null", "null"),
    "with a port": (b"http://localhost:3000", "http://localhost:3000"),
    "none": (b"", None),
    "not ASCII": (b"https://caf\xe9.example", None),
    "absurdly long": (b"https://" + b"a" * 2000, None),
}


@pytest.mark.parametrize(("origin", "mirrored"), ORIGINS.values(), ids=ORIGINS)
def test_an_origin_is_mirrored_if_it_can_be_one(server: Server, origin: bytes, mirrored: str | None) -> None:
    top = (b"POST /e/ HTTP/1.1", b"Host: edge.example", b"Origin: " + origin, b"Content-Length: %d" % len(OTHER_EVENT))
    answer = server.ask(message(*top, body=OTHER_EVENT))
    assert answer.status == 200
    assert answer.headers.get("access-control-allow-origin") == mirrored
    assert ("access-control-expose-headers" in answer.headers) == (mirrored is not None)


def test_the_success_is_the_one_clients_compare_with(server: Server) -> None:
    answer = server.ask(OTHER)
    assert (answer.status, answer.body) == (200, b'{"status":1}')
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["content-length"] == "12"


def test_a_beacon_is_answered_without_content(server: Server) -> None:
    answer = server.ask(post(OTHER_EVENT, target=b"/e/?compression=none&beacon=1"))
    assert (answer.status, answer.body) == (204, b"")
    assert not {"content-length", "content-type"} & set(answer.headers)


def test_head_has_the_length_of_what_get_has(server: Server) -> None:
    get = server.ask(request(b"GET", b"/"))
    head = server.ask(request(b"HEAD", b"/"), head=True)
    assert (head.status, head.headers["content-length"]) == (200, get.headers["content-length"])


def test_a_wrong_method_is_told_the_right_ones(server: Server) -> None:
    assert server.ask(request(b"PUT", b"/e/")).headers["allow"] == "GET, HEAD, OPTIONS, POST"
    assert server.ask(request(b"POST", b"/")).headers["allow"] == "GET, HEAD, OPTIONS"


KEY_ERRORS: Final = {
    "none": (
        b'{"event":"e","distinct_id":"d"}',
        (
            b'{"type":"authentication_error","code":"missing_api_key","detail":"API key not provided. '
            b'You can find your project API key in PostHog project settings.","attr":null}'
        ),
    ),
    "several": (
        b'[{"token":"a","event":"e"},{"token":"b","event":"e"}]',
        (
            b'{"type":"authentication_error","code":"invalid_api_key",'
            b'"detail":"Batch submitted with inconsistent API key values.","attr":null}'
        ),
    ),
    **{
        name: (
            b'{"event":"e","distinct_id":"d","api_key":%b}' % key,
            b'{"type":"authentication_error","code":"%b","detail":"Provided API key is not valid: %b","attr":null}'
            % (word, word),
        )
        for name, key, word in (
            ("blank", b'"  "', b"empty"),
            ("a number", b"7", b"not_string"),
            ("65 bytes", b'"%b"' % (b"k" * 65), b"too_long"),
            ("not ASCII", '"phc_ключ"'.encode(), b"not_ascii"),
            ("a personal one", b'"phx_secret"', b"personal_api_key"),
            ("with a NUL", b'"phc_\\u0000"', b"null_byte"),
        )
    },
}


@pytest.mark.parametrize(("body", "told"), KEY_ERRORS.values(), ids=KEY_ERRORS)
def test_a_bad_key_is_told_what_is_wrong_with_it(server: Server, body: bytes, told: bytes) -> None:
    answer = server.ask(post(body))
    assert (answer.status, answer.body) == (401, told)
    assert answer.headers["content-type"] == "application/json"


def test_nothing_sent_is_told_what_to_send(server: Server) -> None:
    answer = server.ask(post(b""))
    assert answer.status == 400
    assert answer.body == (
        b'{"type":"validation_error","code":"no_data","detail":"No data found. '
        b'Make sure to use a POST request when sending the payload in the body of the request.","attr":null}'
    )


def test_broken_json_is_told_where_it_breaks(server: Server) -> None:
    answer = server.ask(post(b'{"api_key":"phc_x",\n "event": oops}'))
    assert answer.status == 400
    found = answer.json()
    assert (found["type"], found["code"], found["attr"]) == ("validation_error", "invalid_payload", None)
    assert str(found["detail"]).startswith("Malformed request data: Invalid JSON: ")
    assert "line 2 column 11 (byte 30)" in str(found["detail"])


def test_too_large_is_never_told_when_to_come_back(server: Server) -> None:
    assert "retry-after" not in server.ask(post(event_of(BODY_MAX + 1))).headers


# --- the connection


def test_many_pipelined_requests_are_answered_in_order_and_all_stored(server: Server) -> None:
    token = own_token()
    bodies = [EVENT.replace(TOKEN, token).replace(b"ada", b"ada-%04d" % i) for i in range(1000)]
    origins = [b"https://shop-%04d.example" % i for i in range(1000)]
    sent = b"".join(
        message(*(b"POST /e/ HTTP/1.1", b"Host: h", b"Origin: " + origin, b"Content-Length: %d" % len(body)), body=body)
        for body, origin in zip(bodies, origins, strict=True)
    )
    with server.connect() as client:
        client.send(sent)
        answers = [client.answer() for _ in bodies]
    assert {answer.status for answer in answers} == {200}
    assert [answer.headers["access-control-allow-origin"].encode() for answer in answers] == origins
    assert [record.data for record in server.records_of(token.decode())] == bodies


def test_quick_answers_wait_for_slow_ones_before_them(server: Server) -> None:
    with server.connect() as client:
        client.send(OTHER + request(b"GET", b"/") + OTHER + request(b"GET", b"/nothing") + OTHER)
        assert [client.answer().status for _ in range(5)] == [200, 200, 200, 404, 200]


def test_every_upgrade_on_a_connection_is_read_by_its_own_length(server: Server) -> None:
    token = own_token()
    bodies = [event_of(len(EVENT) + more).replace(TOKEN, token) for more in (0, 30, 3, 100)]
    with server.connect() as client:
        for body in bodies:
            assert client.ask(post(body, *UPGRADE)).status == 200
        client.send(b"".join(post(body, *UPGRADE) for body in bodies))
        assert [client.answer().status for _ in bodies] == [200] * 4
    assert [len(record.data) for record in server.records_of(token.decode())] == 2 * [len(body) for body in bodies]


def test_continue_is_sent_to_those_who_wait_for_it(server: Server) -> None:
    head, body = post(OTHER_EVENT, b"Expect: 100-continue").split(b"\r\n\r\n")
    with server.connect() as client:
        client.send(head + b"\r\n\r\n")
        assert client.any_answer().status == 100
        client.send(body)
        assert client.any_answer().status == 200


def test_continue_comes_after_the_answers_before_it_and_never_after_its_own(server: Server) -> None:
    expecting = post(OTHER_EVENT, b"Expect: 100-continue")
    head, body = expecting.split(b"\r\n\r\n")
    with server.connect() as client:
        client.send(OTHER + head + b"\r\n\r\n")
        assert [client.any_answer().status for _ in range(2)] == [200, 100]
        client.send(body)
        assert client.any_answer().status == 200
        # Whole behind another one, there is nothing to wait for: one answer each, whatever comes in between.
        client.send(OTHER + expecting + OTHER)
        assert [client.any_answer().status for _ in range(3)] == [200, 200, 200]
        client.send(OTHER)
        assert client.any_answer().status == 200


def test_a_body_too_large_is_refused_before_it_is_sent(server: Server) -> None:
    with server.connect() as client:
        client.send(request(b"POST", b"/e/", b"Content-Length: %d" % (BODY_MAX + 1), b"Expect: 100-continue"))
        assert client.any_answer().status == 413
        assert client.is_closed()


def test_a_body_of_more_than_twice_the_limit_is_refused_unread(server: Server) -> None:
    with server.connect() as client:
        client.send(request(b"POST", b"/e/", b"Content-Length: %d" % (2 * BODY_MAX + 1)))
        answer = client.answer()
        assert (answer.status, answer.headers["connection"]) == (413, "close")
        assert client.is_closed()


def test_a_chunked_body_of_more_than_twice_the_limit_ends_the_connection(server: Server) -> None:
    token = own_token()
    with server.connect() as client:
        client.send(post(EVENT.replace(TOKEN, token)) + chunked(b""))
        assert client.answer().status == 200
        with pytest.raises(ConnectionError):
            client.send(chunks(b" " * 16_000)[:-5] * 10_000)
    assert len(server.records_of(token.decode())) == 1


def test_a_flood_behind_an_event_costs_neither_the_event_nor_its_neighbours_their_answers(tiny: Server) -> None:
    flood = chunked(chunks(b" " * 60_000))
    with tiny.connect() as client, tiny.connect() as neighbour:
        client.send(OTHER + flood)
        neighbour.send(OTHER)
        assert client.answer().status == 200
        assert client.answer().status == 413
        assert neighbour.answer().status == 200


def test_a_pipeline_of_one_still_serves_the_next(tiny: Server) -> None:
    with tiny.connect() as client:
        assert [client.ask(OTHER).status for _ in range(3)] == [200] * 3
        client.send(OTHER * 3)
        assert [client.answer().status for _ in range(3)] == [200] * 3
        assert client.ask(OTHER).status == 200


def test_connections_above_the_limit_are_told_to_come_back(tiny: Server) -> None:
    with tiny.connect() as first, tiny.connect() as second:
        assert first.ask(OTHER).status == second.ask(OTHER).status == 200
        with tiny.connect() as third:
            answer = third.answer()
            assert answer.status == 503
            assert 1 <= int(answer.headers["retry-after"]) <= 30
            assert answer.headers["connection"] == "close"
            assert third.is_closed()
            # Its request may be on its way: a reset in return would take the answer from a client that has not read it.
            third.send(OTHER)
            third.send(OTHER)
        assert first.ask(OTHER).status == 200

    def has_room() -> bool:
        return tiny.ask(OTHER).status == 200

    wait_until(has_room, "a closed connection makes room")


def test_bodies_under_way_are_bounded_together(tmp_path: Path) -> None:
    """Whatever lengths were announced, or none."""
    half = b" " * 40_000
    with running(tmp_path, *LOW_LIMITS, "--inflight-bytes-max", "64KiB") as server:
        with server.connect() as first, server.connect() as second, server.connect() as third:
            first.send(chunked(b"%x\r\n%b\r\n" % (len(half), half)))
            wait_until(lambda: server.metrics()['edge_inflight_bytes{worker="0"}'] >= len(half), "the first is read")
            second.send(chunked(b"%x\r\n%b\r\n" % (len(half), half)))
            assert second.answer().status == 503
            third.send(post(event_of(BODY_MAX))[:-1])
            answer = third.answer()
            assert (answer.status, "retry-after" in answer.headers) == (503, True)
        wait_until(lambda: server.metrics()['edge_inflight_bytes{worker="0"}'] == 0, "what they held is given back")
        assert server.ask(OTHER).status == 200


def test_a_client_that_sends_no_more_still_gets_its_answers(server: Server) -> None:
    with server.connect() as client:
        client.send(OTHER * 3)
        client.half_close()
        assert [client.answer().status for _ in range(3)] == [200] * 3
        assert client.is_closed()


def test_half_a_request_is_not_stored(server: Server) -> None:
    token = own_token()
    with server.connect() as client:
        client.send(post(EVENT.replace(TOKEN, token))[:-1])
        client.half_close()
        assert client.is_closed()
    assert server.records_of(token.decode()) == []


def test_an_event_is_stored_though_its_client_is_gone(server: Server) -> None:
    token = own_token()
    client = server.connect()
    client.send(post(EVENT.replace(TOKEN, token)))
    client.reset()
    wait_until(lambda: server.records_of(token.decode()), "the event is stored")


def test_the_client_sees_the_answer_though_it_is_still_sending(server: Server) -> None:
    """Refused on its head, with `Connection: close`: a reset now would take the answer away."""
    with server.connect() as client:
        client.send(request(b"POST", b"/nothing", b"Connection: close", b"Content-Length: 120000"))
        answer = client.answer()
        assert (answer.status, answer.headers["connection"]) == (404, "close")
        for _ in range(12):
            client.send(b"x" * 10_000)
        assert client.is_closed()


def test_what_follows_the_last_request_is_not_read(server: Server) -> None:
    token = own_token()
    with server.connect() as client:
        client.send(post(OTHER_EVENT, b"Connection: close") + post(EVENT.replace(TOKEN, token)))
        assert client.answer().status == 200
        assert client.is_closed()
    assert server.records_of(token.decode()) == []


def test_trailers_are_no_headers_of_the_next_request(server: Server) -> None:
    token = own_token()
    trailers = b"X-Forwarded-For: 9.9.9.9\r\nOrigin: https://evil.example\r\nAuthorization: Bearer %b\r\n" % token
    with server.connect() as client:
        assert client.ask(chunked(chunks(OTHER_EVENT, trailers=trailers))).status == 200
        bare = message(b"POST /e/ HTTP/1.1", b"Host: h", b"Content-Length: 31", body=b'{"event":"e","distinct_id":"d"}')
        answer = client.ask(bare)
        assert answer.status == 401
        assert "access-control-allow-origin" not in answer.headers


def test_many_small_chunks_cost_no_more_than_their_limit(server: Server) -> None:
    body = event_of(30_000).replace(TOKEN, own_token())
    with server.connect() as client:
        assert client.ask(chunked(chunks(*(body[i : i + 1] for i in range(len(body)))))).status == 200


# --- deadlines


def test_a_head_that_does_not_come_is_given_up(hasty: Server) -> None:
    with hasty.connect() as client:
        client.send(b"POST /e/ HTTP/1.1\r\nHost: h\r\nOrigin: " + ORIGIN + b"\r\nX-Sl")
        answer = client.answer()
        assert (answer.status, answer.json()["type"]) == (504, "timeout_error")
        assert answer.headers["access-control-allow-origin"] == ORIGIN.decode()
        assert client.is_closed()


def test_a_head_behind_another_request_has_the_same_deadline(patient: Server) -> None:
    with patient.connect() as client:
        client.send(OTHER + OTHER[:30])
        assert client.answer().status == 200
        assert client.answer().status == 504
        assert client.is_closed()


def test_a_byte_now_and_then_does_not_move_a_deadline(hasty: Server) -> None:
    for start, then in ((b"GET / HTTP/1.1\r\nHost: h\r\nX: ", b"x"), (chunked(b""), b"1\r\n \r\n")):
        with hasty.connect() as client:
            client.send(start)
            client.socket.settimeout(0.05)
            deadline = time.monotonic() + PATIENCE_S
            while time.monotonic() < deadline:
                try:
                    answer = client.answer()
                    break
                except TimeoutError:
                    client.send(then)
            assert answer.status == 504


def test_a_body_that_does_not_come_is_given_up(hasty: Server) -> None:
    with hasty.connect() as client:
        client.send(post(EVENT)[:-1])
        assert client.answer().status == 504
        assert client.is_closed()


def test_a_refused_body_that_does_not_come_is_answered_once(hasty: Server) -> None:
    with hasty.connect() as client:
        client.send(post(EVENT, target=b"/nothing")[:-1])
        assert client.answer().status == 404
        assert client.is_closed()


def test_a_malformed_body_that_was_refused_is_answered_once(server: Server) -> None:
    with server.connect() as client:
        client.send(chunked(b"5\r\nhello\r\nno size\r\n", target=b"/nothing"))
        assert client.answer().status == 404
        assert client.is_closed()


def test_a_connection_without_requests_is_closed_without_a_word(hasty: Server) -> None:
    with hasty.connect() as fresh, hasty.connect() as used:
        assert used.ask(OTHER + b"\r\n").status == 200
        assert fresh.is_closed()
        assert used.is_closed()


def test_a_client_that_does_not_read_is_let_go_and_costs_others_nothing(tmp_path: Path) -> None:
    flags = ("--write-timeout", "500ms", "--header-timeout", "1h", "--body-timeout", "1h", "--idle-timeout", "1h")
    with running(tmp_path, *flags) as patient, socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.settimeout(PATIENCE_S)
        slow.connect(patient.address)
        with pytest.raises(ConnectionError):
            slow.sendall(request(b"GET", b"/") * 1_000_000)
        assert patient.ask(OTHER).status == 200


@pytest.mark.parametrize(("trusted", "address"), [("10.0.0.0/8", "127.0.0.1"), ("127.0.0.1", "203.0.113.7")])
def test_only_a_trusted_peer_is_believed(tmp_path: Path, trusted: str, address: str) -> None:
    sent = post(OTHER_EVENT, b"X-Forwarded-For: 203.0.113.7", b"X-Real-Ip: 203.0.113.8")
    with running(tmp_path, "--trusted-proxies", trusted) as server:
        assert server.ask(sent).status == 200
        assert [record.ip for record in server.records()] == [address]


# --- what is counted


def test_what_was_sent_is_counted(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        with server.connect() as client:
            for _ in range(3):
                client.ask(post(OTHER_EVENT))
            client.ask(post(b"[" + OTHER_EVENT + b"," + OTHER_EVENT + b"]", target=b"/batch/"))
            client.ask(post(gzip.compress(OTHER_EVENT)))
            client.ask(request(b"OPTIONS", b"/nothing"))
            client.ask(request(b"GET", b"/nothing"))
            client.ask(post(b"{}"))
        expected = {
            'http_requests_total{method="POST",path="e",status="200"}': 4,
            'http_requests_total{method="POST",path="batch",status="200"}': 1,
            'http_requests_total{method="POST",path="e",status="401"}': 1,
            'http_requests_total{method="OPTIONS",path="other",status="200"}': 1,
            'http_requests_total{method="GET",path="other",status="404"}': 1,
            'edge_rejected_requests_total{cause="not_found"}': 1,
            'edge_rejected_requests_total{cause="no_token"}': 1,
            'edge_slow_path_total{layer="gzip"}': 1,
            "capture_events_received_total": 6,
            "capture_events_ingested_total": 6,
            "edge_request_body_bytes_count": 6,
            "edge_batch_events_sum": 6,
            "edge_connections_total": 1,
            'edge_connections{worker="0"}': 0,
        }
        wait_until(lambda: expected.items() <= server.metrics().items(), "the counters to say what was sent")


# --- inside one process


def in_process(folder: Path, use: Callable[[Service, tuple[str, int]], object], upstream: str = "") -> None:
    """A service on a loop of its own, while `use` speaks to it from a thread."""

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        row = Board.create(1).rows[0]

        def fault(error: BaseException) -> None:
            raise AssertionError from error

        clock = Clock(time.monotonic, lambda: time.time_ns() // 1000)
        writer = SpoolWriter(loop, RealDisk(), str(folder), 0, 1, lambda: 7, SpoolSettings(), clock, row, fault)
        forwarder = Forwarder(UpstreamSettings(upstream), row) if upstream else None
        service = Service(ServerSettings(), writer, row, RecordIds(1), time.time_ns, loop.call_soon, forwarder)
        service.tick(time.monotonic())
        turn = Turn(service, loop.call_soon)
        listening = await loop.create_server(lambda: CaptureConnection(service, turn), "127.0.0.1", 0)
        try:
            await asyncio.to_thread(use, service, listening.sockets[0].getsockname())
        finally:
            listening.close()
            await listening.wait_closed()
            await writer.close()
            if forwarder is not None:
                await forwarder.close()

    # The loop that workers have: another one keeps what it met in a cycle.
    uvloop.run(serve())


def test_nothing_is_kept_of_a_client_that_left_before_its_answer(tmp_path: Path) -> None:
    services: list[Service] = []

    def leave_early(service: Service, address: tuple[str, int]) -> None:
        services.append(service)
        before = service.row.get("capture_events_ingested_total")
        for number in range(20):
            client = Client(address)
            client.send(OTHER * 3)
            client.reset()
            wait_until(
                lambda number=number: service.row.get("capture_events_ingested_total") >= before + 3 * (number + 1),  # type: ignore[misc]
                "the events are stored",
            )
        wait_until(lambda: not service.connections, "the connections are gone")

    def leave(service: Service, address: tuple[str, int]) -> None:
        for sent in (OTHER, post(b"[%b]" % OTHER_EVENT), request(b"GET", b"/")):
            with Client(address) as client:
                assert client.ask(sent).status == client.ask(OTHER).status == 200
                client.send(OTHER[:-1])
        leave_early(service, address)

    # By their references alone: a worker's collector does not look at what has lived for a while.
    gc.disable()
    try:
        in_process(tmp_path, leave)
    finally:
        gc.enable()
    assert [kept for kept in gc.get_objects() if isinstance(kept, CaptureConnection) and kept.service in services] == []


def _forwarded(client: Asking, _: ScriptedUpstream) -> None:
    assert client.ask(request(b"GET", b"/whole")).status == 200
    assert client.ask(post(b"body", target=b"/whole")).status == 200


def _cut(client: Asking, _: ScriptedUpstream) -> None:
    client.send(request(b"GET", b"/cut"))
    with pytest.raises(Gone):
        client.answer()


def _refused(client: Asking, _: ScriptedUpstream) -> None:
    assert client.ask(request(b"GET", b"/none")).status == 502


def _given_up(client: Asking, upstream: ScriptedUpstream) -> None:
    client.send(chunked(b"4\r\nbody\r\n", target=b"/whole"))
    wait_until(lambda: upstream.seen, "the request is there")
    client.send(b"no size\r\n")
    assert client.answer().status == 400


def _lost(client: Asking, upstream: ScriptedUpstream) -> None:
    client.send(request(b"GET", b"/hangs") * 3)
    wait_until(lambda: upstream.seen, "the request is there")


@pytest.mark.parametrize("how", [_forwarded, _cut, _refused, _given_up, _lost])
def test_nothing_is_kept_of_a_forwarded_request_however_it_ended(
    tmp_path: Path, how: Callable[[Asking, ScriptedUpstream], object]
) -> None:
    def script(incoming: Incoming) -> None:
        if "/none" in incoming.target:
            raise Gone
        if "/cut" in incoming.target:
            incoming.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx")
            raise Gone
        if "/hangs" in incoming.target:
            incoming.wait_until_gone()
        else:
            echo(incoming)

    def forward(service: Service, address: tuple[str, int]) -> None:
        with Asking(address) as client:
            how(client, upstream)
        wait_until(lambda: not service.connections, "the connection is gone")
        wait_until(lambda: service.row.get("edge_upstream_requests") == 0, "the transfers are over")

    gc.collect()
    gc.disable()
    try:
        with scripted(script) as upstream:
            in_process(tmp_path, forward, upstream.url)
        assert [kept for kept in gc.get_objects() if isinstance(kept, Forwarding | Transfer)] == []
    finally:
        gc.enable()


@pytest.mark.parametrize("sent", [OTHER, request(b"GET", b"/"), OTHER * 40], ids=["an event", "a page", "a pipeline"])
def test_what_comes_behind_the_last_answer_does_not_cost_it(tmp_path: Path, sent: bytes) -> None:
    """Of a worker that stops the client does not know: bytes that nobody reads would be a reset, which destroys what it has not
    taken yet."""

    def stop_it(service: Service, address: tuple[str, int]) -> None:
        service.stopping = True
        with Client(address) as client:
            client.send(sent)
            wait_until(lambda: [each for each in service.connections if each.lingering], "the last answer")  # type: ignore[attr-defined]
            for _ in range(4):
                client.send(OTHER)
            answers = [client.answer() for _ in range(sent.count(b" HTTP/1.1"))]
            assert {answer.status for answer in answers} == {200}
            assert answers[-1].headers["connection"] == "close"
            assert client.is_closed()
            client.send(OTHER)
            assert len(service.connections) == 1
        wait_until(lambda: not service.connections, "the connection is gone with its client")

    in_process(tmp_path, stop_it)


def test_a_client_that_wants_no_other_answer_is_not_waited_for(tmp_path: Path) -> None:
    def part(service: Service, address: tuple[str, int]) -> None:
        with Client(address) as client:
            assert client.ask(post(OTHER_EVENT, b"Connection: close")).headers["connection"] == "close"
            assert client.is_closed()
            wait_until(lambda: not service.connections, "the connection is gone")

    in_process(tmp_path, part)


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(OTHER, id="an ordinary event"),
        pytest.param(post(b"[%b]" % OTHER_EVENT), id="an ordinary list"),
        pytest.param(post(OTHER_EVENT[:-1] + b" " * 20_000 + b"}"), id="a large packet"),
        pytest.param(request(b"GET", b"/e/?data=" + b64encode(OTHER_EVENT)), id="no ordinary request"),
    ],
)
def test_a_fault_of_ours_is_answered_and_hits_nobody_else(tmp_path: Path, sent: bytes) -> None:
    class Broken(frozenset[str]):
        def __contains__(self, key: object) -> bool:
            raise OverflowError("the registry is broken")

    def fail(*_: object) -> str:
        raise OverflowError("the registry is broken")

    def meet_it(service: Service, address: tuple[str, int]) -> None:
        with Client(address) as hit, Client(address) as spared:
            assert hit.ask(OTHER).status == spared.ask(OTHER).status == 200
            service.choose_key, service.known_keys = fail, Broken()
            answer = hit.ask(sent)
            assert (answer.status, answer.json()["type"]) == (503, "server_error")
            assert answer.headers["access-control-allow-origin"] == ORIGIN.decode()
            assert "retry-after" in answer.headers
            assert hit.is_closed()
            service.choose_key = service.known_keys = None
            assert spared.ask(OTHER).status == 200
        assert service.row.get("edge_rejected_requests_total", "internal") == 1

    in_process(tmp_path, meet_it)
