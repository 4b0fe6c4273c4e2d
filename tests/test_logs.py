import json
import logging
import os
import pty
import subprocess
import sys

from edge.logs import JsonFormatter

PROGRAM = """
import logging
from edge import logs
logs.set_up("worker-3")
log = logging.getLogger("edge.test")
log.debug("not told")
log.info("a %s", "word")
try:
    raise ValueError("odd")
except ValueError:
    log.exception("went wrong")
"""


def record(message: str, *arguments: object, exc_info: bool = False) -> logging.LogRecord:
    made = logging.LogRecord(
        "edge.test", logging.WARNING, __file__, 1, message, arguments, sys.exc_info() if exc_info else None
    )
    made.created, made.msecs = 1_763_690_000.25, 250.0
    made.processName = "worker-0"
    return made


def test_a_line_is_an_object() -> None:
    assert json.loads(JsonFormatter().format(record('a "%s"\n', "word"))) == {
        "time": "2025-11-21T01:53:20.250Z",
        "level": "warning",
        "process": "worker-0",
        "logger": "edge.test",
        "message": 'a "word"\n',
    }


def test_whatever_a_line_says_it_is_one_line() -> None:
    line = JsonFormatter().format(record("a\nb\r\u2028c\0"))
    assert len(line.split("\n")) == 1
    assert json.loads(line)["message"] == "a\nb\r\u2028c\0"


def test_an_error_has_its_traceback() -> None:
    try:
        raise ValueError("odd")
    except ValueError:
        line = json.loads(JsonFormatter().format(record("went wrong", exc_info=True)))
    assert line["error"].startswith("Traceback")
    assert line["error"].endswith("ValueError: odd")


def test_a_program_logs_objects_on_standard_error() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [(line["level"], line["process"], line["message"]) for line in lines] == [
        ("info", "worker-3", "a word"),
        ("error", "worker-3", "went wrong"),
    ]


def test_a_program_logs_plain_lines_on_a_terminal() -> None:
    terminal, end = pty.openpty()
    try:
        subprocess.run([sys.executable, "-c", PROGRAM], stderr=end, check=True, timeout=60)
        text = os.read(terminal, 65536).decode()
    finally:
        os.close(terminal)
        os.close(end)
    assert "INFO    worker-3: a word" in text
    assert not text.startswith("{")
