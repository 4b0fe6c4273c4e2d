from pathlib import Path

import pytest

from edge.drain.sinks.table import SINKS, make_sink


@pytest.mark.parametrize("scheme", SINKS)
def test_every_sink_can_be_made_from_its_url(scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    targets = {"file": str(tmp_path / "out"), "null": "", "stdout": "", "clickhouse+http": "//127.0.0.1:9/db.table"}
    target = targets.get(
        scheme.replace("https", "http"), "//127.0.0.1:9" if "+" in scheme or scheme == "kafka" else "//bucket"
    )
    sink_id, sink = make_sink(f"{scheme}:{target}")
    assert sink_id.startswith(scheme.partition("+")[0])
    assert sink.linger_s >= 0


@pytest.mark.parametrize("text", ["", "file", "null", "s3", "./folder"])
def test_anything_else_names_the_sinks_there_are(text: str) -> None:
    with pytest.raises(ValueError, match="begins with file:, posthog"):
        make_sink(text)
