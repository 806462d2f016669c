// The page: a list of runs, and one run as its stream tells it.
//
// Events are folded into plain objects as they come and drawn at most a few times a second, so that a thousand
// events a second cost what ten do. Text from instances only ever becomes text nodes.

import { showPool } from "./pool.js";
import { $, SILENT, arrival, ask, clean, duration, make, post, put, repeat, say, size, tone, whole } from "./shared.js";
import { EVENTS, GOING, NEXT } from "./words.js"; // of the registries that the server has

const DRAW_EVERY_MS = 200;
const LIST_EVERY_MS = 2000;
const LIST_MOST = 200;
const TYPED_MS = 250;
const LOG_EVERY_MS = 1000;
const LOG_TAIL_BYTES = 1 << 19;
const LOG_LINES = 20000;
const LOG_SHOWN = 1500;
const CHART_POINTS = 120;
const DATED = /^\d{4}-\d\d-\d\dT(\d\d:\d\d:\d\d)\.\d+Z /;

// -- the list

function showList(query) {
  $("list").hidden = false;
  document.title = "provision";
  for (const link of document.querySelectorAll("nav a")) {
    link.toggleAttribute("aria-current", link.getAttribute("href") === `#/${query}`);
  }
  const rows = new Map();
  let path = pathOf(query);
  let newest = { runs: [], counts: {}, next: null };
  let older = [];
  let next = null;
  let asking = 0;
  const fill = () => {
    const shown = new Set(newest.runs.map((run) => run.run));
    const runs = [...newest.runs, ...older.filter((run) => !shown.has(run.run))];
    const words = $("filter").value.toLowerCase().split(/\s+/).filter((word) => word && !word.includes("="));
    const found = runs.filter((run) => words.every((word) => wordsOf(run).includes(word)));
    $("none").hidden = runs.length > 0;
    $("table").hidden = runs.length === 0;
    $("more").hidden = next == null;
    $("counts").textContent = words.length ? counted(tally(found), found) : counted(newest.counts, runs);
    fillTable(found, rows);
  };
  const look = async () => {
    const asked = path;
    const found = await (await ask(asked)).json();
    if (asked !== path) return;
    newest = found;
    if (!older.length) next = newest.next;
    say("");
    fill();
  };
  $("filter").oninput = () => {
    fill();
    if (path === (path = pathOf(query))) return;
    older = [];
    clearTimeout(asking);
    asking = setTimeout(() => look().catch((error) => say(error.message, true)), TYPED_MS);
  };
  $("more").onclick = async () => {
    $("more").disabled = true;
    try {
      const page = await (await ask(`${path}&before=${next}`)).json();
      older.push(...page.runs);
      next = page.next;
      fill();
    } catch (error) { say(error.message, true); }
    $("more").disabled = false;
  };
  return repeat(look, LIST_EVERY_MS);
}

/** What the server is asked: the words `NAME=VALUE` of the filter are for it, for it knows all runs. */
function pathOf(query) {
  const asked = new URLSearchParams(query);
  for (const word of $("filter").value.split(/\s+/)) {
    const [, name, value] = /^([^=]+)=(.+)$/.exec(word) ?? [];
    if (name === "state" || name === "host") asked.set(name, value);
    else if (name) asked.append("label", word);
  }
  asked.set("limit", LIST_MOST);
  return `/api/runs?${asked}`;
}

const labelsOf = (run) => Object.entries(run.labels).map(([name, value]) => `${name}=${value}`).join(" ");
const wordsOf = (run) => [run.run, run.host, run.instance_id, run.profile, run.state, labelsOf(run)].join(" ").toLowerCase();

function tally(runs) {
  const counts = {};
  for (const run of runs) counts[run.state] = (counts[run.state] ?? 0) + 1;
  return counts;
}

