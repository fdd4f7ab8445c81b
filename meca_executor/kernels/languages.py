"""What a language is here: a Jupyter kernel where one is installed, else a program that each snippet is run with.

One table has, for each language, its names, what it needs, and the commands for a snippet and for a folder of files.
Commands are for `sh`, in the kernel's folder. `$SNIPPET` is the snippet's file, `$MAIN` the file that was named first.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import sys
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ..errors import KernelError

if TYPE_CHECKING:
    from collections.abc import Mapping

#: It has this gateway's Python, and bash.
PYTHON_IMAGE = f"python:{sys.version_info[0]}.{sys.version_info[1]}-slim"
EXTRA = 'pip install "meca-executor[kernels]"'


@dataclass(frozen=True)
class Language:
    """One row of the table."""

    name: str
    aliases: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()  #: the first that is installed is `$TOOL`
    install: str = ""  #: what to do when none is
    suffix: str = ".txt"  #: of a snippet's file
    snippet: str = ""  #: builds and runs `$SNIPPET`
    snippet_build: str = ""
    build: str = ""  #: of a folder of files
    run: str = ""
    image: str = ""  #: that an isolated kernel's container is made from, unless the operator names another one


def _script(extension: str, tool: str = '"$TOOL"') -> str:
    """Run main.EXT, or else the file that was named first."""
    return (
        f'f=main{extension}; [ -f "$f" ] || f="$MAIN"; [ -f "$f" ] || '
        f'{{ echo "there is no main{extension} to run" >&2; exit 127; }}; exec {tool} "$f"'
    )


def _compiled(extension: str, libraries: str) -> str:
    """Build with make, or compile and link all sources."""
    return (
        "if [ -f Makefile ] || [ -f makefile ]; then exec make; fi; "
        f"[ -n \"$(find . -name '*{extension}' -print -quit)\" ] || "
        f'{{ echo "there is no {extension} file to build" >&2; exit 1; }}; '
        f"find . -name '*{extension}' -print0 | sort -z | "
        f'TOOL="$TOOL" xargs -0 sh -c \'exec "$TOOL" -Wall -o main "$@" {libraries}\' sh'
    )


_RUN_BUILT = (
    'for f in ./main ./a.out target/release/main target/debug/main; do [ -x "$f" ] && exec "$f"; done; '
    'echo "the build left no ./main to run" >&2; exit 127'
)


def _of_c(name: str, aliases: tuple[str, ...], programs: tuple[str, ...], install: str) -> Language:
    """Return the row of a language whose compilers take the same options as C's."""
    return Language(
        name,
        aliases,
        programs,
        install,
        f".{name}",
        snippet_build='exec "$TOOL" -Wall -o "$SNIPPET.out" "$SNIPPET" -lm -pthread',
        snippet='exec "$SNIPPET.out"',
        build=_compiled(f".{name}", "-lm -pthread"),
        run=_RUN_BUILT,
        image="gcc:latest",
    )


