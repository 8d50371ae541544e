"""The cache of huggingface_hub and ours are one: each finds what the other fetched, from a server here that plays the hub.

LMXLAB_PROGRAM names the program.
"""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import scan_cache_dir, snapshot_download, try_to_load_from_cache

PROGRAM = os.environ["LMXLAB_PROGRAM"]
REPOSITORY, COMMIT = "org/name", "c" * 40
FIXTURE = Path(__file__).resolve().parents[1] / "fixtures/models/llama_gqa"
WORDS = {"version": "1.0", "added_tokens": [], "normalizer": None, "pre_tokenizer": {"type": "Whitespace"}, "decoder": None,
         "post_processor": None, "truncation": None, "padding": None,
         "model": {"type": "WordLevel", "vocab": {"to": 0, "be": 1}, "unk_token": "to"}}
FILES = {"config.json": (FIXTURE / "config.json").read_bytes(), "tokenizer.json": json.dumps(WORDS).encode(),
         "model.safetensors": (FIXTURE / "model.safetensors").read_bytes(), "pytorch_model.bin": b"pickled"}


def etag(name):
    content = FILES[name]
    if name.endswith((".safetensors", ".bin")):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def sibling(name):
    out = {"rfilename": name, "size": len(FILES[name]), "blobId": hashlib.sha1(FILES[name]).hexdigest()}
    if len(etag(name)) == 64:
        out["lfs"] = {"sha256": etag(name), "size": len(FILES[name]), "pointerSize": 130}
    else:
        out["blobId"] = etag(name)
    return out


class Hub(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, content, headers=(), status=200):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        resolve = [f"/{REPOSITORY}/resolve/{r}/" for r in ("main", COMMIT)]
        if path in [f"/api/models/{REPOSITORY}", *(f"/api/models/{REPOSITORY}/revision/{r}" for r in ("main", COMMIT))]:
            return self.answer(json.dumps({"id": REPOSITORY, "sha": COMMIT, "siblings": [sibling(n) for n in FILES]}).encode())
        if path.startswith(f"/api/models/{REPOSITORY}/tree/"):
            tree = [{"type": "file", "path": n, "size": len(FILES[n]), "oid": sibling(n)["blobId"]}
                    | ({"lfs": {"oid": etag(n), "size": len(FILES[n]), "pointerSize": 130}} if len(etag(n)) == 64 else {})
                    for n in FILES]
            return self.answer(json.dumps(tree).encode())
        for prefix in resolve:
            if path.startswith(prefix) and path[len(prefix):] in FILES:
                name = path[len(prefix):]
                return self.answer(FILES[name], [("ETag", f'"{etag(name)}"'), ("X-Repo-Commit", COMMIT)])
        return self.answer(b"", [("X-Error-Code", "EntryNotFound"), ("X-Repo-Commit", COMMIT)], 404)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def endpoint():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def environment(home, endpoint, offline):
    out = {n: v for n, v in os.environ.items() if not n.startswith(("HF_", "TRANSFORMERS_OFFLINE"))}
    return out | {"HF_HOME": str(home), "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": str(int(offline)), "no_proxy": "127.0.0.1",
                  "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


def ours(home, endpoint, *arguments, offline=False):
    done = subprocess.run([PROGRAM, *arguments, "--json"], env=environment(home, endpoint, offline), capture_output=True, text=True,
                          timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def theirs(home, endpoint, code):
    done = subprocess.run([sys.executable, "-c", "from huggingface_hub import *\n" + code], env=environment(home, endpoint, False),
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_what_we_fetched_is_found_by_huggingface_hub(tmp_path, endpoint):
    pulled = ours(tmp_path, endpoint, "pull", REPOSITORY)
    cache = tmp_path / "hub"
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        path = try_to_load_from_cache(REPOSITORY, name, cache_dir=cache)
        assert Path(path).read_bytes() == FILES[name]
        assert Path(path).parent == Path(pulled["path"])
    assert try_to_load_from_cache(REPOSITORY, "pytorch_model.bin", cache_dir=cache) is None
    assert snapshot_download(REPOSITORY, cache_dir=cache, local_files_only=True) == pulled["path"]
    seen = scan_cache_dir(cache)
    assert not seen.warnings
    (repository,) = seen.repos
    (revision,) = repository.revisions
    assert (repository.repo_id, revision.commit_hash, revision.refs) == (REPOSITORY, COMMIT, {"main"})
    assert repository.nb_files == pulled["files"] and repository.size_on_disk == pulled["bytes"]
    # And it fetches no more than what is missing.
    theirs(tmp_path, endpoint, f"print(snapshot_download({REPOSITORY!r}))")
    blobs = {p.name for p in (cache / "models--org--name/blobs").iterdir()}
    assert blobs == {etag(n) for n in FILES}


@pytest.mark.parametrize("code", ["snapshot_download('org/name', ignore_patterns='*.bin')",
                                  "[hf_hub_download('org/name', f) for f in ('config.json', 'tokenizer.json', 'model.safetensors')]"])
def test_what_huggingface_hub_fetched_is_found_by_us(tmp_path, endpoint, code):
    theirs(tmp_path, endpoint, code)
    assert ours(tmp_path, endpoint, "tokenize", REPOSITORY, "--text", "to be", offline=True)["ids"] == [0, 1]
    assert ours(tmp_path, endpoint, "generate", REPOSITORY, "--tokens", "1,2", "--max-tokens", "2", offline=True)["generated_tokens"] == 2
    pulled = ours(tmp_path, endpoint, "pull", REPOSITORY, offline=True)
    assert Path(pulled["path"]) == tmp_path / "hub/models--org--name/snapshots" / COMMIT
    assert ours(tmp_path, endpoint, "pull", REPOSITORY)["bytes"] == sum(len(FILES[n]) for n in FILES if n != "pytorch_model.bin")