/** How many runs there are of each state, those with most first; and how quickly those that are shown come. */
function counted(counts, runs) {
  const states = Object.entries(counts).sort(([, one], [, other]) => other - one);
  const words = states.map(([state, count]) => `${count} ${state}`);
  const speed = runs.reduce((sum, run) => sum + (run.bytes_per_s ?? 0), 0);
  if (speed > 0) words.push(`${size(speed)}/s`);
  return words.join(" · ");
}

function fillTable(runs, rows) {
  const wanted = runs.map((run) => {
    const row = rows.get(run.run) ?? makeRow(run);
    rows.set(run.run, row);
    fillRow(row, run);
    return row;
  });
  const body = $("runs");
  if (wanted.some((row, at) => body.children[at] !== row) || body.children.length !== wanted.length) {
    const focused = document.activeElement;
    body.replaceChildren(...wanted);
    if (body.contains(focused)) focused.focus();
  }
}

function makeRow(run) {
  const row = make("tr");
  const link = make("a", "", run.run);
  link.href = `#/run/${run.run}`;
  for (let cell = 0; cell < 7; cell++) row.append(make("td", cell > 3 ? "number" : ""));
  row.cells[0].append(link, make("small"));
  row.cells[1].append(make("span"), make("small"));
  row.cells[2].append(make("span"), make("small"));
  const bar = make("progress");
  bar.setAttribute("aria-label", "bytes");
  row.cells[3].append(make("span"), bar);
  row.cells[5].append(make("span"), make("small"));
  return row;
}

function fillRow(row, run) {
  const [name, instance, state, files, speed, left, errors] = row.cells;
  put(name.lastChild, run.profile);
  put(instance.firstChild, run.host);
  put(instance.lastChild, [run.instance_id, labelsOf(run)].filter(Boolean).join(" · "));
  put(state.firstChild, run.is_stopping ? "stopping" : run.state);
  state.firstChild.className = `state ${tone(run.state)}`;
  state.title = run.broken ?? "";
  const isLost = GOING.includes(run.state) && run.contact !== "connected";
  put(state.lastChild, isLost ? run.contact ?? "" : run.usable_after_s === null ? "" : `usable after ${duration(run.usable_after_s)}`);
  const [count, bar] = files.children;
  put(count, run.files?.all ? `${run.files.settled}/${run.files.all} · ${size(run.bytes)}` : "");
  bar.hidden = !run.files?.all || !run.bytes_left || !GOING.includes(run.state);
  bar.max = Math.max(run.bytes + run.bytes_left, 1);
  bar.value = run.bytes;
  put(speed, run.bytes_per_s > 0 ? `${size(run.bytes_per_s)}/s` : "");
  const isMoving = GOING.includes(run.state) && run.bytes_left > 0 && run.bytes_per_s > 0;
  put(left.firstChild, isMoving ? whole(run.bytes_left / run.bytes_per_s) : "");
  put(left.lastChild, run.seconds_left == null ? "" : `limit in ${duration(run.seconds_left)}`);
  put(errors, run.errors ? `${run.errors} ⚠` : "");
}

/** Whether *element* shows *facts* already: what has not changed is not drawn anew, and stays selected. */
function isShown(element, facts) {
  const shown = JSON.stringify(facts);
  const isSame = element.dataset.shown === shown;
  element.dataset.shown = shown;
  return isSame;
}

// -- one run: the fold

function newRun() {
  return {
    state: "accepted", host: "", labels: {}, deadline_s: null, started_ms: null, first_ms: null, last_ms: null,
    contact: "", reconnects: 0, files: new Map(), steps: new Map(), checks: new Map(), errors: new Map(),
    spans: new Map(), usable_ms: null, warnings: [], landed: new Map(), secrets: [], outcome: null, dirty: new Set(), lastId: 0,
  };
}

