"""Requests that are too much work for an event loop, in real processes: a decoder that is stopped is one that takes long."""

import asyncio
import gzip
import json
import os
import random
import re
import signal
import zlib
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final
from urllib.parse import quote_plus

import brotli
import pytest
import zstandard

from bench.lz import compress
from edge.metrics import Board, Row
from edge.segment.record import Record, RecordIds, decode_record
from edge.server.decoder import Job, Outcome
from edge.server.heavy import DECODING_S, IDLE_S, WAITING_MAX, WAITING_S, HeavyRequest, HeavyRequests
from edge.wire.capture import capture
from edge.wire.rejections import Reason
from edge.wire.request import Heavy, Light, Limits, Request
from edge.wire.routes import Kind, find_route
from edge.wire.v1 import capture_batch
from tests.server.running import (
    PATIENCE_S,
    Answer,
    Client,
    Server,
    command_line,
    decoders,
    descendants,
    is_running,
    running,
    wait_until,
)

V1_HEADERS: Final = (
    *("Authorization: Bearer phc_v1", "PostHog-Sdk-Info: posthog-python/7.0.0", "PostHog-Attempt: 1"),
    *("PostHog-Request-Id: 0198c0de-0000-7000-8000-000000000001", "User-Agent: posthog-python/7.0.0"),
    *("PostHog-Request-Timestamp: 2026-03-19T14:30:00Z", "Content-Type: application/json"),
)


MIB: Final = 1024 * 1024


def batch(token: str, events: int = 3500) -> bytes:
    """Some 500 KB."""
    found = [
        {"event": f"e{number}", "distinct_id": "u", "properties": {"p": str(number**30)}} for number in range(events)
    ]
    return json.dumps({"api_key": token, "batch": found}).encode()


def v1_batch(events: int = 1500) -> bytes:
    found = [
        {
            "event": "e" if number % 2 else "",
            "uuid": f"0198c0de-0000-7000-8000-{number:012x}",
            "distinct_id": "u",
            "timestamp": "2026-03-19T14:30:00Z",
        }
        for number in range(events)
    ]
    return json.dumps({"created_at": "2026-03-19T14:30:00Z", "batch": found}).encode()


def request(target: str, body: bytes = b"", headers: tuple[str, ...] = (), method: str = "POST") -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: edge.example", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


ONE: Final = b'{"api_key":"phc_%b","event":"%b","distinct_id":"u"}'
CAPTURED: Final[dict[str, tuple[str, bytes, tuple[str, ...], str]]] = {
    "plain": ("/batch/", batch("phc_plain"), (), "POST"),
    "gzip": ("/batch/", gzip.compress(batch("phc_gzip")), (), "POST"),
    "deflate": ("/e/", zlib.compress(batch("phc_deflate")), ("Content-Encoding: deflate",), "POST"),
    "zstd": ("/e/", zstandard.compress(batch("phc_zstd")), ("Content-Encoding: zstd",), "POST"),
    "br": ("/e/", brotli.compress(batch("phc_br"), quality=1), ("Content-Encoding: br",), "POST"),
    "lz64": ("/e/?compression=lz64", compress(batch("phc_lz64", 300).decode()), (), "POST"),
    "base64": ("/e/", b64encode(batch("phc_base64")), (), "POST"),
    "form": ("/e/", b"data=" + quote_plus(b64encode(batch("phc_form"))).encode(), (), "POST"),
    "query": ("/e/?data=" + quote_plus(b64encode(batch("phc_query", 300))), b"", (), "GET"),
    "replay": (
        "/s/",
        b'{"api_key":"phc_replay","event":"$snapshot","distinct_id":"u","properties":{"$session_id":"s","a":"%b"}}'
        % (b"x" * 3_000_000),
        ("User-Agent: posthog-js",),
        "POST",
    ),
    "repair": (
        "/e/",
        b'{"api_key":"phc_repair","event":"e","distinct_id":"u","a":[%b0]}' % (b"NaN," * 3000),
        (),
        "POST",
    ),
    "many tiny": ("/e/", b'{"api_key":"phc_many","batch":[%b{}]}' % (b"{}," * 99_000), (), "POST"),
    "v1": ("/i/v1/analytics/events", gzip.compress(v1_batch()), (*V1_HEADERS, "Content-Encoding: gzip"), "POST"),
}


def as_request(target: str, body: bytes, headers: tuple[str, ...], method: str) -> Request:
    named = (line.encode().partition(b": ") for line in headers)
    kept = {name.lower(): value for name, _, value in named}
    return Request(method, target.partition("?")[2].encode(), body, kept, "127.0.0.1", 1)


