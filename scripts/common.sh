# Shared by the scripts here; sourced, not run.
set -euo pipefail
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

say() { printf '\033[1m==\033[0m %s\n' "$*" | { [ -t 2 ] && cat || sed 's/\x1b\[[0-9]*m//g'; } >&2; }

# The last word of a script that cannot go on. Exit code 7 is the program's own for what the machine lacks.
fail() { printf 'error: %s\n' "$*" >&2; exit 7; }

# Runs a command quietly: its output goes to a log that is shown only if it fails.
quietly() {
  local log="$top/build/logs/$1.log" code=0
  shift
  mkdir -p "$top/build/logs"
  "$@" >"$log" 2>&1 || code=$?
  if [ "$code" != 0 ]; then
    tail -40 "$log" >&2
    printf 'error: `%s` failed with exit code %s; the whole output is in %s\n' "$*" "$code" "$log" >&2
    return "$code"
  fi
}

cores() { getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2; }

hash_of() { if command -v sha256sum >/dev/null; then sha256sum; else shasum -a 256; fi | cut -c1-12; }

# A pip that may write into a folder of ours: the system's, or one in a virtual environment under build/.
pip_python() {
  local python="${PYTHON:-python3}" env="$top/build/pip-env"
  command -v "$python" >/dev/null || fail "Python 3 was not found. Run scripts/bootstrap.sh, or set PYTHON."
  if "$python" -m pip --version >/dev/null 2>&1; then echo "$python"; return; fi
  if ! "$env/bin/python" -m pip --version >/dev/null 2>&1; then
    rm -rf "$env"
    "$python" -m venv "$env" >/dev/null 2>&1 ||
      fail "neither pip nor venv of $python works. Debian: apt-get install python3-pip python3-venv"
  fi
  echo "$env/bin/python"
}