LANGUAGES = (
    Language(
        "python",
        ("python3", "py"),
        (sys.executable, "python3"),
        EXTRA,
        ".py",
        'exec "$TOOL" "$SNIPPET"',
        run=_script(".py"),
        image=PYTHON_IMAGE,
    ),
    _of_c("c", (), ("gcc", "cc", "clang"), "install a C compiler (apt-get install gcc)"),
    _of_c("cpp", ("c++",), ("g++", "c++", "clang++"), "install a C++ compiler (apt-get install g++)"),
    Language(
        "rust",
        (),
        ("rustc",),
        "install Rust (https://rustup.rs)",
        ".rs",
        snippet_build='exec "$TOOL" -o "$SNIPPET.out" "$SNIPPET"',
        snippet='exec "$SNIPPET.out"',
        build="if [ -f Cargo.toml ]; then exec cargo build --release; fi; "
        'f=main.rs; [ -f "$f" ] || f="$MAIN"; exec "$TOOL" -o main "$f"',
        run='for f in target/release/*; do [ -f "$f" ] && [ -x "$f" ] && exec "$f"; done; ' + _RUN_BUILT,
        image="rust:slim",
    ),
    Language(
        "java",
        (),
        ("java",),
        "install a JDK (apt-get install default-jdk)",
        ".java",
        'exec "$TOOL" "$SNIPPET"',
        build="if [ -f Makefile ] || [ -f makefile ]; then exec make; fi; "
        "find . -name '*.java' -print0 | xargs -0 javac -d .",
        run='if [ -f main/Main.class ]; then exec "$TOOL" main.Main; elif [ -f Main.class ]; then exec "$TOOL" Main; '
        'else exec "$TOOL" -cp . "$(basename "$MAIN" .java)"; fi',
        image="eclipse-temurin:latest",
    ),
    Language(
        "node",
        ("nodejs", "javascript", "js", "nodejs6"),
        ("node", "nodejs"),
        "install Node.js (apt-get install nodejs)",
        ".js",
        'exec "$TOOL" "$SNIPPET"',
        run=_script(".js"),
        image="node:slim",
    ),
    Language(
        "go",
        (),
        ("go",),
        "install Go (apt-get install golang-go)",
        ".go",
        'exec "$TOOL" run "$SNIPPET"',
        build='if [ -f go.mod ]; then exec "$TOOL" build -o main .; fi; exec "$TOOL" build -o main *.go',
        run=_RUN_BUILT,
        image="golang:latest",
    ),
    Language(
        "lua",
        ("lua5",),
        ("lua5.4", "lua5.3", "lua", "lua5.2", "lua5.1", "luajit"),
        f"{EXTRA}, or install Lua (apt-get install lua5.4)",
        ".lua",
        'exec "$TOOL" "$SNIPPET"',
        run=_script(".lua"),
    ),
    Language(
        "sh",
        ("bash", "shell", "git"),
        ("bash", "sh"),
        "install a shell",
        ".sh",
        'exec "$TOOL" "$SNIPPET"',
        run=_script(".sh"),
        image=PYTHON_IMAGE,
    ),
)


@dataclass(frozen=True)
class Found:
    """A language that can be had on this machine."""

    name: str  #: as the table or the kernelspec has it
    language: Language | None  #: its row; None for a kernelspec of another language
    tool: str | None  #: the program
    spec: Any = None  #: the kernelspec, where snippets share one state
    how: str = ""  #: in words, for `meca kernels`

    @property
    def stateful(self) -> bool:
        """Whether a snippet knows what those before it did."""
        return self.spec is not None


def find(wanted: str) -> Found:
    """Return how a language runs here.

    Raises:
        KernelError: Nothing of that name is known, or a program is missing; the text says which.
    """
    specs = kernelspecs()
    row = next((row for row in LANGUAGES if wanted == row.name or wanted in row.aliases), None)
    tool = None if row is None else next((path for name in row.programs if (path := shutil.which(name))), None)
    if wanted in specs:
        return Found(wanted, row, tool, specs[wanted], f"Jupyter kernel {specs[wanted].display_name!r}")
    if row is not None:
        for name, spec in sorted(specs.items()):
            if spec.language.lower() == row.name or name == row.name:
                return Found(row.name, row, tool, spec, f"Jupyter kernel {spec.display_name!r}")
        if row.name == "lua" and (spec := lua_spec()) is not None:
            return Found(row.name, row, tool, spec, "lupa, as a Jupyter kernel")
        if tool is not None:
            return Found(row.name, row, tool, None, f"{tool}; each snippet is its own program")
        raise KernelError(f"language {wanted!r} cannot run here: {row.install}")
    by_language = [name for name, spec in sorted(specs.items()) if spec.language.lower() == wanted.lower()]
    if by_language:
        spec = specs[by_language[0]]
        return Found(by_language[0], None, None, spec, f"Jupyter kernel {spec.display_name!r}")
    known = ", ".join(sorted({*specs, *(row.name for row in LANGUAGES)}))
    raise KernelError(f"no language {wanted[:80]!r} here; there are {known} (see: meca kernels)")


