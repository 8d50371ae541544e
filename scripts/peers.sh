#!/usr/bin/env bash
# Makes the Python environment that the peer tests compare against (PyTorch, transformers: 5 GB on Linux) and prints its
# folder. It lives in the user's cache, named by what is in it, so that every checkout shares it.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

list="$top/tests/peer/requirements.txt"
python="${PYTHON:-python3}"
command -v "$python" >/dev/null || fail "Python 3 was not found. Run scripts/bootstrap.sh, or set PYTHON."
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
cache="${XDG_CACHE_HOME:-$HOME/.cache}/lmxlab"
place="$cache/peers-$( { cat "$list"; echo "$version"; } | hash_of)"

if [ ! -d "$place" ]; then
  say "peers: installing PyTorch and transformers into $place (once; about 5 GB)"
  mkdir -p "$cache"
  new=$(mktemp -d "$cache/.peers-new-XXXXXX")
  trap 'rm -rf "$new"' EXIT
  "$python" -m venv "$new" >&2 || fail "$python cannot make a virtual environment. Debian: apt-get install python3-venv"
  "$new/bin/python" -m pip install --quiet --progress-bar off --no-compile --no-deps --only-binary=:all: -r "$list" >&2
  "$new/bin/python" -c 'import torch, transformers; torch.ones(2) @ torch.ones(2)' >&2
  # Someone else may have finished first: theirs is as good.
  "$python" -c 'import os, sys; os.rename(*sys.argv[1:])' "$new" "$place" 2>/dev/null || [ -d "$place" ]
fi
echo "$place"