function tell(known, event) {
  const at_ms = Date.parse(event.ts);
  known.first_ms ??= at_ms;
  known.last_ms = at_ms;
  const [kind, what] = splitName(event.event);
  const [group, state] = Object.hasOwn(EVENTS, event.event) ? EVENTS[event.event] : [];
  if (group && event.item) tellSpan(known, group, state, event, at_ms);
  if (group === "downloads") tellFile(known, state, event, at_ms);
  else if (kind === "step") tellStep(known, what, event, at_ms);
  else if (group === "checks" || group === "services") known.checks.set(`${kind} ${event.item}`, { kind, ...event, state });
  if (what === "failed") known.errors.set(event.item ?? event.step ?? kind, event);
  else if (["done", "passed", "ready"].includes(state)) known.errors.delete(event.item ?? event.step);
  OTHERS[event.event]?.(known, event, at_ms);
}

function splitName(name) {
  const at = name.indexOf("_");
  return at < 0 ? [name, ""] : [name.slice(0, at), name.slice(at + 1)];
}

/** From its begin to its end, with the whiles in which it did not move. */
function tellSpan(known, group, state, event, at_ms) {
  const key = `${group} ${event.key ?? event.item}`;
  const span = known.spans.get(key) ?? { group, from_ms: at_ms, to_ms: null, state: "queued", waits: [] };
  known.spans.set(key, span);
  if (span.state === "queued") span.from_ms = at_ms;
  if (span.waits.length && span.waits.at(-1).to_ms === null) span.waits.at(-1).to_ms = at_ms;
  span.name = event.item;
  span.state = state ?? span.state;
  if (["waiting", "stalled", "retrying"].includes(span.state)) span.waits.push({ from_ms: at_ms, to_ms: null });
  span.to_ms = ["done", "failed", "skipped", "passed", "ready"].includes(span.state) ? at_ms : null;
}

function tellFile(known, state, event, at_ms) {
  const key = event.key ?? event.item; // the name may be known later than the file
  const file = known.files.get(key) ?? { state: "queued", bytes: 0, total: null, speed: 0 };
  known.files.set(key, file);
  known.dirty.add(key);
  file.name = event.item;
  file.state = state ?? file.state;
  if (event.total_bytes != null) file.total = event.total_bytes;
  if (event.bytes != null && event.bytes !== file.bytes) {
    const second = Math.floor(at_ms / 1000);
    const delta = Math.max(event.bytes - file.bytes, 0);
    known.landed.set(second, (known.landed.get(second) ?? 0) + delta);
    file.bytes = event.bytes;
  }
  file.speed = file.state !== "running" ? 0 : event.bytes_per_s ?? file.speed;
  file.level = event.level ?? file.level;
  file.told = event.message ?? event.reason ?? event.class ?? "";
}

function tellStep(known, what, event, at_ms) {
  const step = known.steps.get(event.step) ?? { from_ms: at_ms, to_ms: null, state: "running" };
  known.steps.set(event.step, step);
  if (what === "started") Object.assign(step, { from_ms: at_ms, to_ms: null, state: "running" });
  else Object.assign(step, { to_ms: at_ms, state: what === "failed" ? "failed" : event.failed > 0 ? "partly" : "done" });
}

const OTHERS = {
  run_accepted: (known, event) => Object.assign(known, { host: event.host, labels: event.labels ?? {} }),
  connecting: (known, event) => { known.contact = event.cause; if (known.state === "accepted") known.state = "connecting"; },
  connected: (known) => { known.contact = "connected"; if (known.state === "accepted") known.state = "connecting"; },
  connection_lost: (known, event) => { known.reconnects += known.contact === "connected"; known.contact = event.cause; },
  run_started: (known, event, at_ms) => { known.state = "running"; known.secrets = []; known.deadline_s = event.deadline_s; known.started_ms ??= at_ms; },
  run_usable: (known, event, at_ms) => { known.state = "usable"; known.usable_ms = at_ms; },
  secrets_needed: (known, event) => { known.secrets = event.from === "collector" ? event.names : known.secrets; },
  agent_restarted: (known) => { known.secrets = []; },
  warning: (known, event) => known.warnings.push(event.message),
  preflight_failed: (known, event) => known.errors.set("preflight", event),
  outcome: (known, event) => { known.outcome = event; known.state = event.verdict; known.secrets = []; },
};

