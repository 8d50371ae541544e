"""Tests every code block of README.md and docs/. A block that no rule below tests is a failure.

  snippets.py extract TOP OUT        writes the ```cpp blocks, whole programs, as OUT/NAME.cpp and prints the names
  snippets.py run TOP PROGRAM OUT    runs the ```sh blocks and the recipes (```toml) of each page, in its order, for a few steps
  snippets.py self-check             checks that the rules can fail

What a block may be, by its info string:
  cpp      a whole program; compiled, and run in a folder of its own, where it must end with 0
  toml     a recipe; trained for three steps. With <!-- file: NAME --> above, it is written as NAME first, for commands below
  sh       lines that begin with lmxlab or build/release/lmxlab, perhaps after NAME=value: run, with small settings. make TARGET: dry run
  cmake    must stand word for word in tests/install/consumer/CMakeLists.txt, which a test builds
  json     must parse. With <!-- file: NAME --> above, it is written as NAME, for commands below
  jinja    a chat template; written as the NAME above it, for commands below
  text     what a program printed, or a picture of a folder: not code
"""

import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile

SETTINGS = ["run.eval_every=0", "run.eval_batches=1", "run.checkpoint_every=0", "run.sample_every=0",
            "data.validation=0.005"]
KNOWN = ("cpp", "toml", "sh", "cmake", "json", "jinja", "text")


def pages(top):
    # docs/cli.md is tested by tests/cli.
    found = [top / "README.md", *sorted((top / "docs").rglob("*.md"))]
    return [p for p in found if p.name != "cli.md"]


def blocks(path):
    """(language, name of the file or None, line number, text) of each block."""
    out, inside, name, last = [], None, None, ""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line.lstrip().startswith("```"):
            if inside is None:
                file = re.fullmatch(r"<!-- file: (\S+) -->", last.strip())
                inside = (line.strip()[3:].strip(), file and file.group(1), number, [])
            else:
                out.append((*inside[:3], "\n".join(inside[3]) + "\n"))
                inside = None
        elif inside is not None:
            inside[3].append(line)
        if line.strip() and inside is None:
            last = line
    if inside is not None:
        raise SystemExit(f"{path}:{inside[2]}: the block has no end")
    return out


def problems(top):
    for page in pages(top):
        for language, name, number, text in blocks(page):
            where = f"{page.relative_to(top)}:{number}"
            if language == "jinja" and not name:
                yield f"{where}: a jinja block needs <!-- file: NAME --> above"
            elif language not in KNOWN:
                yield f"{where}: no test for a block of {language or 'no language'}; known: {', '.join(KNOWN)}"
            elif language == "cpp" and "int main(" not in text:
                yield f"{where}: a cpp block must be a whole program"
            elif language == "json":
                try:
                    json.loads(text)
                except ValueError as error:
                    yield f"{where}: {error}"
            elif language == "cmake":
                consumer = (top / "tests/install/consumer/CMakeLists.txt").read_text()
                if text.strip() not in consumer:
                    yield f"{where}: these lines are not in tests/install/consumer/CMakeLists.txt"
            elif language == "sh":
                for line in commands(text):
                    if not re.match(r"(\w+=\S+ )*(make|lmxlab|build/release/lmxlab)\b", line):
                        yield f"{where}: no test for the command `{line}`"


def commands(text):
    joined = text.replace("\\\n", " ")
    return [line.split(" #")[0].strip() for line in joined.splitlines() if line.split("#")[0].strip()]


def programs(top):
    for page in pages(top):
        stem = "readme" if page.name == "README.md" else page.stem.replace("-", "_")
        n = 0
        for language, _, _, text in blocks(page):
            if language == "cpp":
                n += 1
                yield f"{stem}_{n}", text


def extract(top, out):
    out.mkdir(parents=True, exist_ok=True)
    names = []
    for name, text in programs(top):
        path = out / f"{name}.cpp"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
        names.append(name)
    print(";".join(names))


