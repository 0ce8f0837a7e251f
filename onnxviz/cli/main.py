"""The program's start and end: registering the commands, and turning every error into one line and an exit code."""

from __future__ import annotations

import codecs
import io
import os
import sys
import warnings
from typing import Any, NoReturn

import typer

from onnxviz._version import __version__
from onnxviz.cli.command import AsTyped, Program, typed
from onnxviz.cli.run import complain, discard
from onnxviz.cli.signatures import ASKED, asked
from onnxviz.cli.table import COMMANDS
from onnxviz.errors import (
    COMMAND,
    LONGEST_MESSAGE,
    SMALLER,
    OnnxVizError,
    PreprocessingAssumed,
    Stopped,
    UndrawnText,
    spelt,
)
from onnxviz.provenance import COMMAND_LINE
from onnxviz.text import halves, printable


def program(called: str | None = None, alone: bool = False) -> typer.Typer:
    """The command line as typer has it: the command that is called, and the others by their names and help.

    alone   whether nothing can be asked about the others, so that they are left out
    """
    app = typer.Typer(
        name="onnxviz",
        cls=Program,
        no_args_is_help=True,
        add_completion=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
        help="See what a convolutional network in ONNX form looks at and what it has learned.",
    )
    app.callback()(_callback)
    for name, command in COMMANDS.items():
        if name == called:
            app.command(name, cls=AsTyped, help=command.help())(typed(command))
        elif not alone or called not in COMMANDS:
            app.command(name, help=command.help())(_named)
    return app


def _named() -> None:
    """A command that is listed."""


def _version(asked: bool) -> None:
    if asked:
        print(f"onnxviz {__version__}")
        raise typer.Exit


def _callback(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    pass


def main() -> NoReturn:
    """Run the command line and exit with the code that the README lists."""
    _standard_streams()
    _any_encoding()
    sys.exit(run(sys.argv[1:]))


class _Remembering(io.FileIO):
    """Stdout's file, which remembers that it could not be written: whoever printed may have been told, or not."""

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.failure = error
            raise


def _standard_streams() -> None:
    """Streams for what was closed when Python started (`parent` has opened its number), and a stdout that remembers."""
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    old = sys.stdout
    if old is None or (isinstance(old, io.TextIOWrapper) and os.name != "nt"):  # Windows' console has its own
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(_Remembering(1, "w", closefd=False)),
            encoding="utf-8" if old is None else old.encoding,
            line_buffering=old is not None and old.isatty(),
        )


def _any_encoding() -> None:
    """Let stdout and stderr write what their encoding lacks as `\\u732b`: a label must not end a command.

    Within a JSON string that is the same letter, so `--json` stays whole in any encoding.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ESCAPED)


def _escaped(error: UnicodeError) -> tuple[str, int]:
    """What an encoding lacks, as JSON and Python write it."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return halves(error.object[error.start : error.end]), error.end


_ESCAPED = "onnxviz.escaped"
codecs.register_error(_ESCAPED, _escaped)


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code; errors are one line on stderr, never a traceback.

    What the command printed is written by then: a full disk, or a stdout that is closed, is exit code 3.
    """
    code = _run(arguments)
    try:
        sys.stdout.flush()
        error: Exception | None = _failure()
    except (OSError, ValueError) as failed:
        error = failed
    if error is None:
        return code
    discard(sys.stdout)
    if code or isinstance(error, BrokenPipeError):  # whoever read our output has enough (`| head`): no error
        return code
    return _fail(f"cannot write to stdout: {getattr(error, 'strerror', None) or error}", 3)


def _run(arguments: list[str]) -> int:
    # Pillow warns about damaged metadata in pictures that it reads all the same; stderr is for one-line errors.
    warnings.filterwarnings("ignore", module="PIL")
    for said in (PreprocessingAssumed, UndrawnText):  # as notes on stderr
        warnings.filterwarnings("ignore", category=said)
    caller, line = COMMAND.set(frozenset()), COMMAND_LINE.set(tuple(arguments))
    try:
        completed = ASKED in os.environ
        words = asked() if completed else arguments
        called = next((word for word in words if not word.startswith("-")), None)
        # `--help map` asks about all, as a tab behind `style` does.
        alone = not completed and words[:1] == [called]
        result = program(called, alone)(arguments, prog_name="onnxviz", standalone_mode=False)
        if (
            result == Stopped.exit_code
        ):  # typer's answer to Ctrl-C while it reads the command line: it says nothing
            return _fail("interrupted", result)
        return result if isinstance(result, int) else 0
    except OnnxVizError as error:
        return _fail(str(error), error.exit_code) if str(error) else error.exit_code
    except KeyboardInterrupt:  # while the commands were built, or one ended
        return _fail("interrupted", 130)
    except SystemExit as end:
        if not isinstance(end.__context__, BrokenPipeError):
            raise
        discard(sys.stdout)
        return 0
    except MemoryError:
        return _fail(spelt("out of memory" + SMALLER), 4)
    except OSError as error:
        return 0 if _failure() is not None else _unforeseen(error)  # `run` tells
    except Exception as error:
        return _unforeseen(error)
    finally:
        COMMAND.reset(caller)
        COMMAND_LINE.reset(line)


def _failure() -> OSError | None:
    """Why stdout could not be written, if so."""
    return getattr(getattr(getattr(sys.stdout, "buffer", None), "raw", None), "failure", None)


def _unforeseen(error: Exception) -> int:
    show = getattr(error, "show", None)
    if show is not None and hasattr(error, "exit_code"):  # typer's own usage errors
        context = getattr(error, "ctx", None)
        if not error.format_message():  # type: ignore[attr-defined]
            return int(error.exit_code)  # no command: the help is shown
        way = f"; see {context.command_path} --help" if context is not None else ""
        return _fail(f"{error.format_message().rstrip('.')}{way}", int(error.exit_code))  # type: ignore[attr-defined]
    if os.environ.get("ONNXVIZ_DEBUG"):
        raise error
    return _fail(
        f"internal error ({type(error).__name__}: {error}); this is a bug in onnxviz. "
        "Set ONNXVIZ_DEBUG=1 to see where, and please report it",
        5,
    )


def _fail(text: str, code: int) -> int:
    complain(" ".join(printable(text, LONGEST_MESSAGE).split()))
    return code