// -- one run: the picture

function showRun(run) {
  $("run").hidden = false;
  document.title = `${run} · provision`;
  $("run-name").textContent = run;
  for (const id of ["facts", "errors", "files", "steps", "checks", "log", "secret-fields"]) {
    $(id).replaceChildren();
    delete $(id).dataset.shown;
  }
  for (const id of ["verdict", "secrets", "total-part", "errors-part", "files-part", "speed-part", "steps-part", "checks-part"]) $(id).hidden = true;
  const known = newRun();
  const rows = new Map();
  let isStale = true;
  let source = null;
  let isLeft = false;
  const missing = () => {
    end();
    say("");
    $("run").hidden = true;
    $("missing").hidden = false;
    $("missing-run").textContent = run;
  };
  const open = () => {
    source?.close();
    source = new EventSource(`/api/runs/${run}/events?after=${known.lastId}`);
    source.onopen = () => say("");
    source.onerror = () => {
      if (!known.outcome) say(SILENT, true);
      if (source.readyState !== EventSource.CLOSED || known.outcome) return;
      setTimeout(() => isLeft || open(), 2000);
      if (!known.lastId) ask(`/api/runs/${run}`).catch((error) => error.status === 404 && !isLeft && missing());
    };
    source.onmessage = (message) => {
      const id = Number(message.lastEventId);
      if (id <= known.lastId) return;
      known.lastId = id;
      try {
        tell(known, JSON.parse(message.data));
      } catch (problem) { // what an earlier server took without a look: the rest of the known is still told
        console.warn(`event ${id} cannot be read`, problem);
      }
      isStale = true;
      if (known.outcome) source.close();
    };
  };
  open();
  const drawing = setInterval(() => {
    if (document.hidden) return;
    if (isStale || !known.outcome) {
      drawFacts(known);
      drawTotal(known);
    }
    if (isStale) draw(run, known, rows);
    isStale = false;
  }, DRAW_EVERY_MS);
  const log = openLog(run, () => known.outcome !== null);
  $("stop").onclick = () => askToStop(run);
  $("with-items").onchange = () => { isStale = true; };
  $("secrets").onsubmit = async (event) => {
    event.preventDefault();
    const secrets = Object.fromEntries([...new FormData($("secrets"))].filter(([, value]) => value));
    $("secrets").reset();
    try { await post(`/api/runs/${run}/secrets`, { secrets }); known.secrets = []; isStale = true; } catch (error) { say(error.message, true); }
  };
  const end = () => { isLeft = true; source.close(); clearInterval(drawing); log(); };
  return end;
}

function askToStop(run) {
  $("sure-run").textContent = run;
  $("sure").returnValue = "no";
  $("sure").showModal();
  $("sure").onclose = async () => {
    if ($("sure").returnValue !== "stop") return;
    $("stop").disabled = true;
    $("stop").textContent = "Stopping";
    try { await post(`/api/runs/${run}/stop`); } catch (error) { say(error.message, true); $("stop").disabled = false; }
  };
}

function drawFacts(known) {
  const end_ms = known.outcome ? known.last_ms : Date.now();
  const facts = {
    instance: known.host,
    ...known.labels,
    contact: known.outcome || known.contact === "connected" ? "" : known.contact,
    [known.outcome ? "took" : "running for"]: known.first_ms ? duration(known.outcome?.duration_s ?? (end_ms - known.first_ms) / 1000) : "",
    "usable after": known.outcome?.usable_after_s != null ? duration(known.outcome.usable_after_s) : "",
    reconnects: known.reconnects || "",
    warnings: known.warnings.join("; "),
  };
  const shown = Object.entries(facts).filter(([, value]) => value !== "");
  const list = $("facts");
  if ([...list.querySelectorAll("dt")].map((name) => name.textContent).join() !== shown.map(([name]) => clean(name)).join()) {
    list.replaceChildren(...shown.map(([name]) => {
      const pair = make("div");
      pair.append(make("dt", "", clean(name)), make("dd"));
      return pair;
    }));
  }
  shown.forEach(([, value], at) => put(list.children[at].lastChild, value));
}