def small(arguments):
    """The same command with small settings."""
    arguments = [re.sub(r"^(run\.steps=)\d+$", r"\g<1>3", a) for a in arguments]
    for i, word in enumerate(arguments[:-1]):
        if word == "--steps":
            arguments[i + 1] = "3"
        if word == "--max-tokens":
            arguments[i + 1] = "4"
        if word in ("--repeat", "--batch"):
            arguments[i + 1] = "1"
    if arguments[0] == "train" and "--resume" not in arguments:
        for setting in SETTINGS:
            if not any(a.startswith(setting.split("=")[0] + "=") for a in arguments):
                arguments += ["--set", setting]
        if "--steps" not in arguments and not any(a.startswith("run.steps=") for a in arguments):
            arguments += ["--set", "run.steps=3"]
    if arguments[0] == "generate" and "--max-tokens" not in arguments:
        arguments += ["--max-tokens", "4"]
    return arguments


def run_page(top, program, page, folder):
    failures = []
    for place in ("recipes", "README.md"):
        (folder / place).symlink_to(top / place)
    environment = {**os.environ, "NO_COLOR": "1"}

    def call(where, shown, command, **more):
        result = subprocess.run(command, cwd=folder, **{"env": environment, **more}, stdin=subprocess.DEVNULL, capture_output=True,
                                text=True, timeout=300)
        print(f"{where}: {shown}: {'ok' if result.returncode == 0 else f'exit code {result.returncode}'}", flush=True)
        if result.returncode != 0:
            failures.append(f"{where}: {shown}\n{(result.stdout + result.stderr)[-1500:]}")

    # What a page may speak of as trained already.
    call(page.name, "the default run", [program, *small(["train"])])
    for language, name, number, text in blocks(page):
        where = f"{page.relative_to(top)}:{number}"
        if language == "toml":
            path = folder / (name or f"block-{number}.toml")
            path.write_text(text)
            call(where, path.name, [program, *small(["train", path.name, "--out", f"runs/block-{number}"])])
        elif language in ("json", "jinja") and name:
            (folder / name).write_text(text)
        elif language == "sh":
            for line in commands(text):
                words = shlex.split(line)
                variables = dict(environment)
                while re.match(r"\w+=", words[0]):
                    variables.update([words.pop(0).split("=", 1)])
                if words[0] == "make":
                    call(where, line, ["make", "-n", "-C", str(top), *words[1:]])
                else:
                    call(where, line, [program, *small(words[1:])], env=variables)
    return failures


def run(top, program, out):
    failures = list(problems(top))
    for page in pages(top):
        if not any(b[0] in ("sh", "toml") for b in blocks(page)):
            continue
        folder = out / ("README" if page.name == "README.md" else page.stem)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        failures += run_page(top, program, page, folder)
    for failure in failures:
        print("FAILED", failure)
    return 1 if failures else 0


def self_check():
    with tempfile.TemporaryDirectory() as name:
        top = pathlib.Path(name)
        (top / "docs").mkdir()
        (top / "tests/install/consumer").mkdir(parents=True)
        (top / "tests/install/consumer/CMakeLists.txt").write_text("find_package(lmxlab)\n")
        (top / "README.md").write_text("```\nx\n```\n```python\n1\n```\n```cpp\nf();\n```\n```text\nfree\n```\n")
        (top / "docs/a.md").write_text(
            "```json\n{\n```\n```cmake\nfind_package(other)\n```\n```sh\nlmxlab list\ncurl x\n```\n"
            "```cmake\nfind_package(lmxlab)\n```\n```cpp\nint main() {}\n```\n")
        found = sorted(p.split(": ")[0] for p in problems(top))
        expected = ["README.md:1", "README.md:4", "README.md:7", "docs/a.md:1", "docs/a.md:4", "docs/a.md:7"]
        assert found == expected, found
        assert [n for n, _ in programs(top)] == ["readme_1", "a_1"]
        # A command that fails makes the page fail.
        (top / "recipes").mkdir()
        (top / "work").mkdir()
        assert len(run_page(top, "false", top / "docs/a.md", top / "work")) == 3
    print("the rules can fail")


if __name__ == "__main__":
    if sys.argv[1] == "extract":
        extract(pathlib.Path(sys.argv[2]).resolve(), pathlib.Path(sys.argv[3]))
    elif sys.argv[1] == "run":
        sys.exit(run(pathlib.Path(sys.argv[2]).resolve(), sys.argv[3], pathlib.Path(sys.argv[4]).resolve()))
    else:
        self_check()