def captured_here(name: str, light: Light | None) -> tuple[Record, int, bytes]:
    """The record, its events and the answer's body that the pure functions make of it."""
    target, *_ = sent = CAPTURED[name]
    route, _ = find_route(target.encode())
    assert route is not None
    if route.kind is Kind.CAPTURE_V1:
        found = capture_batch(as_request(*sent), route, Limits(light=light), RecordIds(1))
        return decode_record(found.record), found.events, found.body
    captured = capture(as_request(*sent), route, Limits(light=light), RecordIds(1))
    return decode_record(captured.record), captured.events, b'{"status":1}'


def started_decoder(server: Server) -> int:
    assert server.ask(request("/e/", ONE % (b"first", b"first"))).status == 200
    (pid,) = decoders(server)
    return pid


def wait_for_handed_over(server: Server, count: int) -> None:
    wait_until(lambda: server.metrics()["edge_heavy_requests_total"] == count, f"{count} requests handed over")


def answered(client: Client, status: int, code: str = "") -> Answer:
    answer = client.answer()
    assert answer.status == status, answer
    if code:
        assert answer.json()["code"] == code
    return answer


@pytest.fixture
def all_heavy(tmp_path: Path) -> Iterator[Server]:
    """Every body goes to the decoder."""
    with running(tmp_path, "--inline-bytes-max", "1B", "--durability", "page") as server:
        yield server


@pytest.mark.parametrize("name", CAPTURED)
def test_each_is_too_much_for_the_loop(name: str) -> None:
    with pytest.raises(Heavy):
        captured_here(name, Light())


@pytest.mark.parametrize("durability", ["page", "fsync"])
def test_what_the_decoder_makes_of_a_request_is_what_the_worker_would(tmp_path: Path, durability: str) -> None:
    with running(tmp_path, "--durability", durability) as server:
        events = 0
        for name, (target, body, headers, method) in CAPTURED.items():
            expected, count, answer = captured_here(name, None)
            events += count
            assert server.ask(request(target, body, headers, method)).body == answer, name
            (found,) = server.records_of(expected.token)
            for field in ("path", "ip", "data", "sent_at", "user_agent"):
                assert getattr(found, field) == getattr(expected, field), (name, field)
        # Histograms are counted a few times a second.
        wait_until(lambda: server.metrics()["edge_batch_events_count"] == len(CAPTURED), "histograms")
        metrics = server.metrics()
        assert metrics["edge_heavy_requests_total"] == len(CAPTURED)
        assert metrics["capture_events_received_total"] == metrics["capture_events_ingested_total"] == events
        assert metrics["edge_batch_events_count"] == metrics["http_requests_duration_seconds_count"] == len(CAPTURED)
        for layer in ("gzip", "deflate", "zstd", "br", "lz64", "base64", "form", "repair"):
            assert metrics[f'edge_slow_path_total{{layer="{layer}"}}'] >= 1
        assert len({record.id for record in server.records()}) == len(CAPTURED)
        wait_until(lambda: server.metrics()['edge_inflight_bytes{worker="0"}'] == 0, "nothing in flight")
        assert server.stop() == 0


def test_a_body_in_many_pieces_arrives_whole(all_heavy: Server) -> None:
    text = batch("phc_pieces", 20_000)
    chunks = b"".join(
        b"%x\r\n%b\r\n" % (len(text[at : at + 9001]), text[at : at + 9001]) for at in range(0, len(text), 9001)
    )
    head = b"POST /batch/ HTTP/1.1\r\nHost: edge.example\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert all_heavy.ask(head + chunks + b"0\r\n\r\n").status == 200
    assert all_heavy.ask(request("/batch/", text)).status == 200
    assert [record.data for record in all_heavy.records_of("phc_pieces")] == [text, text]


@pytest.mark.parametrize("durability", ["page", "fsync"])
def test_an_answer_in_many_pieces_arrives_whole_and_in_its_place(tmp_path: Path, durability: str) -> None:
    target, headers, body = "/i/v1/analytics/events", V1_HEADERS, v1_batch(60_000)
    route, _ = find_route(target.encode())
    assert route is not None
    expected = capture_batch(as_request(target, body, headers, "POST"), route, Limits(50 * MIB), RecordIds(1)).body
    assert len(expected) > 3 * MIB
    one = request("/e/", ONE % (b"behind", b"e"))
    with running(tmp_path, "--durability", durability) as server, server.connect() as client:
        client.send(one + request(target, body, headers) + one)
        wait_until(lambda: server.metrics()["edge_batch_events_count"] == 3, "all to be stored, and nobody to read")
        assert [client.answer().body for _ in range(3)] == [b'{"status":1}', expected, b'{"status":1}']
        assert client.ask(request(target, body, (*headers, "Connection: close"))).body == expected
        assert client.is_closed()