def every() -> list[tuple[str, str, bool]]:
    """Return (name, how it runs or what is missing, whether it can be had) of each language."""
    specs = kernelspecs()
    rows: list[tuple[str, str, bool]] = []
    taken: set[str] = set()
    for row in LANGUAGES:
        found, why = _find_or_why(row.name)
        rows.append((row.name, why if found is None else found.how, found is not None))
        if found is not None and found.spec is not None:
            taken.update(name for name, spec in specs.items() if spec.display_name == found.spec.display_name)
    rows += [(name, f"Jupyter kernel {specs[name].display_name!r}", True) for name in sorted(specs.keys() - taken)]
    return rows


def _find_or_why(name: str) -> tuple[Found | None, str]:
    try:
        return find(name), ""
    except KernelError as error:
        return None, str(error).partition(": ")[2]


@cache
def has_jupyter() -> bool:
    """Whether the extra is installed."""
    return find_spec("jupyter_client") is not None


def kernelspecs() -> dict[str, Any]:
    """Return name -> kernelspec of what is installed; nothing without the extra."""
    if not has_jupyter():
        return {}
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    manager = KernelSpecManager()
    found = {}
    for name in manager.find_kernel_specs():
        with contextlib.suppress(NoSuchKernel, ValueError, OSError):  # a broken one is none
            found[name] = manager.get_kernel_spec(name)
    return found


def lua_spec() -> Any:
    """Return a kernelspec for Lua by `lupa`, or None without it."""
    if not has_jupyter() or find_spec("lupa") is None or find_spec("ipykernel") is None:
        return None
    from pathlib import Path

    from jupyter_client.kernelspec import KernelSpec

    script = str(Path(__file__).with_name("lua_kernel.py"))
    return KernelSpec(
        argv=[sys.executable, "-P" if sys.version_info >= (3, 11) else "-u", script, "-f", "{connection_file}"],
        display_name="Lua (lupa)",
        language="lua",
    )


def ipython_spec(python: str) -> Any:
    """Return a kernelspec for a Python that has `ipykernel`; None when this one cannot talk to it."""
    if not has_jupyter():
        return None
    from jupyter_client.kernelspec import KernelSpec

    argv = [python, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    return KernelSpec(argv=argv, display_name=f"Python ({python})", language="python")


def boxed(wanted: str, images: Mapping[str, str]) -> tuple[Found, str]:
    """Return a language that runs in a container, as far as it is known before there is one; and the image.

    Args:
        wanted: Its name.
        images: Language -> image, as the operator says.

    Raises:
        KernelError: Nothing is known of it, or no image is.
    """
    row = next((row for row in LANGUAGES if wanted == row.name or wanted in row.aliases), None)
    if row is None:
        known = ", ".join(row.name for row in LANGUAGES)
        raise KernelError(f"no language {wanted[:80]!r} runs isolated, in a container; there are {known}")
    names = (wanted, row.name, *row.aliases)
    image = next((images[name] for name in names if name in images), row.image)
    if not image:
        raise KernelError(
            f"no image for {row.name} is known here; the gateway's operator names one: meca gateway --kernel-image "
            f"{row.name}=IMAGE"
        )
    return Found(row.name, row, None, None, f"in a container of {image}"), image


def snippet_name(found: Found, code: str) -> str:
    """Return the file name of a snippet; Java wants its class's."""
    if found.language is not None and found.language.name == "java":
        named = re.search(r"\bpublic\s+(?:final\s+)?class\s+(\w+)", code) or re.search(r"\bclass\s+(\w+)", code)
        return f"{named[1] if named else 'Main'}.java"
    return f"snippet{found.language.suffix if found.language is not None else '.txt'}"
