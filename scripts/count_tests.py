"""Prints `N passed, M failed` over the results of ctest and of the GoogleTest programs it ran.

usage: count_tests.py FOLDER...   each with ctest.xml (ctest --output-junit), NAME_tests.xml (GoogleTest), peers.xml (pytest)

A GoogleTest program counts by its cases, any other entry of ctest as one. A program that crashed leaves no file, or one
without the case that crashed it: that counts as one failure more, so a failed entry never goes missing.
"""

import pathlib
import sys
import xml.etree.ElementTree as ElementTree


def cases(path):
    """(passed, failed, skipped) of a GoogleTest or pytest file."""
    passed = failed = skipped = 0
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None:
            failed += 1
        elif case.get("status") == "notrun" or case.get("result") == "suppressed":
            continue  # disabled or filtered out
        elif case.find("skipped") is not None or case.get("result") == "skipped":
            skipped += 1
        else:
            passed += 1
    return passed, failed, skipped


def count(folder):
    passed = failed = skipped = 0
    seen = set()
    summary = folder / "ctest.xml"
    if summary.exists():
        for entry in ElementTree.parse(summary).getroot().iter("testcase"):
            # ctest calls a test that it could not start "notrun"; one with SKIP_RETURN_CODE gets the same with a reason.
            ok = entry.get("status") == "run"
            single = folder / (entry.get("name") + "_tests.xml")
            if not single.exists():
                passed, failed = passed + ok, failed + (not ok)
                continue
            seen.add(single)
            try:
                good, bad, left_out = cases(single)
            except ElementTree.ParseError:
                good, bad, left_out = 0, 0, 0
            if not ok and bad == 0:
                bad = 1
            passed, failed, skipped = passed + good, failed + bad, skipped + left_out
    for other in sorted(folder.glob("peers*.xml")):
        good, bad, left_out = cases(other)
        passed, failed, skipped = passed + good, failed + bad, skipped + left_out
    return passed, failed, skipped


def main(folders):
    total = [sum(column) for column in zip(*(count(pathlib.Path(folder)) for folder in folders))]
    if total[2]:
        print(f"{total[2]} skipped")
    print(f"{total[0]} passed, {total[1]} failed", flush=True)
    return 0 if total[1] == 0 and total[0] > 0 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
