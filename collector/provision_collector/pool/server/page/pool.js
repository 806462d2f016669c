// The pool's health: what runs took by profile, the instances that are watched after their runs, and hosts that did badly.
//
// The figures are those of /metrics, which counts from the start of the server that answers.

import { $, ask, clean, duration, make, put, repeat, say, size } from "./shared.js";

const FIGURES_EVERY_MS = 5000;
const HOSTS_EVERY_TURNS = 6; // scorecards are read from as many files as there are hosts
const SHOWN = 50;
const FINE = ["complete", "incomplete", "cancelled"]; // verdicts that say nothing bad about a host
const LINE = /^([A-Za-z_:][\w:]*)(?:\{(.*)\})? (\S+)$/;
const LABEL = /([A-Za-z_]\w*)="((?:[^"\\]|\\.)*)"/g;
const STATES = ["healthy", "degraded", "gone", "unknown"];
const TONE_OF = { healthy: "good", degraded: "warn", gone: "bad", unknown: "busy" };

export function showPool() {
  $("pool").hidden = false;
  document.title = "provision: pool";
  let turn = 0;
  return repeat(async () => {
    const hasHosts = turn++ % HOSTS_EVERY_TURNS === 0;
    const [text, watched, hosts] = await Promise.all([
      ask("/metrics").then((answer) => answer.text()),
      ask("/api/instances").then((answer) => answer.json()),
      hasHosts ? ask("/api/hosts").then((answer) => answer.json()) : null,
    ]);
    say("");
    const figures = figuresOf(text);
    drawNow(figures, watched.instances);
    drawProfiles(profilesOf(figures));
    drawWatched(watched.instances);
    if (hosts) drawHosts(hosts.hosts);
  }, FIGURES_EVERY_MS);
}

// -- Prometheus' text, as far as this server writes it

/** By name, what was counted: `{labels, value}` for each line. */
function figuresOf(text) {
  const found = new Map();
  for (const line of text.split("\n")) {
    const parts = LINE.exec(line);
    if (!parts) continue;
    const labels = {};
    for (const [, name, value] of (parts[2] ?? "").matchAll(LABEL)) {
      labels[name] = value.replace(/\\(.)/g, (_, letter) => (letter === "n" ? "\n" : letter));
    }
    if (!found.has(parts[1])) found.set(parts[1], []);
    found.get(parts[1]).push({ labels, value: Number(parts[3]) });
  }
  return found;
}

const sum = (rows) => (rows ?? []).reduce((all, row) => all + row.value, 0);

/** What is known of each profile on each card, the one with most runs first. */
function profilesOf(figures) {
  const rows = new Map();
  const rowOf = ({ profile, card }) => {
    const key = JSON.stringify([profile, card]);
    if (!rows.has(key)) rows.set(key, { profile, card, ended: 0, verdicts: {}, unfit: 0, billed_s: 0, usable: null, complete: null });
    return rows.get(key);
  };
  for (const { labels, value } of figures.get("provision_profile_runs_ended_total") ?? []) {
    rowOf(labels).ended += value;
    rowOf(labels).verdicts[labels.verdict] = value;
  }
  for (const { labels, value } of figures.get("provision_instances_refused_total") ?? []) rowOf(labels).unfit += value;
  for (const { labels, value } of figures.get("provision_failed_runs_billed_seconds_total") ?? []) rowOf(labels).billed_s += value;
  for (const what of ["usable", "complete"]) {
    const name = `provision_run_${what}_seconds`;
    for (const { labels, value } of figures.get(`${name}_count`) ?? []) rowOf(labels)[what] = { count: value, within_s: null };
    for (const { labels, value } of figures.get(`${name}_sum`) ?? []) rowOf(labels)[what].sum_s = value;
    for (const { labels, value } of figures.get(`${name}_bucket`) ?? []) {
      const times = rowOf(labels)[what];
      if (times.within_s === null && value >= times.count * 0.95) times.within_s = Number(labels.le.replace("+Inf", "Infinity"));
    }
  }
  return [...rows.values()].sort((one, other) => other.ended - one.ended);
}

// -- what is shown

function drawNow(figures, watched) {
  const going = sum(figures.get("provision_runs"));
  const usable = sum((figures.get("provision_runs") ?? []).filter((row) => row.labels.state === "usable"));
  const lost = sum(figures.get("provision_runs_out_of_contact"));
  const ended = sum(figures.get("provision_profile_runs_ended_total"));
  const became = sum(figures.get("provision_run_usable_seconds_count"));
  const refused = sum(figures.get("provision_instances_refused_total"));
  const speed = sum(figures.get("provision_download_bytes_per_second"));
  const sick = watched.filter((instance) => instance.state !== "healthy" && instance.state !== "unknown").length;
  facts($("pool-now"), [
    ["Runs going", going ? `${going}, ${usable} of them usable` : "none"],
    ["Out of contact", lost || "none", lost ? "bad" : ""],
    ["Downloading", speed > 0 ? `${size(speed)}/s` : "nothing"],
    ["Became usable", ended ? `${became} of ${ended} that ended (${share(became, ended)})` : "no run has ended"],
    ["Refused as unfit", refused || "none", refused ? "warn" : ""],
    ["Paid for failed runs", paid(sum(figures.get("provision_failed_runs_billed_seconds_total")))],
    ["Watched instances", watched.length ? `${watched.length}, ${sick || "none"} of them not well` : "none", sick ? "warn" : ""],
  ]);
}

function facts(list, rows) {
  const old = [...list.children];
  rows.forEach(([name, value, className = ""], at) => {
    const row = old[at] ?? list.appendChild(make("div"));
    if (!row.children.length) row.append(make("dt", "", name), make("dd"));
    put(row.lastChild, value);
    row.lastChild.className = className;
  });
}

