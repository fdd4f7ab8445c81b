"""`python -m meca_executor.cli`: the same as `meca`."""

from __future__ import annotations

import sys

from . import main

if __name__ == "__main__":
    sys.exit(main())
