// A host in JavaScript: `node engine.mjs COMPONENT MACHINE_ID COMMENT`.
//
// It releases one device, by jco's transpiler and its shim for WASI (package.json), with what the
// variables DEFENDER_BASE_URL and DEFENDER_TOKEN say, and prints one line of JSON: {"ok": ...} or
// {"err": ...}, with the names of the contract. The component is either one: the plugin, whose
// import `connection` is supplied here, or the one that reads the environment itself. The exit code
// is 0 for `ok`, 1 for `err`, and 2 where the component can't be run or ends in a fault; at the
// deadline the process is ended by a signal. After either, look at the device before you repeat
// anything.
//
// What this host does not do: it can't look at the guest's requests, so give a component that you
// don't know a gateway's capability for a token; it bounds neither the guest's memory nor what it
// computes, but by the deadline; it keeps no quota and no record, and repeats nothing.
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { transpile } from '@bytecodealliance/jco-transpile';
import { http, io } from '@bytecodealliance/preview2-shim';

const DEADLINE_MS = 60_000;

const VARIABLES = ['DEFENDER_BASE_URL', 'DEFENDER_TOKEN'];

// http://, but not to this machine.
const IN_THE_CLEAR = /^http:(?!\/\/(localhost|127\.0\.0\.1|\[::1\])(:\d+)?([/?#]|$))/i;

// A component, as JavaScript. Each call has an instance of its own, with the imports that are named
// here and no others: one that wants more fails before it runs.
export class Plugin {
  static async load(path) {
    const plugin = new Plugin();
    const { files } = await transpile(path, {
      name: 'plugin',
      instantiation: 'async',
      noComponentErrorWrapping: true,
      emitTypescriptDeclarations: false,
    });
    const source = Buffer.from(files['plugin.js']).toString('base64');
    plugin.module = await import(`data:text/javascript;base64,${source}`);
    plugin.core = {};
    for (const name of Object.keys(files).filter((name) => name.endsWith('.wasm'))) {
      plugin.core[name] = await WebAssembly.compile(files[name]);
    }
    return plugin;
  }

  // `connection` is what the host offers: a function that answers as `open` does, and throws a
  // refusal. `environment` is for a component that asks there instead.
  async instantiate(machineId, connection, environment = {}) {
    const imports = {
      'wasi:http/outgoing-handler': http.outgoingHandler,
      'wasi:http/types': http.types,
      'wasi:io/error': io.error,
      'wasi:io/poll': io.poll,
      'wasi:io/streams': io.streams,
      'wasi:cli/environment': { getEnvironment: () => Object.entries(environment) },
    };
    if (connection) {
      const granted = ['unrestrict-code-execution', machineId.toLowerCase()];
      const open = (operation, target) => {
        if (operation === granted[0] && target === granted[1]) return connection();
        throw { tag: 'denied', val: `this call is for ${granted.join(' of ')}` };
      };
      imports['defender:endpoint/connection'] = { open };
    }
    return this.module.instantiate((name) => this.core[name], imports);
  }

  async unrestrictCodeExecution(machineId, comment, connection, environment) {
    const instance = await this.instantiate(machineId, connection, environment);
    try {
      return { ok: plain(instance.codeExecution.unrestrictCodeExecution(machineId, comment)) };
    } catch (thrown) {
      // A trap is an Error; the contract's error is a record.
      if (thrown instanceof Error) throw thrown;
      return { err: plain(thrown) };
    }
  }
}

// A connection as the environment has it.
export const fromEnvironment = (environment) => () => {
  const refuse = (val) => { throw { tag: 'unavailable', val }; };
  for (const name of VARIABLES) if (!environment[name]) refuse(`set the environment variable ${name}`);
  const [baseUrl, token] = VARIABLES.map((name) => environment[name]);
  if (IN_THE_CLEAR.test(baseUrl)) refuse('DEFENDER_BASE_URL has to be an https:// URL, except on loopback');
  return { baseUrl, authorization: { tag: 'bearer', val: token } };
};

// Ends the process after a while, unless it is terminated. A call blocks its thread until the
// answer is there, so that no timer of that thread can. The shim's own time-outs are no help: one
// that strikes after the request was sent is a `connection-timeout`, of which the contract says
// that nothing was.
export function deadline() {
  const end = `setTimeout(() => process.kill(process.pid, 'SIGALRM'), ${DEADLINE_MS})`;
  const thread = new Worker(end, { eval: true });
  thread.unref();
  return thread;
}

// As JSON, by the contract's names: a case with a payload is an object of one property.
function plain(value) {
  if (Array.isArray(value)) return value.map(plain);
  if (value === undefined) return null;
  if (typeof value !== 'object') return value;
  if ('tag' in value) return value.val === undefined ? value.tag : { [value.tag]: plain(value.val) };
  const kebab = (name) => name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
  return Object.fromEntries(Object.entries(value).map(([name, field]) => [kebab(name), plain(field)]));
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [path, machineId, comment] = process.argv.slice(2);
  deadline();
  const { env } = process;
  const given = Object.fromEntries(VARIABLES.map((name) => [name, env[name] ?? '']));
  try {
    const plugin = await Plugin.load(path);
    const answer = await plugin.unrestrictCodeExecution(machineId, comment, fromEnvironment(env), given);
    console.log(JSON.stringify(answer));
    process.exitCode = answer.ok ? 0 : 1;
  } catch (fault) {
    // Its stack would show the whole component.
    console.error(`the component can't be run: ${fault?.message ?? fault}`);
    process.exitCode = 2;
  }
}
