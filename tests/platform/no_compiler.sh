#!/usr/bin/env bash
# The program trains and speaks on a machine without a compiler, and leaves nothing under the temporary folder: MLX's CPU
# `compile` would call g++ there and load what it made.   no_compiler.sh PROGRAM
set -euo pipefail
program=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/bin" "$work/tmp"
cd "$work"
without() { env -i PATH="$work/bin" HOME="$work" TMPDIR="$work/tmp" "$program" "$@"; }
without train --steps 3 --out "$work/run" --quiet >"$work/log" 2>&1 || { tail -20 "$work/log"; echo "FAILED: train"; exit 1; }
without generate "$work/run" --prompt "O" --max-tokens 4 --quiet >"$work/log" 2>&1 || { tail -20 "$work/log"; echo "FAILED: generate"; exit 1; }
[ -s "$work/run/model.safetensors" ] || { echo "FAILED: no model.safetensors"; exit 1; }
[ -z "$(find "$work/tmp" -mindepth 1)" ] || { find "$work/tmp"; echo "FAILED: files appeared in the temporary folder"; exit 1; }
