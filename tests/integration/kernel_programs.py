"""Programs that kernels run in tests."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

C_PROGRAM = {
    "main.c": '#include <stdio.h>\n#include "mylib.h"\nint main(void) { printf("myvalue is %d\\n", value()); }\n',
    "mylib.c": '#include "mylib.h"\nint value(void) { return 42; }\n',
    "mylib.h": "int value(void);\n",
}
needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")


def write_all(folder: Path, files: dict[str, str]) -> list[Path]:
    for name, text in files.items():
        (folder / name).write_text(text)
    return [folder / name for name in files]
