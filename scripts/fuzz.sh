#!/usr/bin/env bash
# Builds the fuzz targets with clang, under the address and undefined-behaviour sanitizers, and runs each of them: first over the
# inputs in tests/fuzz/corpus, then on new ones. Linux only. What is found lies in build/fuzz/findings, new inputs in build/fuzz/corpus.
#   scripts/fuzz.sh [TARGET...]     such as safetensors or gguf; all of them, if none is named
# FUZZ_SECONDS: of CPU, for each target (600); 0: only the inputs that are there. FUZZ_MERGE=1: then takes what reaches new code into the tree.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

cd "$top"
[ "$(uname -s)" = Linux ] || fail "the fuzz targets are built on Linux only."
seconds=${FUZZ_SECONDS:-600}
targets=("$@")
if [ $# = 0 ]; then
  for source in tests/fuzz/*_fuzz.cpp; do
    source=${source##*/}
    targets+=("${source%_fuzz.cpp}")
  done
fi
for target in "${targets[@]}"; do
  [ -e "tests/fuzz/${target}_fuzz.cpp" ] || { printf 'error: there is no tests/fuzz/%s_fuzz.cpp\n' "$target" >&2; exit 2; }
done
"$top/scripts/bootstrap.sh" fuzz
PRESET=fuzz LMXLAB_CONFIGURE= LMXLAB_MLX=cpu "$top/scripts/build.sh" "${targets[@]/%/_fuzz}"

findings="$top/build/fuzz/findings"
mkdir -p "$findings" build/logs
export ASAN_OPTIONS="${ASAN_OPTIONS:-detect_leaks=0}"
export UBSAN_OPTIONS="${UBSAN_OPTIONS:-print_stacktrace=1:halt_on_error=1}"
# No input is larger than 16 KiB, and none takes more memory or time than this.
limits=(-max_len=16384 -timeout=60 -rss_limit_mb=2048 -malloc_limit_mb=1024)
# replay_and_fuzz TARGET: 0, and a line that says what was done, if nothing was found.
replay_and_fuzz() {
  local target=$1 program="build/fuzz/${1}_fuzz" given="tests/fuzz/corpus/$1" kept="build/fuzz/corpus/$1" began=$SECONDS
  local log="$top/build/logs/fuzz-$target.log" code=0 options=("${limits[@]}" "-artifact_prefix=$findings/$target-") runs=0 spent=0 executed
  [ ! -e "tests/fuzz/$target.dict" ] || options+=("-dict=tests/fuzz/$target.dict")
  mkdir -p "$kept"
  find "$given" -type f -print0 | sort -z | xargs -0 "$program" "${options[@]}" >"$log" 2>&1 || code=$?
  # libFuzzer counts the clock's time, so where other work takes the cores it is called again.
  while [ "$code" = 0 ] && [ $((seconds - spent)) -gt $((seconds / 20)) ]; do
    "$program" "${options[@]}" -max_total_time=$((seconds - spent)) -print_final_stats=1 -close_fd_mask=1 "$kept" "$given" >"$log" 2>&1 || code=$?
    executed=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")  # none, if it died first
    runs=$((runs + ${executed:-0}))
    times >"$log.times"  # not in $(...), which has no children yet
    spent=$(sed -n '2s/[ms]/ /gp' "$log.times" | awk '{printf "%d", 60 * ($1 + $3) + $2 + $4}')
  done
  if [ "$code" != 0 ]; then
    tail -60 "$log" >&2
    printf 'error: the fuzz target %s failed; its log is %s, the input in %s\n' "$target" "$log" "$findings" >&2
    return 1
  fi
  say "fuzz: $target: $(find "$given" -type f | wc -l) inputs, $runs executions, $spent s of CPU, $((SECONDS - began)) s"
}

# As many at a time as there are cores; each counts as one test.
passed=0 failed=0 running=0
finish_one() {
  if wait -n; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
  running=$((running - 1))
}
for target in "${targets[@]}"; do
  [ "$running" -lt "$(cores)" ] || finish_one
  replay_and_fuzz "$target" &
  running=$((running + 1))
done
while [ "$running" != 0 ]; do finish_one; done
if [ -n "${FUZZ_MERGE:-}" ]; then
  for target in "${targets[@]}"; do
    quietly "fuzz-merge-$target" "build/fuzz/${target}_fuzz" -merge=1 "${limits[@]}" "tests/fuzz/corpus/$target" "build/fuzz/corpus/$target"
  done
fi
printf '%s passed, %s failed\n' "$passed" "$failed"
[ "$failed" = 0 ]