/** All files together, and apart from that the limit: nobody is to take one for the other. */
function drawTotal(known) {
  const files = [...known.files.values()].filter((file) => !["failed", "skipped"].includes(file.state));
  const isWhole = files.every((file) => file.total !== null || file.state === "done");
  const bytes = files.reduce((sum, file) => sum + file.bytes, 0);
  const total = files.reduce((sum, file) => sum + (file.total ?? file.bytes), 0);
  const speed = known.contact === "connected" ? files.reduce((sum, file) => sum + file.speed, 0) : 0;
  const isOver = known.outcome !== null;
  $("total-part").hidden = !files.length || (isOver && bytes >= total);
  const bar = $("total");
  bar.max = Math.max(total, 1);
  if (isWhole) bar.value = bytes; else bar.removeAttribute("value");
  put($("total-amount"), isWhole ? `${size(bytes)} of ${size(total)}` : size(bytes));
  put($("total-speed"), speed > 0 && !isOver ? `${size(speed)}/s` : "");
  const left = isWhole && speed > 0 ? (total - bytes) / speed : null;
  put($("total-arrival"), isOver || !left ? "" : `all there ${arrival(left)}`);
  const limit = known.started_ms && known.deadline_s && !isOver ? known.started_ms / 1000 + known.deadline_s - Date.now() / 1000 : null;
  put($("total-limit"), limit === null ? "" : `limit in ${duration(Math.max(limit, 0))}`);
}

function draw(run, known, rows) {
  if ($("state").textContent !== known.state) $("state").textContent = known.state;
  $("state").className = `state ${tone(known.state)}`;
  $("stop").hidden = known.outcome !== null;
  drawVerdict(known);
  drawSecrets(known);
  drawErrors(known);
  drawFiles(known, rows);
  drawSpeed(known);
  drawSteps(known);
  drawChecks(known);
}

function drawVerdict({ outcome }) {
  $("verdict").hidden = outcome === null;
  if (!outcome || $("verdict").dataset.verdict === outcome.verdict + outcome.run) return;
  $("verdict").dataset.verdict = outcome.verdict + outcome.run;
  const words = [make("strong", tone(outcome.verdict), outcome.verdict)];
  const { ok, failed } = outcome.downloads;
  if (ok + failed) words.push(` · ${ok} file${ok === 1 ? "" : "s"} here${failed ? `, ${failed} failed` : ""}`);
  if (outcome.duration_s) words.push(` · ${duration(outcome.duration_s)}`);
  const hasService = (outcome.services ?? []).some((service) => service.state === "ready");
  if (NEXT[outcome.next]) words.push(make("br"), NEXT[outcome.next]);
  else if (hasService) words.push(make("br"), "Next: ", make("code", "", `provision forward ${outcome.run}`), " brings its services to your machine.");
  for (const warning of (outcome.warnings ?? []).slice(0, 50)) words.push(make("div", "warn", clean(warning)));
  $("verdict").replaceChildren(...words);
}

function drawSecrets(known) {
  $("secrets").hidden = known.secrets.length === 0;
  if ($("secret-fields").childElementCount === known.secrets.length) return;
  $("secret-fields").replaceChildren(...known.secrets.map((name) => {
    const label = make("label", "", `${name} `);
    const input = Object.assign(make("input"), { type: "password", name, autocomplete: "off" });
    label.append(input);
    return label;
  }));
}

