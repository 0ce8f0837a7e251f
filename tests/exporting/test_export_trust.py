"""Code that comes with trained weights: never run unasked, never asked about on the terminal."""

from __future__ import annotations

import json
import pickle
import sys

import pytest

from onnxviz.exporting import hubs
from onnxviz.exporting.export import build
from onnxviz.exporting.source import Source, Wanted

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from onnxviz import export  # noqa: E402
from onnxviz.cli.main import run  # noqa: E402
from onnxviz.errors import InputRefused, UsageError  # noqa: E402

TINY = {"depths": [1], "hidden_sizes": [8], "embedding_size": 8, "num_labels": 3}
CODE = """
import pathlib
pathlib.Path({mark!r}).touch()
import torch
from transformers import PreTrainedConfig, PreTrainedModel

class OwnConfig(PreTrainedConfig):
    model_type = "{kind}"
    num_channels = 3
    image_size = 16

class OwnModel(PreTrainedModel):
    config_class = OwnConfig

    def __init__(self, config):
        super().__init__(config)
        self.conv = torch.nn.Conv2d(3, 4, 3)
        self.post_init()

    def forward(self, pixel_values):
        from transformers.modeling_outputs import ImageClassifierOutput
        return ImageClassifierOutput(logits=self.conv(pixel_values).mean((2, 3)))
"""


class Touching:
    """A pickle of it makes a file when it is read."""

    def __init__(self, path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.fixture
def mark(tmp_path):
    """The file that appears where strange code was run."""
    return tmp_path / "code-was-run"


@pytest.fixture(autouse=True)
def nobody_is_asked(monkeypatch, tmp_path):
    """Whoever reads stdin is answered 'yes': asking must not even be tried."""
    asked = []

    class Terminal:
        def isatty(self):
            return True

        def readline(self, *_):
            asked.append("readline")
            return "yes\n"

        read = readline

    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr("builtins.input", lambda *_: asked.append("input") or "yes")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    yield
    assert asked == []


def trained(folder):
    """A folder with a tiny trained ResNet."""
    transformers.ResNetForImageClassification(transformers.ResNetConfig(**TINY)).save_pretrained(folder)
    size = {"do_resize": True, "size": {"height": 16, "width": 16}}
    (folder / "preprocessor_config.json").write_text(json.dumps(size))
    return folder


def with_code(folder, mark, kind: str, **auto_map: str):
    """A folder whose configuration points at Python code of its own."""
    folder.mkdir(exist_ok=True)
    code = CODE.format(mark=str(mark), kind=kind)
    (folder / "own_code.py").write_text(code)
    known = (folder / "config.json").exists()
    config = json.loads((folder / "config.json").read_text()) if known else {"model_type": kind}
    config["auto_map"] = auto_map
    (folder / "config.json").write_text(json.dumps(config))
    if not known:
        (folder / "preprocessor_config.json").write_text("{}")
        torch.manual_seed(0)
        conv = torch.nn.Conv2d(3, 4, 3)
        torch.save({f"conv.{k}": v for k, v in conv.state_dict().items()}, folder / "pytorch_model.bin")
    return folder


OWN = {
    "AutoConfig": "own_code.OwnConfig",
    "AutoModel": "own_code.OwnModel",
    "AutoModelForImageClassification": "own_code.OwnModel",
}


@pytest.mark.parametrize("elsewhere", ["", "somebody/repository--"], ids=["its own", "of another repository"])
def test_a_folder_with_code_is_refused(tmp_path, mark, elsewhere):
    own = {key: elsewhere + name for key, name in OWN.items()}
    folder = with_code(tmp_path / "own", mark, "own-a", **own)
    with pytest.raises(InputRefused, match=r"brings code of its own.*trust_remote_code=True"):
        export(f"transformers:{folder}", tmp_path / "out.onnx")
    with pytest.raises(UsageError, match="trust_remote_code=True"):  # trust is no option of the network
        export(f"transformers:{folder}", tmp_path / "out.onnx", options={"trust_remote_code": True})
    assert not mark.exists() and not (tmp_path / "out.onnx").exists()


def test_the_command_line_refuses_it_asks_nobody_and_runs_what_is_trusted(tmp_path, mark, capsys):
    folder = with_code(tmp_path / "own", mark, "own-b", **OWN)
    line = ["export", f"transformers:{folder}", "--size", "16", "-o", str(tmp_path / "out.onnx")]
    assert run(line) == 3
    said = capsys.readouterr()
    assert "--trust-remote-code" in said.err and "y/N" not in said.out + said.err
    assert not mark.exists()
    assert run([*line, "--trust-remote-code"]) == 0
    assert mark.exists() and (tmp_path / "out.onnx").exists()


def test_code_beside_a_known_architecture_is_left_alone_and_told(tmp_path, mark):
    folder = with_code(trained(tmp_path / "known"), mark, "", **OWN)
    made = export(f"transformers:{folder}", tmp_path / "out.onnx", size=16, dynamic_size=False)
    assert not mark.exists()
    assert any("was not run" in note and "trust_remote_code=True" in note for note in made.warnings)


def test_code_of_a_picture_processor_is_never_run(tmp_path, mark):
    folder = trained(tmp_path / "known")
    (folder / "own_code.py").write_text(CODE.format(mark=str(mark), kind="own-d"))
    described = {"auto_map": {"AutoImageProcessor": "own_code.OwnModel"}, "image_processor_type": "Own"}
    (folder / "preprocessor_config.json").write_text(json.dumps(described))
    export(f"transformers:{folder}", tmp_path / "out.onnx", size=16, dynamic_size=False)
    assert not mark.exists()


@pytest.mark.parametrize("plain", [True, False], ids=["a bare pickle", "a checkpoint of torch"])
def test_a_pickle_is_no_checkpoint(tmp_path, mark, capsys, plain):
    folder = trained(tmp_path / "known")
    (folder / "model.safetensors").unlink()
    if plain:
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Touching(mark)))
    else:
        torch.save({"weight": Touching(mark)}, folder / "pytorch_model.bin")
    assert run(["export", f"transformers:{folder}", "--size", "16", "-o", str(tmp_path / "out.onnx")]) == 3
    assert not mark.exists()
    assert "code" in capsys.readouterr().err


def test_an_attention_of_the_hub_is_code_too(tmp_path):
    folder = trained(tmp_path / "known")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "attn_implementation": "somebody/attention"}))
    with pytest.raises(InputRefused, match=r"somebody/attention\) brings code"):
        export(f"transformers:{folder}", tmp_path / "out.onnx")


@pytest.mark.parametrize("package", ["timm", "torchvision"])
def test_packages_read_checkpoints_as_weights_alone(tmp_path, mark, monkeypatch, package):
    """Neither can be installed everywhere; what they call to read a checkpoint is torch's own."""
    torch.save({"weight": Touching(mark)}, tmp_path / "strange.pth")

    def reading(name, wanted):
        hubs._built(lambda: torch.load(tmp_path / "strange.pth", weights_only=False), f"{package}:{name}")
        return Source(torch.nn.Identity(), name, name)

    monkeypatch.setattr(hubs, package, reading)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(InputRefused, match="brings code"):
        build(f"{package}:x", Wanted({}))
    assert not mark.exists()
    monkeypatch.delenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
    build(f"{package}:x", Wanted({}, trusted=True))
    assert mark.exists()
