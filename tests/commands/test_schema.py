import pytest

from edge.cli import main
from edge.process import EXIT_CONFIG


def test_it_prints_the_statement_for_the_table_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "clickhouse", "--table", "web.hits"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("CREATE TABLE IF NOT EXISTS web.hits\n(\n    uuid UUID,\n")
    assert text.endswith(";\n")


def test_a_name_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "clickhouse", "--table", "web.hits; DROP"]) == EXIT_CONFIG
    assert "--table: expected DB.TABLE, found 'web.hits; DROP'" in capsys.readouterr().err
