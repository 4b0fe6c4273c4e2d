import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.exposition import parse_exposition, parse_sample
from edge.metrics import METRICS, Board

NAMES = st.text(alphabet=st.characters(codec="utf-8"), max_size=20)


def test_everything_that_is_counted_is_read_back() -> None:
    board = Board.create(2)
    for row in board.rows:
        for at in range(len(row.slots)):
            row.slots[at] = 1
    found = parse_exposition(board.exposition({"version": "1"}, ["null"]))
    assert found.metrics == {metric.name for metric in METRICS} | {"edge_build_info"}
    assert found.samples["edge_commits_total"] == {(): 2.0}
    assert found.samples["edge_connections"] == {(("worker", "0"),): 1.0, (("worker", "1"),): 1.0}


@given(NAMES)
def test_any_value_of_a_label_is_read_back(value: str) -> None:
    board = Board.create(1)
    board.rows[0].add("edge_drain_bytes_total", 5, "0")
    found = parse_exposition(board.exposition({"version": value}, [value]))
    assert found.samples["edge_drain_bytes_total"] == {(("sink", value),): 5.0}
    assert found.samples["edge_build_info"] == {(("version", value),): 1.0}


def test_labels_are_in_the_order_of_their_names() -> None:
    assert parse_sample('a{z="1",b="2"} 3') == ("a", (("b", "2"), ("z", "1")), 3.0)


def test_what_is_declared_without_a_sample_is_known() -> None:
    found = parse_exposition("# HELP a A.\n# TYPE a counter\n# HELP b B.\n# TYPE b gauge\nb 1e-05\n")
    assert found.metrics == {"a", "b"}
    assert found.samples == {"b": {(): 1e-05}}


NO_EXPOSITIONS = {
    "nothing": ("", "expected whole lines"),
    "no samples": ("# TYPE a counter\n", "expected samples, found none"),
    "cut short": ("a 1\na_b 12", "expected whole lines"),
    "HTML": ("<html>\n", "expected a name, labels and a number, found '<html>'"),
    "no number": ("a one\n", "expected a name, labels and a number, found 'a one'"),
    "almost a number": ("a 1-2\n", "expected a name, labels and a number, found 'a 1-2'"),
    "a number of Python": ("a 1_000\n", "expected a name, labels and a number, found 'a 1_000'"),
    "not finite": ("a 1e999\n", "expected a name, labels and a number, found 'a 1e999'"),
    "twice": ('a{b="1"} 1\na{b="1"} 2\n', "expected every sample once"),
    "label twice": ('a{b="1",b="2"} 1\n', "expected labels, each once"),
    "label without quotes": ("a{b=1} 1\n", "expected labels, each once, found 'b=1'"),
    "unknown escape": ('a{b="\\t"} 1\n', "expected labels, each once"),
}


@pytest.mark.parametrize(("text", "told"), NO_EXPOSITIONS.values(), ids=NO_EXPOSITIONS)
def test_what_is_no_exposition_is_told(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parse_exposition(text)
