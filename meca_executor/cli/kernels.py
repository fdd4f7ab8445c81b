"""`meca kernels`: the languages, and how to add one."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

from ..settings import resolve_endpoint
from ._arguments import add_endpoint

if TYPE_CHECKING:
    import argparse

    from ..client.kernel_link import KernelLink

SUMMARY = "list the languages that kernels can run, and how to add one"

EPILOG = """\
Any Jupyter kernelspec is a language. To add one, install it where the gateway runs, for example:
  python -m ipykernel install --user --name other-env     another Python environment
  R -e "IRkernel::installspec()"                          R

With the extra "kernels" Python and Lua keep their state from one snippet to the next:
  pip install "meca-executor[kernels]"

examples:
  meca kernels
  meca kernels --endpoint http://127.0.0.1:3001

exit codes: 0 done, 3 no gateway could be used"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.epilog = EPILOG
    add_endpoint(parser)


def run(args: argparse.Namespace, out: TextIO) -> int:
    """Ask, and print a table."""
    if resolve_endpoint(args.endpoint) is None:
        from ..kernels.languages import every

        rows = every()  # a gateway started here has what this Python has
    else:
        from ._gateway_link import with_link

        async def ask(link: KernelLink) -> list[tuple[str, str, bool]]:
            return [
                (str(row[0]), str(row[1]), bool(row[2]))
                for row in (await link.ask({"do": "languages"})).head["languages"]
            ]

        rows = with_link(args.endpoint, ask)
    width = max(len(name) for name, _, _ in rows)
    for name, how, there in rows:
        out.write(f"{name:<{width}}  {how if there else 'missing: ' + how}\n")
    return 0
