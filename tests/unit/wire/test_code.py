"""Archives of modules: the same content is the same archive, and garbage is refused."""

from __future__ import annotations

import io
import json
import zipfile

import pytest

from meca_executor.wire.code import MalformedCode, Unit, number_of, pack, unpack

UNIT = Unit("pkg", "/home/me", {"pkg/__init__.py": b"x = 1\n", "pkg/a/b.bin": bytes(range(256)) * 50})


def archive(comment: bytes, **files: str) -> bytes:
    """Return a zip file."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        for name, text in files.items():
            made.writestr(name, text)
        made.comment = comment
    return file.getvalue()


def test_a_unit_comes_back() -> None:
    """Name, place and files; and it is compressed."""
    payload = pack(UNIT)
    assert unpack(payload) == UNIT
    assert len(payload) < len(UNIT.files["pkg/a/b.bin"])


def test_the_number_says_what_is_in_it() -> None:
    """The order of the files does not count; a byte, a name and the place do."""
    number = number_of(pack(UNIT))
    assert 0 < number < 1 << 63
    assert number_of(pack(UNIT._replace(files=dict(sorted(UNIT.files.items(), reverse=True))))) == number
    others = [
        UNIT._replace(name="other"),
        UNIT._replace(root="/elsewhere"),
        UNIT._replace(files={**UNIT.files, "pkg/__init__.py": b"x = 2\n"}),
        UNIT._replace(files={**UNIT.files, "pkg/c.py": b""}),
    ]
    assert len({number, *(number_of(pack(other)) for other in others)}) == 5


FIELDS = json.dumps({"name": "pkg", "root": ""}).encode()


@pytest.mark.parametrize(
    "payload",
    [b"", b"PK", pack(UNIT)[:-40], archive(b""), archive(b"[]"), archive(b"{}"), archive(b"\xff"), pack(UNIT)[40:-9]],
)
def test_garbage_is_refused(payload: bytes) -> None:
    """With one class of error."""
    with pytest.raises(MalformedCode, match="not the archive of a module or package"):
        unpack(payload)


@pytest.mark.parametrize("name", ["/etc/x.py", "../x.py", "pkg/../../x.py", "pkg//x.py", "./x.py", "pkg/"])
def test_members_lie_below_their_folder(name: str) -> None:
    """Nothing is written elsewhere."""
    with pytest.raises(MalformedCode, match="would lie outside of its folder"):
        unpack(archive(FIELDS, **{name: ""}))
