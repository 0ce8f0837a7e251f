"""`embed`, `neighbours` and `map` from the shell."""

from __future__ import annotations

from pathlib import Path

import pytest

import onnxviz
from onnxviz.features.embedding import Embedding
from onnxviz.progress import Interrupted
from tests.features import crops


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crops")
    crops.write(folder, each=3)
    return folder


def test_embed_writes_features_and_manifest(shell, folder):
    assert shell("embed TINY -o f.csv", folder)[:2] == (0, "f.csv\n")
    assert Embedding.load(Path("f.csv")).values.shape == (12, 16)
    assert shell("embed TINY --layer relu1", folder).code == 0
    assert shell.values("embed").shape == (12, 8)


@pytest.mark.parametrize("command", ["embed", "neighbours", "map"])
def test_json_is_one_object(shell, folder, command):
    value = shell(f"{command} TINY --json", folder).json
    assert value["schema"] == value["manifest"]["schema"] == f"onnxviz.{command}/1"


def test_features_are_used_again(shell, folder, monkeypatch):
    assert shell("embed TINY -o f.npz", folder).code == 0
    monkeypatch.setattr("onnxviz.features.neighbours.embed", None)  # nothing may be computed again
    for given in ((), (folder,)):
        assert shell("map TINY --features f.npz --method pca", *given)[:2] == (0, "map.png\n")
        said = shell("neighbours TINY --features f.npz --queries 3 -k 2", *given)
        assert said[:2] == (0, "neighbours.png\n")
    assert shell.values("map").shape == (12, 2) and shell.values("neighbours").shape == (3, 2)


def test_queries_are_pictures_of_ones_own(shell, folder):
    asked = [str(folder / name) for name in ("chelsea-0.png", "coffee-1.png")]
    line = f"neighbours TINY {folder} --query {asked[0]} --query {asked[1]} --metric cosine"
    assert shell(line).code == 0
    assert [row["query"] for row in shell.manifest("neighbours")["rows"]] == asked


def test_notes_tell_what_was_skipped_and_lowered(shell, folder):
    Path("broken").mkdir()
    for number in range(7):
        Path("broken", f"{number}.png").write_bytes(b"")
    code, _, err = shell("map TINY broken --method tsne -o m.png", folder)
    assert code == 0
    assert err.count("skipped") == 6 and "2 more" in err  # five by name, and the rest in one line
    assert "perplexity lowered" in err


def test_features_of_other_pictures_are_told(shell, folder):
    assert shell("embed TINY -o f.npy", folder / "coffee-0.png", folder / "coffee-1.png").code == 0
    said = shell("map TINY --features f.npy", folder)
    assert said.code == 2 and "10 of the pictures given are not in f.npy" in said.err


def test_an_interruption_saves_the_features(shell, folder, monkeypatch):
    def stopped(*given, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("onnxviz.features.map.project", stopped)
        said = shell("map TINY -o m.png", folder)
    assert said.code == 130 and "--features takes them back" in said.err
    assert not Path("m.png").exists() and shell.manifest("m-features")["incomplete"] is True
    assert shell("map TINY --features m-features.npy").code == 0


def test_an_interrupted_embed_keeps_its_part(shell, folder, monkeypatch):
    real = onnxviz.embed

    def stopped(*given, **options):
        raise Interrupted(real(*given, **options))

    monkeypatch.setattr(onnxviz, "embed", stopped)
    said = shell("embed TINY -o f.npy", folder)
    assert said.code == 130 and "incomplete" in said.err and Path("f.npy").exists()
