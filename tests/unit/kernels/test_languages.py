"""Names of languages and of snippets' files."""

from __future__ import annotations

import pytest

from meca_executor import KernelError
from meca_executor.kernels import languages
from meca_executor.kernels.jupyter import exit_code
from meca_executor.kernels.languages import LANGUAGES, Found, find, snippet_name
from meca_executor.kernels.runs import Limits


def test_no_name_means_two_languages() -> None:
    names = [name for row in LANGUAGES for name in (row.name, *row.aliases)]
    assert len(names) == len(set(names))


def test_an_unknown_language_says_which_there_are() -> None:
    with pytest.raises(KernelError, match=r"no language 'cobol74' here; there are .*python"):
        find("cobol74")


def test_a_missing_program_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(languages, "kernelspecs", dict)
    with pytest.raises(KernelError, match=r"install Node\.js"):
        find("node")


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("public class Hello { }", "Hello.java"),
        ("class One { } public final class Two { }", "Two.java"),
        ("class Only {}", "Only.java"),
        ("int x;", "Main.java"),
    ],
)
def test_the_file_of_a_java_snippet_is_named_as_its_class(code: str, name: str) -> None:
    java = next(row for row in LANGUAGES if row.name == "java")
    assert snippet_name(Found("java", java, "/java"), code) == name


@pytest.mark.parametrize(
    ("value", "code"), [("", 0), ("None", 0), ("3", 3), ("256", 0), ("-1", 255), ("True", 1), ("oh dear", None)]
)
def test_the_exit_code_of_sys_exit(value: str, code: int | None) -> None:
    assert exit_code(value) == code


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"memory": 5}, "no limit 'memory'; there are memory_mib"),
        ({"timeout_s": -1}, "timeout_s -1 is not a positive number"),
        ({"idle_s": "long"}, "idle_s 'long' is not a positive number"),
        ({"open_files": 3}, "open_files 3 is not a whole number"),
    ],
)
def test_a_wrong_limit_is_refused(given: dict[str, object], why: str) -> None:
    with pytest.raises(KernelError, match=why):
        Limits.of(given)