function drawErrors(known) {
  const errors = known.outcome ? known.outcome.errors : [...known.errors.values()];
  $("errors-part").hidden = errors.length === 0;
  if (isShown($("errors"), errors)) return;
  $("errors").replaceChildren(...errors.slice(0, 200).map((error) => {
    const item = make("li");
    const name = error.item ?? error.step;
    item.append(make("strong", error.level === "optional" ? "warn" : "bad", clean(`${error.class}${name ? ` · ${name}` : ""}`)));
    item.append(make("div", "", clean(error.message ?? "")));
    if (error.hint) item.append(make("div", "hint", clean(error.hint)));
    return item;
  }));
}

function drawFiles(known, rows) {
  $("files-part").hidden = known.files.size === 0;
  for (const key of known.dirty) {
    const file = known.files.get(key);
    let row = rows.get(key);
    if (!row) {
      row = make("li");
      row.append(make("span", "name"), make("span", "told"), make("progress"));
      row.children[0].append(make("bdi"));
      rows.set(key, row);
      $("files").append(row);
    }
    put(row.children[0].firstChild, file.name);
    row.children[0].title = clean(file.name);
    row.children[2].setAttribute("aria-label", clean(file.name));
    const isMissed = file.state === "failed" && file.level === "optional";
    row.className = isMissed ? "missed" : file.state;
    const amount = isMissed ? "" : file.total ? `${size(file.bytes)} of ${size(file.total)}` : file.bytes ? size(file.bytes) : "";
    const words = [file.state === "running" ? "" : isMissed ? "missed, optional" : file.state, amount, file.speed > 0 ? `${size(file.speed)}/s` : ""];
    row.children[1].textContent = words.filter(Boolean).join(" · ");
    const isFull = file.state === "done" || (file.state === "skipped" && file.told === "verified");
    row.children[2].max = file.total || 1;
    if (isFull) row.children[2].value = row.children[2].max;
    else if (file.total || file.state !== "running") row.children[2].value = file.total ? file.bytes : 0;
    else row.children[2].removeAttribute("value");
  }
  known.dirty.clear();
  const files = [...known.files.values()];
  const settled = files.filter((file) => ["done", "skipped"].includes(file.state)).length;
  $("files-sum").textContent = `${settled} of ${files.length}, ${size(files.reduce((sum, file) => sum + file.bytes, 0))}`;
}

function drawSpeed(known) {
  if (!known.landed.size) return;
  const seconds = [...known.landed.keys()];
  const first = Math.min(...seconds.slice(0, 1), Math.floor(known.first_ms / 1000));
  const last = Math.max(Math.floor(known.last_ms / 1000) - (known.outcome ? 0 : 1), first + 1); // this second is not over
  const width = Math.max(Math.ceil((last - first + 1) / CHART_POINTS), 1);
  const points = new Array(Math.ceil((last - first + 1) / width)).fill(0);
  for (const [second, bytes] of known.landed) if (second <= last) points[Math.floor((second - first) / width)] += bytes / width;
  const peak = Math.max(...points, 1);
  $("speed-part").hidden = peak === 1;
  const step = 600 / Math.max(points.length - 1, 1);
  const line = points.map((value, at) => `L${(at * step).toFixed(1)},${(98 - (value / peak) * 92).toFixed(1)}`).join("");
  $("speed").firstElementChild.setAttribute("d", `M0,100${line}L600,100Z`);
  const now = [...known.files.values()].reduce((sum, file) => sum + file.speed, 0);
  $("speed-now").textContent = known.outcome ? "" : `${size(now)}/s`;
  $("speed-peak").textContent = `peak ${size(peak)}/s`;
  $("speed-end").textContent = duration(last - first);
}

const STEP_OF = { packages: "python" }; // whose items have another name than their step
const ITEMS_SHOWN = 100;

