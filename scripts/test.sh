#!/usr/bin/env bash
# Builds everything and runs the tests; the last line counts single test cases.
#   PRESET=release scripts/test.sh [options of ctest, such as -L unit or -R core]
# TARGETS: what is built instead of everything, such as "core_tests".
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

preset=${PRESET:-release}
cd "$top"
read -ra targets <<<"${TARGETS:-}"
scripts/build.sh "${targets[@]+"${targets[@]}"}"
results="$top/build/$preset/test-results"
rm -rf "$results"
mkdir -p "$results"
case "$preset" in
  asan) export ASAN_OPTIONS="${ASAN_OPTIONS:-detect_leaks=0}" UBSAN_OPTIONS="${UBSAN_OPTIONS:-print_stacktrace=1:halt_on_error=1}" ;;
  tsan) export TSAN_OPTIONS="${TSAN_OPTIONS:-suppressions=$top/cmake/tsan.supp}" ;;
esac
selection=(-LE '^(peer|slow)$')
[ $# = 0 ] || selection=("$@")
say "test: preset $preset"
code=0
# Every GoogleTest program leaves its cases in this folder.
GTEST_OUTPUT="xml:$results/" GTEST_BRIEF=1 ctest --test-dir "build/$preset" --output-on-failure -j "${TEST_JOBS:-2}" \
  --no-tests=error --output-junit "$results/ctest.xml" "${selection[@]}" || code=$?
python3 scripts/count_tests.py "$results" || code=$?
exit "$code"
