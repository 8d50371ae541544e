# What the scripts beside this one share: the program, a folder for what they make, numbers out of JSON.
set -eu
lmxlab=${LMXLAB:-lmxlab}
here=$(cd "$(dirname "$0")" && pwd)
out=${OUT:-runs/$(basename "$0" .sh)}
mkdir -p "$out"

# The first number under a key of the JSON on standard input.
number() { grep -o "\"$1\":[^],}]*" | head -n 1 | cut -d: -f2; }
calc() { awk "BEGIN { printf \"%.6g\n\", $1 }"; }
# Trains on characters of Tiny Shakespeare unless told otherwise; the result is JSON.
train() { "$lmxlab" train --quiet --json --set run.checkpoint_every=0 --set run.eval_every=0 "$@"; }
# Tiny Shakespeare in two files: the first nine tenths to learn from, and what is held out.
split_shakespeare() {
  head -c 1003854 "$here/../lmxlab/data/tinyshakespeare.txt" >"$out/learn.txt"
  tail -c +1003855 "$here/../lmxlab/data/tinyshakespeare.txt" >"$out/held-out.txt"
}
# Bytes of Tiny Shakespeare for a base, and of this project's pages for what is learned later.
train_base() {
  cat "$here"/../docs/[a-k]*.md >"$out/pages.txt"
  train --set data.tokenizer=byte --set model.preset=llama-tiny --set model.dim=128 --set model.depth=2 --set run.steps="${STEPS:-500}" \
    --out "$out/base" >"$out/base.json"
}
# `of N KEY`: the last number under a key of the n-th group that compare gave.
of() { awk '{ gsub(/[{]"name":/, "\n&"); print }' "$out/compared.json" | grep '^{"name":' | sed -n "$1p" | sed "s/.*\"$2\"://; s/[],}].*//"; }