/** The run's picture: when each step began and ended, and below it its items, the longest of them if there are many. */
function drawSteps(known) {
  $("steps-part").hidden = known.steps.size === 0;
  if (!known.steps.size) return;
  const first = known.started_ms ?? Math.min(...[...known.steps.values()].map((step) => step.from_ms));
  $("steps").classList.toggle("wide", $("with-items").checked);
  const span = Math.max(known.last_ms - first, 1);
  const place = (ms) => `${((Math.max(ms - first, 0) / span) * 100).toFixed(2)}%`;
  const rowOf = (name, from_ms, to_ms, state, waits, isItem) => {
    const row = make("li", `${state}${isItem ? " item" : ""}`);
    const lane = make("div", "lane");
    const end = to_ms ?? known.last_ms;
    for (const [className, from, to] of [["span", from_ms, end], ...waits.map((wait) => ["wait", wait.from_ms, wait.to_ms ?? end])]) {
      const bar = make("div", className);
      bar.style.left = place(from);
      bar.style.width = `${((Math.max(to - from, 0) / span) * 100).toFixed(2)}%`;
      lane.append(bar);
    }
    if (known.usable_ms !== null && known.usable_ms >= first) {
      const mark = make("div", "usable");
      mark.style.left = place(known.usable_ms);
      lane.append(mark);
    }
    row.title = clean(`${name}: ${state}, ${duration((from_ms - first) / 1000)} to ${duration((end - first) / 1000)}`);
    const label = make("span", "label");
    label.append(make("bdi", "", clean(isItem ? name.replace(/\/+$/, "").split("/").at(-1) : name)));
    row.append(label, lane, make("span", "time", duration((end - from_ms) / 1000)));
    return row;
  };
  const byStep = new Map();
  if ($("with-items").checked) {
    const took = (item) => (item.to_ms ?? known.last_ms) - item.from_ms;
    const all = [...known.spans.values()].filter((item) => item.state !== "queued");
    for (const item of all.sort((a, b) => took(b) - took(a)).slice(0, ITEMS_SHOWN)) {
      const step = STEP_OF[item.group] ?? item.group;
      byStep.set(step, [...(byStep.get(step) ?? []), item]);
    }
  }
  $("steps").replaceChildren(...[...known.steps].flatMap(([name, step]) => [
    rowOf(name, step.from_ms, step.to_ms, step.state, [], false),
    ...(byStep.get(name) ?? []).sort((a, b) => a.from_ms - b.from_ms)
      .map((item) => rowOf(item.name, item.from_ms, item.to_ms, item.state, item.waits, true)),
  ]));
  put($("steps-usable"), known.usable_ms === null ? "" : "│ usable");
  put($("steps-end"), duration(span / 1000));
}

function drawChecks(known) {
  const checks = [...known.checks.values()];
  $("checks-part").hidden = checks.length === 0;
  if (isShown($("checks"), checks)) return;
  $("checks").replaceChildren(...checks.map((check) => {
    const row = make("li");
    const mark = { good: "✓", bad: "✗", warn: "–", busy: "…" }[tone(check.state)];
    row.append(make("span", tone(check.state), `${mark} `));
    const url = check.state === "ready" && check.url ? ` at ${check.url} there` : "";
    row.append(clean(`${check.item}: ${check.state}${check.kind === "service" ? " (service)" : ""}${url}`));
    return row;
  }));
}

// -- the log

