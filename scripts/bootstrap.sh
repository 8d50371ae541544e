#!/usr/bin/env bash
# Installs what a build needs and the machine lacks, by the system's own package manager. Quick when nothing is missing.
#   scripts/bootstrap.sh [--check] [arm64] [fuzz]     --check: say what is missing, install nothing; arm64, fuzz: also what the
#   script of that name needs
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

check= arm64= fuzz=
for word in "$@"; do
  case "$word" in
    --check) check=1 ;;
    arm64) arm64=1 ;;
    fuzz) fuzz=1 ;;
    *) printf 'error: unknown argument %s: expected --check, arm64 or fuzz.\n' "$word" >&2; exit 2 ;;
  esac
done

missing=()
need() { missing+=("$1"); }
has() { command -v "$1" >/dev/null 2>&1; }
# at_least HAVE WANT: versions of the form 3.25 or 12.
at_least() {
  local have=${1%%[!0-9.]*} want=$2
  [ "${have%%.*}" -gt "${want%%.*}" ] 2>/dev/null && return 0
  [ "${have%%.*}" -eq "${want%%.*}" ] 2>/dev/null || return 1
  case "$have$want" in *.*) ;; *) return 0 ;; esac
  local h=${have#*.} w=${want#*.}
  [ "${h%%.*}" -ge "${w%%.*}" ] 2>/dev/null
}
header() { # header FILE: is it where a compiler looks?
  local folder
  for folder in /usr/include /usr/local/include "/usr/include/${triple:-none}" "${brew_prefix:-/nowhere}/include"; do
    [ -e "$folder/$1" ] && return 0
  done
  return 1
}

look_on_debian() {
  triple=$(gcc -print-multiarch 2>/dev/null || true)
  [ -n "$triple" ] || triple="$(uname -m)-linux-gnu"
  local version
  version=$("${CXX:-g++}" -dumpversion 2>/dev/null || true)
  if [ -z "$version" ]; then
    need g++
  elif "${CXX:-g++}" --version 2>/dev/null | grep -qi clang; then
    at_least "$version" 14 || old+=("clang $version, 14 or newer is needed")
  else
    at_least "$version" 12 || old+=("g++ $version, 12 or newer is needed: set CXX to it")
  fi
  version=$(cmake --version 2>/dev/null | head -1 || true)
  if [ -z "$version" ]; then need cmake
  elif ! at_least "${version##* }" 3.25; then old+=("cmake ${version##* }, 3.25 or newer is needed"); fi
  has ninja || need ninja-build
  has python3 || need python3
  # ensurepip is what python3-venv brings; pip alone also serves for MLX, but the peers want an environment.
  if ! has python3 || ! python3 -c 'import ensurepip' 2>/dev/null; then need python3-venv; fi
  header nlohmann/json.hpp || need nlohmann-json3-dev
  header toml++/toml.h || need libtomlplusplus-dev
  header CLI/CLI.hpp || need libcli11-dev
  header pcre2.h || need libpcre2-dev
  header utf8proc.h || need libutf8proc-dev
  header editline/readline.h || need libedit-dev
  header curl/curl.h || need libcurl4-openssl-dev
  header openssl/evp.h || need libssl-dev
  header hwy/highway.h || need libhwy-dev
  header gtest/gtest.h || need libgtest-dev
  header gmock/gmock.h || need libgmock-dev
  if [ -n "$arm64" ]; then
    has aarch64-linux-gnu-g++ || need g++-aarch64-linux-gnu
    has qemu-aarch64 || need qemu-user
    [ -e /usr/src/googletest/CMakeLists.txt ] || need googletest
  fi
  if [ -n "$fuzz" ]; then
    has clang++ || need clang
    version=$(clang++ -dumpversion 2>/dev/null || apt-cache show clang 2>/dev/null | sed -n 's/^Version: 1:\([0-9]*\).*/\1/p' | head -1) || true
    version=${version:-14}
    [ -e "$(clang++ -print-file-name="libclang_rt.fuzzer-$(uname -m).a" 2>/dev/null || echo none)" ] ||
      need "libclang-rt-${version%%.*}-dev"
  fi
}

look_on_mac() {
  brew_prefix=${HOMEBREW_PREFIX:-/opt/homebrew}
  has c++ || old+=("no compiler: type xcode-select --install")
  has cmake || need cmake
  has ninja || need ninja
  has python3 || need python3
  header nlohmann/json.hpp || need nlohmann-json
  header toml++/toml.h || need tomlplusplus
  header CLI/CLI.hpp || need cli11
  header pcre2.h || need pcre2
  header utf8proc.h || need utf8proc
  header hwy/highway.h || need highway
  header gtest/gtest.h || need googletest
}

old=()
case "$(uname -s)" in
  Darwin) look_on_mac ;;
  *) look_on_debian ;;
esac
if [ ${#old[@]} != 0 ]; then
  printf 'error: too old or absent: %s\n' "${old[@]}" >&2
  exit 7
fi
[ ${#missing[@]} != 0 ] || exit 0

if [ "$(uname -s)" = Darwin ]; then
  command_line="brew install ${missing[*]}"
  [ -z "$check" ] && has brew || fail "missing: ${missing[*]}. Type: $command_line"
  say "installing with Homebrew: ${missing[*]}"
  quietly bootstrap brew install "${missing[@]}" || exit 7
  exit 0
fi

# Nice to have, and only taken along when something is installed anyway: a compiler cache and a quicker linker.
optional=()
has ccache || optional+=(ccache)
has mold || optional+=(mold)
sudo=()
[ "$(id -u)" = 0 ] || sudo=(sudo)
command_line="${sudo[*]:+${sudo[*]} }apt-get install ${missing[*]}"
[ -z "$check" ] || fail "missing: ${missing[*]}. Type: $command_line"
has apt-get || fail "missing: ${missing[*]} (names of Debian's packages), and there is no apt-get here." \
  "Install them with your package manager, then run this again."
if [ ${#sudo[@]} != 0 ]; then
  has sudo || fail "missing: ${missing[*]}. You are not root and there is no sudo. As root, type: apt-get install ${missing[*]}"
  # Without a password, or by asking for it on a terminal; never by waiting for one that nobody can type.
  if ! sudo -n true 2>/dev/null; then
    [ -t 0 ] && sudo -v || fail "missing: ${missing[*]}. sudo wants a password that cannot be asked for here. Type: $command_line"
  fi
fi
apt() { "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=120 "$@" </dev/null; }
say "installing: ${missing[*]}${optional[*]:+ (and ${optional[*]})}"
# The lists may be absent (a fresh container) or stale (a package moved on): then they are fetched, once.
if ! apt install --no-install-recommends -s "${missing[@]}" >/dev/null 2>&1; then
  quietly bootstrap-update apt update || fail "apt-get update failed. When it works again, type: $command_line"
  updated=1
fi
if ! quietly bootstrap apt install --no-install-recommends "${missing[@]}" 2>/dev/null; then
  if [ -z "${updated:-}" ]; then quietly bootstrap-update apt update || true; fi
  quietly bootstrap apt install --no-install-recommends "${missing[@]}" || fail "could not install: ${missing[*]}. Type: $command_line"
fi
if [ ${#optional[@]} != 0 ]; then
  apt install --no-install-recommends "${optional[@]}" >/dev/null 2>&1 || true
fi
