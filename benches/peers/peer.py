"""What the Python runners of `cargo xtask bench` share: answers to its requests, and timing as Fornax's runner does it.

A runner is a program that reads a JSON object on each line of its input and answers with one (the table of them is in
benches/src/protocol.rs). It gives `serve` a function that makes a case's operands and returns the call to time.
"""

import json
import os
import sys
import time

SAMPLE = 1e-3  # seconds that a sample covers at the least
MOST_SAMPLES = 200


class Unsupported(Exception):
    """The library has no such operation; the reason is shown."""


def threads():
    """How many threads the library may use."""
    return int(sys.argv[1]) if len(sys.argv) > 1 else os.cpu_count() or 1


def model_folder(name):
    """Where Fornax's runner keeps the made-up model of this name."""
    folder = os.path.join(os.environ.get("FORNAX_BENCH_MODELS", ""), name)
    if not os.path.exists(os.path.join(folder, "config.json")):
        raise Unsupported(f"the made-up model {name} is not there; it is made when Fornax runs the case first")
    return folder


def missing(error, install):
    """Says what is not installed, and how to get it; and ends."""
    _answer({"error": f"{error}", "install": install})
    sys.exit(0)


def serve(name, version, prepare):
    """Answers requests until there are no more. `prepare(op, name, shape, copies)` returns the call to time."""
    call = None
    for line in sys.stdin:
        try:
            request = json.loads(line)
            if request["do"] == "hello":
                answer = {"name": name, "version": version, "device": "cpu", "threads": threads()}
            elif request["do"] == "prepare":
                call = None  # the operands of the case before are given back first
                call = prepare(request["op"], request["name"], request["shape"], max(1, request["copies"]))
                call()
                answer = {"ready": True}
            elif request["do"] == "time":
                answer = _time(call, request["seconds"])
            else:
                answer = {"error": f"request {request['do']!r} is unknown"}
        except Unsupported as reason:
            answer = {"unsupported": str(reason)}
        except Exception as error:  # whatever goes wrong ends its case, not the run
            call = None
            answer = {"error": f"{type(error).__name__}: {error}"}
        _answer(answer)


def _answer(answer):
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def _time(call, budget):
    """Samples of seconds a call, for about `budget` seconds, the first fifth of which is for getting warm."""
    clock = time.perf_counter
    start = clock()

    def once(calls):
        began = clock()
        for _ in range(calls):
            call()
        return clock() - began

    calls = 1
    last = once(calls)
    if last >= budget:
        return {"samples": [last], "calls": calls}
    while clock() - start < budget / 5 or last < SAMPLE:
        last = once(calls)
        if last < SAMPLE:
            wanted = int(SAMPLE / max(last, 1e-9) * calls) + 1
            calls = min(max(wanted, calls + 1), 4 * calls)
    samples = []
    while not samples or (clock() - start < budget and len(samples) < MOST_SAMPLES):
        samples.append(once(calls) / calls)
    return {"samples": samples, "calls": calls}


def ring(items):
    """A function that returns the items in turn, so that the one taken next was not touched for long."""
    at = 0

    def take():
        nonlocal at
        at = (at + 1) % len(items)
        return items[at]

    return take
