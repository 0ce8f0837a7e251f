#!/usr/bin/env bash
# The figures of one NVIDIA card, in one command of six minutes, on a machine with Python 3.12, CUDA 13, torch, and no
# network.
#
#   tools/gpu.sh OUT [WHEELS]
#
# OUT      folder for gpu.json and gpu.md, written anew as each section ends
# WHEELS   folder with the wheels that the machine lacks, whole or in pieces (tools/gpu/wheels.py gets, cuts and joins
#          them); left out: everything is installed already
#
# ONNXVIZ_GPU_STAND_IN=1 rehearses every section on the CPU, with small counts. Further arguments go to
# `python3 -m gpu`, of which --help tells.
set -euo pipefail
out=$(realpath -m "${1:?usage: tools/gpu.sh OUT [WHEELS]}")
wheels=${2:-}
shift $(($# < 2 ? $# : 2))
top=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
begun=$SECONDS
mkdir -p "$out"
export PIP_NO_INDEX=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 ORT_DISABLE_TELEMETRY=${ORT_DISABLE_TELEMETRY:-1}
if [ -n "$wheels" ]; then
  site=$(mktemp -d)
  trap 'rm -rf "$site"' EXIT
  "$python" "$top/tools/gpu/wheels.py" join "$wheels"
  "$python" -m pip install --quiet --no-deps --no-compile --no-cache-dir --upgrade --target "$site" "$wheels"/*.whl
  export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
fi
export PYTHONPATH="$top/tools:$top${PYTHONPATH:+:$PYTHONPATH}"
[ -z "${ONNXVIZ_GPU_STAND_IN:-}" ] || set -- --stand-in "$@"
"$python" -m gpu --out "$out" --seconds $((340 - SECONDS + begun)) "$@" 2>&1 | tee "$out/log.txt"
