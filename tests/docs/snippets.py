"""Tests every code block of README.md and docs/. A block that no rule below tests is a failure.

  snippets.py extract TOP OUT        writes the ```cpp blocks, whole programs, as OUT/NAME.cpp and prints the names
  snippets.py run TOP PROGRAM OUT    runs the ```sh blocks and the recipes (```toml) of each page, in its order, for a few steps,
                                     and compares what a page quotes with what it quotes (below)
  snippets.py quoted TOP             prints the targets of the programs whose output a page quotes
  snippets.py quote TOP PROGRAM OUT  writes what the pages quote anew, and the commands of docs/cli.md
  snippets.py self-check             checks that the rules can fail

What a block may be, by its info string:
  cpp      a whole program; compiled, and run in a folder of its own, where it must end with 0
  toml     a recipe; trained for three steps. With <!-- file: NAME --> above, it is written as NAME first, for commands below
  sh       lines that begin with lmxlab or build/release/lmxlab, perhaps after NAME=value: run, with small settings. make TARGET: dry run
  cmake    must stand word for word in tests/install/consumer/CMakeLists.txt, which a test builds
  json     must parse (of NAME.jsonl each line). With <!-- file: NAME --> above, it is written as NAME, for commands below
  jinja    a chat template; written as the NAME above it, for commands below
  python   a quoted file
  text     what a program printed, or a picture of a folder: not code

What a block quotes, by the comment above it:
  <!-- source: FILE -->               a file of the tree, word for word; of any language
  <!-- output: lmxlab WORDS -->       what this command prints
  <!-- output: the program above -->  what the cpp block above it prints. Bytes and nodes are those of Linux's CPU build: compared
                                      (and written) where the environment has LMXLAB_DOCS_OUTPUT=1
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
KNOWN = ("cpp", "toml", "sh", "cmake", "json", "jinja", "python", "text")
ABOVE = "the program above"


def pages(top):
    # docs/cli.md is tested by tests/cli.
    found = [top / "README.md", *sorted((top / "docs").rglob("*.md"))]
    return [p for p in found if p.name != "cli.md"]


def blocks(path):
    """(language, name of the file or None, line number, text) of each block."""
    return [(language, note[1] if note[0] == "file" else None, number, text)
            for language, note, number, text in noted_blocks(path)]


def noted_blocks(path):
    """The same with the note above, ("file", NAME), ("source", NAME), ("output", COMMAND) or ("", ""), in the name's place."""
    out, inside, last = [], None, ""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line.lstrip().startswith("```"):
            if inside is None:
                note = re.fullmatch(r"<!-- (file|source|output): (.+) -->", last.strip())
                inside = (line.strip()[3:].strip(), note.groups() if note else ("", ""), number, [])
            else:
                out.append((*inside[:3], "".join(f"{line}\n" for line in inside[3])))
                inside = None
        elif inside is not None:
            inside[3].append(line)
        if line.strip() and inside is None:
            last = line
    if inside is not None:
        raise SystemExit(f"{path}:{inside[2]}: the block has no end")
    return out


def quotes(top, page, program=None, out=None):
    """(line number, what it quotes, the text that stands there, the text that should) of each block that quotes. Without a
    program the sources alone."""
    above, n = None, 0
    for language, (kind, what), number, text in noted_blocks(page):
        if language == "cpp":
            n += 1
            above = f"snippet_{stem(page)}_{n}"
        if kind == "source":
            path = top / what
            yield number, what, text, path.read_text() if path.is_file() else None
        elif kind == "output" and program:
            if what == ABOVE:
                if os.environ.get("LMXLAB_DOCS_OUTPUT") != "1":
                    continue
                command = [str(out.resolve() / str(above))]
            else:
                command = [program, *shlex.split(what)[1:]]
            try:
                done = subprocess.run(command, env={**os.environ, "NO_COLOR": "1"}, stdin=subprocess.DEVNULL,
                                      capture_output=True, text=True, timeout=300)
                yield number, what, text, done.stdout if done.returncode == 0 else None
            except OSError:
                yield number, what, text, None


def quoted(top):
    for page in pages(top):
        n = 0
        for language, note, _, _ in noted_blocks(page):
            n += language == "cpp"
            if note == ("output", ABOVE):
                yield f"snippet_{stem(page)}_{n}"


def quote(top, program, out):
    """Writes what the pages quote anew."""
    page = top / "docs/cli.md"
    if page.exists():
        said = subprocess.run([program, "--help-markdown"], check=True, capture_output=True, text=True).stdout
        page.write_text(page.read_text().split("## lmxlab train")[0] + said.strip() + "\n")
    for page in pages(top):
        lines = page.read_text().splitlines(keepends=True)
        for number, what, old, new in reversed(list(quotes(top, page, program, out))):
            if new is None:
                raise SystemExit(f"{page}:{number}: {what} cannot be had")
            if new != old:
                lines[number:number + old.count("\n")] = [new]
                print(f"{page.relative_to(top)}:{number}: {what}", flush=True)
        page.write_text("".join(lines))