function openLog(run, isOver) {
  let lines = [];
  let rest = "";
  let next = null;
  let decoder = new TextDecoder();
  const which = () => $("which").value;
  const path = () => `/api/runs/${run}/log?file=${which()}`;
  const reset = () => { lines = []; rest = ""; next = null; decoder = new TextDecoder(); $("raw").href = path(); drawLog(lines); };
  const read = async () => {
    if (next === null) {
      const all = Number((await ask(`${path()}&from=999999999999999`)).headers.get("x-log-size"));
      next = Math.max(all - LOG_TAIL_BYTES, 0);
    }
    const asked = which();
    const bytes = await (await ask(`${path()}&from=${next}`)).arrayBuffer();
    if (asked !== which() || !bytes.byteLength) return;
    next += bytes.byteLength;
    const parts = (rest + decoder.decode(bytes, { stream: true })).split("\n");
    rest = parts.pop();
    for (const part of parts) lines.push(clean(part.slice(0, 4000)).replace(DATED, "$1 "));
    if (lines.length > LOG_LINES) lines = lines.slice(-LOG_LINES);
    drawLog(lines);
  };
  let turnsAfterEnd = 0;
  const end = repeat(async () => {
    if (isOver() && ++turnsAfterEnd > 2) return;
    await read();
  }, LOG_EVERY_MS);
  $("search").oninput = () => drawLog(lines);
  $("which").onchange = () => { turnsAfterEnd = 0; reset(); };
  $("follow").onchange = () => drawLog(lines);
  $("log").onscroll = () => {
    const box = $("log");
    if (box.scrollHeight - box.scrollTop - box.clientHeight > 60 && box.matches(":hover, :focus")) $("follow").checked = false;
  };
  reset();
  return end;
}

function drawLog(lines) {
  const wanted = $("search").value.toLowerCase();
  const found = wanted ? lines.filter((line) => line.toLowerCase().includes(wanted)) : lines;
  const shown = found.slice(-LOG_SHOWN);
  const box = $("log");
  const place = box.scrollTop;
  if (wanted) box.replaceChildren(...shown.flatMap((line) => marked(line, wanted)));
  else box.textContent = shown.length ? `${shown.join("\n")}\n` : "";
  $("found").textContent = wanted ? `${found.length} line${found.length === 1 ? "" : "s"}` : "";
  box.scrollTop = $("follow").checked ? box.scrollHeight : place;
}

function marked(line, wanted) {
  const at = line.toLowerCase().indexOf(wanted);
  return [line.slice(0, at), make("mark", "", line.slice(at, at + wanted.length)), `${line.slice(at + wanted.length)}\n`];
}

// -- which of the two

let leave = () => {};

function route() {
  leave();
  for (const id of ["list", "pool", "missing", "run"]) $(id).hidden = true;
  for (const id of ["state", "counts"]) $(id).textContent = "";
  $("stop").disabled = false;
  $("stop").textContent = "Stop";
  const run = /^#\/run\/([A-Za-z0-9][A-Za-z0-9._-]{0,63})$/.exec(location.hash);
  const asked = /^#\/(\?.+)$/.exec(location.hash);
  const isPool = location.hash === "#/pool";
  $("back").hidden = run === null && !isPool;
  $("to-pool").hidden = isPool;
  leave = run ? showRun(run[1]) : isPool ? showPool() : showList(asked ? asked[1] : "");
}

addEventListener("hashchange", route);
$("help").onclick = () => $("keys").showModal();

/** To the next link of the list, or the one before. */
function step(by) {
  const links = [...$("runs").querySelectorAll("a")];
  if (!links.length) return;
  const at = links.indexOf(document.activeElement);
  links[at < 0 ? (by > 0 ? 0 : links.length - 1) : Math.min(Math.max(at + by, 0), links.length - 1)].focus();
}

const KEYS = {
  "/": () => ($("run").hidden ? $("filter") : $("search")).focus(),
  "?": () => $("keys").showModal(),
  j: () => step(1),
  k: () => step(-1),
  i: () => $("with-items").click(),
  p: () => { location.hash = "#/pool"; },
  f: () => $("follow").click(),
};

addEventListener("keydown", (event) => {
  const isTyping = event.target instanceof HTMLElement && event.target.matches("input:not([type=checkbox]), textarea, select");
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (!isTyping && Object.hasOwn(KEYS, event.key)) { event.preventDefault(); KEYS[event.key](); }
  else if (event.key === "Escape" && $("list").hidden) location.hash = "#/";
});
route();
