"""The command line: help, verbs, complaints."""

from __future__ import annotations

import argparse

import pytest

from meca_executor import __version__
from meca_executor.cli import VERBS, demo, main, offload


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_help_with_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith(f"usage: meca {verb}")
    assert f"\n  meca {verb}" in printed.out.partition("examples:")[2]
    assert not printed.err
    assert main(["--help"]) == 0
    assert f"  {verb} " in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"meca-executor {__version__}\n"


def test_no_command_prints_the_help_as_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    printed = capsys.readouterr()
    assert not printed.out
    assert "meca demo" in printed.err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["fly"], "no command 'fly'; there are demo"),
        (["--fast", "demo"], "unrecognized arguments: --fast"),
        (["offload"], "IMAGE"),
        (["offload", "knn:latest", "--timeout", "0"], "--timeout: '0'"),
        (["offload", "knn:latest", "--endpoint", "here"], "endpoint 'here' is not a URL"),
        (["gateway", "--host", "0.0.0.0"], "needs --tls-cert FILE and --tls-key FILE, or --behind-proxy"),
        (["gateway", "--host", ""], "0.0.0.0 is every one"),
        (["gateway", "--tls-key", "key.pem"], "--tls-cert is missing"),
        (["gateway", "--tls-cert", "cert.pem"], "--tls-key is missing"),
        (["gateway", "--tls-cert", "no.pem", "--tls-key", "no.pem"], "--tls-cert no.pem cannot be read: No such file"),
        (["gateway", "--behind-proxy", "--key-file", "no.keys"], "run: meca keys create --file no.keys"),
        (["keys"], "ACTION"),
        (["keys", "make"], "choose from"),
        (["keys", "create", "AKIA"], "takes no access key"),
        (["keys", "revoke"], "needs the ACCESS_KEY"),
        (["gateway", "--port", "70000"], "'70000' is not a port"),
        (["demo", "--workers", "none"], "--workers: 'none'"),
    ],
)
def test_wrong_arguments_are_one_line(words: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    printed = capsys.readouterr()
    assert not printed.out
    assert printed.err.startswith("meca: ") and printed.err.count("\n") == 1
    assert text in printed.err


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gateway", "--host", "0.0.0.0", "--debug"]) == 2
    assert main(["--debug", "gateway", "--host", "0.0.0.0"]) == 2
    assert capsys.readouterr().err.count("Traceback (most recent call last)") == 2


def test_options_may_stand_between_image_and_data() -> None:
    parser = argparse.ArgumentParser()
    offload.add_arguments(parser)
    args = parser.parse_intermixed_args(["knn:latest", "--timeout", "60", "data", "--memory", "256", "--cpu", "0.5"])
    assert (args.image, args.data, args.timeout, args.memory, args.cpu) == ("knn:latest", "data", 60, 256, 0.5)


def test_offload_defaults() -> None:
    parser = argparse.ArgumentParser()
    offload.add_arguments(parser)
    args = parser.parse_intermixed_args(["knn:latest"])
    assert args.data == ""
    assert (args.endpoint, args.timeout, args.retry, args.cpu, args.memory, args.app) == (None,) * 6


def test_demo_defaults() -> None:
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    args = parser.parse_args([])
    assert (str(args.out), args.workers, args.quick, args.endpoint) == ("meca-demo.png", None, False, None)