def problems(top):
    for page in pages(top):
        for number, what, old, new in quotes(top, page):
            if new != old:
                yield f"{page.relative_to(top)}:{number}: this is not {what}; scripts/docs_tables.sh writes it anew"
        for language, (kind, what), number, text in noted_blocks(page):
            if language == "python" and kind != "source":
                yield f"{page.relative_to(top)}:{number}: a python block needs <!-- source: FILE --> above"
            if kind == "output" and language == "text" and what != ABOVE and not what.startswith("lmxlab "):
                yield f"{page.relative_to(top)}:{number}: no test for the output of `{what}`"
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
                    for part in text.splitlines() if (name or "").endswith(".jsonl") else [text]:
                        json.loads(part)
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


def stem(page):
    return "readme" if page.name == "README.md" else page.stem.replace("-", "_")


def programs(top):
    for page in pages(top):
        n = 0
        for language, _, _, text in blocks(page):
            if language == "cpp":
                n += 1
                yield f"{stem(page)}_{n}", text


def extract(top, out):
    out.mkdir(parents=True, exist_ok=True)
    names = []
    for name, text in programs(top):
        path = out / f"{name}.cpp"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
        names.append(name)
    print(";".join(names))


def small(arguments, folder=pathlib.Path()):
    """The same command with small settings."""
    # Where a sweep's budget gives the steps, it is made small in their place.
    recipes = [folder / a for a in arguments if a.endswith(".toml")]
    budget = any(r.is_file() and re.search(r"^budget *=", r.read_text(), re.M) for r in recipes)
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
        if budget:
            arguments += ["--set", 'sweep.budget={"tokens": 1200}']
        elif "--steps" not in arguments and not any(a.startswith("run.steps=") for a in arguments):
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
            call(where, path.name, [program, *small(["train", path.name, "--out", f"runs/block-{number}"], folder)])
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
                    call(where, line, [program, *small(words[1:], folder)], env=variables)
    return failures


def run(top, program, out):
    failures = list(problems(top))
    for page in pages(top):
        for number, what, old, new in quotes(top, page, program, out):
            where = f"{page.relative_to(top)}:{number}: what {what} gives"
            print(f"{where}: {'ok' if new == old else 'differs'}", flush=True)
            if new != old:
                failures.append(f"{where}; scripts/docs_tables.sh writes it anew\n{new}")
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
        (top / "docs/b.md").write_text(
            "<!-- source: f.py -->\n```python\n1\n```\n<!-- source: f.py -->\n```python\n2\n```\n"
            "<!-- source: none.py -->\n```python\n1\n```\n<!-- output: ls -->\n```text\n```\n")
        (top / "f.py").write_text("1\n")
        expected = ["README.md:1", "README.md:4", "README.md:7", "docs/a.md:1", "docs/a.md:4", "docs/a.md:7"]
        expected += ["docs/b.md:6", "docs/b.md:10", "docs/b.md:14"]
        found = [p.split(": ")[0] for p in problems(top)]
        assert sorted(found) == sorted(expected), found
        (top / "docs/b.md").write_text("a\n<!-- output: lmxlab x  -->\n```text\nold\nold\n```\nb\n")
        quote(top, "echo", top)
        assert (top / "docs/b.md").read_text() == "a\n<!-- output: lmxlab x  -->\n```text\nx\n```\nb\n"
        assert [n for n, _ in programs(top)] == ["readme_1", "a_1"]
        # A command that fails makes the page fail.
        (top / "recipes").mkdir()
        (top / "work").mkdir()
        assert len(run_page(top, "false", top / "docs/a.md", top / "work")) == 3
    print("the rules can fail")


if __name__ == "__main__":
    if sys.argv[1] == "extract":
        extract(pathlib.Path(sys.argv[2]).resolve(), pathlib.Path(sys.argv[3]))
    elif sys.argv[1] == "quoted":
        print(*quoted(pathlib.Path(sys.argv[2]).resolve()))
    elif sys.argv[1] == "quote":
        quote(pathlib.Path(sys.argv[2]).resolve(), sys.argv[3], pathlib.Path(sys.argv[4]))
    elif sys.argv[1] == "run":
        sys.exit(run(pathlib.Path(sys.argv[2]).resolve(), sys.argv[3], pathlib.Path(sys.argv[4]).resolve()))
    else:
        self_check()
