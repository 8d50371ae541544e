"""The two sides: our program, started for each round, and a peer's worker, which stays and answers."""

import json
import os
import select
import statistics
import subprocess
import time


class Missing(Exception):
    """This side cannot do it here; the text says why."""


class Ours:
    def __init__(self, program, threads):
        self.program, self.threads = program, threads

    def run(self, words, cpu=None):
        """The JSON object that a command prints. @raises Missing if it fails"""
        environment = dict(os.environ, LMXLAB_THREADS=str(self.threads))
        if cpu:
            environment["LMXLAB_CPU"] = cpu
        done = subprocess.run([self.program, *map(str, words), "--json", "--quiet"], env=environment, capture_output=True, text=True)
        if done.returncode != 0:
            raise Missing((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
        return json.loads(done.stdout.splitlines()[-1])


    def measured(self, words):
        """Seconds and bytes resident at most of a whole run."""
        environment = dict(os.environ, LMXLAB_THREADS=str(self.threads))
        begin = time.perf_counter()
        process = subprocess.Popen([self.program, *map(str, words), "--json", "--quiet"], env=environment, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            raise Missing(f"{' '.join(map(str, words[:2]))}: exit code {process.returncode}")
        return seconds, used.ru_maxrss * 1024


class Peer:
    """A worker of tools/compare in the peers' Python.

    One that ends, or does not answer within PATIENCE seconds, is Missing: torch.compile takes minutes before its first step, but
    no step that is worth a place in a table does.
    """

    PATIENCE = 300

    def __init__(self, python, script, words, environment):
        folder = os.path.dirname(os.path.abspath(__file__))
        self.log = open(os.path.join(environment["COMPARE_OUT"], "peers.log"), "a")
        self.process = subprocess.Popen([python, os.path.join(folder, script), *map(str, words)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=self.log, text=True, env=environment)
        self.facts = self.read()

    def read(self):
        name = f"{os.path.basename(self.process.args[1])} {' '.join(self.process.args[2:])}"
        if not select.select([self.process.stdout], [], [], self.PATIENCE)[0]:  # a line at a time: none is buffered
            self.process.kill()
            self.close()
            raise Missing(f"{name} gave no answer in {self.PATIENCE} seconds")
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            self.close()
            raise Missing(f"{name} ended with {f'signal {-code}' if code < 0 else code}, see {os.path.basename(self.log.name)}")
        return json.loads(line)

    def ask(self, **question):
        try:
            self.process.stdin.write(json.dumps(question) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended: read() says so
        return self.read()

    def close(self):
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        self.process.wait()
        self.log.close()


def median(values):
    return statistics.median(values)


def spread(values):
    """Half the range, as a share of the median."""
    return (max(values) - min(values)) / 2 / median(values)
