"""The README's claims, held to the program."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands() -> set[str]:
    from onnxviz.cli.main import app

    return {command.name or command.callback.__name__ for command in app.registered_commands}


def test_the_command_list_is_the_programs():
    block = README.split("## Command line")[1].split("```sh")[1].split("```")[0]
    listed = set(re.findall(r"^onnxviz ([\w-]+)", block, flags=re.M))
    assert listed | {"doctor"} == commands()


def test_every_command_has_an_example_in_its_help():
    from onnxviz.cli.main import app

    for command in app.registered_commands:
        assert re.search(r"Example: onnxviz \w+", command.help or ""), command.name


def test_every_picture_and_link_is_there():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).is_file(), target


def test_every_tool_is_there():
    for tool in re.findall(r"python3 (tools/[\w.]+)", README):
        assert (ROOT / tool).exists(), tool


def test_every_extra_and_preset_is_there():
    import tomllib

    from onnxviz.image.preprocessing import PRESETS

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = set(re.findall(r"onnxviz\[([\w-]+)\]", README)) | set(
        re.findall(r"`([\w-]+)` \(", README.split("Other extras:")[1].split("\n\n")[0])
    )
    assert named <= set(extras)
    section = README.split("`--preprocess imagenet`")[1].split("JSON file")[0]
    assert {"imagenet", *re.findall(r"`([\w-]+)`", section)} <= set(PRESETS)


def test_the_exit_codes_are_the_programs():
    from onnxviz import errors

    codes = {
        error.exit_code
        for error in vars(errors).values()
        if isinstance(error, type) and issubclass(error, errors.OnnxVizError)
    }
    listed = set(map(int, re.findall(r"(?:\*\*Exit codes:\*\*|·) (\d+) ", README)))
    assert codes <= listed


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", README, flags=re.S))
def test_the_python_examples_run(block, tmp_path, monkeypatch, photo_files):
    monkeypatch.chdir(tmp_path)
    with Image.open(photo_files[0]) as photo:
        photo.save(tmp_path / "photo.jpg")
    result = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    for written in re.findall(r'"(\w+\.(?:png|onnx))"', block):
        assert (tmp_path / written).is_file() or written == "model.onnx"


def test_the_table_of_figures_has_its_date_and_machine():
    table = README.split("<!-- bench -->")[1].split("<!-- /bench -->")[0]
    assert re.search(r"^\d{4}-\d{2}-\d{2}, .*cores.*onnxruntime \d", table, flags=re.M)
