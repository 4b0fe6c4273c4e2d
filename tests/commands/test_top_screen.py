from edge.commands.top_screen import COLUMNS, ROWS, cut_to, lines_of
from edge.segment.name import State
from edge.spool.inspect import Extent
from edge.top import Frame, Heard, make_frame
from tests.test_top import NOW_S, Edge, frame_of


def worst() -> Frame:
    """Everything is busy, and everything is wrong."""
    edge = Edge(sinks=("clickhouse-0123456789abcdef",))
    before = edge.text()
    for row in edge.board.rows:
        for at in range(len(row.slots)):
            row.slots[at] = 4_000_000 + at
    edge.supervisor.set("edge_disk_pressure", 3)
    edge.drainer.set("edge_disk_pressure", 0)
    edge.worker.set("edge_disk_pressure", 0)
    for row in edge.board.rows[1:-1]:
        row.set("edge_disk_pressure", 0)
    edge.spool = Extent(1 << 40, dict.fromkeys(State, 1_234_567), 0.0)
    return frame_of(before, edge.text())


def test_a_frame_fits_a_small_terminal_whatever_is_wrong() -> None:
    lines = lines_of(worst())
    assert max(map(len, lines)) <= COLUMNS
    assert len(lines) <= ROWS
    assert "refuses all" in "\n".join(lines)


def test_a_frame_with_room_has_its_blocks_apart() -> None:
    text = Edge().text()
    lines = lines_of(frame_of(text, text))
    assert lines.count("") == 3
    assert len(lines) <= ROWS


def test_lines_fit_the_width_with_long_reasons_and_many_workers() -> None:
    text = Edge(workers=9).text()
    silent = Heard("[2001:db8::1]:8001").silent(NOW_S, "expected something else than this, " * 9)
    for frame in (frame_of(text, text), make_frame(NOW_S, silent, None)):
        assert max(map(len, lines_of(frame))) <= COLUMNS
    assert " worker 8 " in "\n".join(lines_of(frame_of(text, text)))


def test_a_terminal_gets_no_orders_from_the_network() -> None:
    edge = Edge(sinks=("\x1b]0;owned\x07\x9b2J",))
    text = "\n".join(lines_of(frame_of(edge.text(), edge.text())))
    assert "?]0;owned??2J" in text
    assert text.replace("\n", "").isprintable()


def test_what_a_window_has_no_room_for_is_said_to_be_missing() -> None:
    lines = ["abcdefgh", "b", "c", "d"]
    assert cut_to(lines, 4, 4) == ["abcd", "b", "c", "d"]
    assert cut_to(lines, 80, 3) == ["abcdefgh", "b", "... 2 more lines: enlarge the window, or see --once"]
