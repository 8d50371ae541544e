#!/usr/bin/env bash
# What scripts/bootstrap.sh says and does on machines that lack something, played with stand-ins.   bootstrap.sh SOURCE_FOLDER
set -euo pipefail
top=$1
[ "$(uname -s)" != Darwin ] || exit 0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0
wrong() { echo "FAILED: $*"; failures=$((failures + 1)); }

# A machine without cmake and ninja: everything else that the script calls, by links.
mkdir "$work/bare"
for tool in bash sh env uname id head tail ls cat sed grep cut mkdir dirname sha256sum getconf gcc g++ cc c++ python3 rm; do
  path=$(command -v "$tool") || continue
  [ "$tool" != python3 ] || path=$(python3 -c 'import sys; print(sys.executable)')  # not the wrapper of a version manager
  ln -s "$path" "$work/bare/$tool"
done
stand_in() { printf '#!/bin/sh\n%s\n' "$3" >"$work/$1/$2"; chmod +x "$work/$1/$2"; }
run() { # run FOLDER [ARGUMENT]: the script with only FOLDER on the PATH
  code=0
  output=$(PATH="$work/$1" "$work/$1/bash" "$top/scripts/bootstrap.sh" ${2:+"$2"} 2>&1 </dev/null) || code=$?
}
says() { grep -qF -- "$1" <<<"$output" || wrong "$2: expected \`$1\` in: $output"; }

run bare --check
[ "$code" = 7 ] || wrong "--check: expected exit code 7, got $code: $output"
says "missing: cmake ninja-build" "--check"
says "apt-get install" "--check"

run bare
[ "$code" = 7 ] || wrong "no apt-get: expected exit code 7, got $code: $output"
says "no apt-get here" "no apt-get"

run bare fuzz
says "missing: cmake ninja-build clang libclang-rt-14-dev" "fuzz"

# A user without sudo, then with one that wants a password nobody can type, then one that works.
cp -a "$work/bare" "$work/user"
rm "$work/user/id"
stand_in user id 'echo 1000'
stand_in user apt-get "echo \"\$@\" >>$work/calls; case \"\$*\" in *\" -s \"*) exit 100;; esac; exit 0"
run user
[ "$code" = 7 ] || wrong "no sudo: expected exit code 7, got $code: $output"
says "As root, type: apt-get install cmake ninja-build" "no sudo"

stand_in user sudo 'exit 1'
run user
[ "$code" = 7 ] || wrong "sudo with a password: expected exit code 7, got $code: $output"
says "sudo apt-get install cmake ninja-build" "sudo with a password"

stand_in user sudo "case \"\$1\" in -n) exit 0;; esac; echo sudo >>$work/calls; exec \"\$@\""
rm -f "$work/calls"
run user
[ "$code" = 0 ] || wrong "sudo: expected exit code 0, got $code: $output"
says "installing: cmake ninja-build" "sudo"
grep -q '^sudo' "$work/calls" || wrong "sudo was not called"
# The lists were missing (the dry run failed), so they are fetched, once, before installing.
[ "$(grep -c ' update$' "$work/calls")" = 1 ] || wrong "apt-get update: $(cat "$work/calls")"
grep -q 'install --no-install-recommends cmake ninja-build' "$work/calls" || wrong "apt-get install: $(cat "$work/calls")"

# An installation that fails is said so.
stand_in user apt-get 'exit 100'
run user
[ "$code" = 7 ] || wrong "apt-get fails: expected exit code 7, got $code: $output"
says "type: sudo apt-get install cmake ninja-build" "apt-get fails"

# Old tools are named with what is wanted.
cp -a "$work/bare" "$work/old"
stand_in old cmake 'echo "cmake version 3.18.4"'
run old
[ "$code" = 7 ] || wrong "old cmake: expected exit code 7, got $code: $output"
says "cmake 3.18.4, 3.25 or newer is needed" "old cmake"

# This machine has everything: it built this.
"$top/scripts/bootstrap.sh" --check || wrong "this machine lacks something"
[ "$failures" = 0 ]
