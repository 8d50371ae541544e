"""Runs recipes and asserts what they claim: claims.toml beside this file has the claims and the short forms.

  check.py run TOP PROGRAM OUT [NAME...]    each in its short form, in a folder of its own below OUT
  check.py full TOP PROGRAM OUT [NAME...]   as it is written
  check.py rules TOP                        each recipe has claims, says them in its comment and stands in docs/recipes.md

A claim is `NAME < NUMBER` (or >, or =). Names are those that a script prints (`name number` a line), of a run the keys of
`train --json`. Of a sweep the claim begins with a group, `GROUP METRIC.STATISTIC < NUMBER`: metrics are those of compare;
statistics mean, sd, low and high, and of the difference to the first group difference, from, to, p and g.
"""

import json
import operator
import os
import pathlib
import re
import resource
import shutil
import subprocess
import sys
import time
import tomllib

HOLDS = {"<": operator.lt, ">": operator.gt, "=": operator.eq}
CLAIM = re.compile(r"((?:(\S+) )?(\S+)) ([<>=]) (\S+)")


def recipes(top):
    found = [*(top / "recipes").glob("*.toml"), *(top / "recipes").glob("*.sh")]
    return {path.stem: path for path in sorted(found) if path.name != "common.sh"}


def call(command, **more):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, **more)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def compared(program, folder, metric):
    """{"GROUP METRIC.STATISTIC": number} of a sweep."""
    out = {}
    for group in json.loads(call([program, "compare", folder, "--metric", metric, "--json"]))["groups"]:
        start = f"{group['name']} {metric}."
        out |= {start + key: group["metric"].get(key) for key in ("mean", "sd", "low", "high")}
        names = {"difference": "difference", "low": "from", "high": "to", "p": "p", "hedges_g": "g"}
        out |= {start + names[key]: value for key, value in group.get("against_reference", {}).items() if key in names}
    return out


def values(path, program, folder, settings, claims):
    """What a recipe gives, by the names of claims."""
    shutil.rmtree(folder, ignore_errors=True)
    if path.suffix == ".sh":
        environment = {**os.environ, "LMXLAB": program, "OUT": str(folder), **dict(s.split("=", 1) for s in settings)}
        printed = call(["sh", path], env=environment)
        return {name: float(value) for name, value in (line.split() for line in printed.splitlines())}
    words = [word for s in settings for word in ("--set", s)]
    result = json.loads(call([program, "train", path, *words, "--out", folder, "--json", "--quiet"]))
    if not (folder / "sweep.json").exists():
        return {key: value for key, value in result.items() if isinstance(value, (int, float))}
    metrics = {CLAIM.fullmatch(claim)[3].split(".")[0] for claim in claims}
    return {key: value for metric in sorted(metrics) for key, value in compared(program, folder, metric).items()}


def broken(claims, found):
    """The claims that do not hold of the values, and how."""
    for claim in claims:
        name, _, _, sign, number = CLAIM.fullmatch(claim).groups()
        value = found.get(name)
        if value is None:
            yield f"{claim}: there is no {name} among {', '.join(found)}"
        elif not HOLDS[sign](value, float(number)):
            yield f"{claim}: it is {value:.6g}"


def run(top, program, out, names, full):
    table, paths, failed = tables(top), recipes(top), []
    for name in names or paths:
        entry = table[name]
        claims = entry["must"] if full else entry["short_must"]
        began, used = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        settings = [] if full else [s.replace("TOP", str(top)) for s in entry["short"]]
        found = values(paths[name], program, out / name, settings, claims)
        wrong = list(broken(claims, found))
        used = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - used
        print(f"{name}: {'FAILED' if wrong else 'ok'}, {time.monotonic() - began:.0f} s, {used:.1f} s of processor time")
        for key, value in found.items():
            print(f"  {key} {value}")
        failed += [f"{name}: {w}" for w in wrong]
    for line in failed:
        print("FAILED", line)
    return 1 if failed else 0


def tables(top):
    return tomllib.loads((top / "tests/recipes/claims.toml").read_text())


def rules(top):
    table, paths, page = tables(top), recipes(top), (top / "docs/recipes.md").read_text()
    wrong = [f"{name}: in recipes/ or in claims.toml, not in both" for name in sorted(table.keys() ^ paths.keys())]
    for name in sorted(table.keys() & paths.keys()):
        text = paths[name].read_text()
        comment = " ".join(line.lstrip("# ") for line in text.splitlines()[:8] if line.startswith("#"))
        if not table[name]["must"] or not table[name]["short_must"]:
            wrong.append(f"{name}: no claim")
        wrong += [f"{name}: its comment does not say {word}" for word in ("Shows:", "Must reach:") if word not in comment]
        for claim in table[name]["must"] + table[name]["short_must"]:
            if not CLAIM.fullmatch(claim):
                wrong.append(f"{name}: {claim} is no claim")
        if f"[{name}](../recipes/{paths[name].name})" not in page:
            wrong.append(f"{name}: not in docs/recipes.md")
    # The rule of claims can fail.
    found = {"a": 1.0, "dim=2 val_loss.mean": 2.0}
    assert not list(broken(["a < 2", "a = 1", "dim=2 val_loss.mean > 1"], found))
    assert len(list(broken(["a > 1", "b < 1", "dim=2 val_loss.mean < 2"], found))) == 3
    print("\n".join(wrong) or "every recipe has claims")
    return 1 if wrong else 0


if __name__ == "__main__":
    top = pathlib.Path(sys.argv[2]).resolve()
    if sys.argv[1] == "rules":
        sys.exit(rules(top))
    program, out = str(pathlib.Path(sys.argv[3]).resolve()), pathlib.Path(sys.argv[4]).resolve()
    sys.exit(run(top, program, out, sys.argv[5:], sys.argv[1] == "full"))
