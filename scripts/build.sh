#!/usr/bin/env bash
# Installs what is missing, unpacks MLX, configures and builds.
#   PRESET=release scripts/build.sh [TARGET...]     (everything, if no target is named)
# LMXLAB_CONFIGURE: more options for cmake, such as "-DLMXLAB_WERROR=ON".
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

preset=${PRESET:-release}
cd "$top"
"$top/scripts/bootstrap.sh"
mlx=$("$top/scripts/mlx.sh")
flavour=${mlx##*/mlx-*.*.*-}
options=("-DLMXLAB_MLX=${flavour%%-*}" "-DMLX_ROOT=$mlx/mlx")
read -ra more <<<"${LMXLAB_CONFIGURE:-}"
if [ "$(uname -s)" = Darwin ]; then options+=("-DCMAKE_PREFIX_PATH=${HOMEBREW_PREFIX:-/opt/homebrew}"); fi

say "configure: preset $preset, MLX $(head -1 cmake/mlx-version.txt) ($flavour)"
quietly "configure-$preset" cmake --preset "$preset" "${options[@]}" "${more[@]+"${more[@]}"}"
say "build: ${*:-everything}, $(cores) at a time"
quiet=(--quiet)
if [ -t 1 ]; then quiet=(); fi
began=$SECONDS
ninja -C "build/$preset" "${quiet[@]+"${quiet[@]}"}" "$@" | { grep -v '^ninja: \(no work to do\|Entering directory\)' || true; } >&2
say "build: done in $((SECONDS - began)) s"
