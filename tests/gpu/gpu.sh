#!/usr/bin/env bash
# What `make gpu` runs after the build: tests, compute-sanitizer where it is, benchmarks.
set -euo pipefail
python=${PYTHON:-python3}

"$python" -m initstats.cli doctor
"$python" -m pytest --backend=cuda
if command -v compute-sanitizer > /dev/null; then
  for tool in memcheck racecheck synccheck; do
    # PyTorch's caching allocator would hide accesses beyond one tensor within its blocks.
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 \
      compute-sanitizer --tool "$tool" --error-exitcode 1 "$python" tests/gpu/smoke.py
  done
else
  echo "compute-sanitizer is not installed: left out"
fi
"$python" -m benchmarks --device cuda
