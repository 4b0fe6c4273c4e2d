from pathlib import Path

import pytest

from edge.drain.sinks.table import SINKS, make_sink


@pytest.mark.parametrize("scheme", SINKS)
def test_every_sink_can_be_made_from_its_url(scheme: str, tmp_path: Path) -> None:
    target = {"file": str(tmp_path / "out"), "null": "", "stdout": ""}.get(scheme, "//127.0.0.1:9")
    sink_id, sink = make_sink(f"{scheme}:{target}")
    assert sink_id.startswith(scheme.partition("+")[0])
    assert sink.linger_s >= 0


@pytest.mark.parametrize("text", ["", "file", "null", "s3:bucket", "./folder"])
def test_anything_else_names_the_sinks_there_are(text: str) -> None:
    with pytest.raises(ValueError, match="begins with file:, posthog"):
        make_sink(text)
