// Many calls in one process, for the tests and the benchmark: `node calls.mjs COMPONENT`.
//
// Each line of standard input is a call as JSON: machine_id, comment, environment; refusal, where
// the host refuses; and no_connection, where it supplies none. Each is answered with a line: what
// engine.mjs prints, or {"fault": "..."}. A call with rounds is made so many times, and answered
// with the seconds that each instance and each call took.
import { createInterface } from 'node:readline';
import { Plugin, deadline, fromEnvironment } from './engine.mjs';

function offered({ no_connection, refusal, environment }) {
  if (no_connection) return undefined;
  if (!refusal) return fromEnvironment(environment);
  const [[tag, val]] = Object.entries(refusal);
  return () => { throw { tag, val }; };
}

async function timed(rounds, work) {
  const times = [];
  for (let round = 0; round < rounds; round++) {
    const start = performance.now();
    await work();
    times.push((performance.now() - start) / 1000);
  }
  return times;
}

async function answer(plugin, asked) {
  const { machine_id, comment, environment, rounds } = asked;
  const connection = offered(asked);
  const instantiate = () => plugin.instantiate(machine_id, connection, environment);
  const call = () => plugin.unrestrictCodeExecution(machine_id, comment, connection, environment);
  if (rounds === undefined) return call();
  return { instances: await timed(rounds, instantiate), calls: await timed(rounds, call) };
}

const plugin = await Plugin.load(process.argv[2]);
for await (const line of createInterface({ input: process.stdin })) {
  const watch = deadline();
  let told;
  try {
    told = await answer(plugin, JSON.parse(line));
  } catch (fault) {
    told = { fault: String(fault?.message ?? fault) };
  }
  await watch.terminate();
  console.log(JSON.stringify(told));
}
process.exit();
