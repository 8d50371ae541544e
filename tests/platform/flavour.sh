#!/usr/bin/env bash
# Which MLX is taken, by what the driver says and not by the toolkit.   flavour.sh SOURCE_FOLDER
set -euo pipefail
top=$1
[ "$(uname -s)" != Darwin ] || { [ "$("$top/scripts/mlx.sh" --which)" = metal ]; exit; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/bin"
export PATH="$work/bin:$PATH"
failures=0
smi() { # smi BODY: a driver's nvidia-smi
  printf '#!/bin/sh\n%s\n' "$1" >"$work/bin/nvidia-smi"
  chmod +x "$work/bin/nvidia-smi"
}
card='case "$1" in --list-gpus) echo "GPU 0: A card (UUID: GPU-0)";; *) echo "| NVIDIA-SMI 1.0  Driver Version: 1.0  %s |";; esac'
expect() { # expect FLAVOUR REQUEST WHAT
  local got
  got=$(LMXLAB_MLX=$2 "$top/scripts/mlx.sh" --which 2>"$work/err") || got="exit $?"
  if [ "$got" != "$1" ]; then
    echo "FAILED: $3, LMXLAB_MLX=$2: expected $1, got $got"
    cat "$work/err"
    failures=$((failures + 1))
  fi
}
smi "$(printf "$card" 'CUDA Version: 12.8')"; expect cuda-12 auto "driver for CUDA 12.8"; expect cuda-12 cuda "driver for CUDA 12.8"
smi "$(printf "$card" 'CUDA Version: 13.0')"; expect cuda-13 auto "driver for CUDA 13.0"; expect cpu cpu "driver for CUDA 13.0"
expect cuda-12 cuda-12 "driver for CUDA 13.0"
smi "$(printf "$card" 'CUDA UMD Version: 14.2')"; expect cuda-13 auto "driver for CUDA 14.2"
smi "$(printf "$card" 'CUDA Version: 11.4')"; expect cpu auto "driver for CUDA 11.4"; expect "exit 7" cuda "driver for CUDA 11.4"
smi 'echo "NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver." >&2; exit 9'
expect cpu auto "a driver that does not answer"; expect cuda-12 cuda "a driver that does not answer"
smi 'exit 0'; expect cpu auto "no card"
expect "exit 2" gpu "an unknown name"
[ "$failures" = 0 ]
