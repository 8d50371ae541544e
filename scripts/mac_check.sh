#!/usr/bin/env bash
# Checks on Linux that lmxlab builds for a Mac: every source compiles for aarch64-macos, and the program and the examples link
# with libmlx.dylib of the wheel mlx-metal. Nothing runs.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

zig_version=0.17.1
cd "$top"
"$top/scripts/bootstrap.sh"
cache="${XDG_CACHE_HOME:-$HOME/.cache}/lmxlab"
zig="$cache/zig-$zig_version"
if [ ! -x "$zig/ziglang/zig" ]; then
  say "mac: installing the compiler (ziglang $zig_version) into $zig"
  mkdir -p "$cache"
  new=$(mktemp -d "$cache/.zig-new-XXXXXX")
  trap 'rm -rf "$new"' EXIT
  python=$(pip_python)
  quietly zig "$python" -m pip install --target "$new" --only-binary=:all: --no-compile --no-cache-dir --progress-bar off \
    "ziglang==$zig_version" || exit 7
  "$python" -c 'import os, sys; os.rename(*sys.argv[1:])' "$new" "$zig" 2>/dev/null || [ -x "$zig/ziglang/zig" ]
fi
mlx=$(LMXLAB_MLX=metal "$top/scripts/mlx.sh")

# The tools under the names that CMake looks for, and the headers of other libraries apart from the system's own.
tools="$top/build/mac-tools"
mkdir -p "$tools/include" "$tools/lib"
wrapper() { printf '#!/bin/sh\nexec %s "$@"\n' "$2" >"$tools/$1" && chmod +x "$tools/$1"; }
wrapper c++ "'$zig/ziglang/zig' c++ -target aarch64-macos.14.0"
wrapper ar "'$zig/ziglang/zig' ar"
wrapper ranlib "'$zig/ziglang/zig' ranlib"
wrapper nothing true
for header in nlohmann toml++ CLI pcre2.h utf8proc.h hwy curl; do
  from=/usr/include/$header
  [ -e "$from" ] || from=/usr/include/$(gcc -print-multiarch)/$header
  [ -e "$from" ] || from=/usr/local/include/$header
  ln -sfn "$from" "$tools/include/$header"
done
# PCRE2 for a Mac is not here: a stub names what its header declares, so that anything else left open is still an error.
{
  printf -- '--- !tapi-tbd\ntbd-version: 4\ntargets: [ arm64-macos ]\ninstall-name: /opt/homebrew/lib/libpcre2-8.0.dylib\n'
  printf 'exports:\n  - targets: [ arm64-macos ]\n    symbols: [ '
  grep -o 'pcre2_[a-z0-9_]*(' /usr/include/pcre2.h | sort -u | sed 's/($//; s/.*/_&_8/' | paste -sd, | tr -d '\n'
  printf ' ]\n...\n'
} >"$tools/lib/libpcre2-8.tbd"
# utf8proc likewise.
{
  printf -- '--- !tapi-tbd\ntbd-version: 4\ntargets: [ arm64-macos ]\ninstall-name: /opt/homebrew/lib/libutf8proc.3.dylib\n'
  printf 'exports:\n  - targets: [ arm64-macos ]\n    symbols: [ '
  grep -o 'utf8proc_[a-z0-9_]*(' /usr/include/utf8proc.h | sort -u | sed 's/($//; s/^/_/' | paste -sd, | tr -d '\n'
  printf ' ]\n...\n'
} >"$tools/lib/libutf8proc.tbd"

say "mac: configure (preset mac-cross)"
quietly configure-mac cmake --fresh --preset mac-cross -DMLX_ROOT="$mlx/mlx" \
  -DPCRE2_LIBRARY="$tools/lib/libpcre2-8.tbd" -DUTF8PROC_LIBRARY="$tools/lib/libutf8proc.tbd"
say "mac: compile every source, link the program and the examples"
began=$SECONDS
ninja -C build/mac-cross -k 0 --quiet >&2

linked=0
for program in build/mac-cross/lmxlab build/mac-cross/examples/example_*; do
  [ -f "$program" ] || continue
  # The magic number of a 64-bit Mach-O file, the processor arm64, and libmlx among what it loads.
  [ "$(od -An -tx4 -N8 "$program" | tr -d ' \n')" = feedfacf0100000c ] || fail "$program is no program for a Mac"
  grep -q 'libmlx.dylib' "$program" || fail "$program is not linked with libmlx.dylib"
  linked=$((linked + 1))
done
sources=$(grep -c '"file":' build/mac-cross/compile_commands.json)
[ "$sources" -gt 0 ] && [ "$linked" -gt 0 ] || fail "nothing was linked: $sources sources, $linked programs"
say "mac: $sources sources compiled, $linked programs linked, in $((SECONDS - began)) s"
