"""`meca image`: container images from folders."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, TextIO

from ..errors import ContainerFailed, UsageError
from ._arguments import amount

if TYPE_CHECKING:
    import argparse

    from ..runtimes.engine import Engine
    from ..runtimes.engine_settings import EngineSettings
    from ._image_folder import ImageFolder

SUMMARY = "make a container's folder, build its image, try it"
ACTIONS = ("new", "build", "test")

EPILOG = """\
  new NAME    make a folder from the template: src/app.py that answers, a Dockerfile, an example and config.json
  build DIR   build the image, as `docker build` does
  test DIR    build it, send example_input.bin to a container of it, with the resources in config.json, and compare the
              reply with example_output.bin: as JSON where both are, else byte by byte; prints how they differ

build and test need a container engine and the extra `containers`.

examples:
  meca image new my-task
  meca image test my-task
  meca image build my-task --tag registry.example:5000/my-task:1

exit codes: 0 done, 1 the build failed or the reply is another, 2 wrong arguments or no engine"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.epilog = EPILOG
    parser.add_argument("action", choices=ACTIONS, metavar="ACTION", help="new, build or test; see below")
    parser.add_argument("folder", metavar="DIR", help="the container's folder")
    parser.add_argument("--tag", metavar="IMAGE", help="the image's name (default: the folder's)")
    parser.add_argument(
        "--engine",
        metavar="URL",
        help="where the engine is (default: MECA_ENGINE, DOCKER_HOST or /var/run/docker.sock)",
    )
    parser.add_argument(
        "--timeout", type=amount, default=600.0, metavar="S", help="seconds for the reply in a test (default 600)"
    )


def run(args: argparse.Namespace, out: TextIO) -> int:
    """Do what the action says."""
    from ._image_folder import ImageFolder, new_folder

    if args.action == "new":
        path = new_folder(args.folder)
        out.write(f"{path} is there; change src/app.py and the example, then: meca image test {args.folder}\n")
        return 0
    from ..client.container import checked_ref
    from ..runtimes.engine_settings import EngineSettings

    folder = ImageFolder.checked(args.folder, tested=args.action == "test")
    tag = checked_ref(args.tag or folder.default_tag)
    settings = EngineSettings(url=args.engine, pull="never")
    build(folder, tag, settings)
    if args.action == "build":
        out.write(f"{tag} is built\n")
        return 0
    return test(folder, tag, settings, args.timeout, out)


def build(folder: ImageFolder, tag: str, settings: EngineSettings) -> None:
    """Build an image; what the engine says goes to stderr.

    Raises:
        ContainerFailed: It could not be built; the engine's words are in the text.
    """
    from ..runtimes.engine import EngineError

    try:
        builder = connected(settings)
        try:
            for line in builder.build(str(folder.path), tag):
                sys.stderr.write(line + "\n")
        finally:
            builder.close()
    except EngineError as error:
        raise ContainerFailed(f"{tag} could not be built: {error}") from error


def connected(settings: EngineSettings) -> Engine:
    """Return the engine.

    Raises:
        UsageError: There is none, or the `docker` package is not installed.
        meca_executor.runtimes.engine.EngineError: It does not answer.
    """
    from ..runtimes.engine import Engine
    from ..runtimes.engine_settings import NO_ENGINE, find_engine

    url = find_engine(os.environ, settings)
    if url is None:
        raise UsageError(f"{NO_ENGINE}; start one, or name it with --engine URL")
    return Engine(url, settings)


def test(folder: ImageFolder, tag: str, settings: EngineSettings, timeout: float, out: TextIO) -> int:
    """Compare the reply to the example with what it should be."""
    import asyncio  # heavy, and every verb is imported for the help

    from ._image_folder import difference

    given, expected = folder.example()
    reply = asyncio.run(reply_of(tag, given, folder.resource(), settings, timeout))
    if text := difference(reply, expected):
        out.write(f"{tag}: the reply to example_input.bin is another\n{text}\n")
        return 1
    out.write(f"{tag}: the reply to example_input.bin is as it should be ({len(reply)} bytes)\n")
    return 0


async def reply_of(
    tag: str, content: bytes, resource: dict[str, float], settings: EngineSettings, timeout: float
) -> bytes:
    """Return the reply of a container that is there for this alone."""
    from ..runtimes.containers import Containers
    from ..serve import host_capacity

    containers = Containers(settings, 1, host_capacity())
    try:
        return await containers.call(containers.shape_of(tag, None, resource), content, timeout=timeout)
    finally:
        await containers.close()
