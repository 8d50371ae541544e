#!/usr/bin/env bash
# Removes the build trees and logs; the unpacked wheels of MLX stay, for they cost a download.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

cd "$top"
for folder in release dev ci asan tsan fuzz mac-cross cuda-check link-only pip-env logs; do rm -rf "build/$folder"; done
