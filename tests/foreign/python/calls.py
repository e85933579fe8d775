"""Many calls in one process, for the tests and the benchmark: `python calls.py COMPONENT`.

Each line of standard input is a call as JSON: machine_id, comment, environment; refusal, where the
host refuses; and no_connection, where it supplies none. Each is answered with a line: what
engine.py prints, or {"fault": "..."}. A call with rounds is made so many times, and answered with
the seconds that each instance and each call took.
"""

import json
import signal
import sys
import time

from wasmtime.component import Variant

from engine import DEADLINE, Plugin, from_environment


def offered(asked):
    if asked.get("no_connection"):
        return None
    if "refusal" in asked:
        [(tag, payload)] = asked["refusal"].items()
        return lambda: Variant(tag, payload)
    return from_environment(asked["environment"])


def timed(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def answer(plugin, asked):
    connection, environment = offered(asked), asked["environment"].items()
    machine_id, comment = asked["machine_id"], asked["comment"]

    def instantiate():
        return plugin.instantiate(machine_id, connection, environment)

    def call():
        return plugin.unrestrict_code_execution(machine_id, comment, connection, environment)

    if "rounds" not in asked:
        return call()
    rounds = range(asked["rounds"])
    return {
        "instances": [timed(instantiate) for _ in rounds],
        "calls": [timed(call) for _ in rounds],
    }


plugin = Plugin(sys.argv[1])
for line in sys.stdin:
    signal.alarm(DEADLINE)
    try:
        told = answer(plugin, json.loads(line))
    except Exception as fault:
        told = {"fault": str(fault)}
    signal.alarm(0)
    print(json.dumps(told), flush=True)
