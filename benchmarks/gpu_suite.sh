#!/usr/bin/env bash
# Everything that a GPU is needed for, in under ten minutes: what is right first, then how fast.
#
#   benchmarks/gpu_suite.sh [--dry] [--only STEP,…] [FOLDER]
#
# It needs python3 with torch ≥ 2.11, triton ≥ 3.6, transformers ≥ 5.17, pytest, pytest-benchmark and
# hypothesis; no network, no PyAV. FOLDER (benchmarks/results/gpu) gets suite.json, the rows of each
# benchmark, the profile and the logs. Each step has a time limit, and a failed one stops no other;
# the exit status is 0 where none failed. --dry: on the CPU, with tiny sizes. PYTHON names another
# python3; TEMPO_BENCH_COMMIT the commit, where the files came without their repository.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

DRY=0 ONLY="" OUT=benchmarks/results/gpu
while [ $# -gt 0 ]; do
  case "$1" in
    --dry) DRY=1 ;;
    --only) shift; ONLY=",${1:?--only needs the names of steps},"; ;;
    -*) echo "gpu_suite.sh: unknown option $1" >&2; exit 2 ;;
    *) OUT=$1 ;;
  esac
  shift
done

PYTHON=${PYTHON:-python3}
export PYTHONPATH="$PWD:$PWD/kernels${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
# A GPU's ten minutes; a busy CPU's are not worth the same.
DEADLINE=${TEMPO_SUITE_SECONDS:-$([ "$DRY" = 1 ] && echo 1800 || echo 570)}
mkdir -p "$OUT/logs" || exit 1
STEPS=$OUT/steps.tsv
STAGES="benchmarks/test_stages_video.py benchmarks/test_stages.py"
: >"$STEPS"

wanted() { [ -z "$ONLY" ] || [[ $ONLY == *",$1,"* ]]; }

record() { # NAME STATUS EXIT SECONDS
  printf '%s\t%s\t%s\t%s\n' "$@" >>"$STEPS"
  printf '%-16s %-14s %4s s\n' "$1" "$2" "$4"
}

step() { # NAME LIMIT COMMAND…
  local name=$1 limit=$2 left=$((DEADLINE - SECONDS)) begin=$SECONDS rc status
  shift 2
  wanted "$name" || return 0
  [ "$limit" -le "$left" ] || limit=$left
  if [ "$limit" -lt 1 ]; then
    record "$name" "no time left" -1 0
    return 0
  fi
  timeout -k 5 "$limit" "$@" >"$OUT/logs/$name.log" 2>&1
  rc=$?
  case $rc in
    0) status=passed ;;
    124 | 137) status="out of time" ;;
    *) status=failed ;;
  esac
  record "$name" "$status" "$rc" $((SECONDS - begin))
}

skip() { # NAME REASON
  wanted "$1" || return 0
  echo "$2" >"$OUT/logs/$1.log"
  record "$1" "not run" 0 0
}

# A process a file, eight at once: most of the time is Triton compiling. 5: no test was selected.
files_of_tests() { # NAME LIMIT MARK FILE…
  step "$1" "$2" env PYTHON="$PYTHON" MARK="$3" bash -c '
    printf "%s\n" "$@" | xargs -P 8 -I{} bash -c \
      "\"\$PYTHON\" -m pytest -p no:cacheprovider -rs -m \"\$MARK\" {} || [ \$? = 5 ]"' _ "${@:4}"
}

pytest() { step "$1" "$2" "$PYTHON" -m pytest -p no:cacheprovider -rs "${@:3}"; }

if [ "$DRY" = 1 ]; then
  export TRITON_INTERPRET=1 CUDA_VISIBLE_DEVICES="" OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
  SMALL=(--size tiny --rounds 1 --new-tokens 3 --videos 1 --questions 2 --cases 9:32)
  step environment 400 "$PYTHON" -m tempo_fast info
  files_of_tests kernels 400 "not gpu" tests/kernels/test_greedy.py \
    tests/kernels/test_deepstack_add.py
  pytest golden 400 tests/test_golden.py -k "cpu and one_segment"
  pytest gpu-tests 400 -m gpu tests --ignore tests/kernels --collect-only
  skip sanitizer "compute-sanitizer needs a GPU"
  pytest bench-kernels 400 benchmarks/test_kernels.py -k "allocate and reference"
  pytest bench-stages 400 $STAGES "${SMALL[@]}" \
    --rows "$OUT/stages.json"
  pytest bench-questions 400 benchmarks/test_end_to_end.py -k "question" "${SMALL[@]}" \
    --rows "$OUT/end_to_end.json"
  pytest bench-settings 400 benchmarks/test_settings.py "${SMALL[@]}" --rows "$OUT/settings.json"
  pytest bench-throughput 400 benchmarks/test_end_to_end.py -k throughput "${SMALL[@]}" \
    --rows "$OUT/throughput.json"
  step profile 400 "$PYTHON" -m benchmarks.profile_size tiny 9 "$OUT/profile"
else
  step environment 60 bash -c "nvidia-smi; '$PYTHON' -m tempo_fast info"
  files_of_tests kernels 150 gpu tests/kernels/test_*.py
  pytest golden 90 -m gpu tests/test_golden.py
  pytest gpu-tests 100 -m gpu tests --ignore tests/kernels --ignore tests/test_golden.py
  if command -v compute-sanitizer >/dev/null; then
    step sanitizer 90 env PYTHON="$PYTHON" benchmarks/sanitize.sh
  else
    skip sanitizer "there is no compute-sanitizer on this machine"
  fi
  FULL=(--size tempo-6b --cases)
  pytest bench-stages 110 $STAGES "${FULL[@]}" 1024:8192 \
    --rows "$OUT/stages.json"
  pytest bench-questions 100 benchmarks/test_end_to_end.py -k question "${FULL[@]}" 1024:8192 \
    --rounds 2 --rows "$OUT/end_to_end.json"
  pytest bench-settings 70 benchmarks/test_settings.py "${FULL[@]}" 1024:8192 --rounds 2 \
    --rows "$OUT/settings.json"
  step profile 50 "$PYTHON" -m benchmarks.profile_size tempo-6b 256 "$OUT/profile"
  pytest bench-kernels 80 benchmarks/test_kernels.py -k "not compiled" --rows "$OUT/kernels.json"
  pytest bench-throughput 50 benchmarks/test_end_to_end.py -k throughput "${FULL[@]}" 256:8192 \
    --rounds 1 --rows "$OUT/throughput.json"
  # A compilation takes seconds: one size of the memory-bound kernels and the trio.
  pytest bench-compiled 90 benchmarks/test_kernels.py -k "compiled and (trio or 8533)" \
    --rows "$OUT/compiled.json"
  # What time is left; a row is kept as soon as it is there.
  pytest bench-scaling 300 benchmarks/test_end_to_end.py -k question --rounds 1 \
    "${FULL[@]}" 256:8192,64:8192,2048:8192,1024:4096,1024:12288 --rows "$OUT/scaling.json"
fi

"$PYTHON" -m benchmarks.suite_summary "$STEPS" "$OUT/suite.json"
summary=$?
rm -f "$STEPS"
if wanted report; then
  "$PYTHON" -m tempo_fast report "$OUT" --output "$OUT" >"$OUT/logs/report.log" 2>&1 ||
    echo "the report failed: see $OUT/logs/report.log"
fi
exit $summary
