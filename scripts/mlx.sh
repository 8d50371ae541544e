#!/usr/bin/env bash
# Unpacks MLX's wheel under build/mlx-VERSION-FLAVOUR, never into the system's Python, and prints that folder.
#   scripts/mlx.sh [--which]     --which: only print the flavour that would be taken
# LMXLAB_MLX: auto, cpu, metal, cuda, cuda-12 or cuda-13. auto is Metal on a Mac, CUDA where a driver answers, else CPU.
# metal on another system than a Mac takes the wheel for macOS 14: enough to compile and link, not to run.
# LMXLAB_MLX_ARM64=1 takes the wheel for Linux on Arm, whatever this machine is, into build/arm64-tools.
# LMXLAB_MLX_LINK_ONLY=1 leaves out what the CUDA wheel is linked to (4 GB): enough to link, so it goes to build/link-only.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

version=$(head -1 "$top/cmake/mlx-version.txt")

# The CUDA version that the driver supports; the toolkit plays no part. Empty without a working driver.
driver_cuda() {
  command -v nvidia-smi >/dev/null 2>&1 || return 0
  nvidia-smi --list-gpus 2>/dev/null | grep -q . || return 0
  nvidia-smi 2>/dev/null | sed -n 's/.*CUDA[A-Za-z ]*Version: *\([0-9][0-9]*\)\..*/\1/p' | head -1
}

cuda_flavour() {
  local found
  found=$(driver_cuda)
  if [ -z "$found" ]; then
    [ "$1" = cuda ] && echo cuda-12 || echo cpu
  elif [ "$found" -ge 13 ]; then echo cuda-13
  elif [ "$found" -eq 12 ]; then echo cuda-12
  else
    [ "$1" != cuda ] || fail "the NVIDIA driver supports CUDA $found; MLX needs a driver for CUDA 12 or newer."
    say "mlx: the NVIDIA driver supports CUDA $found only, MLX needs 12: taking the CPU"
    echo cpu
  fi
}

flavour=${LMXLAB_MLX:-auto}
case "$flavour" in
  auto) if [ "$(uname -s)" = Darwin ]; then flavour=metal; else flavour=$(cuda_flavour auto); fi ;;
  cuda) flavour=$(cuda_flavour cuda) ;;
  cpu | metal | cuda-12 | cuda-13) ;;
  *) printf 'error: LMXLAB_MLX is "%s": expected auto, cpu, metal, cuda, cuda-12 or cuda-13.\n' "$flavour" >&2; exit 2 ;;
esac

if [ "${1:-}" = --which ]; then echo "$flavour"; exit 0; fi

folder="$top/build${LMXLAB_MLX_LINK_ONLY:+/link-only}"
[ -z "${LMXLAB_MLX_ARM64:-}" ] || folder="$top/build/arm64-tools"
place="$folder/mlx-$version-$flavour"
if [ ! -e "$place/mlx/include/mlx/version.h" ]; then
  python=$(pip_python)
  say "mlx: unpacking the wheel mlx-$flavour $version into ${place#"$top"/}"
  mkdir -p "$folder"
  new=$(mktemp -d "$folder/.mlx-new-XXXXXX")
  trap 'rm -rf "$new"' EXIT
  options=(--target "$new" --only-binary=:all: --no-compile --no-cache-dir --no-warn-script-location --progress-bar off)
  case "$flavour" in
    cuda-*) [ -z "${LMXLAB_MLX_LINK_ONLY:-}" ] || options+=(--no-deps) ;;
    metal) options+=(--no-deps); [ "$(uname -s)" = Darwin ] || options+=(--platform macosx_14_0_arm64) ;;
    *) options+=(--no-deps); [ -z "${LMXLAB_MLX_ARM64:-}" ] || options+=(--platform manylinux_2_35_aarch64) ;;
  esac
  quietly mlx "$python" -m pip install "${options[@]}" "mlx-$flavour==$version" ||
    fail "MLX's wheel could not be installed. It wants a network, Python's pip, and on Linux glibc 2.35 or newer" \
      "(Debian 12, Ubuntu 22.04). Once it is unpacked, no network is needed."
  [ -e "$new/mlx/include/mlx/version.h" ] || fail "the wheel mlx-$flavour $version holds no headers"
  chmod 755 "$new"
  # Someone else may have finished first: theirs is as good.
  "$python" -c 'import os, sys; os.rename(*sys.argv[1:])' "$new" "$place" 2>/dev/null || [ -d "$place/mlx" ]
fi
echo "$place"
