"""What `meca gateway` and `meca host` say about containers of an engine."""

from __future__ import annotations

import argparse

from ..errors import KernelError
from ..kernels.languages import PYTHON_IMAGE, boxed
from ..runtimes.engine_settings import ALLOWED, PULLS, EngineSettings
from ..settings import why_no_ref
from ._arguments import amount, seconds, table_of


def add_engine_options(parser: argparse.ArgumentParser, *, old_dialect: bool = True) -> None:
    """Add the options of containers; without the old dialect no names of images that its programs may run."""
    group = parser.add_argument_group(
        "containers", "Images run on a Docker engine where there is one; needs the extra `containers`."
    )
    group.add_argument(
        "--engine",
        metavar="URL",
        help="where the engine is, or 'none' (default: MECA_ENGINE, DOCKER_HOST or /var/run/docker.sock)",
    )
    if old_dialect:
        group.add_argument(
            "--image",
            action="append",
            default=[],
            metavar="IMAGE",
            help="programs on the old SDK, which have no key, may run IMAGE; may be repeated",
        )
    group.add_argument(
        "--runtime",
        action="append",
        type=named_runtime,
        default=[],
        metavar="NAME=ENGINE_RUNTIME",
        help="what callers name by runtime=NAME, such as microVM=kata; may be repeated",
    )
    group.add_argument(
        "--pull",
        choices=PULLS,
        default=EngineSettings.pull,
        help="get images from their registry when they are missing (default), always at a container's start, or never",
    )
    group.add_argument(
        "--container-allow",
        action="append",
        choices=tuple(ALLOWED),
        default=[],
        metavar="WHAT",
        help=f"lift a limit of containers: {'; '.join(f'{name} (else {rule})' for name, rule in ALLOWED.items())}",
    )
    _add_limits(group)


def _add_limits(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--container-idle",
        type=seconds,
        default=EngineSettings.idle_s,
        metavar="S",
        help="remove a container that has had no call for so long (default %(default)g)",
    )
    group.add_argument(
        "--ready-limit",
        type=amount,
        default=EngineSettings.ready_s,
        metavar="S",
        help="seconds from a container's start until it is ready (default %(default)g)",
    )
    group.add_argument(
        "--pull-limit",
        type=amount,
        default=EngineSettings.pull_s,
        metavar="S",
        help="seconds that a pull may take (default %(default)g)",
    )


def add_kernel_image(parser: argparse.ArgumentParser) -> None:
    """Add what isolated kernels run in."""
    parser.add_argument(
        "--kernel-image",
        action="append",
        type=named_image,
        default=[],
        metavar="LANG=IMAGE",
        help="what isolated kernels of LANG are made from (default: the official image, such as "
        f"{PYTHON_IMAGE} for python; with ipykernel in it snippets share their state); may be repeated",
    )


def engine_settings(args: argparse.Namespace) -> EngineSettings:
    """Return what the options say.

    Raises:
        UsageError: A runtime is named twice.
    """
    return EngineSettings(
        url=args.engine,
        runtimes=table_of("--runtime", args.runtime),
        pull=args.pull,
        allow=frozenset(args.container_allow),
        idle_s=args.container_idle,
        ready_s=args.ready_limit,
        pull_s=args.pull_limit,
    )


def named_runtime(text: str) -> tuple[str, str]:
    """Return (name, engine's name) from `NAME=ENGINE_RUNTIME`."""
    name, equals, runtime = text.partition("=")
    if not (name and equals and runtime):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=ENGINE_RUNTIME, such as microVM=kata")
    return name, runtime


def named_image(text: str) -> tuple[str, str]:
    """Return (language, image) from `LANG=IMAGE`."""
    name, equals, image = text.partition("=")
    if not (name and equals and image):
        raise argparse.ArgumentTypeError(f"{text!r} is not LANG=IMAGE, such as python=my-ipykernel:latest")
    if (why := why_no_ref(image)) is not None:
        raise argparse.ArgumentTypeError(why)
    try:
        boxed(name, {name: image})
    except KernelError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return name, image
