"""The pages that are made, not written: a hook of mkdocs (tools/docs/mkdocs.yml)."""

from __future__ import annotations

from typing import Any

from mkdocs.structure.files import File, Files


def on_files(files: Files, config: Any) -> Files:
    """Add the reference of commands, of the Python functions, and of the objectives."""
    for name, text in (("commands", commands()), ("python", python()), ("objectives", objectives())):
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def python() -> str:
    """One entry for each public name, from its docstring."""
    import onnxviz

    names = [name for name in onnxviz.__all__ if name not in ("__version__", "errors", "objectives")]
    entries = [f"::: onnxviz.{onnxviz._PUBLIC[name]}.{getattr(onnxviz, name).__name__}" for name in names]
    return (
        "# Python\n\n"
        + "\n\n".join(entries)
        + "\n\n## Errors\n\n::: onnxviz.errors\n    options: {members: null}\n"
    )


def objectives() -> str:
    """What can be explained or climbed."""
    return "# Objectives\n\n::: onnxviz.objectives\n    options: {members: null}\n"


def commands() -> str:
    """The help of each command, as the program prints it."""
    from typer.testing import CliRunner

    from onnxviz.cli.main import program
    from onnxviz.cli.table import COMMANDS

    runner = CliRunner(env={"COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"})
    parts = ["# Commands\n"]
    for name in sorted(COMMANDS):
        text = runner.invoke(program(name), [name, "--help"]).output
        parts.append(f"## {name}\n\n```text\n{text.strip()}\n```\n")
    return "\n".join(parts)
