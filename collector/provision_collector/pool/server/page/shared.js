// What both parts of the page need: numbers as people read them, and how the server is asked.

import { TONES } from "./words.js"; // of the registries that the server has

export const $ = (id) => document.getElementById(id);
export const make = (tag, className = "", text = "") => {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text) element.textContent = text;
  return element;
};
export const clean = (text) => String(text).replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f]/g, "�");

// -- numbers as people read them

export function size(bytes) {
  let unit = 0;
  for (; bytes >= 999.5 && unit < 5; unit++) bytes /= 1000;
  const digits = unit === 0 || bytes >= 99.5 ? 0 : 1;
  return `${bytes.toFixed(digits)} ${["B", "kB", "MB", "GB", "TB", "PB"][unit]}`;
}

export function duration(seconds) {
  if (seconds < 9.95) return `${Math.max(seconds, 0).toFixed(1)} s`;
  const whole = Math.round(seconds);
  const pad = (number) => String(number).padStart(2, "0");
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} m ${pad(whole % 60)} s`;
  return `${Math.floor(whole / 3600)} h ${pad(Math.floor((whole % 3600) / 60))} m`;
}

/** A duration that still counts: in whole seconds, so that it moves calmly. */
export const whole = (seconds) => (seconds < 9.95 ? `${Math.max(Math.round(seconds), 1)} s` : duration(seconds));

/** When what takes so many seconds more is there, by this machine's clock. */
export function arrival(seconds) {
  const at = new Date(Date.now() + seconds * 1000);
  const day = seconds >= 86400 ? `${at.toLocaleDateString([], { weekday: "short" })} ` : "";
  const time = at.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
  return `in ${whole(seconds)}${seconds >= 60 ? `, at ${day}${time}` : ""}`;
}

export const tone = (state) => TONES[state] ?? "bad";

// -- asking

export const SILENT = "the server does not answer; trying again";

export async function ask(path, options = {}) {
  const answer = await fetch(path, { signal: AbortSignal.timeout(15000), ...options }).catch(() => { throw new Error(SILENT); });
  if (answer.status === 401) location.assign("/");
  if (!answer.ok) throw Object.assign(new Error((await answer.json()).error.message), { status: answer.status });
  return answer;
}

export const post = (path, body) =>
  ask(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: body && JSON.stringify(body) });

export function say(text, isLost = false) {
  $("contact").textContent = text;
  $("contact").className = isLost ? "lost" : "";
}

/** Call `work` now and again `every_ms` after it has ended, while the page is looked at; returns how to end that. */
export function repeat(work, every_ms) {
  let timer = 0;
  let isOver = false;
  const turn = async () => {
    if (!document.hidden) {
      try { await work(); } catch (error) { if (!isOver) say(error.message, true); }
    }
    if (!isOver) timer = setTimeout(turn, every_ms);
  };
  turn();
  return () => { isOver = true; clearTimeout(timer); };
}

/** Write *text* where it differs, so that what is selected stays selected. */
export function put(element, text) {
  const wanted = clean(text);
  if (element.textContent !== wanted) element.textContent = wanted;
}
