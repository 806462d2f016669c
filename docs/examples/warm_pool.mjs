// A warm pool over HTTP: keeps N instances usable, replaces those that fail, lets go of those that are gone.
// Nothing but Node's standard library (Node 20 or newer).
//
//     PROVISION_URL=http://127.0.0.1:8377 PROVISION_TOKEN=… \
//       node warm_pool.mjs --want 2 --profile profile.yaml --key NAME HOST:PORT [HOST:PORT …]
//
// PROVISION_URL may name several servers of one database, with commas between them: the next one is asked where one does not answer.
// The addresses stand for what a provider would rent out: put your provider's calls into `rent`, `isAlive` and
// `destroy`. Prints one line per change; ends with 1 when it runs out of instances, 2 when nothing but a person helps.

import { randomUUID } from "node:crypto";
import { readFile } from "node:fs/promises";
import { connect } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";

const { values: options, positionals: addresses } = parseArgs({
  allowPositionals: true,
  options: {
    want: { type: "string", default: "1" },
    profile: { type: "string" },
    key: { type: "string" },
    user: { type: "string", default: "root" },
    workspace: { type: "string" },
    "boot-grace": { type: "string", default: "2m" },
  },
});
const profile = await readFile(options.profile, "utf8");

// -- the provider: replace these three

const forRent = [...addresses];

async function rent() {
  const host = forRent.shift();
  if (!host) throw new Error("there are no more instances for rent");
  return { host };
}

async function isAlive({ host }) {
  const at = host.lastIndexOf(":");
  const socket = connect({ host: host.slice(0, at), port: Number(host.slice(at + 1)), timeout: 5000 });
  return new Promise((resolve) => {
    const say = (answer) => { socket.destroy(); resolve(answer); };
    socket.once("connect", () => say(true)).once("timeout", () => say(false)).once("error", () => say(false));
  });
}

async function destroy(instance) {
  console.log(`${instance.host}: given back`);
}

// -- provision's HTTP API

const servers = process.env.PROVISION_URL.split(",");

async function ask(method, path, { body, headers, signal } = {}) {
  const server = servers[0];
  const answer = await fetch(new URL(path, server), {
    method,
    signal,
    headers: { Authorization: `Bearer ${process.env.PROVISION_TOKEN}`, "Content-Type": "application/json", ...headers },
    body: body && JSON.stringify(body),
  }).catch((error) => {
    if (servers[0] === server) servers.push(servers.shift()); // the next one of the same database
    throw error;
  });
  if (answer.ok) return answer;
  const { error } = await answer.json();
  throw Object.assign(new Error(`${error.message} (${error.hint})`), { status: answer.status });
}

/** Ask until the server answers. Only what may be said twice: with an id of our own, so may the order of a run. */
async function insist(method, path, request) {
  while (true) {
    try {
      return await ask(method, path, request);
    } catch (error) {
      if (error.status !== undefined && error.status !== 503) throw error;
    }
    await sleep(500);
  }
}

/** Every event of a run, once, whatever happens to the connection or to the server. */
async function* events(run) {
  let lastId = 0;
  while (true) {
    try {
      const answer = await ask("GET", `/api/runs/${run}/events`, { headers: { "Last-Event-ID": String(lastId) } });
      if (answer.status === 204) return;
      let rest = "";
      for await (const chunk of answer.body.pipeThrough(new TextDecoderStream())) {
        const blocks = (rest + chunk).split("\n\n");
        rest = blocks.pop();
        for (const block of blocks) {
          const fields = Object.fromEntries(block.split("\n").map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 2)]));
          if (!fields.data) continue; // a comment: the server is still there
          lastId = Number(fields.id);
          const event = JSON.parse(fields.data);
          yield event;
          if (event.event === "outcome") return;
        }
      }
    } catch (error) {
      if (error.status >= 400 && error.status < 500) throw error;
    }
    await sleep(500);
  }
}

// -- the pool

/** Bring one instance up and keep it; returns when it is lost, with what to do next. */
async function keep(instance, onUsable) {
  const run = `pool-${randomUUID()}`;
  await insist("POST", "/api/runs", {
    body: {
      run_id: run, host: instance.host, user: options.user, key: options.key, workspace: options.workspace,
      boot_grace: options["boot-grace"], profile_yaml: profile, labels: { pool: "example" },
    },
  });
  const watching = new AbortController();
  const gone = watchInstance(instance, run, watching.signal);
  let outcome;
  for await (const event of events(run)) {
    if (event.event === "run_usable") onUsable(event.after_s);
    if (event.event === "outcome") outcome = event;
  }
  if (outcome.exit_code === 0 || outcome.exit_code === 5) {
    console.log(`${instance.host}: ${outcome.verdict}`);
    await gone; // provisioned and in use, until the provider takes it away
    return "replace_instance";
  }
  watching.abort();
  console.log(`${instance.host}: ${outcome.verdict}, next: ${outcome.next}`);
  return outcome.next;
}

/** Returns when the instance is gone; its run, if it still goes, is ended by then. */
async function watchInstance(instance, run, signal) {
  let misses = 0;
  let hasLived = false;
  while (!signal.aborted) {
    await sleep(1000);
    const lives = await isAlive(instance);
    hasLived ||= lives;
    misses = lives ? 0 : misses + 1;
    if (hasLived && misses >= 3) {
      await insist("POST", `/api/runs/${run}/release`);
      console.log(`${instance.host}: gone`);
      return;
    }
  }
}

async function slot(number) {
  while (true) {
    const instance = await rent();
    let next = "retry";
    for (let attempt = 1; next === "retry" && attempt <= 3; attempt++) {
      next = await keep(instance, (after) => console.log(`${instance.host}: usable after ${after.toFixed(0)} s (slot ${number})`));
    }
    await destroy(instance);
    if (["fix_profile", "fix_credentials", "report_bug"].includes(next)) {
      process.exitCode = 2;
      throw new Error(`another instance would fail alike: ${next}`);
    }
  }
}

try {
  await Promise.all(Array.from({ length: Number(options.want) }, (_, number) => slot(number + 1)));
} catch (error) {
  console.error(error.message);
  process.exit(process.exitCode ?? 1);
}
