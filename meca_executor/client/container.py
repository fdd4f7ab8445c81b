"""A container as something to submit: how its input is encoded and its reply read."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import TaskFailed, UsageError
from ..settings import why_no_ref, why_no_runtime
from ..wire.sessions import Reading

Codec = str | tuple[Callable[[Any], "str | bytes"], Callable[[str], Any]]
NAMED_CODECS = ("json", "text", "bytes")
SHOWN = 200  #: characters of a reply in an error


class Container:
    """A container image that answers requests, to be submitted like a function of one argument.

        knn = Container("knn:latest", resource={"cpu": 1, "memory": 256})
        neighbours = ex.submit(knn, {"dataset": rows, "point": [2, 3], "k": 2, "num_processes": 1}).result()

    Args:
        ref: Image name, as for `docker run`.
        resource: What one container needs: `cpu` (cores), `memory` (MiB), `gpu`.
        runtime: Name of the container runtime; None is the host's default.
        codec: How input and reply are read. `"json"`: any JSON value both ways. `"text"`: str both ways.
            `"bytes"`: base64 both ways. A pair `(encode, decode)` of callables: `encode(input) -> str or
            bytes`, `decode(reply: str) -> anything`. None (default): a `str` input is passed as it is and
            the reply is a `str`; anything else is JSON both ways.
        app: Folder of the container (with `src/app.py`), to run it as a local process where there is no
            engine; for the embedded gateway only.

    Raises:
        UsageError: An argument is wrong.
    """

    __module__ = "meca_executor"

    def __init__(
        self,
        ref: str,
        *,
        resource: Mapping[str, float] | None = None,
        runtime: str | None = None,
        codec: Codec | None = None,
        app: str | os.PathLike[str] | None = None,
    ) -> None:
        self.ref = checked_ref(ref)
        self.resource = checked_resource(resource)
        self.runtime = checked_runtime(runtime)
        self.codec = checked_codec(codec)
        self.app = None if app is None else os.path.abspath(os.fspath(app))

    def __repr__(self) -> str:
        shown = {"resource": self.resource, "runtime": self.runtime, "codec": self.codec, "app": self.app}
        rest = "".join(f", {name}={value!r}" for name, value in shown.items() if value)
        return f"Container({self.ref!r}{rest})"

    def encode(self, data: Any) -> bytes:
        """Return what is posted to the container.

        Raises:
            TypeError: The codec cannot encode the input.
        """
        codec = self._codec_for(data)
        if isinstance(codec, tuple):
            return self._as_bytes(codec[0](data))
        if codec == "json":
            return json.dumps(data).encode()
        if codec == "text" and isinstance(data, str):
            return data.encode()
        if codec == "bytes" and isinstance(data, (bytes, bytearray, memoryview)):
            return base64.b64encode(data)
        raise TypeError(f"the codec {codec!r} of {self.ref} cannot encode {type(data).__name__}")

    def _as_bytes(self, encoded: object) -> bytes:
        if isinstance(encoded, str):
            return encoded.encode()
        if isinstance(encoded, (bytes, bytearray, memoryview)):
            return bytes(encoded)
        raise TypeError(f"the codec of {self.ref} encoded to {type(encoded).__name__}, not to str or bytes")

    def decoder(self, data: Any) -> Callable[[bytes], Any]:
        """Return the function that reads the reply to this input."""
        codec = self._codec_for(data)
        return lambda reply: decode_reply(codec, reply, self.ref)

    def reading(self, data: Any) -> Reading:
        """Return how the reply to this input is read, as another program can do it."""
        codec = self._codec_for(data)
        return Reading.OWN if isinstance(codec, tuple) else Reading[codec.upper()]

    def _codec_for(self, data: Any) -> Codec:
        return self.codec or ("text" if isinstance(data, str) else "json")


def decode_reply(codec: Codec, reply: bytes, ref: str) -> Any:
    """Return what a codec makes of a reply.

    Raises:
        TaskFailed: The reply is not what the codec expects; its beginning is in the text.
    """
    try:
        text = reply.decode("utf-8")
        if isinstance(codec, tuple):
            return codec[1](text)
        if codec == "json":
            return json.loads(text)
        return text if codec == "text" else base64.b64decode(text, validate=True)
    except Exception as error:
        from ..wire.data import printable

        shown = printable(reply[: 4 * SHOWN].decode("utf-8", "backslashreplace")[:SHOWN])
        name = codec if isinstance(codec, str) else "own"
        why = printable(str(error))
        raise TaskFailed(f"{ref} replied what its {name} codec cannot read ({why}): {shown}") from error


def checked_ref(ref: object) -> str:
    """Return an image name.

    Raises:
        UsageError: It is not a str, is empty or too long, or has white space in it.
    """
    if not isinstance(ref, str):
        raise UsageError(f"container name {ref!r} is not an image name such as 'knn:latest'")
    if (why := why_no_ref(ref)) is not None:
        raise UsageError(why)
    return ref


def checked_runtime(runtime: object) -> str | None:
    """Return a container runtime's name, or None.

    Raises:
        UsageError: It is something else than a str, or too long.
    """
    if runtime is not None and not isinstance(runtime, str):
        raise UsageError(f"runtime {runtime!r} is not a name")
    if runtime is not None and (why := why_no_runtime(runtime)) is not None:
        raise UsageError(why)
    return runtime


def checked_codec(codec: Any) -> Codec | None:
    """Return a codec.

    Raises:
        UsageError: It is no codec.
    """
    pair = isinstance(codec, tuple) and len(codec) == 2 and all(callable(part) for part in codec)
    if codec is not None and codec not in NAMED_CODECS and not pair:
        raise UsageError(f"codec {codec!r} is not 'json', 'text', 'bytes' or a pair (encode, decode) of callables")
    return codec  # type: ignore[no-any-return]


RESOURCES = {"cpu": "cpu", "memory": "memory", "mem": "memory", "gpu": "gpu"}  #: accepted spelling -> ours


def checked_resource(resource: Any) -> dict[str, float]:
    """Return a resource mapping in our spelling (`mem` is `memory`).

    Raises:
        UsageError: A name is unknown, or a value is not a number of at least 0.
    """
    checked: dict[str, float] = {}
    if resource is not None and not isinstance(resource, Mapping):
        raise UsageError(f"resource {resource!r} is not a mapping such as {{'cpu': 1, 'memory': 256}}")
    for name, value in (resource or {}).items():
        if name not in RESOURCES:
            raise UsageError(f"resource {name!r} is unknown; there are cpu (cores), memory (MiB) and gpu")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
            raise UsageError(f"resource {name}={value!r} is not a number of at least 0")
        checked[RESOURCES[name]] = value
    return checked