@pytest.mark.parametrize("durability", ["page", "fsync"])
def test_a_large_body_is_held_once_and_not_kept(tmp_path: Path, durability: str) -> None:
    noise = random.Random(1).randbytes(8 * MIB).hex().encode()
    body = b'{"api_key":"phc_large","event":"e","distinct_id":"u","properties":{"p":"%b"}}' % noise
    with running(tmp_path, "--durability", durability) as server:
        (worker,) = server.workers()
        # Whatever is made once is there before.
        assert server.ask(request("/batch/", batch("phc_first"))).status == 200
        before = memory_bytes(worker, "VmHWM")
        for _ in range(3):
            assert server.ask(request("/batch/", body)).status == 200
            # malloc keeps what little it gave. A frame of `page` mode is there until its sync, and would meet the next body.
            wait_until(lambda: memory_bytes(worker, "VmRSS") - before < 0.6 * len(body), "the memory to be given back")
        # The frame is half as large, and there when the body is not any more.
        assert memory_bytes(worker, "VmHWM") - before < 1.5 * len(body)


def test_a_large_body_of_a_client_that_goes_away_is_not_kept(tmp_path: Path) -> None:
    body = request("/batch/", b" " * 18 * MIB)
    with running(tmp_path) as server:
        (worker,) = server.workers()
        before = memory_bytes(worker, "VmRSS")
        with Client(server.address) as client:
            client.send(body[: 16 * MIB])
            wait_until(lambda: memory_bytes(worker, "VmRSS") - before > 15 * MIB, "the worker to hold what was sent")
        wait_until(lambda: memory_bytes(worker, "VmRSS") - before < 8 * MIB, "the memory to be given back")


