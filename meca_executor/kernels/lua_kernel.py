"""A Jupyter kernel for Lua, by `lupa`; run as a script with `-f CONNECTION_FILE`. Nothing of the package is imported.

Globals live as long as the kernel. `print`, `io.write` and `io.read` go to whoever runs the code; an expression alone
gives its value.
"""

from __future__ import annotations

import os
import signal
import sys

if sys.path and os.path.realpath(sys.path[0] or ".") == os.path.dirname(os.path.realpath(__file__)):
    del sys.path[0]  # our other files are no modules of the user's

from typing import Any

import lupa
from ipykernel.kernelapp import IPKernelApp
from ipykernel.kernelbase import Kernel

PATCH = """
function(out, ask)
  local format = tostring
  print = function(...)
    local parts = {}
    for i = 1, select('#', ...) do parts[i] = format((select(i, ...))) end
    out(table.concat(parts, '\\t') .. '\\n')
  end
  io.write = function(...)
    local parts = {}
    for i = 1, select('#', ...) do parts[i] = format((select(i, ...))) end
    out(table.concat(parts))
    return io.stdout
  end
  io.read = function(what)
    local line = ask()
    if line == nil then return nil end
    if type(what) == 'string' and what:find('n') then return tonumber(line) end
    if type(what) == 'string' and what:find('L') then return line .. '\\n' end
    return line
  end
end
"""


class LuaExit(Exception):
    """The code called `os.exit`."""


RUN = """
function(code, interrupted)
  debug.sethook(function() if interrupted() then error({meca_interrupt = true}, 0) end end, '', 100000)
  os.exit = function(status)
    if status == nil or status == true then status = 0 elseif status == false then status = 1 end
    error({meca_exit = status}, 0)
  end
  local chunk, why = load('return ' .. code, '=snippet')
  if chunk == nil then chunk, why = load(code, '=snippet') end
  if chunk == nil then return false, why end
  local result = table.pack(xpcall(chunk, function(e)
    if type(e) == 'table' and (e.meca_exit ~= nil or e.meca_interrupt) then return e end
    return debug.traceback(tostring(e), 2)
  end))
  debug.sethook()
  if interrupted() or (not result[1] and type(result[2]) == 'table' and result[2].meca_interrupt) then
    return 'interrupted', ''
  end
  if not result[1] and type(result[2]) == 'table' then return 'exit', result[2].meca_exit end
  if not result[1] then return false, result[2] end
  local parts = {}
  for i = 2, result.n do parts[#parts + 1] = tostring(result[i]) end
  return true, table.concat(parts, '\\t'), result.n - 1
end
"""


class LuaKernel(Kernel):  # type: ignore[misc]  # it ships no types for subclasses
    """Answers the Jupyter protocol."""

    implementation = "meca-lua"
    implementation_version = "1"
    language = "lua"
    language_version = "5"
    language_info = {"name": "lua", "mimetype": "text/x-lua", "file_extension": ".lua"}  # noqa: RUF012
    banner = "Lua by lupa"

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._lua = lupa.LuaRuntime(unpack_returned_tuples=True)
        self._lua.eval(PATCH)(self._out, self._ask)
        self._run = self._lua.eval(RUN)
        self._interrupted = False

    def _out(self, text: Any) -> None:
        data = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
        self.send_response(self.iopub_socket, "stream", {"name": "stdout", "text": data})

    def _ask(self) -> Any:
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            return self.raw_input("")
        except EOFError:
            return None
        except KeyboardInterrupt:
            self._interrupted = True
            return None
        finally:
            signal.signal(signal.SIGINT, before)

    def _on_interrupt(self, *_: Any) -> None:
        self._interrupted = True  # Lua asks for it now and then: no exception of ours passes through it

    def do_execute(
        self,
        code: str,
        silent: bool,
        store_history: bool = True,
        user_expressions: Any = None,
        allow_stdin: bool = False,
        **_: Any,
    ) -> dict[str, Any]:
        """Run a snippet."""
        self._interrupted = False
        self._allow_stdin = allow_stdin
        before = signal.signal(signal.SIGINT, self._on_interrupt)
        try:
            answer = self._run(code, lambda: self._interrupted)
        except lupa.LuaError as error:
            return self._failed("LuaError", str(error))
        except Exception as error:  # raised by a Python function that Lua called
            return self._failed(type(error).__name__, str(error))
        finally:
            signal.signal(signal.SIGINT, before)
        ok, text, *more = answer
        if ok == "interrupted":
            return self._failed("KeyboardInterrupt", "interrupted")
        if ok == "exit":
            return {"status": "error", "ename": "SystemExit", "evalue": str(text), "traceback": []}
        if not ok:
            return self._failed("LuaError", str(text))
        if more and more[0] and not silent:
            content = {"execution_count": self.execution_count, "data": {"text/plain": text}, "metadata": {}}
            self.send_response(self.iopub_socket, "execute_result", content)
        return {"status": "ok", "execution_count": self.execution_count, "payload": [], "user_expressions": {}}

    def _failed(self, name: str, value: str) -> dict[str, Any]:
        content = {"ename": name, "evalue": value, "traceback": [value]}
        self.send_response(self.iopub_socket, "error", content)
        return {"status": "error", "execution_count": self.execution_count, **content}

    def do_complete(self, code: str, cursor_pos: int) -> dict[str, Any]:
        """Complete a global name, or a field of a global table."""
        start = cursor_pos
        while start and (code[start - 1].isalnum() or code[start - 1] in "_."):
            start -= 1
        *tables, prefix = code[start:cursor_pos].split(".")
        place = self._lua.globals()
        for name in tables:
            place = place[name] if lupa.lua_type(place) == "table" else None
        names = [str(name) for name in place] if lupa.lua_type(place) == "table" else []
        head = "".join(f"{name}." for name in tables)
        matches = sorted(head + name for name in names if name.startswith(prefix))
        return {"matches": matches, "cursor_start": start, "cursor_end": cursor_pos, "metadata": {}, "status": "ok"}


if __name__ == "__main__":
    IPKernelApp.launch_instance(kernel_class=LuaKernel)
