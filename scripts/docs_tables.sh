#!/usr/bin/env bash
# Writes anew what the pages quote: tables and other outputs of the program, outputs of the pages' own programs, files of the
# tree, the commands in docs/cli.md. Tests compare all of it.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

preset=${PRESET:-release}
cd "$top"
snippets=tests/docs/snippets.py
read -ra programs <<<"$(python3 $snippets quoted .)"
scripts/build.sh lmxlab_program "${programs[@]}"
LMXLAB_DOCS_OUTPUT=1 python3 $snippets quote . "$top/build/$preset/lmxlab" "build/$preset/snippets"
