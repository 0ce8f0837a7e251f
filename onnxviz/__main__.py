"""`onnxviz` and `python -m onnxviz`: the command line, which answers Ctrl-C from here on."""

from __future__ import annotations

import os
import signal


def _ended(*_: object) -> None:
    os.write(2, b"onnxviz: interrupted\n")
    os._exit(130)


# While the rest is imported: Python's own answer would be a traceback out of the middle of that. Where Ctrl-C is
# ignored (nohup, a shell's `&`), it stays so.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _ended)

from onnxviz.cli.parent import main  # noqa: E402

if __name__ == "__main__":
    main()
