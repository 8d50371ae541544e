#!/usr/bin/env bash
# clang-format over our C++ sources.   scripts/format.sh [--check]
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

format=${CLANG_FORMAT:-clang-format}
command -v "$format" >/dev/null || fail "clang-format was not found. Debian: apt-get install clang-format; or set CLANG_FORMAT."
cd "$top"
action=(-i)
[ "${1:-}" != --check ] || action=(--dry-run --Werror)
find lmxlab examples bench tests -name '*.h' -o -name '*.cpp' -o -name '*.cc' | grep -v '/fixtures/' |
  xargs -r -n 20 -P "$(cores)" "$format" "${action[@]}"
