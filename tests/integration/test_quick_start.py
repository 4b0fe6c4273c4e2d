"""What a newcomer does first: send with curl, look with jq."""

import base64
import json
import subprocess
import time
from collections.abc import Callable
from typing import Final

import pytest

from tests.integration.edge_process import EdgeProcess, environment

EVENT: Final = '{"api_key":"phc_quick","event":"signed up","distinct_id":"ada","properties":{"plan":"pro"}}'
BATCH: Final = (
    '{"api_key":"phc_quick","batch":['
    '{"event":"signed up","distinct_id":"ada","properties":{"plan":"pro"}},'
    '{"event":"signed up","distinct_id":"bob","properties":{"plan":"free"}}]}'
)
# Plus, slash and padding of the usual alphabet are all in it.
ENCODED: Final = base64.b64encode(EVENT.replace("ada", "ada>?~~").encode()).decode()

COMMANDS: Final = {
    "a single event": (
        f"""curl -sS -X POST -H 'Content-Type: application/json' -d '{EVENT}' $URL/i/v0/e/""",
        ["ada pro"],
    ),
    "a single event, content type forgotten": (f"""curl -sS -d '{EVENT}' $URL/capture""", ["ada pro"]),
    "a batch": (
        f"""curl -sS -X POST -H 'Content-Type: application/json' -d '{BATCH}' $URL/batch/""",
        ["ada pro", "bob free"],
    ),
    "GET with base64": (
        f"""curl -sS -G --data-urlencode 'data={ENCODED}' $URL/e/""",
        ["ada>?~~ pro"],
    ),
    "GET with base64 pasted unescaped": (f"""curl -sS "$URL/e/?data={ENCODED}" """, ["ada>?~~ pro"]),
    "a gzip body": (
        f"""printf %s '{BATCH}' | gzip | curl -sS -H 'Content-Encoding: gzip' --data-binary @- $URL/batch/""",
        ["ada pro", "bob free"],
    ),
    "a gzip body that nothing announces": (
        f"""printf %s '{EVENT}' | gzip | curl -sS --data-binary @- $URL/i/v0/e/""",
        ["ada pro"],
    ),
}


@pytest.mark.parametrize(("command", "expected"), COMMANDS.values(), ids=COMMANDS.keys())
def test_what_curl_sends_is_readable_with_jq_within_two_seconds(
    edge: EdgeProcess, program: Callable[[str], str], command: str, expected: list[str]
) -> None:
    for name in ("curl", "gzip", "jq"):
        program(name)
    sent_s = time.monotonic()
    answer = _shell(command, edge)
    assert answer == '{"status":1}'
    edge.wait_for_events(len(expected), within_s=2 - (time.monotonic() - sent_s))
    found = _shell("""cat $DATA/events/*.ndjson | jq -r '"\\(.distinct_id) \\(.properties.plan)"'""", edge)
    assert found.splitlines() == expected
    tokens = _shell("cat $DATA/events/*.ndjson | jq -c '[.event, .token, .lane, .ip]' | sort -u", edge)
    assert json.loads(tokens) == ["signed up", "phc_quick", "main", "127.0.0.1"]


def test_edge_send_reports_the_stored_record_and_the_event_is_delivered(edge: EdgeProcess) -> None:
    report = json.loads(edge.verb("send", edge.url, "--json"))
    assert (report["status"], report["answer"]) == (200, '{"status":1}')
    assert report["stored"] is not None
    assert [event["uuid"] for event in edge.wait_for_events(1, within_s=2)] == [report["uuid"]]


def _shell(command: str, edge: EdgeProcess) -> str:
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        env={**environment(), "URL": edge.url, "DATA": str(edge.data)},
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.returncode == 0, f"{command}\n{done.stderr}"
    return done.stdout
