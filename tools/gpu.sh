#!/usr/bin/env bash
# The figures of one NVIDIA GPU, in one command, on a machine with Python 3.12, CUDA 13, torch, and no network.
#
#   tools/gpu.sh OUT [WHEELS]
#
# OUT      folder for gpu.json and gpu.md
# WHEELS   folder with the wheels that the machine lacks (onnxruntime-gpu, onnx-ir, captum, ...), whole or in the pieces
#          that tools/gpu_wheels.py made; left out: everything is installed already
#
# ONNXVIZ_GPU_STAND_IN=1 rehearses every step on the CPU.
set -euo pipefail
out=$(realpath -m "${1:?usage: tools/gpu.sh OUT [WHEELS]}")
wheels=${2:-}
top=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
mkdir -p "$out"
if [ -n "$wheels" ]; then
  site=$(mktemp -d)
  "$python" "$top/tools/gpu_wheels.py" join "$wheels"
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --upgrade --target "$site" "$wheels"/*.whl
  export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
fi
export PYTHONPATH="$top${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
export ORT_DISABLE_TELEMETRY=${ORT_DISABLE_TELEMETRY:-1}
arguments=(--out "$out")
[ -z "${ONNXVIZ_GPU_STAND_IN:-}" ] || arguments+=(--stand-in)
"$python" "$top/tools/bench/gpu.py" "${arguments[@]}" 2>&1 | tee "$out/log.txt"
