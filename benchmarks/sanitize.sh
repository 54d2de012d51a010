#!/usr/bin/env bash
# The allocation kernels under compute-sanitizer, which needs a GPU: its tools at the same time.
#
#   benchmarks/sanitize.sh [--dry] [TOOL…]
#
# TOOL: memcheck (accesses out of bounds), racecheck (hazards in shared memory), synccheck (barriers
# that not all threads reach); all three where none is named. initcheck (reads of what nobody wrote)
# only by name: torch hands out memory that it has written before, so there is little for it to see.
# The exit status is 1 where a tool finds something or a result is wrong. --dry only prints the
# commands. PYTHON names another python3.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

DRY=0 TOOLS=()
while [ $# -gt 0 ]; do
  case "$1" in
    --dry) DRY=1 ;;
    memcheck | racecheck | synccheck | initcheck) TOOLS+=("$1") ;;
    *) echo "sanitize.sh: neither an option nor a tool: $1" >&2; exit 2 ;;
  esac
  shift
done
[ ${#TOOLS[@]} -gt 0 ] || TOOLS=(memcheck racecheck synccheck)

PYTHON=${PYTHON:-python3}
export PYTHONPATH="$PWD:$PWD/kernels${PYTHONPATH:+:$PYTHONPATH}"

command_of() { # TOOL
  COMMAND=(compute-sanitizer --tool "$1" --error-exitcode 1)
  # Of errors that CUDA's calls return, torch hears itself; its start-up asks for what may fail.
  [ "$1" != memcheck ] || COMMAND+=(--report-api-errors no)
  COMMAND+=("$PYTHON" -m tempo_kernels.smoke)
}

if [ "$DRY" = 1 ]; then
  for tool in "${TOOLS[@]}"; do
    command_of "$tool"
    echo "${COMMAND[*]}"
  done
  exit 0
fi
command -v compute-sanitizer >/dev/null || {
  echo "sanitize.sh: there is no compute-sanitizer on this machine" >&2
  exit 2
}

LOGS=$(mktemp -d) || exit 1
trap 'rm -rf "$LOGS"' EXIT
PIDS=()
for tool in "${TOOLS[@]}"; do
  command_of "$tool"
  "${COMMAND[@]}" >"$LOGS/$tool" 2>&1 &
  PIDS+=($!)
done
STATUS=0
for i in "${!TOOLS[@]}"; do
  if wait "${PIDS[$i]}"; then
    echo "${TOOLS[$i]}: nothing found"
  else
    STATUS=1
    echo "${TOOLS[$i]}: failed"
  fi
  cat "$LOGS/${TOOLS[$i]}"
done
exit $STATUS
