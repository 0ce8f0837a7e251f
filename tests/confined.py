"""Runs commands where a socket ends the process and a file written elsewhere is told: confined.py FOLDER MODE [...]

FOLDER   the one folder, beside the temporary one, that Python code may write into
MODE     'main': the command line itself, from the arguments that follow; 'run': several commands in this process, one
         JSON list a line of stdin; 'code': a piece of Python on stdin; 'filter': ends with NO_FILTER where the kernel
         refuses no sockets

A socket is refused by the kernel (seccomp), so native code is held to it as well, in threads and child processes too.
What native code writes into the home folder, the caches, the working folder or the temporary one shows afterwards.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import runpy
import socket
import struct
import sys
from pathlib import Path

WROTE, NO_FILTER = 99, 98
_SOCKET = {
    "x86_64": (0xC000003E, 41),
    "aarch64": (0xC00000B7, 198),
}  # audit's number of the machine, of the call
_NO_NEW_PRIVILEGES, _SECCOMP, _FILTER = 38, 22, 2
_KILL, _ALLOW = 0x80000000, 0x7FFF0000
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06  # of classic BPF


def refuse_sockets() -> bool:
    """Let the kernel end this process and its children at `socket`; False where it takes no such filter."""
    if sys.platform != "linux" or platform.machine() not in _SOCKET:
        return False
    machine, call = _SOCKET[platform.machine()]
    steps = [
        (_LOAD, 0, 0, 4),
        (_EQUAL, 0, 3, machine),
        (_LOAD, 0, 0, 0),
        (_EQUAL, 0, 1, call),
        (_RETURN, 0, 0, _KILL),
        (_RETURN, 0, 0, _ALLOW),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(steps), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    return (
        libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) == 0
        and libc.prctl(_SECCOMP, _FILTER, ctypes.c_void_p(ctypes.addressof(program)), 0, 0) == 0
    )


def refuse_files(*folders: str) -> None:
    """End the process where Python code opens a socket, or a file outside of `folders` for writing."""
    allowed = tuple(os.path.realpath(folder) + os.sep for folder in folders)
    changing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    named = (
        "os.mkdir",
        "os.rename",
        "os.remove",
        "os.rmdir",
        "os.link",
        "os.symlink",
        "os.chmod",
        "os.truncate",
    )

    reaching = {f"socket.{name}" for name in ("__new__", "connect", "bind", "sendto")}
    reaching |= {
        f"socket.{name}" for name in ("getaddrinfo", "getnameinfo", "gethostbyname", "gethostbyaddr")
    }

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        # A pair within one machine is a pipe (runtime/process.py).
        pair = event == "socket.__new__" and arguments[1] == getattr(socket, "AF_UNIX", None)
        if event in reaching and not pair:
            end(event, arguments)
        written = (event == "open" and int(arguments[2] or 0) & changing) or event in named  # type: ignore[call-overload]
        if not written or not isinstance(arguments[0], (str, bytes, os.PathLike)):
            return
        path = os.fsdecode(arguments[0])
        inside = f"{os.path.realpath(path)}{os.sep}".startswith(allowed)
        if not inside and path != os.devnull and not (event == "os.mkdir" and Path(path).is_dir()):
            end(event, arguments)

    def end(event: str, arguments: tuple[object, ...]) -> None:
        os.write(2, f"confined: {event} {arguments}\n".encode())
        os._exit(WROTE)

    sys.addaudithook(watch)


def main(folder: str, mode: str, *arguments: str) -> None:
    filtered = refuse_sockets()
    refuse_files(folder, os.environ["TMPDIR"])
    if mode == "main":
        sys.argv = ["onnxviz", *arguments]
        runpy.run_module("onnxviz", run_name="__main__", alter_sys=True)
    elif mode == "code":
        exec(sys.stdin.read(), {})
    elif mode == "filter":
        sys.exit(0 if filtered else NO_FILTER)
    else:
        from onnxviz.cli.main import run

        for line in sys.stdin.read().splitlines():
            command = json.loads(line)
            print(json.dumps([command, run(command)]), flush=True)


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])
    main(*sys.argv[1:])