const share = (part, all) => `${part === all ? 100 : Math.min(Math.round((100 * part) / all), 99)}\u00a0%`;
const paid = (seconds) => (seconds > 0 ? duration(seconds) : "nothing");

/** The mean, and in how long nearly all were there: as exact as a histogram can say it. */
function times(found) {
  if (!found?.count) return ["–", ""];
  const within = Number.isFinite(found.within_s) ? `95 % within ${duration(found.within_s).replace(".0", "")}` : "5 % took above 2 h";
  return [`${found.count > 1 ? "mean " : ""}${duration(found.sum_s / found.count)}`, found.count > 1 ? within : "one run"];
}

function drawProfiles(profiles) {
  fill($("pool-profiles"), profiles, (row) => [
    [row.profile, row.card === "none" ? "no card" : row.card === "unknown" ? "card not known" : row.card],
    [String(row.ended), Object.entries(row.verdicts).map(([verdict, count]) => `${count} ${verdict}`).join(" · ")],
    [row.ended ? share(row.usable?.count ?? 0, row.ended) : "–", ""],
    times(row.usable),
    times(row.complete),
    [row.billed_s > 0 ? duration(row.billed_s) : "–", row.unfit ? `${row.unfit} refused as unfit` : ""],
  ]);
}

function drawWatched(instances) {
  const ordered = [...instances].sort((one, other) => rank(one) - rank(other) || other.since_unix - one.since_unix);
  $("pool-watched-sum").textContent = STATES.map((state) => [instances.filter((each) => each.state === state).length, state])
    .filter(([count]) => count).map(([count, state]) => `${count} ${state}`).join(" · ");
  fill($("pool-watched"), ordered, (each) => [
    [each.instance_id ?? each.host, each.instance_id ? each.host : ""],
    [each.state, `since ${ago(each.since_unix)}`, TONE_OF[each.state]],
    [each.why.join("; ") || "–", each.services.map((service) => `${service.name} ${service.problem || service.state}`).join(" · ")],
    [each.disk_free_bytes === null ? "–" : `${size(each.disk_free_bytes)} free`, each.checked_unix ? `asked ${ago(each.checked_unix)} ago` : "not asked yet"],
  ]);
}

const rank = (instance) => ["gone", "degraded", "unknown", "healthy"].indexOf(instance.state);

function ago(unix) {
  const seconds = Math.max(Date.now() / 1000 - unix, 0);
  return seconds < 86400 ? duration(Math.max(Math.round(seconds / 5) * 5, 5)) : `${Math.floor(seconds / 86400)} d`;
}

/** Hosts whose runs went badly, those with most bad runs first. */
function drawHosts(hosts) {
  const badOf = (host) => Object.entries(host.verdicts).filter(([verdict]) => !FINE.includes(verdict)).reduce((all, [, count]) => all + count, 0);
  const bad = hosts.map((host) => ({ host, count: badOf(host) })).filter(({ count }) => count)
    .sort((one, other) => other.count / other.host.runs - one.count / one.host.runs || other.count - one.count);
  $("pool-hosts-sum").textContent = `${bad.length} of ${hosts.length} known`;
  fill($("pool-hosts"), bad, ({ host, count }) => [
    [host.instance, host.instance === host.host ? "" : host.host],
    [`${count} of ${host.runs}`, Object.entries(host.verdicts).map(([verdict, many]) => `${many} ${verdict}`).join(" · ")],
    [host.usable_after_s === null ? "–" : duration(host.usable_after_s), ""],
    trouble(host),
  ]);
}

/** What a host's scorecard says beside its verdicts. */
function trouble({ stalls, reconnects, measured: found, sources }) {
  const seen = [stalls && `${stalls} stalled`, reconnects && `${reconnects} reconnects`].filter(Boolean).join(" · ");
  const words = [];
  if (found.line_bytes_per_s) words.push(`line ${size(found.line_bytes_per_s)}/s`);
  if (found.disk_write_bytes_per_s) words.push(`disk ${size(found.disk_write_bytes_per_s)}/s`);
  for (const error of found.gpu_errors ?? []) words.push(error);
  const rates = Object.entries(sources).filter(([, source]) => source.bytes_per_s);
  if (!words.length && rates.length) {
    const [name, source] = rates.reduce((slow, other) => (other[1].bytes_per_s < slow[1].bytes_per_s ? other : slow));
    words.push(`slowest: ${size(source.bytes_per_s)}/s from ${name}`);
  }
  const measured = words.join(" · ");
  return [seen || measured || "–", seen ? measured : ""];
}

/** The rows of a table, each cell a word and a smaller one below it; the part is away where there are none. */
function fill(table, items, cellsOf) {
  const part = table.closest("section");
  part.classList.toggle("empty", items.length === 0);
  const heads = [...table.tHead.rows[0].cells].map((cell) => cell.textContent);
  table.tBodies[0].replaceChildren(...items.slice(0, SHOWN).map((item) => {
    const row = make("tr");
    cellsOf(item).forEach(([words, below, className], at) => {
      const cell = make("td");
      cell.dataset.head = heads[at];
      cell.classList.toggle("nothing", words === "–" && !below);
      const first = make("span", className ? `state ${className}` : "", clean(words));
      cell.append(first);
      if (below) cell.append(make("small", "", clean(below)));
      row.append(cell);
    });
    return row;
  }));
  const more = part.querySelector(".more");
  more.hidden = items.length <= SHOWN;
  more.textContent = `… and ${items.length - SHOWN} more; the API has all`;
}
