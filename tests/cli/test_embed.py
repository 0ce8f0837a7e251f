"""`embed`, `neighbours` and `map` from the shell."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from networks import tiny_cnn

from onnxviz.cli.main import run
from onnxviz.features.embedding import Embedding
from onnxviz.progress import Interrupted
from tests.features import crops


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny.onnx"
    onnx.save(tiny_cnn(), path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crops")
    crops.write(folder, each=3)
    return folder


@pytest.fixture
def shell(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        code = run([str(one) for one in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


PLAIN = ("--preprocess", "unit")


def test_embed_writes_features_and_manifest(shell, model, folder, tmp_path):
    code, out, _ = shell("embed", model, folder, *PLAIN, "-o", "f.csv")
    assert (code, out.strip()) == (0, "f.csv")
    assert Embedding.load(tmp_path / "f.csv").values.shape == (12, 16)
    code, _, _ = shell("embed", model, folder, *PLAIN, "--layer", "relu1")
    assert code == 0
    assert np.load(tmp_path / "embed.npy").shape == (12, 8)


def test_json_is_one_object(shell, model, folder):
    for command in ("embed", "neighbours", "map"):
        code, out, _ = shell(command, model, folder, *PLAIN, "--json")
        value = json.loads(out)
        assert code == 0
        assert value["schema"] == value["manifest"]["schema"] == f"onnxviz.{command}/1"


def test_features_are_used_again(shell, model, folder, tmp_path, monkeypatch):
    assert shell("embed", model, folder, *PLAIN, "-o", "f.npz")[0] == 0
    monkeypatch.setattr("onnxviz.features.neighbours.embed", None)  # nothing may be computed again
    for given in ((), (folder,)):
        code, out, _ = shell("map", model, *given, *PLAIN, "--features", "f.npz", "--method", "pca")
        assert (code, out.strip()) == (0, "map.png")
        code, out, _ = shell(
            "neighbours", model, *given, *PLAIN, "--features", "f.npz", "--queries", 3, "-k", 2
        )
        assert (code, out.strip()) == (0, "neighbours.png")
    assert np.load(tmp_path / "map.npy").shape == (12, 2)
    assert np.load(tmp_path / "neighbours.npy").shape == (3, 2)


def test_queries_are_pictures_of_ones_own(shell, model, folder, tmp_path):
    asked = [folder / "chelsea-0.png", folder / "coffee-1.png"]
    code, _, _ = shell(
        "neighbours", model, folder, *PLAIN, "--query", asked[0], "--query", asked[1], "--metric", "cosine"
    )
    assert code == 0
    rows = json.loads((tmp_path / "neighbours.json").read_text())["rows"]
    assert [row["query"] for row in rows] == [str(path) for path in asked]


def test_notes_tell_what_was_skipped_and_lowered(shell, model, folder, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    for number in range(7):
        (broken / f"{number}.png").write_bytes(b"")
    code, _, err = shell("map", model, folder, broken, *PLAIN, "--method", "tsne", "-o", "m.png")
    assert code == 0
    assert err.count("skipped") == 6  # five by name, and the rest in one line
    assert "2 more" in err
    assert "perplexity lowered" in err


@pytest.mark.parametrize(
    "arguments, code, says",
    [
        (("map",), 2, "no picture was given"),
        (("neighbours",), 2, "no picture was given"),
        (("map", "DIR", "--method", "mds"), 2, "method must be one of"),
        (("neighbours", "DIR", "--metric", "l1"), 2, "metric must be l2"),
        (("embed", "DIR", "-o", "f.txt"), 2, "this can be .npy"),
        (("embed", "nowhere"), 3, "nowhere"),
        (("map", "--features", "gone.npy"), 3, "manifest"),
        (("embed", "DIR", "--layer", "rellu1"), 2, "relu1"),
    ],
)
def test_mistakes_are_one_line(shell, model, folder, arguments, code, says):
    command, *rest = (folder if one == "DIR" else one for one in arguments)
    got, out, err = shell(command, model, *rest, *PLAIN)
    assert (got, out) == (code, "")
    assert says in err
    assert len([line for line in err.splitlines() if "preprocess" not in line]) == 1


def test_features_of_other_pictures_are_told(shell, model, folder, tmp_path):
    assert (
        shell("embed", model, folder / "coffee-0.png", folder / "coffee-1.png", *PLAIN, "-o", "f.npy")[0] == 0
    )
    code, _, err = shell("map", model, folder, *PLAIN, "--features", "f.npy")
    assert code == 2
    assert "10 of the pictures given are not in f.npy" in err


def test_an_interruption_saves_the_features(shell, model, folder, tmp_path, monkeypatch):
    def stopped(*given, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("onnxviz.features.map.project", stopped)
    code, _, err = shell("map", model, folder, *PLAIN, "-o", "m.png")
    assert code == 130
    assert "--features takes them back" in err
    assert not (tmp_path / "m.png").exists()
    assert json.loads((tmp_path / "m-features.json").read_text())["incomplete"] is True
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert shell("map", model, *PLAIN, "--features", "m-features.npy")[0] == 0


def test_an_interrupted_embed_keeps_its_part(shell, model, folder, tmp_path, monkeypatch):
    import onnxviz

    real = onnxviz.embed

    def stopped(*given, **options):
        raise Interrupted(real(*given, **options))

    monkeypatch.setattr(onnxviz, "embed", stopped)
    code, _, err = shell("embed", model, folder, *PLAIN, "-o", "f.npy")
    assert code == 130
    assert "incomplete" in err
    assert (tmp_path / "f.npy").exists()
