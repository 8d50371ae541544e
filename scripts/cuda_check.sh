#!/usr/bin/env bash
# Checks that the program configures, compiles and links with MLX's CUDA wheel on a machine without a card, without a driver and
# without the CUDA toolkit or nvcc. Nothing runs. CUDA=12 or 13. The library is the release build's if MLX's headers are the
# same in both wheels, as they have been: compiling them again would show nothing.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

cd "$top"
"$top/scripts/bootstrap.sh"
mlx=$(LMXLAB_MLX_LINK_ONLY=1 LMXLAB_MLX="cuda-${CUDA:-12}" "$top/scripts/mlx.sh")
# Stand-ins for the folders of the wheels left out: the run path has to name them.
mkdir -p "$mlx/nvidia/cudnn/lib" "$mlx/nvidia/cublas/lib"

# A toolkit that happens to be installed is hidden, and below it is looked for in all that was generated.
unset CUDA_HOME CUDA_PATH CUDAToolkit_ROOT CUDACXX
PATH=$(tr : '\n' <<<"$PATH" | grep -v -i cuda | paste -sd:)
export PATH
tree="$top/build/cuda-check"
say "cuda: configure (preset cuda-check, wheel mlx-cuda-${CUDA:-12})"
quietly configure-cuda cmake --fresh --preset cuda-check -DMLX_ROOT="$mlx/mlx" \
  -DCMAKE_IGNORE_PREFIX_PATH="/usr/local/cuda;/opt/cuda"
say "cuda: compile and link"
began=$SECONDS
library=
if diff -rq "$mlx/mlx/include/mlx" "$("$top/scripts/mlx.sh")/mlx/include/mlx" >/dev/null; then
  PRESET=release "$top/scripts/build.sh" lmxlab_program
  library="$top/build/release/liblmxlab.a"
fi
quietly configure-cuda cmake -B "$tree" -DLMXLAB_PREBUILT="$library"
targets=(lmxlab_program)
[ -f lmxlab/cli/main.cpp ] || targets=()
ninja -C "$tree" --quiet "${targets[@]+"${targets[@]}"}" >&2

if grep -n -i -E 'nvcc|cudatoolkit|/usr/local/cuda|-lcuda|libcudart|/opt/cuda' "$tree/build.ninja" | grep -v CMAKE_IGNORE >&2; then
  fail "the build names the CUDA toolkit"
fi
linked=0
for program in "$tree/lmxlab" "$tree"/examples/example_*; do
  [ -f "$program" ] || continue
  dynamic=$(readelf -d "$program")
  grep -q 'NEEDED.*libmlx.so' <<<"$dynamic" || fail "$program is not linked with libmlx.so"
  grep -q 'NEEDED.*libcuda' <<<"$dynamic" && fail "$program itself asks for a CUDA library"
  for folder in "$mlx/mlx/lib" "$mlx/nvidia/cudnn/lib" "$mlx/nvidia/cublas/lib"; do
    grep -E 'R(UN)?PATH' <<<"$dynamic" | grep -qF "$folder" || fail "the run path of $program lacks $folder"
  done
  linked=$((linked + 1))
done
[ "$linked" -gt 0 ] || fail "nothing was linked"
say "cuda: $linked programs linked without toolkit, nvcc or driver, in $((SECONDS - began)) s"
