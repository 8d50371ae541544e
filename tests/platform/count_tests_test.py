"""What scripts/count_tests.py makes of results, crashes included. usage: count_tests_test.py SOURCE_FOLDER"""

import pathlib
import subprocess
import sys
import tempfile

SCRIPT = pathlib.Path(sys.argv[1]) / "scripts" / "count_tests.py"


def ctest(**entries):
    cases = "".join(f'<testcase name="{name}" status="{status}">{"<failure/>" if status == "fail" else ""}</testcase>'
                    for name, status in entries.items())
    return f"<testsuite>{cases}</testsuite>"


def gtest(passed=0, failed=0, skipped=0, disabled=0):
    case = '<testcase name="x" status="{}" result="{}">{}</testcase>'
    return ("<testsuites><testsuite>" + case.format("run", "completed", "") * passed +
            case.format("run", "completed", "<failure/><failure/>") * failed +
            case.format("run", "skipped", "<skipped/>") * skipped + case.format("notrun", "suppressed", "") * disabled +
            "</testsuite></testsuites>")


TABLE = [
    ("all well", {"ctest.xml": ctest(core="run", layers="run"), "core_tests.xml": gtest(5)}, "6 passed, 0 failed", 0),
    ("a failed case counts once", {"ctest.xml": ctest(core="fail"), "core_tests.xml": gtest(4, 1)}, "4 passed, 1 failed", 1),
    ("a crash without a file", {"ctest.xml": ctest(core="fail", io="run"), "io_tests.xml": gtest(2)}, "2 passed, 1 failed", 1),
    ("a crash at exit", {"ctest.xml": ctest(core="fail"), "core_tests.xml": gtest(3)}, "3 passed, 1 failed", 1),
    ("a torn file", {"ctest.xml": ctest(core="fail"), "core_tests.xml": "<testsuites><te"}, "0 passed, 1 failed", 1),
    ("a program that is missing", {"ctest.xml": ctest(core="notrun", layers="run")}, "1 passed, 1 failed", 1),
    ("skipped and disabled", {"ctest.xml": ctest(core="run"), "core_tests.xml": gtest(2, 0, 1, 3)}, "2 passed, 0 failed", 0),
    ("nothing ran", {"ctest.xml": ctest()}, "0 passed, 0 failed", 1),
    ("pytest", {"peers.xml": "<testsuites><testsuite><testcase/><testcase><error/></testcase></testsuite></testsuites>"},
     "1 passed, 1 failed", 1),
]

failures = 0
for what, files, expected, code in TABLE:
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            (pathlib.Path(folder) / name).write_text(text)
        done = subprocess.run([sys.executable, SCRIPT, folder], capture_output=True, text=True)
    last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr
    if (last, done.returncode) != (expected, code):
        failures += 1
        print(f"FAILED: {what}: expected {expected!r} and exit code {code}, got {last!r} and {done.returncode}")
sys.exit(1 if failures else 0)
