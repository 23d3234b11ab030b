#!/usr/bin/env bash
# What the processor of this machine does: reading, the step, inference, training from disk; tables, JSON, benchmarks/results.
# Nothing else should run meanwhile. RELEASED=FOLDER compares with a checkout of the released code of SMARTIES too.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
export PYTHONPATH="src${PYTHONPATH:+:$PYTHONPATH}" GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-1000}
released=(${RELEASED:+--released "$RELEASED"})
"$python" benchmarks/bench_data.py "${released[@]}"
"$python" benchmarks/bench_reading.py
"$python" benchmarks/bench_step.py "${released[@]}"
"$python" benchmarks/bench_encode.py
"$python" benchmarks/bench_train.py --device cpu --name cpu --profile benchmarks/results
