"""Known holes in what the package needs: asks pip-audit, and says so where its service cannot be reached.

Takes the package's own environment (all that is installed beside it, but pip and its tools) and ends with 1 when a hole
is known that is not among the accepted ones.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from importlib.metadata import distributions
from pathlib import Path

ACCEPTED: dict[str, str] = {}  #: id of a hole -> why it does not concern us
OURS_AND_TOOLS = {"meca-executor", "pip", "setuptools", "wheel"}
LIMIT_S = 240


def main() -> int:
    """Print what was found; returns the exit code."""
    pins = sorted({f"{one.name}=={one.version}" for one in distributions() if one.name not in OURS_AND_TOOLS})
    with tempfile.TemporaryDirectory() as folder:
        needs, answer = Path(folder, "needs.txt"), Path(folder, "answer.json")
        needs.write_text("\n".join(pins) + "\n")
        command = [sys.executable, "-m", "pip_audit", "-r", str(needs), "--no-deps", "--disable-pip"]
        command += ["--progress-spinner", "off", "--timeout", "10", "-f", "json", "-o", str(answer)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
            told = done.stderr.strip().splitlines()[-1:]
        except subprocess.TimeoutExpired:
            told = [f"no answer within {LIMIT_S} s"]
        found = json.loads(answer.read_text())["dependencies"] if answer.exists() and answer.stat().st_size else []
    audited = [one for one in found if "vulns" in one]
    if not audited:
        why = next((one["skip_reason"] for one in found if "skip_reason" in one), "".join(told) or "no answer")
        print(f"pip-audit: NOT DONE, its service of known holes does not answer here: {why}")
        return 0
    holes = [(one, hole) for one in audited for hole in one["vulns"] if hole["id"] not in ACCEPTED]
    for one, hole in holes:
        print(f"{one['name']} {one['version']}: {hole['id']}, mended in {', '.join(hole['fix_versions']) or 'nothing'}")
    print(f"pip-audit: {len(holes)} known holes in {len(audited)} packages; {len(found) - len(audited)} were not found")
    return 1 if holes else 0


if __name__ == "__main__":
    sys.exit(main())
