#!/usr/bin/env bash
# Builds llama.cpp (llama-cpp-python, from source: some ten minutes on two cores) for `make compare`, once for this processor and
# once for AVX2, and prints its folder: native/, avx2/ and common/ hold Python packages, for the Python of scripts/peers.sh. It
# lives in the user's cache, named by what is in it and by the processor.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

list="$top/tools/compare/requirements.txt"
peers=$("$top/scripts/peers.sh")
python="$peers/bin/python"
processor=$(grep -m 1 -E '^(flags|Features)' /proc/cpuinfo 2>/dev/null || uname -m)
cache="${XDG_CACHE_HOME:-$HOME/.cache}/lmxlab"
place="$cache/compare-$({ cat "$list"; "$python" --version; echo "$processor"; } | hash_of)"

if [ ! -d "$place" ]; then
  mkdir -p "$cache"
  new=$(mktemp -d "$cache/.compare-new-XXXXXX")
  trap 'rm -rf "$new"' EXIT
  install() { # install FOLDER PACKAGE...
    local folder=$1
    shift
    "$python" -m pip install --quiet --progress-bar off --no-compile --no-deps --target "$new/$folder" "$@" >&2
  }
  install common --only-binary=:all: -r <(grep -v '^llama-cpp-python' "$list")
  package=$(grep '^llama-cpp-python' "$list")
  # g++ 12 thinks that the instruction which reads the layout of AMX tiles reads 8 bytes of it, and drops the stores of the
  # others: llama.cpp would crash where there are tiles.
  if [ "$(uname -m)" = x86_64 ] && ! "${CXX:-c++}" --version | grep -qi clang && [ "$("${CXX:-c++}" -dumpversion | cut -d. -f1)" -lt 13 ]; then
    export CXXFLAGS="${CXXFLAGS:-} -fno-dse -fno-tree-dse"
  fi
  # Without pip's cache, which does not know for which processor a wheel was built.
  build() { # build FOLDER OPTIONS-OF-CMAKE
    say "compare: building $package ($1) into $place"
    CMAKE_ARGS="$2" CMAKE_BUILD_PARALLEL_LEVEL=$(cores) quietly "llama-$1" install "$1" --no-binary=llama-cpp-python --no-cache-dir "$package"
  }
  build native "-DGGML_NATIVE=ON"
  if [ "$(uname -m)" = x86_64 ]; then
    build avx2 "-DGGML_NATIVE=OFF -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON -DGGML_AVX512=OFF"
  fi
  for build in native avx2; do
    [ ! -d "$new/$build" ] || PYTHONPATH="$new/$build:$new/common" "$python" -c 'import llama_cpp' >&2
  done
  "$python" -c 'import os, sys; os.rename(*sys.argv[1:])' "$new" "$place" 2>/dev/null || [ -d "$place" ]
fi
echo "$place"
