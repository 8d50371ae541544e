"""Checks the rules that keep the modules apart. usage: check.py SOURCE_FOLDER

1. `#include "lmxlab/MODULE/..."` and `<mlx/...>` only as cmake/layers.txt allows.
2. No header includes a third-party library other than MLX, and none of the public ones MLX's big header.
3. Nothing in the library prints, exits or reads the environment.
4. No device word in a public header outside lmxlab/kernels, in an example, or in a snippet of the README.
"""

import pathlib
import re
import sys

THIRD_PARTY = re.compile(r"(nlohmann|toml\+\+|CLI/|pcre2|utf8proc|gtest|gmock|cblas|openblas)")
DEVICE = re.compile(r"\b(Device|StreamOrDevice|default_device|set_default_device)\b|\.(to|cuda|cpu)\(|\bdevice\s*=(?!=)")
LIBRARY_NEVER = re.compile(r"\bstd::(cout|cerr|clog|exit|abort|getenv)\b|(?<![\w.>:])(getenv|exit|printf|puts)\s*\(")


def layers(path):
    table = {}
    for line in path.read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            name, below = line.split(":")
            table[name.strip()] = below.split()
    return table


def without_comments(text):
    """The text with comments and string literals blanked, line breaks kept."""
    pattern = r'//[^\n]*|/\*.*?\*/|R"(\w*)\(.*?\)\1"|"(?:\\.|[^"\\\n])*"'
    return re.sub(pattern, lambda m: re.sub(r"[^\n]", " ", m.group()), text, flags=re.S)


def check_includes(name, module, text, table):
    for number, line in enumerate(text.splitlines(), 1):
        found = re.match(r'\s*#\s*include\s+([<"])([^>"]+)[>"]', line)
        if not found:
            continue
        target = found.group(2)
        inner = re.match(r"lmxlab/(\w+)/", target)
        if inner:
            if inner.group(1) != module and inner.group(1) not in table[module]:
                yield f"{name}:{number}: {module} may not include {target}; cmake/layers.txt allows {table[module]}"
        elif target.startswith("mlx/"):
            if "mlx" not in table[module]:
                yield f"{name}:{number}: {module} may not include MLX ({target})"
        elif THIRD_PARTY.search(target) and name.endswith(".h") and module != "cli":
            yield f"{name}:{number}: a header includes a third-party library: {target}"


def check_words(name, text, pattern, what):
    for number, line in enumerate(without_comments(text).splitlines(), 1):
        found = pattern.search(line)
        if found and not line.lstrip().startswith("#"):
            yield f"{name}:{number}: {what}: `{found.group().strip()}` in `{line.strip()}`"


def snippets(text):
    """The code blocks of a Markdown file, everything else blanked."""
    inside, lines = False, []
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            inside = not inside
            line = ""
        lines.append(line if inside else "")
    return "\n".join(lines)


def check(top):
    table = layers(top / "cmake" / "layers.txt")
    seen = 0
    for path in sorted((top / "lmxlab").rglob("*")):
        if path.suffix not in (".h", ".cpp", ".cc"):
            continue
        seen += 1
        name = path.relative_to(top).as_posix()
        module = path.relative_to(top / "lmxlab").parts[0]
        text = path.read_text()
        if name == "lmxlab/lmxlab.h":  # the umbrella: it may include every public header, and nothing else
            for number, line in enumerate(text.splitlines(), 1):
                if re.match(r"\s*#\s*include\b", line) and not re.match(r'#include "lmxlab/(?!cli/)\w+/\w+\.h"$', line):
                    yield f"{name}:{number}: the umbrella header includes public headers only"
            continue
        if module not in table:
            yield f"{name}: module {module} is not in cmake/layers.txt"
            continue
        yield from check_includes(name, module, text, table)
        if path.suffix == ".h" and module not in ("kernels", "cli"):
            yield from check_words(name, text, DEVICE, "a device word in a public header")
        if module != "cli":
            yield from check_words(name, text, LIBRARY_NEVER, "the library must not print, exit or read the environment")
    for path in sorted([*(top / "examples").rglob("*.cpp"), *(top / "examples").rglob("*.h")]):
        yield from check_words(path.relative_to(top).as_posix(), path.read_text(), DEVICE, "a device word in an example")
    for path in [top / "README.md"]:
        if path.exists():
            yield from check_words(path.name, snippets(path.read_text()), DEVICE, "a device word in a snippet")
    if seen == 0:
        yield f"no source was found under {top / 'lmxlab'}"


def self_check(folder):
    """Every rule must be able to fail: a small tree with one fault of each kind."""
    faults = {
        "lmxlab/base/a.h": '#include "lmxlab/core/b.h"\n#include <mlx/array.h>\n#include <toml++/toml.h>\n',
        "lmxlab/core/b.h": "// Device in a comment\nvoid f(mx::StreamOrDevice s = {});\nvoid g() { x.to(1); }\n",
        "lmxlab/core/b.cpp": 'void f() { std::cout << 1; }\nvoid g() { puts("x"); }\nconst char* s = "exit(";\n',
        "lmxlab/kernels/k.h": "Device d;\n",
        "lmxlab/lmxlab.h": '#include "lmxlab/base/a.h"\n#include "lmxlab/cli/c.h"\n',
        "examples/e.cpp": "auto m = f(device = 1);\n",
        "README.md": "Device in prose\n```cpp\nmodel.cuda();\n```\n",
        "cmake/layers.txt": "base:\ncore: base mlx\nkernels: base mlx\n",
    }
    for name, text in faults.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    found = sorted(problem.split(": ")[0] for problem in check(folder))
    expected = sorted(["lmxlab/base/a.h:1", "lmxlab/base/a.h:2", "lmxlab/base/a.h:3", "lmxlab/core/b.h:2", "lmxlab/core/b.h:3",
                       "lmxlab/lmxlab.h:2", "lmxlab/core/b.cpp:1", "lmxlab/core/b.cpp:2", "examples/e.cpp:1", "README.md:3"])
    return [] if found == expected else [f"the check itself is wrong: expected {expected}, got {found}"]


def main():
    import tempfile
    with tempfile.TemporaryDirectory() as folder:
        problems = self_check(pathlib.Path(folder))
    problems += check(pathlib.Path(sys.argv[1]))
    for problem in problems:
        print(problem)
    print(f"{len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
