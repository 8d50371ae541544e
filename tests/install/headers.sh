#!/usr/bin/env bash
# Every public header compiles alone, and twice.   headers.sh SOURCE_FOLDER WORK_FOLDER CXX LIST_FILE OPTION...
# One object a header, so that a compiler cache, where there is one, makes the second time quick.
set -euo pipefail
cd "$1"
export WORK=$2 HEADER_CXX=$3
list=$4
shift 4
export HEADER_OPTIONS="$*"
if command -v ccache >/dev/null; then HEADER_CXX="ccache $HEADER_CXX"; fi
check() {
  local file="$WORK/${1//\//_}.cpp"
  printf '#include "%s"\n#include "%s"\n' "$1" "$1" >"$file"
  $HEADER_CXX -std=c++20 -O0 -Wall -Wextra -Werror $HEADER_OPTIONS -c "$file" -o "$file.o" ||
    { echo "does not stand alone: $1"; return 1; }
}
export -f check
mkdir -p "$WORK"
[ -s "$list" ] || { echo "the list of headers is empty"; exit 1; }
# The check must be able to fail.
if (check lmxlab/none.h) >/dev/null 2>&1; then echo "the check passes a header that does not exist"; exit 1; fi
xargs -P "$(getconf _NPROCESSORS_ONLN)" -I{} bash -c 'check {}' <"$list"
echo "$(grep -c . "$list") headers stand alone"
