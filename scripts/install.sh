#!/usr/bin/env bash
# Lays down the program, headers, library and CMake package.   scripts/install.sh PREFIX
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

[ -n "${1:-}" ] || { echo "error: usage: scripts/install.sh PREFIX" >&2; exit 2; }
case "$1" in /*) prefix=$1 ;; *) prefix=$PWD/$1 ;; esac
preset=${PRESET:-release}
cd "$top"
mkdir -p "$prefix" 2>/dev/null && [ -w "$prefix" ] ||
  fail "cannot write into $prefix. Choose a PREFIX of your own, such as PREFIX=\$HOME/.local, or run this as root."
scripts/build.sh lmxlab_program lmxlab
quietly install cmake --install "build/$preset" --prefix "$prefix"
say "installed into $prefix: bin/lmxlab, include/lmxlab, lib/liblmxlab.a, lib/cmake/lmxlab"
