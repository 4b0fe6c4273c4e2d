"""What systemd itself finds in the unit: it starts one with settings it does not know, and leaves them out."""

import subprocess
import sys
from pathlib import Path

UNIT = Path(__file__).parents[2] / "deploy" / "edge.service"
EXPOSURE_MAX = 20
"""Tenths, of 100 for a service that may do everything."""


def analyze(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *words], capture_output=True, text=True, timeout=60)


def test_systemd_knows_every_setting_of_the_unit(tmp_path: Path) -> None:
    installed = tmp_path / "edge.service"
    # It looks whether the program is there.
    installed.write_text(UNIT.read_text().replace("/opt/edge/bin/edge", str(Path(sys.prefix) / "bin" / "edge")))
    done = analyze("verify", "--man=no", installed)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    installed.write_text(installed.read_text().replace("KillMode=mixed", "KilMode=mixed"))
    assert "'KilMode'" in analyze("verify", "--man=no", installed).stderr


def test_a_service_that_is_broken_into_can_do_little() -> None:
    done = analyze("security", "--offline=true", "--no-pager", f"--threshold={EXPOSURE_MAX}", UNIT)
    assert done.returncode == 0, done.stdout
