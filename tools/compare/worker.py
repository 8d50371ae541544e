"""What a peer's program shares: it loads once, then answers one JSON line for each on its standard input."""

import json
import sys


def peak_resident():
    """Bytes of RAM at most since the last reset_peak(), as Linux counts them; None elsewhere."""
    try:
        for line in open("/proc/self/status"):
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def reset_peak():
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        pass


def serve(facts, answer):
    """Says what it is, then answer(question) for each question until the input ends."""
    output = sys.stdout
    sys.stdout = sys.stderr  # nothing else gets between the lines
    print(json.dumps(facts), file=output, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=output, flush=True)
