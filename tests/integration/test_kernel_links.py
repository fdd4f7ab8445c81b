"""Kernels on a standing gateway: links that drop, keys, names, terminals, and the gateway's end."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from meca_executor import GatewayLost, KernelEnded, KernelError, background
from meca_executor.asyncio.kernel import AsyncKernel
from meca_executor.kernel import Kernel
from meca_executor.keys import add_keys
from tests.helpers.proxy import proxy
from tests.helpers.waiting import wait_until

from .standing import standing_gateway

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.helpers.proxy import Proxy

    from .standing import Standing

LIMIT = 60.0


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Standing]:
    with standing_gateway(tmp_path, "--workers", "1") as standing:
        yield standing


def lines(gate: Path, count: int) -> str:
    """Return shell code that prints half of the lines, waits for a file, and prints the rest."""
    half = count // 2
    wait = f"while [ ! -e {gate} ]; do sleep 0.05; done"
    return f"seq 1 {half}; {wait}; seq {half + 1} {count}"


def test_a_link_that_drops_loses_no_line(gateway: Standing, tmp_path: Path) -> None:
    """The link is down while half of the output is made: every byte is there, in order."""
    gate, seen = tmp_path / "gate", []
    with proxy(gateway.port) as link, Kernel.get_or_create("sh", endpoint=link.url) as kernel:
        future = kernel.submit(lines(gate, 10_000))
        logs = Kernel.get_or_create("sh", endpoint=gateway.url)
        with logs:
            link.down()
            gate.touch()
            wait_until(lambda: link.refused >= 3, "the client tries to come back", LIMIT)
            link.up()
        seen = future.result(LIMIT).stdout.splitlines()
    assert seen == [str(number) for number in range(1, 10_001)]


CUT_S = 5.0


def test_a_link_cut_for_five_seconds_during_ten_thousand_lines(gateway: Standing, tmp_path: Path) -> None:
    """Of a console and of a terminal: each byte is there, once, in order; most of them were made meanwhile."""
    gate, made = tmp_path / "gate", tmp_path / "made"
    program = f"stty -opost 2>/dev/null; {lines(gate, 10_000)}; touch {made}-$1"
    whole = "".join(f"{number}\n" for number in range(1, 10_001))

    async def terminal(link: Proxy, began: asyncio.Event) -> str:
        async with await AsyncKernel.get_or_create("sh", endpoint=link.url) as kernel:
            async with kernel.stream_pty(command=["sh", "-c", program, "sh", "pty"]) as pty:
                seen = await read_until(pty, b"5000\n")
                began.set()
                return (seen + b"".join([data async for data in pty])).decode()

    async def console(link: Proxy, began: asyncio.Event) -> str:
        async with await AsyncKernel.get_or_create("sh", endpoint=link.url) as kernel:

            def sink(kind: str, data: str) -> None:
                if data.endswith("5000\n"):
                    began.set()

            result = await kernel.execute(f"set -- console; {program}", on_output=sink)
            assert result.exit_code == 0
            return result.stdout

    async def live(link: Proxy) -> list[str]:
        began = [asyncio.Event(), asyncio.Event()]
        both = asyncio.gather(terminal(link, began[0]), console(link, began[1]))
        await asyncio.wait_for(asyncio.gather(*(one.wait() for one in began)), LIMIT)
        link.down()
        since = time.monotonic()
        gate.touch()
        waited = lambda: made_all() and time.monotonic() - since >= CUT_S and link.refused  # noqa: E731
        await asyncio.to_thread(wait_until, waited, "the rest is made while the link is down", LIMIT)
        link.up()
        return list(await asyncio.wait_for(both, LIMIT))

    def made_all() -> bool:
        return Path(f"{made}-pty").exists() and Path(f"{made}-console").exists()

    with proxy(gateway.port) as link:
        assert asyncio.run(live(link)) == [whole, whole]


def test_another_program_follows_a_run(gateway: Standing, tmp_path: Path) -> None:
    """Who began it has gone; who comes has all of it, or what came after some point, and how it ended."""
    gate, mark = tmp_path / "gate", tmp_path / "mark"
    code = f"echo first; touch {mark}; while [ ! -e {gate} ]; do sleep 0.05; done; echo second; exit 3"
    with Kernel.get_or_create("sh", "follow", endpoint=gateway.url) as kernel:
        kernel.submit(code, run_id="mine", keep=True)
        wait_until(mark.exists, "it runs", LIMIT)
    with Kernel.get_or_create("sh", "follow", endpoint=gateway.url) as kernel:
        assert kernel.get_info()["runs"][0].items() >= {"run": "mine", "status": "running"}.items()
        part = kernel.attach(wait=0.2)
        while not part.stdout:  # a busy machine takes longer
            part = kernel.attach(wait=1.0)
        seen: list[str] = []
        assert (part.status, part.stdout, part["runId"]) == ("continued", "first\n", "mine")
    with Kernel.get_or_create("sh", "follow", endpoint=gateway.url) as kernel:
        gate.touch()
        rest = kernel.attach("mine", after=part.position, on_output=lambda kind, data: seen.append(data))
        assert seen == ["second\n"]
        assert (rest.status, rest.stdout, rest.exit_code) == ("finished", "second\n", 3)
        again = kernel.attach()
        assert (again.stdout, again.exit_code, again.position) == ("first\nsecond\n", 3, rest.position)
        with pytest.raises(KernelError, match="the kernel has no run 'other' any more"):
            kernel.attach("other")
        kernel.destroy()


def test_a_run_that_nobody_follows_any_more_is_interrupted(gateway: Standing, tmp_path: Path) -> None:
    """Unless somebody else does; then with that one."""
    mark = tmp_path / "mark"
    with Kernel.get_or_create("sh", "t", endpoint=gateway.url) as first:
        first.submit(f"touch {mark}; sleep 600", run_id="r")
        wait_until(mark.exists, "it runs", LIMIT)
        with proxy(gateway.port) as link:  # another way: a session of its own
            second = Kernel.get_or_create("sh", "t", endpoint=link.url)
            assert second.attach(wait=0.01).status == "continued"
            first.close()
            assert second.attach(wait=0.01).status == "continued"
            assert second.get_info()["run"] == "r"
            second.close()
    with Kernel.get_or_create("sh", "t", endpoint=gateway.url) as third:
        assert third.attach("r", wait=LIMIT).status == "interrupted"
        third.destroy()


def test_leaving_the_follower_alone_does_not_end_the_run(gateway: Standing, tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    async def live() -> None:
        async with await AsyncKernel.get_or_create("sh", "t", endpoint=gateway.url) as kernel:
            run = asyncio.create_task(kernel.execute(f"while [ ! -e {gate} ]; do sleep 0.05; done; echo ok"))
            while (await kernel.get_info())["run"] is None:  # noqa: ASYNC110  # the gateway has no event for it
                await asyncio.sleep(0.01)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(kernel.attach(), 0.1)
            gate.touch()
            assert (await asyncio.wait_for(run, LIMIT)).stdout == "ok\n"
            await kernel.destroy()

    asyncio.run(live())


def test_a_link_that_is_cut_again_and_again(gateway: Standing, tmp_path: Path) -> None:
    """What is said while it is away comes when it is back, each time."""
    gates = [tmp_path / f"gate{number}" for number in range(3)]
    waits = "".join(f"seq 1 3000; while [ ! -e {gate} ]; do sleep 0.01; done; " for gate in gates)
    with proxy(gateway.port) as link, Kernel.get_or_create("sh", endpoint=link.url) as kernel:
        pieces: list[str] = []
        left = list(gates)

        def sink(kind: str, data: str) -> None:
            pieces.append(data)
            if left and "".join(pieces).count("3000\n") == 4 - len(left):
                link.cut()
                left.pop(0).touch()

        result = kernel.execute(f"{waits}seq 1 3000", on_output=sink, timeout=LIMIT)
        assert result.stdout == "".join(f"{number}\n" for number in range(1, 3001)) * 4
        assert not left
        assert link.connections >= 4


def test_a_slow_reader_holds_up_the_kernel_and_gets_all(gateway: Standing) -> None:
    """More than gateway and client keep: the program waits, and nothing is cut."""

    async def read() -> int:
        async with await AsyncKernel.get_or_create("sh", endpoint=gateway.url) as kernel:
            size = 0
            async with kernel.stream_pty(command=["sh", "-c", "head -c 24000000 /dev/zero | tr '\\0' x"]) as pty:
                async for data in pty:
                    assert b"not kept" not in data
                    size += len(data)
            return size

    assert asyncio.run(read()) == 24_000_000


def test_two_keys_with_one_token_have_two_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = tmp_path / "keys"
    pairs = [add_keys(keys), add_keys(keys)]
    with standing_gateway(tmp_path, "--key-file", str(keys), "--trust-all-keys", "--workers", "1") as gateway:
        kernels = []
        for pair in pairs:
            monkeypatch.setenv("MECA_ACCESS_KEY", pair.access_key)
            monkeypatch.setenv("MECA_SECRET_KEY", pair.secret_key)
            kernels.append(Kernel.get_or_create("sh", client_token="abc", endpoint=gateway.url))
        one, two = kernels
        assert one.created
        assert two.created
        assert one.kernel_id != two.kernel_id
        one.write("mine", b"")
        assert two.list_files() == []
        with pytest.raises(KernelError, match="there is no kernel"):
            two._do(two._core.link.ask({"do": "info", "kernel": one.kernel_id}))
        one.destroy()
        two.destroy()


def test_several_owners_have_no_kernels_unless_they_are_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = tmp_path / "keys"
    pair, _ = add_keys(keys), add_keys(keys)
    monkeypatch.setenv("MECA_ACCESS_KEY", pair.access_key)
    monkeypatch.setenv("MECA_SECRET_KEY", pair.secret_key)
    with (
        standing_gateway(tmp_path, "--key-file", str(keys), "--workers", "1") as gateway,
        pytest.raises(KernelError, match=r"kernels are not run here: .* 2 owners.*--trust-all-keys"),
    ):
        Kernel.get_or_create("sh", endpoint=gateway.url)


def test_a_token_finds_its_kernel_and_only_in_its_language(gateway: Standing) -> None:
    with Kernel.get_or_create("sh", client_token="abc", endpoint=gateway.url) as first:
        assert first.created
        first.write("kept", b"x")
    with Kernel.get_or_create("sh", client_token="abc", endpoint=gateway.url) as again:
        assert not again.created
        assert again.kernel_id == first.kernel_id
        assert [file["path"] for file in again.list_files()] == ["kept"]
        with pytest.raises(KernelError, match="is a sh kernel, not c"):
            Kernel.get_or_create("c", client_token="abc", endpoint=gateway.url)
        again.destroy()
        with pytest.raises(KernelError, match="there is no kernel 'abc'"):
            again_link(gateway)


def again_link(gateway: Standing) -> None:
    with Kernel.get_or_create("sh", endpoint=gateway.url) as other:
        other._do(other._core.link.ask({"do": "info", "kernel": "abc"}))


def test_an_idle_kernel_ends_and_says_why(gateway: Standing) -> None:
    with Kernel.get_or_create("sh", client_token="i", endpoint=gateway.url, limits={"idle_s": 0.2}) as kernel:
        folder, name = Path(kernel.get_info()["folder"]), kernel.kernel_id
    wait_until(lambda: not folder.exists(), "the kernel ends", LIMIT)
    with Kernel.get_or_create("sh", client_token="i", endpoint=gateway.url) as kernel:
        assert kernel.created
        with pytest.raises(KernelEnded, match=r"idle: nobody used it for 0\.2 s"):
            kernel._do(kernel._core.link.ask({"do": "info", "kernel": name}))
        kernel.destroy()


def test_a_temporary_kernel_ends_with_its_object(gateway: Standing) -> None:
    kernel = Kernel.get_or_create("sh", endpoint=gateway.url)
    folder = Path(kernel.get_info()["folder"])
    kernel.close()
    wait_until(lambda: not folder.exists(), "its kernel ends", LIMIT)


def test_a_gateway_that_dies_is_told(tmp_path: Path) -> None:
    """The run ends with the reason; nobody waits for ever."""
    (tmp_path / "one").mkdir()
    mark = tmp_path / "mark"
    with standing_gateway(tmp_path / "one", "--workers", "1") as gateway, proxy(gateway.port) as link:
        kernel = Kernel.get_or_create("sh", endpoint=link.url, resume_window=0.5)
        future = kernel.submit(f"touch {mark}; sleep 600")
        wait_until(mark.exists, "it runs", LIMIT)
        link.down()
        with pytest.raises(GatewayLost, match="host lost: the connection to"):
            future.result(LIMIT)
        kernel.close()


# -- terminals


async def read_until(pty: object, wanted: bytes) -> bytes:
    seen = b""
    async for data in pty:  # type: ignore[attr-defined]  # a StreamPty
        seen += data
        if wanted in seen:
            break
    return seen


def test_a_terminal_has_the_size_that_it_was_given(gateway: Standing) -> None:
    async def live() -> None:
        async with (
            await AsyncKernel.get_or_create("sh", endpoint=gateway.url) as kernel,
            kernel.stream_pty(30, 100, command=["sh"]) as pty,
        ):
            await pty.send_stdin("stty size\n")
            assert b"30 100" in await asyncio.wait_for(read_until(pty, b"30 100"), LIMIT)
            await pty.resize(41, 123)
            await pty.send_stdin(b"stty size\n")
            assert b"41 123" in await asyncio.wait_for(read_until(pty, b"41 123"), LIMIT)
            await pty.restart()
            await pty.send_stdin("echo a$((1 + 1))b; exit 7\n")
            rest = b"".join([data async for data in pty])
            assert b"a2b" in rest
            assert pty.exit_status == 7

    asyncio.run(live())


def test_a_terminal_misses_nothing_while_the_link_is_down(gateway: Standing, tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    async def live(link: object) -> bytes:
        async with await AsyncKernel.get_or_create("sh", endpoint=link.url) as kernel:  # type: ignore[attr-defined]
            command = ["sh", "-c", f"stty -opost; {lines(gate, 2000)}"]
            async with kernel.stream_pty(command=command) as pty:
                seen = await asyncio.wait_for(read_until(pty, b"1000\n"), LIMIT)
                link.down()  # type: ignore[attr-defined]
                gate.touch()
                await asyncio.to_thread(wait_until, lambda: link.refused >= 3, "it tries to come back", LIMIT)  # type: ignore[attr-defined]
                link.up()  # type: ignore[attr-defined]
                return seen + b"".join([data async for data in pty])

    with proxy(gateway.port) as link:
        assert asyncio.run(live(link)) == b"".join(b"%d\n" % number for number in range(1, 2001))


def test_a_terminal_that_was_left_is_found_again(gateway: Standing) -> None:
    async def live() -> None:
        async with await AsyncKernel.get_or_create("sh", "t", endpoint=gateway.url) as kernel:
            pty = await kernel.stream_pty(name="main", command=["sh"])
            await pty.send_stdin("x=kept; echo rea''dy\n")
            await asyncio.wait_for(read_until(pty, b"ready"), LIMIT)
            await pty.detach()
        async with await AsyncKernel.get_or_create("sh", "t", endpoint=gateway.url) as kernel:
            async with kernel.stream_pty(name="main") as pty:
                await pty.send_stdin("echo $x-again\n")
                seen = await asyncio.wait_for(read_until(pty, b"kept-again"), LIMIT)
                assert b"ready" in seen, "what was shown before is shown to who comes back"
            await kernel.destroy()

    asyncio.run(live())


# -- the background gateway, and the seed's own programs


@pytest.fixture
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("MECA_STATE_DIR", str(tmp_path / "state"))
    yield tmp_path / "state"
    background.stop()


@pytest.fixture
def needs_lua() -> None:
    for name in ("ipykernel", "jupyter_client", "lupa"):
        pytest.importorskip(name, reason="needs the extra kernels")


def test_the_seeds_synchronous_example(own_state: Path, needs_lua: None, capsys: pytest.CaptureFixture[str]) -> None:
    kern = Kernel.get_or_create("lua5", client_token="abc")
    result = kern.execute('print("hello world")', mode="query")
    print(result["console"])  # noqa: T201  # as the seed has it
    kern.destroy()
    assert capsys.readouterr().out == "[['stdout', 'hello world\\n']]\n"


def test_the_seeds_asynchronous_example(own_state: Path, needs_lua: None, capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        kern = await AsyncKernel.get_or_create("lua5", client_token="abc")
        result = await kern.execute('print("hello world")', mode="query")
        print(result["console"])  # noqa: T201  # as the seed has it
        await kern.destroy()

    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()
    assert capsys.readouterr().out == "[['stdout', 'hello world\\n']]\n"


def test_a_background_gateway_is_one_and_ends_when_it_is_idle(own_state: Path) -> None:
    assert background.running() is None
    first = background.ensure(idle_s=5.0)  # what follows has to come in that time
    assert background.ensure() == first == background.running()
    wait_until(lambda: background.running() is None, "it ends by itself", LIMIT)
    second = background.ensure()
    assert second.pid != first.pid
    assert background.stop() == second
    assert background.stop() is None


def test_a_kept_kernel_keeps_the_background_gateway(own_state: Path) -> None:
    there = background.ensure(idle_s=10.0)
    with Kernel.get_or_create("sh", client_token="k") as kernel:
        kernel.write("kept", b"")
    with Kernel.get_or_create("sh", client_token="k") as kernel:
        assert not kernel.created
        assert background.running() == there
        kernel.destroy()
