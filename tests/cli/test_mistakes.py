"""The user's mistake is one line and never exit 5: options, files and outputs that cannot be meant."""

from __future__ import annotations

import os

import pytest

LITE0 = "efficientnet-lite0"
NEURON = "--layer features -c 0 --neuron"
QUICK = {
    "predict": "",
    "occlusion": "--window 4 --stride 4",
    "saliency": "",
    "segment": "-m saliency",
    "activations": "--layer features",
    "dream": "--layer features --steps 1 --octaves 1",
    "fool": "--target 1 --steps 2",
}
# What is typed, the exit code, and words of the line that is told.
MISTAKES = [
    ("nonsense", 2, "No such command"),
    (f"predict {LITE0}", 2, "Missing argument 'IMAGE'; see onnxviz predict --help"),
    ("saliency TOY photos/0.png --metho x", 2, "--metho"),
    # the network
    ("predict nonsense photos/0.png", 2, "no network is called"),
    ("predict zero.png photos/0.png", 3, "zero.png"),
    ("predict none.onnx photos/0.png", 3, "none.onnx"),
    ("predict photos/0.png photos/0.png", 3, "PNG"),
    # what all commands share
    ("predict TOY photos/0.png --top 0", 2, "top"),
    ("predict TOY photos/0.png --provider abacus", 2, "abacus"),
    ("predict TOY photos/0.png --provider cuda", 2, "cuda"),
    ("predict TOY photos/0.png --threads 99999", 2, "threads"),  # each would be started, and none come to run
    ("predict TOY photos/0.png --seed -1", 2, "seed"),
    ("predict TOY photos/0.png --limit node=1", 2, "nodes"),
    ("predict TOY photos/0.png --limit nodes=nan", 2, "nodes"),
    (f"predict {LITE0} photos/0.png --limit nodes=3", 4, "nodes"),
    ("predict TOY photos/0.png --input nope", 2, "nope"),
    ("predict TOY photos/0.png --feed x", 2, "NAME=VALUE"),
    ("predict TOY photos/0.png --output nope", 2, "nope"),
    # pictures
    ("predict TOY zero.png", 3, "zero.png"),
    ("predict TOY none.jpg", 3, "none.jpg"),
    ("predict TOY photos/0.png --size 0", 2, "--size"),
    ("predict TOY photos/0.png --size ²", 2, "--size"),
    ("predict TOY photos/0.png --size " + "9" * 5000, 2, "--size"),
    ("predict TOY photos/0.png --size 99999999", 2, ""),
    ("predict TOY photos/0.png --mean a,b", 2, "--mean"),
    ("predict TOY photos/0.png --mean nan", 2, "mean"),
    ("predict TOY photos/0.png --mean 1,2", 2, "mean"),
    ("predict TOY photos/0.png --std 0", 2, "std"),
    ("predict TOY photos/0.png --channels XYZ", 2, "channels"),
    ("predict TOY photos/0.png --resize ''", 2, "resize"),
    ("predict TOY photos/0.png --layout CHWN", 2, "layout"),
    ("predict TOY photos/0.png --preprocess none.json", 3, "none.json"),
    ("predict TOY photos/0.png --preprocess void", 3, "void"),
    ("predict TOY photos/0.png --preprocess bad.json", 3, "bad.json"),
    (f"predict {LITE0} photos/0.png --labels two.txt", 3, "2 labels"),
    ("predict TOY photos/0.png --labels none.txt", 3, "no labels file"),
    ("predict TOY photos/0.png --labels void", 3, "void"),
    ("predict TOY photos/0.png --labels nul.txt", 3, "1 labels"),
    ("predict TOY photos/0.png --labels toy.onnx", 3, "toy.onnx"),
    # what is written
    ("predict TOY photos/0.png -o /dev/null", 3, "/dev/null"),
    ("predict TOY photos/0.png -o /proc/none/y.json", 3, "/proc/none"),
    ("predict TOY photos/0.png -o toy.onnx/x.json", 3, "x.json"),
    ("predict TOY photos/0.png -o x.png", 2, ".json, .csv"),
    ("occlusion TOY photos/0.png -o x.exe", 2, ".png, .jpg"),
    ("occlusion TOY photos/0.png -o x.txt", 2, ".png, .jpg"),
    ("saliency TOY photos/0.png -o x.csv", 2, ".png, .jpg"),
    ("inspect toy.onnx -o x.txt", 2, ".json, .csv"),
    ("embed TOY photos -o x.html", 2, ".npy"),
    ("embed TOY photos -o x.xlsx", 2, ".npy"),
    ("expose toy.onnx -o x.png", 2, ".onnx"),
    ("gradient toy.onnx -o x.png", 2, ".onnx"),
    ("patches TOY photos --layer features -o x.png", 2, "name of a folder"),
    ("doctor -o x.png", 2, ".json"),
    # what is explained
    ("occlusion TOY photos/0.png --window 40", 2, "larger than the image"),
    ("occlusion TOY photos/0.png --window 4,4", 2, "--window takes"),
    ("occlusion TOY photos/0.png --window ²", 2, "--window takes"),
    ("occlusion TOY photos/0.png --window 0", 2, "window"),
    ("occlusion TOY photos/0.png --window 4 --stride 0", 2, "stride must be at least 1"),
    ("occlusion TOY photos/0.png --stride -3", 2, "stride"),
    ("occlusion TOY photos/0.png --window 4 --stride 4 --fill gray", 2, "did you mean 'grey'"),
    ("occlusion TOY photos/0.png --layer features", 2, "--channel"),
    (f"occlusion TOY photos/0.png {NEURON} 5", 2, "--neuron takes"),
    (f"occlusion TOY photos/0.png {NEURON} ²,1", 2, "--neuron takes"),
    (f"occlusion TOY photos/0.png {NEURON} 99,99", 2, "99"),
    ("occlusion TOY photos/0.png --target blue", 2, "no class is called 'blue'"),
    (f"occlusion {LITE0} photos/0.png --target 1000", 2, "1000 classes"),
    (f"occlusion {LITE0} photos/0.png --target 'egyptain cat'", 2, "Egyptian cat"),
    ("occlusion TOY photos/0.png -t ²", 2, "²"),
    ("occlusion TOY photos/0.png -t " + "9" * 400, 2, ""),
    ("rise TOY photos/0.png --masks 4 --grid 3 --probability nan", 2, "probability"),
    ("saliency TOY photos/0.png --method smoothgrd", 2, "did you mean 'smoothgrad'"),
    ("saliency TOY photos/0.png --method gradcam", 2, "did you mean 'grad-cam'"),
    ("saliency TOY photos/0.png --steps 4", 2, "integrated-gradients does"),
    ("saliency TOY photos/0.png --objective exec('x')", 2, "no objective is called"),
    ("saliency TOY photos/0.png --objective logit(0) --target 0", 2, "give one of"),
    ("saliency TOY photos/0.png --layer features", 2, "--channel"),
    ("saliency TOY photos/0.png --target blue", 2, "no class is called 'blue'"),
    ("saliency TOY photos/0.png -t red -t green", 2, "2 targets"),
    ("saliency TOY photos/0.png --percentile 0", 2, "percentile"),
    ("saliency TOY photos/0.png --percentile nan", 2, "percentile"),
    ("saliency TOY photos/0.png -m smoothgrad --noise nan", 2, "noise"),
    ("saliency TOY photos/0.png -m integrated-gradients --baseline void", 3, "a folder"),
    ("cam TINY large/0.png -m gradcam", 2, "did you mean 'grad-cam'"),
    ("cam TINY large/0.png -m grad-cam -m grad-cam", 2, "each once"),
    ("cam TINY large/0.png -l features", 2, "no map"),
    ("cam TINY large/0.png -l relu9", 2, "did you mean"),
    ("cam TINY large/0.png -t 10", 2, "10 classes"),
    ("cam TINY large/0.png -t 1 -t 2", 2, "2 targets"),
    ("cam TINY large/0.png -t 1 --objective logit(2)", 2, "give one of"),
    ("cam TINY large/0.png --align sideways", 2, "stretch or field"),
    ("cam TINY large/0.png --percentile 0", 2, "percentile"),
    ("cam TINY large/0.png --percentile -1", 2, "percentile"),
    ("segment TOY photos/0.png --rounds 0", 2, "rounds"),
    # layers and features
    ("activations TOY photos/0.png -l ''", 2, "layer"),
    (f"activations {LITE0} photos/0.png --layer stemm", 2, "did you mean 'stem'"),
    ("filters TOY -l image", 2, "image"),
    ("patches TOY photos -l features -c -1", 2, "channel"),
    ("embed TINY nowhere", 3, "nowhere"),
    ("embed TINY large --layer rellu1", 2, "relu1"),
    ("map TINY", 2, "no picture was given"),
    ("neighbours TINY", 2, "no picture was given"),
    ("map TINY large --method mds", 2, "method must be one of"),
    ("map TINY --features gone.npy", 3, "manifest"),
    ("map TOY photos -l features --perplexity nan", 2, "perplexity"),
    ("neighbours TINY large --metric l1", 2, "metric must be l2"),
    ("neighbours TOY photos -l features --query void", 3, ""),
    ("neighbours TOY photos -l features --features x.npy", 3, "manifest"),
    # pictures that are made
    ("ascent TINY --steps 1", 2, "one of --target, --layer"),
    ("ascent TINY -t 'thing 33'", 2, "thing 3"),
    ("ascent TINY -t 1 --preset lucied", 2, "did you mean 'lucid'"),
    ("ascent TINY -t 1 --animate film.mp4", 2, ".gif or .webp"),
    ("ascent TINY -t 1 --animate x.png", 2, ".gif or .webp"),
    ("ascent TINY --layer conv2 -c x", 2, "--channel takes"),
    ("ascent TOY -l features -c ²", 2, "--channel takes"),
    ("ascent TINY --layer conv2 -c 3 --neuron 5", 2, "--neuron takes"),
    ("ascent TINY --layer conv3 -c 3", 2, "did you mean 'conv2'"),
    ("ascent TINY -t 1 --patches folder", 2, "belongs to --channel all"),
    ("ascent TINY -t 1 --blur-low 3 --blur-high 1", 2, "the smaller first"),
    ("ascent TOY -t 0 --rate nan", 2, "rate"),
    ("ascent TOY -t 0 --start void", 3, "void"),
    (f"dream {LITE0} large/0.png --layer blocks.7.ad", 2, "blocks.7.add"),
    (f"dream {LITE0} large/0.png --layer stem=x", 2, "LAYER=WEIGHT"),
    (f"dream {LITE0} large/0.png --size wide", 2, "--size"),
    (f"dream {LITE0} large/0.png --size 20", 3, "too small"),
    ("dream TOY photos/0.png -l features --size 9999999", 2, ""),  # 10^14 pixels
    ("dream TOY photos/0.png -l features --guide nope.png", 3, "nope.png"),
    (f"invert {LITE0} large/0.png --layer blocks.99", 2, "no layer"),
    ("invert TOY photos/0.png -l features --rate nan", 2, "rate"),
    ("invert TOY photos/0.png -l features --tv-weight nan", 2, "total variation"),
    (f"style {LITE0} large/0.png large/1.png --weight 1 --weight 2", 2, "style weights"),
    (f"style {LITE0} large/0.png missing.png", 3, "no such file"),
    ("style TOY photos/0.png photos/0.png -l features --optimiser adam --rate nan", 2, "rate"),
    ("style TOY photos/0.png photos/0.png -l features --content-layer features --start nope", 3, "nope"),
    ("fool TOY photos/0.png --target 1 --bound nan", 2, "bound"),
    ("texture TOY photos/0.png --method quilt --size 99999x99999", 2, ""),
    # files and reports
    ("gradient tiny.onnx --technique saliency --of logits", 2, "--of: only the gradient model"),
    ("gradient tiny.onnx --technique saliency --rules guided", 2, "--rules: only the gradient model"),
    ("gradient tiny.onnx --fixed --mean 0.5", 2, "--fixed, --mean: only an explainer"),
    ("gradient tiny.onnx --target 3", 2, "--target: only an explainer"),
    ("gradient TINY --technique smoothgrad", 2, "'smoothgrad'"),
    ("gradient TINY --technique grad-cam --over frame", 2, "'frame'"),
    ("audit none.onnx -o out", 3, "none.onnx"),
    ("audit TOY --only graph.bypas -o out", 2, "did you mean 'graph.bypass'"),
    ("audit TOY --policy none.toml -o out", 2, "none.toml"),
    ("audit TOY --accept none.toml -o out", 2, "none.toml"),
    ("audit broken.onnx --fail-on much -o out", 2, "one of high"),
    ("audit TOY none.png -o out", 3, "none.png"),
    ("compare toy.onnx toy.onnx photos --preprocess raw -o out --fail-on hihg", 2, "did you mean 'high'"),
    ("compare toy.onnx toy.onnx photos --preprocess raw -o out --optimise-a perhaps", 2, "on or off"),
    ("compare toy.onnx toy.onnx photos --preprocess raw -o out --methods grad-cma", 2, "grad-cam"),
    (
        "compare toy.onnx toy.onnx photos --preprocess raw -o out --accept missing.toml",
        2,
        "accepted findings",
    ),
    ("compare toy.onnx toy.onnx photos --preprocess raw -o out --truth missing.csv", 2, "true classes"),
    ("compare toy.onnx toy.onnx photos --preprocess raw -o out --layer nowhere", 2, "nowhere"),
]


@pytest.mark.parametrize(("line", "code", "words"), MISTAKES, ids=[line[:60] for line, *_ in MISTAKES])
def test_a_mistake_is_one_line_and_the_right_exit_code(line, code, words, shell) -> None:
    said = shell(line)
    assert said.code == code, said.err
    assert words in said.err
    assert said.out == "" and said.err.count("\n") == 1 and said.err.startswith("onnxviz: ")
    assert not os.listdir()


@pytest.mark.parametrize("command", QUICK)
@pytest.mark.parametrize("picture", ["none.png", "void", "zero.png", "toy.onnx", "photos/0.png/x"])
def test_a_picture_that_is_none(command, picture, shell) -> None:
    said = shell(f"{command} TOY {picture} {QUICK[command]} -o made/")
    assert said.code == 3 and said.err


@pytest.mark.parametrize(
    "model", ["none", "none.onnx", "void", "zero.png", "photos/0.png", "", "a\0b", "/dev/null"]
)
def test_a_model_that_is_none(model, shell) -> None:
    said = shell("inspect", model if "/" in model or model in ("", "a\0b") else shell.things / model)
    assert said.code in (2, 3) and said.err.count("\n") == 1
