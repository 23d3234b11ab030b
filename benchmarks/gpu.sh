#!/usr/bin/env bash
# Training on the GPU of this machine: rates, MFU, data stall, memory, compile time; tables, JSON, benchmarks/results/gpu.csv.
# Needs no rasterio or geopandas. RELEASED=FOLDER compares with a checkout of the released code too.
# Further words go to bench_train.py, for example: benchmarks/gpu.sh --sizes base --batch 256
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
[ -x "$python" ] || python=python3
export PYTHONPATH="src${PYTHONPATH:+:$PYTHONPATH}" PYTORCH_CUDA_ALLOC_CONF=${PYTORCH_CUDA_ALLOC_CONF:-expandable_segments:True}
if command -v nvidia-smi >/dev/null; then nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader; fi
"$python" benchmarks/bench_train.py --name gpu --profile benchmarks/results ${RELEASED:+--released "$RELEASED"} "$@"
