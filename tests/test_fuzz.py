"""The fuzzer, in processes of its own: 200 mutants of fixed seeds, the same mutants each time, and the minimiser."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from onnxviz.errors import OnnxVizError
from onnxviz.graph.open.load import load

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="mutants are tried in forked children")

# Mutants that went wrong once.
MENDED = (
    "21140,301112,311686,400850,500322,503596,506599,507827,508431,508819,519284,"
    "600076,611055,611149,611703,614316,616077,625412,627323,"
    "640269,640697,640928,641264,642075,643388,644393,"
    "645057,645184,645542,651491,655193,661766,662374,663672,681922,685587,689543,"
    "711085,711451,716489,721692,733086,733495,734685,739466,743867,752853,753968,756479"
)
# Odd calls that went wrong once, with one of the techniques: text as a count, no layer, sizes that no run takes, one
# number for all pictures, words that ONNX Runtime takes for "none", steps over the end.
CALLS = (
    r"Loop 12: input 0: as int8",
    r"Loop 24: input 0: as object",
    r"com.microsoft.DynamicQuantizeLSTM 24: 3 outputs",
    r"com.microsoft.QLinearConcat 24: input 0: float32\(1, 0, 8, 8\)",
    r"LSTM 13: input 1: float32\(1, 4, 1\)",
    r"QLinearConv 24: input 4: float32\(1, 0, 8, 8\)",
    r"NegativeLogLikelihoodLoss 12: reduction 1: +",
    r"com.microsoft.FusedConv 24: 0 outputs",
    r"ScatterElements 24: reduction 43: round_prefer_ceil",
    r"Slice 12: input 4: full of 9223372036854775807",
)
REFUSED = 3  # a seed whose mutant is refused when it is opened

DIGESTS = """
import hashlib, sys
sys.path.insert(0, "tools")
from fuzzing.mutations import mutant
print(*(hashlib.sha256(mutant(seed)[0]).hexdigest() for seed in range(60)))
"""
SMALLER = """
import sys
sys.path.insert(0, "tools")
import onnx
from fuzzing import minimise, networks
keeps = lambda content: any(node.op_type == "MaxPool" for node in onnx.ModelProto.FromString(content).graph.node)
small = onnx.ModelProto.FromString(minimise.smaller(networks.content("tiny"), keeps))
print(*(node.op_type for node in small.graph.node), len(small.graph.initializer), len(small.graph.input))
"""


def python(*arguments, **environment):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_200_mutants():
    """None raises anything but a typed error, none crashes, none hangs, none is refused that ONNX Runtime runs."""
    done = python("tools/fuzz.py", "--seeds", f"0:200,{MENDED}")
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    counted = dict(line.split()[:2] for line in done.stdout.splitlines() if len(line.split()) == 2)
    # What contradicts itself is refused when it is opened: 42 of these are left that work at all.
    assert int(counted["worked"]) > 35
    assert int(counted["refused"]) > 50


def test_odd_calls():
    """As the mutants, with every technique, compare and audit."""
    done = python("tools/fuzz.py", "--calls", "|".join(f"{call}$" for call in CALLS))
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert done.stdout.startswith(f"{len(CALLS)} networks")


def test_a_seed_gives_the_same_mutant():
    """In another process, with other hashes of strings."""
    first, second = (python("-c", DIGESTS, PYTHONHASHSEED=seed).stdout.split() for seed in ("1", "2"))
    assert len(first) == 60
    assert first == second
    assert len(set(first)) > 55


def test_the_minimiser_drops_what_is_not_needed():
    assert python("-c", SMALLER).stdout.split() == ["MaxPool", "0", "0"]


def test_a_refused_mutant_made_small(tmp_path):
    done = python("tools/fuzz.py", "--minimise", str(REFUSED), "--out", str(tmp_path))
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    with pytest.raises(OnnxVizError) as found:
        load(content)
    assert found.value.exit_code in (3, 4)
    assert f"{len(content)} bytes" in done.stdout
    assert len(onnx.ModelProto.FromString(content).graph.node) <= 3
    assert hashlib.sha256(content).hexdigest() not in DIGESTS
