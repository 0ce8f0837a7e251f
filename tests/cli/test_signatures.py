"""Options follow from signatures and docstrings, read without importing anything; the shell completes them."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import subprocess
import sys

import pytest

import onnxviz
from onnxviz.cli import signatures
from onnxviz.cli.options import Option, described, numbers, worded
from onnxviz.cli.table import COMMANDS
from onnxviz.objectives.terms import WRITTEN

FUNCTIONS = [name for name in onnxviz._PUBLIC if name[0].islower()]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_is_read_is_what_python_sees(name):
    found = signatures.read(onnxviz._PUBLIC[name], name)
    real = inspect.signature(getattr(onnxviz, name)).parameters
    assert list(found) == [one.name for one in real.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
    for parameter in found.values():
        default = real[parameter.name].default
        if parameter.default is not signatures.UNKNOWN:
            expected = signatures.REQUIRED if default is inspect.Parameter.empty else default
            assert parameter.default == expected, parameter.name
    assert signatures.summary(onnxviz._PUBLIC[name], name) == " ".join(
        inspect.getdoc(getattr(onnxviz, name)).split("\n\n")[0].split()
    )


def test_what_can_be_written_is_found_without_importing_it():
    assert signatures.decorated("objectives.terms", "written") == list(WRITTEN)


def test_a_docstring_is_read_by_its_entries():
    doc = """What it does, in  two spaces too.

    image, target   shared; None: the top class
    size            a side, or (height, width)
                    in pixels; None: 32. Of a small image less
    long_name_alone
                    below it
    returns         size  not this
    """
    found = signatures.described(doc, ["image", "target", "size", "long_name_alone"])
    assert found["target"] == ("shared; None: the top class", True)
    assert found["long_name_alone"] == ("below it", False)
    size = signatures.Parameter("size", "int | None", None, *found["size"])
    assert size.otherwise == "32"
    assert size.meaning == "a side, or (height, width) in pixels. Of a small image less"


def test_an_option_is_its_parameter_in_the_words_of_a_command_line():
    parameter = signatures.Parameter("side", "int | None", None, "see `scale`, 'grey' or (height, width)")
    option = described("side", Option(least=1), parameter)
    assert (option.spelled, option.kind, option.least) == (("--side",), int, 1)
    assert worded(option.help, {"scale": "--zoom"}) == "See --zoom, grey or WIDTHxHEIGHT"
    flag = described(
        "spectrum", Option(("--pixels",)), signatures.Parameter("spectrum", "bool", True, "moves it")
    )
    assert flag.default is False and flag.value(True) is False
    with pytest.raises(TypeError, match="needs a row"):
        described("x", Option(), signatures.Parameter("x", "Strange", None, ""))
    with pytest.raises(onnxviz.errors.UsageError, match="takes numbers separated by commas"):
        numbers("a,b", "--mean")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_what_it_is(name):
    command = COMMANDS[name]
    groups = (command.of_technique(), command.of_command(), command.of_load(), command.of_all())
    for option in (one for group in groups for one in group.values()):
        assert option.help, option.spelled
    taken = [text for group in groups[:2] for one in group.values() for text in one.spelled]
    assert len(taken) == len(set(taken))


def test_the_help_tells_values_in_the_users_words(monkeypatch, shell):
    monkeypatch.setenv("COLUMNS", "200")
    options = shell("saliency --help").out.partition("Options")[2].partition("--help")[0]
    assert "--noise" in options and "<" not in options.replace("1<=x<=1024", "")
    rows = (
        r"--samples +N \[x>=1\]",
        "--noise +NUMBER ",
        "--method +-m +TEXT ",
        "--json +Print",
        "--size +SIZE ",
    )
    for words in rows:
        assert re.search(words, options), words


def test_what_is_given_several_times_says_so_once(shell):
    usage = next(line for line in shell("predict --help").out.splitlines() if "Usage" in line)
    assert "IMAGE" in usage and usage.count("...") == 1


def test_help_imports_no_technique():
    code = (
        "import sys; from onnxviz.cli.main import run\n"
        "for name in ('saliency', 'ascent', 'map', 'export'): run([name, '--help'])\n"
        "print(sorted(m for m in ('numpy', 'onnx', 'scipy', 'torch', 'PIL') if m in sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_what_is_not_given_is_left_to_the_technique(monkeypatch, shell):
    given = {}

    def occlusion(*_, **options):
        given.update(options)
        raise KeyboardInterrupt

    monkeypatch.setattr(onnxviz, "occlusion", occlusion)
    assert shell("occlusion TOY photos/0.png --window 48x16 --fill grey -o o.png").code == 130
    assert given.keys() == {"window", "fill", "seed", "progress"}
    assert given["window"] == (16, 48) and given["seed"] == 0


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("sal", {"saliency"}),
        ("style", {"style", "style-apply", "style-train"}),
        ("saliency effic", {"efficientnet-lite0"}),
        ("saliency efficientnet-lite0 --method smooth", {"smoothgrad", "smoothgrad-squared"}),
        ("cam efficientnet-lite0 --layer blocks.1.ex", {"blocks.1.expand"}),
        ("cam -m grad-cam efficientnet-lite0 --layer blocks.1.ex", {"blocks.1.expand"}),
        # What bash would read as two words is written as one; within a quotation it is one.
        ("fool efficientnet-lite0 --target Egy", {r"Egyptian\ cat"}),
        (r"fool efficientnet-lite0 --target Egyptian\ c", {r"Egyptian\ cat"}),
        ('fool efficientnet-lite0 --target "Egy', {"Egyptian cat"}),
        ("fool efficientnet-lite0 --target jack", {"jackfruit", r"jack-o\'-lantern"}),
        ("ascent efficientnet-lite0 --preset yo", {"yosinski-1", "yosinski-4"}),
        ("predict efficientnet-lite0 --preprocess ima", {"imagenet"}),
        ("predict efficientnet-lite0 --resize ", {"crop", "stretch", "letterbox", "keep"}),
        ("segment efficientnet-lite0 cat.jpg --cut p", {"paper"}),
        ("predict none.onnx --output ", set()),
    ],
)
def test_the_shell_completes(line, offered):
    words = f"onnxviz {line}"
    place = len(re.findall(r"(?<!\\) ", words))
    asked = {"_ONNXVIZ_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(place)}
    program = [sys.executable, "-m", "onnxviz"]
    done = subprocess.run(program, capture_output=True, text=True, check=True, env={**os.environ, **asked})
    found = set(done.stdout.split("\n")) - {""}
    assert offered <= found if offered else not found
    typed = re.split(r"(?<!\\) ", line)[-1].lstrip('"')
    assert all(name.casefold().startswith(typed.casefold()) for name in found)
    assert done.stderr == ""


def test_help_before_a_command_is_about_all(shell):
    assert shell("--help map") == shell("--help")
    assert "neighbours" in shell("--help map").out


def test_a_method_of_ones_own_is_in_the_help(monkeypatch, shell):
    methods = importlib.import_module("onnxviz.attribution.methods")
    monkeypatch.setitem(methods.METHODS, "toy-method", methods.METHODS["saliency"])
    assert "toy-method" in shell("saliency --help").out
