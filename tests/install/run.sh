#!/usr/bin/env bash
# Installs the build, moves the folder, builds and runs a project outside the tree against it.
#   run.sh SOURCE_FOLDER BUILD_FOLDER CMAKE CXX
set -euo pipefail
source=$1 build=$2 cmake=$3 cxx=$4
work=$(mktemp -d "${TMPDIR:-/tmp}/lmxlab-install-XXXXXX")
trap 'rm -rf "$work"' EXIT
die() { echo "FAILED: $*"; exit 1; }

"$cmake" --install "$build" --prefix "$work/first" >"$work/log" 2>&1 || { tail -20 "$work/log"; die "cmake --install"; }
mv "$work/first" "$work/prefix"  # whoever needs the old place is found out
prefix=$work/prefix
for path in include/lmxlab/base/error.h include/lmxlab/base/version.h lib/liblmxlab.a lib/cmake/lmxlab/lmxlabConfig.cmake \
  share/doc/lmxlab/LICENSE share/doc/lmxlab/THIRD_PARTY.md; do
  [ -s "$prefix/$path" ] || die "$path was not installed"
done
[ ! -e "$prefix/include/lmxlab/cli" ] || die "the program's own headers were installed"
"$prefix/bin/lmxlab" train --steps 3 --out "$work/run" --quiet >"$work/log" 2>&1 ||
  { tail -20 "$work/log"; die "the installed program trains"; }

cp -r "$source/tests/install/consumer" "$work/consumer"
"$cmake" -S "$work/consumer" -B "$work/build" -G Ninja -DCMAKE_PREFIX_PATH="$prefix" -DCMAKE_CXX_COMPILER="$cxx" \
  -DCMAKE_BUILD_TYPE=Release >"$work/log" 2>&1 || { tail -20 "$work/log"; die "configure the consumer"; }
"$cmake" --build "$work/build" >"$work/log" 2>&1 || { tail -40 "$work/log"; die "build the consumer"; }
grep -q "$source\|$build" "$work/build/build.ninja" && die "the consumer uses the source or build tree"

# The overrides of MLX's CPU build must have come along and be what libmlx calls.
if ls "$prefix"/lib/lmxlab/overrides/*.o >/dev/null 2>&1; then
  exported=$(nm -D --defined-only "$work/build/consumer" | c++filt)
  grep -q ' T cblas_sgemm' <<<"$exported" || die "the consumer does not carry our cblas_sgemm"
  grep -q ' T mlx::core::allocator::allocator()' <<<"$exported" || die "the consumer does not carry our allocator"
fi

"$work/build/consumer" "$work/run" >"$work/log" 2>&1 || { tail -20 "$work/log"; die "run the consumer"; }
grep -q '^40 tokens in [1-9][0-9]* pieces$' "$work/log" || { tail -20 "$work/log"; die "the consumer's text"; }
code=0
"$work/build/consumer" "$work/nowhere" >"$work/log" 2>&1 || code=$?
[ "$code" = 3 ] && grep -q '^caught not_found: ' "$work/log" || { tail -20 "$work/log"; die "an lmxlab::Error: exit code $code"; }
