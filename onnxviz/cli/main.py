"""The program's start and end: registering the commands, and turning every error into one line and an exit code."""

from __future__ import annotations

import codecs
import io
import os
import sys
import warnings

import typer

from onnxviz._version import __version__
from onnxviz.cli import (
    ascent,
    attribute,
    cam,
    dream,
    embed,
    feedforward,
    fool,
    gradient,
    invert,
    look,
    patches,
    saliency,
    style,
    texture,
    tools,
)
from onnxviz.errors import (
    COMMAND,
    LONGEST_MESSAGE,
    SMALLER,
    OnnxVizError,
    PreprocessingAssumed,
    UndrawnText,
    spelt,
)
from onnxviz.provenance import COMMAND_LINE

app = typer.Typer(
    name="onnxviz",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="See what a convolutional network in ONNX form looks at and what it has learned.",
)


def _version(asked: bool) -> None:
    if asked:
        print(f"onnxviz {__version__}")
        raise typer.Exit


@app.callback()
def _callback(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    pass


for module in (
    look,
    attribute,
    saliency,
    cam,
    patches,
    embed,
    gradient,
    ascent,
    dream,
    invert,
    style,
    fool,
    texture,
    feedforward,
    tools,
):
    module.register(app)


def main() -> None:
    """Run the command line and exit with the code that the README lists."""
    _any_encoding()
    sys.exit(run(sys.argv[1:]))


def _any_encoding() -> None:
    """Let stdout and stderr write what their encoding lacks as `\\u732b`: a label must not end a command.

    Within a JSON string that is the same letter, so `--json` stays whole in any encoding.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ESCAPED)


def _escaped(error: UnicodeError) -> tuple[str, int]:
    """What an encoding lacks, as JSON and Python write it: \\uXXXX, in two halves beyond U+FFFF."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    halves = (lacking[i : i + 2].hex() for i in range(0, len(lacking), 2))
    return "".join(f"\\u{half}" for half in halves), error.end


_ESCAPED = "onnxviz.escaped"
codecs.register_error(_ESCAPED, _escaped)


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code; errors are one line on stderr, never a traceback."""
    # Pillow warns about damaged metadata in pictures that it reads all the same; stderr is for one-line errors.
    warnings.filterwarnings("ignore", module="PIL")
    warnings.filterwarnings("ignore", category=PreprocessingAssumed)  # said as a note on stderr
    warnings.filterwarnings("ignore", category=UndrawnText)  # likewise
    caller, line = COMMAND.set(frozenset()), COMMAND_LINE.set(tuple(arguments))
    try:
        result = app(arguments, prog_name="onnxviz", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except OnnxVizError as error:
        return _fail(str(error), error.exit_code)
    except SystemExit as end:
        if not isinstance(end.__context__, BrokenPipeError):
            raise
        # Whoever read our output has enough (`| head`): no error, and no complaint when Python flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MemoryError:
        return _fail(spelt("out of memory" + SMALLER), 4)
    except Exception as error:
        return _unforeseen(error)
    finally:
        COMMAND.reset(caller)
        COMMAND_LINE.reset(line)


def _unforeseen(error: Exception) -> int:
    show = getattr(error, "show", None)
    if show is not None and hasattr(error, "exit_code"):  # typer's own usage errors
        show(file=sys.stderr)
        return int(error.exit_code)
    if os.environ.get("ONNXVIZ_DEBUG"):
        raise error
    return _fail(
        f"internal error ({type(error).__name__}: {error}); this is a bug in onnxviz. "
        "Set ONNXVIZ_DEBUG=1 to see where, and please report it",
        5,
    )


def _fail(text: str, code: int) -> int:
    from onnxviz.image.text import printable

    line = " ".join(printable(text, LONGEST_MESSAGE).split())
    print(f"onnxviz: {line}", file=sys.stderr)
    return code
