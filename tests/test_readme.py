"""What the README and the pages of docs/ claim, held to the program."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from onnxviz import errors
from onnxviz.cli.main import run
from onnxviz.cli.table import COMMANDS
from onnxviz.image.preprocessing import PRESETS
from tests.auditing.backdoors import PLANTED, SOUND

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = {page.stem: page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs").glob("*.md"))}
# explainer.md has a test of its own, which runs its script beside a file; contributing.md shows parts of files.
EXAMPLES = [
    block
    for text in (README, *(DOCS[name] for name in sorted(DOCS.keys() - {"explainer", "contributing"})))
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.S)
]


def test_the_command_list_is_the_programs_and_each_has_an_example_in_its_help():
    block = DOCS["command-line"].split("```sh")[1].split("```")[0]
    listed = set(re.findall(r"^onnxviz ([\w-]+)", block, flags=re.M))
    assert listed | {"doctor"} == set(COMMANDS)
    for command in COMMANDS.values():
        assert re.search(rf"Example: onnxviz {command.name}\b", command.help()), command.name


@pytest.mark.parametrize("page", ["README", *DOCS])
def test_the_lines_for_a_shell_name_options_that_there_are(page):
    text = README if page == "README" else DOCS[page]
    for line in re.findall(r"^(onnxviz [a-z][^\n]*)|`(onnxviz [a-z][^`]*)`", text, flags=re.M):
        _, name, *words = [*"".join(line).split(" # ")[0].split(), ""]
        if name in COMMANDS:
            command = COMMANDS[name]
            groups = (command.of_technique(), command.of_command(), command.of_load(), command.of_all())
            known = {text for group in groups for option in group.values() for text in option.spelled}
            assert {word.partition("=")[0] for word in words if re.match("--?[a-z]", word)} <= known, line


def test_every_picture_link_and_tool_is_there():
    for folder, text in ((ROOT, README), *((ROOT / "docs", text) for text in DOCS.values())):
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
            # Pages under reference/ are made when the site is.
            assert (folder / target).is_file() or target.startswith(("reference/", "https://")), target
    for tool in re.findall(r"python3 (tools/[\w.]+)", "".join((README, *DOCS.values()))):
        assert (ROOT / tool).exists(), tool


def test_every_extra_and_preset_is_there():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    others = README.split("Other extras:")[1].split("\n\n")[0]
    assert {*re.findall(r"onnxviz\[([\w-]+)\]", README), *re.findall(r"`([\w-]+)` \(", others)} <= set(extras)
    section = DOCS["inputs"].split("`--preprocess imagenet`")[1].split("JSON file")[0]
    assert {"imagenet", *re.findall(r"`([\w-]+)`", section)} <= set(PRESETS)


def test_the_exit_codes_are_the_programs():
    kinds = [
        one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.OnnxVizError)
    ]
    listed = set(map(int, re.findall(r"(?:\*\*Exit codes:\*\*|·) (\d+) ", DOCS["command-line"])))
    assert {error.exit_code for error in kinds} <= listed


@pytest.mark.parametrize(("name", "code"), [("plain", 0), ("corner_test_with_where", 1)])
def test_the_line_for_ci_passes_a_sound_file_and_fails_a_planted_one(
    name, code, tmp_path, monkeypatch, capsys
):
    (line,) = set(
        re.findall(r"^onnxviz (audit +model\.onnx photos/ .*?) *#.*exit code 1", README, flags=re.M)
    )
    pipeline = re.findall(r"- run: onnxviz (audit .*)", DOCS["report"])
    assert pipeline and {*pipeline[0].split()} == {
        word.rstrip("/") if word == "audit/" else word for word in line.split()
    }
    monkeypatch.chdir(tmp_path)
    onnx.save((SOUND | PLANTED)[name](), "model.onnx")
    (tmp_path / "photos").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    for i, pixels in enumerate(noise):
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{i}.png")
    assert run(line.split()) == code
    assert f"verdict  {'fail' if code else 'pass'}" in capsys.readouterr().out
    assert {"report.html", "audit.sarif", "junit.xml"} <= {one.name for one in (tmp_path / "audit").iterdir()}


@pytest.mark.parametrize("block", EXAMPLES)
def test_the_python_examples_run(block, tmp_path, monkeypatch, photo_files):
    monkeypatch.chdir(tmp_path)
    with Image.open(photo_files[0]) as photo:
        photo.save(tmp_path / "photo.jpg")
    result = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    for written in re.findall(r'"(\w+\.(?:png|onnx))"', block):
        assert (tmp_path / written).is_file() or written == "model.onnx"


def test_the_table_of_figures_has_its_date_and_machine():
    for page in (README, DOCS["performance"]):
        table = page.split("<!-- bench -->")[1].split("<!-- /bench -->")[0]
        assert re.search(r"^(- )?\d{4}-\d{2}-\d{2}, .*cores.*onnxruntime \d", table, flags=re.M)


def test_the_headlines_are_of_the_whole_table():
    """A row of the README stands in docs/performance.md, word for word; a column that is empty there may be left out,
    and a date may stand below the table."""

    def cells(text: str) -> set[tuple[str, ...]]:
        table = re.search("<!-- bench -->(.*?)<!-- /bench -->", text, flags=re.S)[1]
        rows = [row.split("|") for row in table.splitlines() if row.startswith("|")][2:]
        full = [[cell.strip() for cell in row if cell.strip()] for row in rows]
        return {tuple(row[:-1] if re.fullmatch(r"\d{4}-\d{2}-\d{2}", row[-1]) else row) for row in full}

    headlines = cells(README)
    assert len(headlines) > 5
    assert headlines <= cells(DOCS["performance"])