def memory_bytes(pid: int, what: str) -> int:
    found = re.search(rf"{what}:\s+([0-9]+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def test_others_are_served_while_one_waits_and_its_own_requests_keep_their_order(all_heavy: Server) -> None:
    decoder = started_decoder(all_heavy)
    os.kill(decoder, signal.SIGSTOP)
    sent = [request("/e/", ONE % (b"order", b"e%d" % number)) for number in range(5)]
    with all_heavy.connect() as client:
        client.send(b"".join(sent) + request("/", method="GET"))
        wait_for_handed_over(all_heavy, 2)
        assert all_heavy.ask(request("/_liveness", method="GET")).status == 200
        assert all_heavy.records_of("phc_order") == []
        os.kill(decoder, signal.SIGCONT)
        assert [client.answer().body for _ in range(6)] == [b'{"status":1}'] * 5 + [b"capture"]
    found = all_heavy.records_of("phc_order")
    assert [json.loads(record.data)["event"] for record in found] == [f"e{number}" for number in range(5)]


def test_small_requests_behind_a_heavy_one_wait_for_it(tmp_path: Path) -> None:
    with running(tmp_path, "--durability", "page") as server:
        assert server.ask(request("/batch/", batch("phc_first"))).status == 200
        (decoder,) = decoders(server)
        os.kill(decoder, signal.SIGSTOP)
        with server.connect() as client:
            client.send(request("/batch/", batch("phc_a")) + request("/e/", ONE % (b"a", b"behind")))
            wait_for_handed_over(server, 2)
            assert server.ask(request("/e/", ONE % (b"b", b"other"))).status == 200
            assert server.records_of("phc_a") == []
            os.kill(decoder, signal.SIGCONT)
            answered(client, 200)
            answered(client, 200)
            # The connection is read again, and its requests take the short way again.
            assert client.ask(request("/e/", ONE % (b"a", b"last"))).status == 200
        assert [record.path for record in server.records_of("phc_a")] == ["batch", "e", "e"]
        assert server.metrics()["edge_heavy_requests_total"] == 2


def test_a_decoder_that_dies_costs_its_request_and_nothing_else(all_heavy: Server) -> None:
    decoder = started_decoder(all_heavy)
    os.kill(decoder, signal.SIGSTOP)
    with all_heavy.connect() as client, all_heavy.connect() as other:
        client.send(request("/e/", ONE % (b"lost", b"e")) + request("/e/", ONE % (b"kept", b"e")))
        wait_for_handed_over(all_heavy, 2)
        other.send(request("/e/", ONE % (b"other", b"e")))
        wait_for_handed_over(all_heavy, 3)
        os.kill(decoder, signal.SIGKILL)
        assert "retry-after" in answered(client, 503).headers
        answered(client, 200)
        answered(other, 200)
    assert [len(all_heavy.records_of(key)) for key in ("phc_lost", "phc_kept", "phc_other")] == [0, 1, 1]
    assert decoders(all_heavy) != [decoder]
    metrics = all_heavy.metrics()
    assert metrics["edge_decoder_failures_total"] == 1
    assert metrics['edge_rejected_requests_total{cause="internal"}'] == 1


def test_so_many_wait_and_no_more(all_heavy: Server) -> None:
    decoder = started_decoder(all_heavy)
    os.kill(decoder, signal.SIGSTOP)
    with ExitStack() as stack:
        clients = [stack.enter_context(all_heavy.connect()) for _ in range(WAITING_MAX + 2)]
        for count, client in enumerate(clients[:-1], 2):
            client.send(request("/e/", ONE % (b"q", b"e")))
            wait_for_handed_over(all_heavy, count)
        clients[-1].send(request("/e/", ONE % (b"q", b"e")))
        assert "retry-after" in answered(clients[-1], 503).headers
        os.kill(decoder, signal.SIGCONT)
        for client in clients[:-1]:
            answered(client, 200)
    assert len(all_heavy.records_of("phc_q")) == WAITING_MAX + 1


def test_a_client_that_goes_has_its_record_stored_all_the_same(all_heavy: Server) -> None:
    decoder = started_decoder(all_heavy)
    os.kill(decoder, signal.SIGSTOP)
    with all_heavy.connect() as client:
        client.send(request("/e/", ONE % (b"gone", b"e")))
        wait_for_handed_over(all_heavy, 2)
        client.reset()
    os.kill(decoder, signal.SIGCONT)
    wait_until(lambda: all_heavy.records_of("phc_gone"), "the record")
    assert all_heavy.ask(request("/e/", ONE % (b"next", b"e"))).status == 200


def test_a_worker_that_stops_finishes_what_is_being_decoded(all_heavy: Server) -> None:
    decoder = started_decoder(all_heavy)
    os.kill(decoder, signal.SIGSTOP)
    with all_heavy.connect() as client, all_heavy.connect() as other:
        client.send(request("/e/", ONE % (b"stop", b"e")))
        wait_for_handed_over(all_heavy, 2)
        all_heavy.signal(signal.SIGTERM)
        liveness = request("/_liveness", method="GET")
        wait_until(lambda: "connection" in other.ask(liveness).headers, "the worker stopping")
        # As a container's end does, it reaches this process, too.
        os.kill(decoder, signal.SIGTERM)
        os.kill(decoder, signal.SIGCONT)
        assert answered(client, 200).headers["connection"] == "close"
    assert all_heavy.wait() == 0
    assert len(all_heavy.records_of("phc_stop")) == 1
    assert not is_running(decoder)


def test_it_holds_nothing_of_the_worker_and_ends_with_it(all_heavy: Server) -> None:
    decoder = started_decoder(all_heavy)
    held = [os.readlink(path) for path in Path(f"/proc/{decoder}/fd").iterdir()]
    assert sum(name.startswith("socket:") for name in held) == 1
    assert not [name for name in held if str(all_heavy.data) in name]
    (worker,) = all_heavy.workers()
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: not is_running(decoder), "the decoder's end")


@pytest.mark.parametrize("flags", [(), ("--inline-bytes-max", "1B")], ids=["on the loop", "in the decoder"])
def test_a_request_has_no_more_events_than_allowed(tmp_path: Path, flags: tuple[str, ...]) -> None:
    events = b",".join([b'{"token":"phc_a","event":"e","distinct_id":"d"}'] * 500)
    with running(tmp_path, "--events-max", "500", *flags) as server:
        for begin in (b'{"api_key":"phc_a","batch":[', b'{"batch":['):
            answer = server.ask(request("/batch/", begin + events + b",{}]}"))
            assert answer.status == 413
            assert b"Expected at most 500." in answer.body
            assert server.ask(request("/batch/", begin + events + b"]}")).status == 200


