#!/usr/bin/env bash
# All that a quarter of an hour on a GPU should yield, best evidence first: at most 595 seconds, at
# most eight files. Each phase has a limit of its own, and none stops the next.
#
#   make gpu                            all phases
#   PHASES='measure test' make gpu      some
#   DRY=1 make gpu                      all, small and on the CPU, to find errors of Python
#
# Results lie under $OUT: measure.json, bench.json, bounds.json, ncu.csv and every log in all.log.
set -u
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.." || exit 1
python=${PYTHON:-python3}
all='build measure test sanitize profile bounds bench threads'
phases=${PHASES:-$all}
DRY=${DRY:-}
most=${SECONDS_IN_ALL:-595}
OUT=${OUT:-gpu-results}
if ! { mkdir -p "$OUT" && : >> "$OUT/all.log"; } 2> /dev/null; then
  echo "$OUT cannot be written"
  OUT=$(mktemp -d)
fi
OUT=$(cd "$OUT" && pwd)
scratch=$(mktemp -d) || scratch=$OUT
trap '[ "$scratch" = "$OUT" ] || rm -rf "$scratch"' EXIT
log=$OUT/all.log
# Bytecode is kept elsewhere: the checkout may be read-only.
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1 PYTHONPYCACHEPREFIX=$scratch/pycache PYTHON=$python OUT DRY
export scratch
PATH=$PATH:${CUDA_HOME:-/usr/local/cuda}/bin # ncu and compute-sanitizer may be there alone
[ -z "$DRY" ] || export OMP_NUM_THREADS=1
failed=0

has_module() {
  "$PYTHON" -c 'import importlib.util as u, sys; sys.exit(u.find_spec(sys.argv[1]) is None)' "$1" \
    2> /dev/null
}

# A phase that needs a program or a package of Python's that is not there says so, and fails.
needs() {
  command -v "$1" > /dev/null || { echo "needs $1, which is not installed"; return 1; }
}
needs_modules() {
  local each
  for each in "$@"; do
    has_module "$each" || { echo "needs the package $each, which $PYTHON does not have"; return 1; }
  done
}

phase() { # name, seconds, command...
  case " $phases " in *" $1 "*) ;; *) return 0 ;; esac
  local name=$1 limit=$2 start=$SECONDS begin rc
  shift 2
  local left=$((most - SECONDS - 7)) # seconds: -k 5 below, and the end of the script
  [ "$limit" -le "$left" ] || limit=$left
  begin=$(wc -c < "$log")
  echo "== $name" >> "$log"
  if [ "$limit" -lt 5 ]; then
    echo "left out: no time" >> "$log"
    rc=124
  else
    # Straight into the log: what was said is there whenever the machine goes.
    timeout -k 5 "$limit" "$@" < /dev/null >> "$log" 2>&1
    rc=$?
  fi
  tail -c +$((begin + 1)) "$log" | tail -n "${LINES_KEPT:-40}"
  [ "$rc" != 124 ] || echo "$name: ended after $limit of its seconds" | tee -a "$log"
  echo "== $name: rc $rc, $((SECONDS - start)) s" | tee -a "$log"
  [ "$rc" = 0 ] || failed=1
}

# ---- what the phases do; each runs in a bash of its own, under timeout

build() {
  if [ -n "$DRY" ]; then "$PYTHON" -m initstats.cli doctor; return; fi
  # -lineinfo: profilers and sanitizers name lines.
  NVCC_APPEND_FLAGS=-lineinfo INITSTATS_CUDA=1 INITSTATS_CUDA_ARCHS=$arch \
    "$PYTHON" csrc/build/compile.py && "$PYTHON" -m initstats.cli doctor
}

measure() {
  if [ -n "$DRY" ]; then
    "$PYTHON" "$here/measure.py" "$OUT/measure.json" --seconds 120 --device cpu --log2 14
  else
    "$PYTHON" "$here/measure.py" "$OUT/measure.json" --seconds 120
  fi
}

tests() {
  needs_modules pytest || return
  local several=()
  if has_module xdist; then several=(-n "$workers"); fi
  if [ -n "$DRY" ]; then
    "$PYTHON" -m pytest -q -p no:cacheprovider -W default "${several[@]}" tests/init/test_gains.py
  else
    "$PYTHON" -m pytest --backend=cuda -q "${several[@]}" -p no:cacheprovider -W default \
      --continue-on-collection-errors
  fi
}

