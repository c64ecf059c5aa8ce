#!/usr/bin/env bash
# All that a quarter of an hour on a GPU should yield, best evidence first. Each phase has a limit of
# its own, and none stops the next: make gpu, or PHASES='measure test' make gpu.
# Results lie under $OUT: measure.json, bench.json, ncu.csv and every log in all.log.
set -u
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."
python=${PYTHON:-python3}
phases=${PHASES:-build measure test sanitize bench profile threads}
OUT=${OUT:-gpu-results}
logs=$(mktemp -d)
mkdir -p "$OUT"
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1 PYTHON=$python OUT
arch=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d .)
failed=0

phase() { # name, seconds, command...
  case " $phases " in *" $1 "*) ;; *) return 0 ;; esac
  local name=$1 limit=$2 start=$SECONDS rc
  shift 2
  timeout -k 5 "$limit" "$@" > "$logs/$name.log" 2>&1
  rc=$?
  tail -n "${LINES_KEPT:-40}" "$logs/$name.log"
  { echo "== $name: rc $rc, $((SECONDS - start)) s"; cat "$logs/$name.log"; } >> "$OUT/all.log"
  echo "== $name: rc $rc, $((SECONDS - start)) s"
  [ "$rc" = 0 ] || failed=1
}

nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,clocks.max.mem --format=csv,noheader
# -lineinfo: profilers and sanitizers name lines.
LINES_KEPT=5 phase build 240 env NVCC_APPEND_FLAGS=-lineinfo INITSTATS_CUDA=1 \
  INITSTATS_CUDA_ARCHS="$arch" "$python" csrc/build/compile.py
LINES_KEPT=110 phase measure 60 "$python" "$here/measure.py" "$OUT/measure.json" --seconds 50
phase test 150 "$python" -m pytest --backend=cuda -q -n 12 -p no:cacheprovider -W default
# PyTorch's caching allocator would hide accesses beyond one tensor within its blocks.
# shellcheck disable=SC2016
phase sanitize 120 bash -c 'set -o pipefail
  for tool in memcheck racecheck synccheck; do
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 timeout 55 compute-sanitizer --tool $tool --error-exitcode 1 \
      "$PYTHON" "$0" | tail -n 6 || exit
  done' "$here/smoke.py"
phase bench 120 "$python" -m benchmarks fills stats slices orthogonal sparse dirac --device cuda \
  --seconds 0.4 --output "$OUT/bench.json"
# The report itself is too large to keep; its numbers as text are not.
# shellcheck disable=SC2016
phase profile 110 bash -c 'ncu --clock-control none --set full --kernel-name-base demangled \
  --launch-skip 2 --launch-count 24 --export "$1/ncu" --force-overwrite "$PYTHON" "$0" > /dev/null &&
  ncu --import "$1/ncu.ncu-rep" --page raw --csv > "$OUT/ncu.csv" && wc -l "$OUT/ncu.csv"' \
  "$here/profile_calls.py" "$logs"
# shellcheck disable=SC2016
phase threads 100 bash -c 'for n in 1 4 16; do
    "$PYTHON" -m benchmarks fills --match "normal_ float32 4096x4096" --threads $n --no-avx2 \
      --seconds 0.1 --output "$0/threads-$n.json" | grep -E "^(normal_|trunc)" | sed "s/^/$n: /"
  done' "$logs"
ls -la "$OUT"
exit $failed