@pytest.mark.parametrize("flags", [(), ("--inline-bytes-max", "1B")], ids=["on the loop", "in the decoder"])
def test_keys_are_looked_up_in_the_registry_in_force(tmp_path: Path, flags: tuple[str, ...]) -> None:
    def registry(key: str, mode: str = "enforce") -> str:
        return f'mode = "{mode}"\n[[project]]\nid = 1\nkeys = ["{key}"]\n'

    def ask(key: str) -> int:
        return server.ask(request("/e/", ONE % (key.encode(), b"e"))).status

    file = tmp_path / "projects.toml"
    file.write_text(registry("phc_known"))
    with running(tmp_path, "--projects", str(file), "--durability", "page", *flags) as server:
        assert (ask("known"), ask("other")) == (200, 401)
        file.write_text(registry("phc_other"))
        wait_until(lambda: ask("other") == 200, "the new file in force")
        assert ask("known") == 401
        file.write_text(registry("phc_other", "dry_run"))
        wait_until(lambda: ask("known") == 200, "the new file in force")
        doubted = server.metrics()['edge_projects_dry_run_total{cause="unknown_key"}']
        assert doubted == 1
        file.write_text("mode = ")
        wait_until(lambda: server.metrics()['edge_projects_stale{worker="0"}'] == 1, "the bad file seen")
        assert ask("known") == 200
        file.write_text('mode = "off"\n')
        wait_until(lambda: server.metrics()['edge_projects_stale{worker="0"}'] == 0, "the good file seen")
        before = server.metrics()['edge_projects_dry_run_total{cause="unknown_key"}']
        assert ask("known") == 200
        assert server.metrics()['edge_projects_dry_run_total{cause="unknown_key"}'] == before


# --- without a worker: the clock is the test's


class Told:
    """A waiter that remembers."""

    def __init__(self) -> None:
        self.outcome: Outcome | None = None
        self.reason: Reason | None = None
        self.event = asyncio.Event()

    def decoded(self, outcome: Outcome, answer: list[memoryview], frame: list[memoryview]) -> None:
        self.outcome = outcome
        self.event.set()

    def not_decoded(self, reason: Reason) -> None:
        self.reason = reason
        self.event.set()


def one(waiter: Told) -> HeavyRequest:
    body = ONE % (b"a", b"e")
    return HeavyRequest(Job("e", "POST", b"", {}, "127.0.0.1", 1, "a", 1, ""), [memoryview(body)], len(body), waiter)


@pytest.fixture
def row() -> Row:
    return Board.create(1).rows[0]


async def run_one(heavy: HeavyRequests) -> None:
    told = Told()
    heavy.take(one(told))
    async with asyncio.timeout(PATIENCE_S):
        await told.event.wait()
    assert told.outcome is not None
    assert told.outcome.events == 1


def children() -> list[int]:
    return [pid for pid in descendants(os.getpid()) if "edge.server.decoder" in command_line(pid) and is_running(pid)]


def test_a_decoder_without_work_is_ended_and_another_started_when_there_is_some(row: Row) -> None:
    async def run() -> None:
        heavy = HeavyRequests("decoder", Limits(), Limits(1), row)
        heavy.tick(100.0)
        assert children() == []
        await run_one(heavy)
        (first,) = children()
        heavy.tick(100.0 + IDLE_S - 1)
        assert children() == [first]
        heavy.tick(100.0 + IDLE_S)
        wait_until(lambda: children() == [], "the decoder's end")
        await run_one(heavy)
        assert len(children()) == 1
        heavy.close()
        assert children() == []

    asyncio.run(run())
    assert row.get("edge_decoder_failures_total") == 0


def test_nobody_waits_for_ever(row: Row) -> None:
    async def run() -> None:
        heavy = HeavyRequests("decoder", Limits(), Limits(1), row)
        heavy.tick(100.0)
        await run_one(heavy)
        (hanging,) = children()
        os.kill(hanging, signal.SIGSTOP)
        current, waiting = Told(), Told()
        heavy.take(one(current))
        heavy.take(one(waiting))
        await asyncio.sleep(0)
        heavy.tick(100.0 + WAITING_S)
        assert (current.reason, waiting.reason) == (None, Reason.OVERLOADED)
        heavy.tick(100.0 + DECODING_S)
        assert current.reason is Reason.OVERLOADED
        wait_until(lambda: children() == [], "the decoder's end")
        await run_one(heavy)
        left = [Told(), Told()]
        for told in left:
            heavy.take(one(told))
        heavy.close()
        assert [told.reason for told in left] == [Reason.STOPPING] * 2
        assert heavy.full
        await asyncio.sleep(0)
        assert children() == []

    asyncio.run(run())
    assert row.get("edge_decoder_failures_total") == 1