# PyTorch's caching allocator would hide accesses beyond one tensor within its blocks.
sanitize() {
  if [ -n "$DRY" ]; then "$PYTHON" "$here/smoke.py" --device cpu; return; fi
  "$PYTHON" "$here/smoke.py" || return
  needs compute-sanitizer || return
  local tool bad=0
  for tool in memcheck racecheck synccheck; do
    echo "-- $tool"
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 timeout 45 compute-sanitizer --tool "$tool" --error-exitcode 1 \
      "$PYTHON" "$here/smoke.py" > "$scratch/$tool" 2>&1 || bad=$?
    tail -n 6 "$scratch/$tool"
  done
  return $bad
}

# The report itself is too large to keep; its numbers as text are not.
profile() {
  if [ -n "$DRY" ]; then "$PYTHON" "$here/profile_calls.py" --device cpu --log2 16; return; fi
  needs ncu || return
  ncu --clock-control none --set full --kernel-name-base demangled --launch-skip 2 \
    --launch-count 24 --export "$scratch/ncu" --force-overwrite "$PYTHON" \
    "$here/profile_calls.py" | tail -n 5
  ncu --import "$scratch/ncu.ncu-rep" --page raw --csv > "$OUT/ncu.csv" && wc -l "$OUT/ncu.csv"
}

bench() {
  needs_modules pytest pytest_benchmark || return
  local how=(--device cuda --seconds 0.3)
  if [ -n "$DRY" ]; then
    how=(--seconds 0.001 --no-avx2 -k "dirac or 1000 or channels or list")
  fi
  "$PYTHON" -m benchmarks fills stats slices orthogonal sparse dirac "${how[@]}" \
    --output "$OUT/bench.json" -p no:cacheprovider
}

threads() {
  needs_modules pytest pytest_benchmark || return
  local n seconds=0.1 counts='1 4 16'
  if [ -n "$DRY" ]; then seconds=0.001 counts=1; fi
  for n in $counts; do
    "$PYTHON" -m benchmarks fills --match "normal_ float32 4096x4096" --threads "$n" --no-avx2 \
      --seconds $seconds --output "$scratch/threads-$n.json" -p no:cacheprovider > "$scratch/threads" 2>&1 ||
      { tail -n 5 "$scratch/threads"; return 1; }
    grep -E "^(normal_|trunc)" "$scratch/threads" | sed "s/^/$n: /"
  done
}

# Fills that have to fit five blocks on a processor instead of four take fewer registers. The module
# is built beside the other, which stays; only the fills are compiled again.
bounds() {
  if [ -n "$DRY" ]; then
    "$PYTHON" "$here/measure.py" "$OUT/bounds.json" --device cpu --log2 14 --only "_ "
    return
  fi
  cp -a build/extension "$scratch/extension" || return
  (cd "$scratch/extension" && rm -f cuda/random/fill.*)
  NVCC_APPEND_FLAGS=-DINITSTATS_FILL_BLOCKS=5 INITSTATS_CUDA=1 INITSTATS_CUDA_ARCHS=$arch \
    "$PYTHON" -c 'import pathlib, sys
sys.path.insert(0, "csrc/build")
from compile import compile_extension
scratch = pathlib.Path(sys.argv[1])
compile_extension(scratch / "_C.so", scratch / "extension")' "$scratch" || return
  INITSTATS_MEASURED_MODULE=$scratch/_C.so "$PYTHON" "$here/measure.py" "$OUT/bounds.json" \
    --seconds 20 --only "_ "
}

timeout 60 "$python" -c 'import sys, torch; print("Python", sys.version.split()[0], "torch", torch.__version__)' \
  2>&1 | tail -n 1 | tee -a "$log"
[ "${PIPESTATUS[0]}" = 0 ] || echo "$python cannot import torch" | tee -a "$log"
if command -v nvidia-smi > /dev/null; then
  timeout 20 nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,clocks.max.mem --format=csv,noheader |
    tee -a "$log"
  arch=$(timeout 20 nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d .)
else
  echo "nvidia-smi is not installed" | tee -a "$log"
fi
case ${arch:-} in *[!0-9]* | '') arch=90 ;; esac # what nvidia-smi says where it finds no GPU
workers=$(($(nproc) * 3 / 4 + 1))
export here arch workers
export -f has_module needs needs_modules build measure tests sanitize profile bench threads bounds
run() { phase "$1" "$2" bash -c "set -u; ${3:-$1}"; }

LINES_KEPT=25 run build 150
LINES_KEPT=150 run measure 135
run test 150 tests
run sanitize 150
LINES_KEPT=6 run profile 110
run bounds 60
run bench 80
run threads 40
ls -la "$OUT"
echo "$SECONDS seconds" | tee -a "$log"
exit $failed
