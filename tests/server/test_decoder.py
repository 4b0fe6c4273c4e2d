"""What a decoder makes of a request, and what its worker may do meanwhile."""

import os
import socket
from collections.abc import Iterator

import msgspec
import pytest
import zstandard

from edge.process import Child
from edge.segment.record import decode_record
from edge.server.decoder import JOB_LENGTHS, OUTCOME_LENGTHS, Decoder, DecoderSpec, Job, Outcome, encode_registry
from edge.wire.projects import parse_projects
from edge.wire.rejections import Reason
from edge.wire.request import MIB, Limits
from tests.server.running import PATIENCE_S

BODY = b'{"api_key":"phc_a","event":"e","distinct_id":"u"}'
REGISTRY = b'mode = "%b"\n[[project]]\nid = 1\nkeys = ["phc_b"]\n[[inject]]\nhost = "h"\nkey = "phc_b"\n'


def job(registry: bytes | None = None, route: str = "e", method: str = "POST", query: bytes = b"") -> Job:
    return Job(
        route, method, query, {b"host": b"h"}, "203.0.113.7", 1_763_690_000_123_456, "abc", 31, ',"skew_us":7', registry
    )


def decoder(limits: Limits | None = None) -> Decoder:
    return Decoder(limits or Limits(), Limits(MIB))


def test_the_record_has_the_id_and_the_time_it_was_given() -> None:
    outcome, answer, frame = decoder().decode(job(query=b"_=1763690000100"), BODY)
    line = zstandard.decompress(frame)
    record = decode_record(line)
    assert (record.id, record.at, record.token, record.ip) == ("abc-31", 1_763_690_000_123_456, "phc_a", "203.0.113.7")
    assert (record.data, record.sent_at, record.skew_us) == (BODY, "1763690000100", 7)
    assert (outcome.events, outcome.raw_bytes, answer) == (1, len(line), b"")


def test_a_rejection_says_all_that_the_answer_says() -> None:
    outcome, answer, frame = decoder(Limits(lz64_bytes_max=3)).decode(job(), b'{"event":"e"}')
    assert (outcome.rejected, answer, frame) == (Reason.NO_TOKEN, b"", b"")
    assert outcome.detail


@pytest.mark.parametrize(("method", "poll"), [("GET", True), ("POST", False)])
def test_a_poll_is_told_from_a_request_that_lost_its_data(method: str, poll: bool) -> None:
    outcome, _, _ = decoder().decode(job(method=method, query=b"ip=1&_=2", route="track"), b"")
    assert (outcome.rejected, outcome.poll, outcome.terse) == (Reason.NO_DATA, poll, poll)


def test_keys_are_looked_up_in_the_last_registry_it_was_told() -> None:
    found = decoder()

    def ask(registry: bytes | None) -> tuple[Reason | None, Reason | None]:
        outcome, _, _ = found.decode(job(registry), BODY)
        return outcome.rejected, outcome.doubt

    assert ask(None) == (None, None)
    assert ask(encode_registry(parse_projects(REGISTRY % b"enforce"))) == (Reason.UNKNOWN_KEY, None)
    assert ask(None) == (Reason.UNKNOWN_KEY, None)
    assert ask(encode_registry(parse_projects(REGISTRY % b"dry_run"))) == (None, Reason.UNKNOWN_KEY)
    _, _, frame = found.decode(job(), b'{"event":"e","distinct_id":"u"}')
    assert decode_record(zstandard.decompress(frame)).token == "phc_b"
    assert ask(b"") == (None, None)


@pytest.fixture
def process() -> Iterator[tuple[Child, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours:
        ours.settimeout(PATIENCE_S)
        with theirs:
            child = Child(
                "d", "edge.server.decoder", DecoderSpec("d", theirs.fileno(), Limits(), Limits(MIB)), [theirs.fileno()]
            )
        yield child, ours
    child.process.wait(PATIENCE_S)
    child.close()


def exactly(ours: socket.socket, size: int) -> bytes:
    return ours.recv(size, socket.MSG_WAITALL) if size else b""


def test_requests_are_read_however_they_arrive(process: tuple[Child, socket.socket]) -> None:
    _, ours = process
    head = msgspec.msgpack.encode(job())
    sent = JOB_LENGTHS.pack(len(head), len(BODY)) + head + BODY
    ours.sendall(sent)
    for byte in sent:
        ours.sendall(bytes([byte]))
    for _ in range(2):
        lengths = OUTCOME_LENGTHS.unpack(exactly(ours, OUTCOME_LENGTHS.size))
        outcome, answer, frame = (exactly(ours, size) for size in lengths)
        assert msgspec.msgpack.decode(outcome, type=Outcome).events == 1
        assert answer == b""
        assert decode_record(zstandard.decompress(frame)).data == BODY


@pytest.mark.parametrize("cut", [0, 3, JOB_LENGTHS.size + 5])
def test_it_ends_where_its_worker_does(process: tuple[Child, socket.socket], cut: int) -> None:
    child, ours = process
    head = msgspec.msgpack.encode(job())
    ours.sendall((JOB_LENGTHS.pack(len(head), len(BODY)) + head + BODY)[:cut])
    ours.close()
    assert child.process.wait(PATIENCE_S) == 0


def test_it_is_the_one_to_go_when_memory_runs_out(process: tuple[Child, socket.socket]) -> None:
    child, ours = process
    head = msgspec.msgpack.encode(job())
    ours.sendall(JOB_LENGTHS.pack(len(head), len(BODY)) + head + BODY)
    exactly(ours, OUTCOME_LENGTHS.size)
    with open(f"/proc/{child.process.pid}/oom_score_adj") as file:
        found = int(file.read())
    with open(f"/proc/{os.getpid()}/oom_score_adj") as file:
        assert found >= max(500, int(file.read()))
