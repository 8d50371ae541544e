#!/usr/bin/env bash
# Every public header compiles alone, and twice.   headers.sh SOURCE_FOLDER CXX LIST_FILE INCLUDE_OPTION...
# The list is the file set that `make install` lays down. Third-party headers that ours must not need are out of reach only
# where they live apart from the system's; tests/layers looks for their names.
set -euo pipefail
cd "$1"
export HEADER_CXX=$2
list=$3
shift 3
export HEADER_OPTIONS="$*"
check() {
  printf '#include "%s"\n#include "%s"\n' "$1" "$1" |
    $HEADER_CXX -std=c++20 -fsyntax-only -Wall -Wextra -Werror $HEADER_OPTIONS -x c++ - || { echo "does not stand alone: $1"; return 1; }
}
export -f check
[ -s "$list" ] || { echo "the list of headers is empty"; exit 1; }
tr ';' '\n' <"$list" | xargs -P "$(getconf _NPROCESSORS_ONLN)" -I{} bash -c 'check {}'
echo "$(tr ';' '\n' <"$list" | grep -c .) headers stand alone"
# The check must be able to fail.
if (check /dev/stdin/none) >/dev/null 2>&1; then echo "the check passes a header that does not exist"; exit 1; fi
