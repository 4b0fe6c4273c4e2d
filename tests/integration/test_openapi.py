"""The description of the public port, read by schemathesis, which makes requests of it and holds the answers against it."""

import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import yaml

from tests.integration.edge_process import EdgeProcess, environment

DESCRIPTION: Final = Path(__file__).parents[2] / "docs" / "openapi.yaml"
SCHEMATHESIS: Final = Path(sys.executable).parent / "schemathesis"
RUN_S: Final = 300
EXAMPLES: Final = 10
"""Random requests per operation and run."""

# What answers must not do, whatever is sent: a status, media type, header or body that is not described, a fault of our own.
CONFORMANCE: Final = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "allow_header_conformance",
)


def test_answers_to_random_requests_are_as_described(edge: EdgeProcess, tmp_path: Path) -> None:
    run_schemathesis(DESCRIPTION, edge, tmp_path, "--phases", "examples,fuzzing", "--checks", ",".join(CONFORMANCE))
    metrics = edge.metrics()
    for status in (200, 204, 400, 401):
        assert f'status="{status}"' in metrics, f"expected requests that are answered {status}"


def test_answers_to_every_kind_of_wrong_request_are_as_described(edge: EdgeProcess, tmp_path: Path) -> None:
    """Hundreds per operation, each with something of the description missing or wrong; all paths for events are one."""
    one_of_each = [
        part for path in ("/e/", "/i/v1/ai/events", "/robots.txt", "/_readiness") for part in ("--include-path", path)
    ]
    run_schemathesis(
        DESCRIPTION, edge, tmp_path, "--phases", "coverage", *one_of_each, "--checks", ",".join(CONFORMANCE)
    )
    assert 'status="405"' in edge.metrics()


def test_what_is_described_is_accepted(edge: EdgeProcess, tmp_path: Path) -> None:
    description: dict[str, Any] = yaml.safe_load(DESCRIPTION.read_text())
    # The others stand for several encodings inside each other, which no schema describes.
    accepted = description["components"]["pathItems"]["events"]["post"]["requestBody"]["content"]
    for media_type in accepted.keys() - {"application/json"}:
        del accepted[media_type]
    described = tmp_path / "openapi.yaml"
    described.write_text(yaml.safe_dump(description))
    phases = ("--phases", "examples,fuzzing", "--mode", "positive")
    # Capture v1 has the key nowhere else.
    key = ("--header", "Authorization: Bearer phc_demo")
    run_schemathesis(described, edge, tmp_path, *phases, *key, "--checks", "positive_data_acceptance")
    assert 'path="i/v1/analytics/events",status="200"' in edge.metrics()
    # What schemathesis tries before it begins is on no path for events.
    refused = [line for line in edge.metrics().splitlines() if 'status="4' in line and 'path="other"' not in line]
    assert refused == []


def run_schemathesis(description: Path, edge: EdgeProcess, folder: Path, *options: str) -> None:
    """The same requests in every run."""
    fixed = ("--generation-deterministic", "--max-examples", str(EXAMPLES), "--no-color")
    done = subprocess.run(
        [SCHEMATHESIS, "run", description, "--url", edge.url, *fixed, *options],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=RUN_S,
        env=environment(),
    )
    assert done.returncode == 0, done.stdout + done.stderr
