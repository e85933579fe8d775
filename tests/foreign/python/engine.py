"""A host in Python: `python engine.py COMPONENT MACHINE_ID COMMENT`.

It releases one device, by wasmtime's package for Python (requirements.txt), with what the variables
DEFENDER_BASE_URL and DEFENDER_TOKEN say, and prints one line of JSON: {"ok": ...} or {"err": ...},
with the names of the contract. The component is either one: the plugin, whose import `connection`
is supplied here, or the one that reads the environment itself. The exit code is 0 for `ok`, 1 for
`err`, and 2 where the component can't be run or ends in a fault; at the deadline the process is
ended by a signal. After either, look at the device before you repeat anything.

What this host does not do: it can't look at the guest's requests, so give a component that you don't
know a gateway's capability for a token; it keeps no quota and no record, and repeats nothing.
"""

import json
import os
import re
import signal
import sys

from wasmtime import Config, Engine, Store, Trap, WasiConfig, WasmtimeError
from wasmtime.component import Component, Linker, Record, Variant

INTERFACES = "defender:endpoint/{}@0.1.0"
VARIABLES = ("DEFENDER_BASE_URL", "DEFENDER_TOKEN")

# What a component may ask for, and nothing else of all that the package's WASI has.
IMPORTS = re.compile(r"(defender:endpoint|wasi:http|wasi:io)/|wasi:cli/environment@")

# http://, but not to this machine.
IN_THE_CLEAR = re.compile(r"http:(?!//(localhost|127\.0\.0\.1|\[::1\])(:\d+)?([/?#]|\Z))", re.IGNORECASE)

# Seconds. Nothing else ends a request that is under way: the process is ended with it, so a host
# with more to do makes its calls in processes of their own.
DEADLINE = 60

# Bytes of the guest's memory, and what it may compute: a long answer takes a tenth of it.
MEMORY = 48 << 20
FUEL = 1_000_000_000


class Plugin:
    """A component, compiled. Each call has a store and an instance of its own."""

    def __init__(self, path):
        config = Config()
        config.consume_fuel = True
        self.engine = Engine(config)
        self.component = Component.from_file(self.engine, path)
        unknown = [name for name in self.component.type.imports(self.engine) if not IMPORTS.match(name)]
        if unknown:
            raise ValueError(f"the component wants what no plugin gets: {', '.join(unknown)}")

    def instantiate(self, machine_id, connection, environment=()):
        """A store, and an instance in it.

        `connection` is what the host offers: a function that answers as `open` does. `environment`
        is for a component that asks there instead.
        """
        granted = ("unrestrict-code-execution", machine_id.lower())

        def open_connection(_, operation, target):
            if (operation, target) != granted:
                return Variant("denied", f"this call is for {' of '.join(granted)}")
            return connection()

        linker = Linker(self.engine)
        linker.add_wasip2()
        linker.add_wasi_http()
        if connection:
            with linker.root() as root, root.add_instance(INTERFACES.format("connection")) as instance:
                instance.add_func("open", open_connection)
        wasi = WasiConfig()
        wasi.env = [(name, value) for name, value in environment if name in VARIABLES]
        store = Store(self.engine)
        store.set_wasi(wasi)
        store.set_wasi_http()
        store.set_fuel(FUEL)
        store.set_limits(memory_size=MEMORY)
        return store, linker.instantiate(store, self.component)

    def unrestrict_code_execution(self, machine_id, comment, connection, environment=()):
        store, instance = self.instantiate(machine_id, connection, environment)
        exported = instance.get_export_index(store, INTERFACES.format("code-execution"))
        index = instance.get_export_index(store, "unrestrict-code-execution", exported)
        answer = instance.get_func(store, index)(store, machine_id, comment)
        return {answer.tag: plain(answer.payload)}


def from_environment(environment):
    """A connection as the environment has it."""

    def connection():
        for name in VARIABLES:
            if not environment.get(name):
                return Variant("unavailable", f"set the environment variable {name}")
        base_url, token = (environment[name] for name in VARIABLES)
        if IN_THE_CLEAR.match(base_url):
            return Variant("unavailable", "DEFENDER_BASE_URL has to be an https:// URL, except on loopback")
        access = Record()
        # A field has the contract's name, which need not be an identifier.
        setattr(access, "base-url", base_url)
        # A bearer token is a text by itself: of this variant's cases only that one has a payload.
        access.authorization = token
        return access

    return connection


def plain(value):
    """As JSON: a record is an object, a case with a payload an object of one property."""
    if isinstance(value, Record):
        return {name: plain(field) for name, field in vars(value).items()}
    if isinstance(value, Variant):
        return value.tag if value.payload is None else {value.tag: plain(value.payload)}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


def main(path, machine_id, comment):
    signal.alarm(DEADLINE)
    connection = from_environment(os.environ)
    try:
        plugin = Plugin(path)
        answer = plugin.unrestrict_code_execution(machine_id, comment, connection, os.environ.items())
    except (OSError, ValueError, WasmtimeError, Trap) as fault:
        print(f"the component can't be run: {fault}", file=sys.stderr)
        return 2
    print(json.dumps(answer))
    return 0 if "ok" in answer else 1


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
