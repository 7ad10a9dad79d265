// The state of the system on the page: figures, rows and charts follow what happens, and the header says what is wrong.

import { $, asJson, localise, loggedIn, problem, sleep } from "./page.js";

/** How many readings in a row had messages that are queued, and no worker. */
let stuck = 0;

function show(status) {
  for (const element of document.querySelectorAll("[data-status]")) {
    const value = element.dataset.status.split(".").reduce((at, key) => at?.[key], status);
    if (value !== undefined) element.textContent = Math.round(value).toLocaleString();
  }
  const { queue, fleet, workers } = status;
  const isStuck = queue.visible > 0 && fleet.running === 0 && fleet.pending === 0 && workers.length === 0;
  // A start has a moment in which nobody has said yet that workers start.
  stuck = isStuck ? stuck + 1 : 0;
  const queued = queue.visible === 1 ? "1 message is queued" : `${queue.visible.toLocaleString()} messages are queued`;
  problem("workers", stuck > 1 && `No worker is running; ${queued}.${fleet.fault ? ` ${fleet.fault}` : ""}`);
  const failed = queue.dead === 1 ? "1 image" : `${queue.dead.toLocaleString()} images`;
  problem("dead", queue.dead > 0 && `${failed} could not be classified and wait as dead letters; see Status.`);
  problem("stores", status.age_seconds > 5 && `The stores do not answer; this is the state of ${status.age_seconds} s ago.`);
}

let shown = "";

/** The page is another one: what it shows may be as old as it is. */
export function forget() {
  shown = "";
}

/** What of a state rows hang on, as pages have it from before they were made. */
function seen({ results, labels, queue }) {
  const labelled = Object.values(labels).reduce((sum, count) => sum + count, 0);
  return [results.total, results.failed, labelled, queue.visible, queue.in_flight, queue.dead].join(" ");
}

/** Whether there is somebody to tell: not on the page to log in. */
const isLive = () => Boolean($("header nav"));

async function refresh(uploads) {
  const response = await fetch("/api/status", asJson).catch(() => null);
  problem("server", (!response || response.status >= 500) && "The server does not answer. Trying again…");
  problem("session", response?.status === 401 && "Your session has ended.");
  if (response?.status === 401) uploads.sessionEnded();
  if (!response?.ok) return;
  loggedIn();
  const status = await response.json();
  show(status);
  // Only a page whose rows can have changed is fetched again.
  const { results, labels, queue, workers, fleet, scaling, images_per_minute } = status;
  const state = JSON.stringify([results, labels, queue, $("#live") && [workers, fleet, scaling, images_per_minute]]);
  if (state === shown) return;
  // Rows may have been written since the page came.
  const same = shown === "" && $("#main").dataset.seen === seen(status);
  if (same || (await follow())) shown = state;
}

/** Asks for a page as people get it. */
export async function fetchPage(url, request = {}) {
  const response = await fetch(url, { ...request, headers: { Accept: "text/html" } });
  return { response, page: new DOMParser().parseFromString(await response.text(), "text/html") };
}

/** Fetches the page again and shows what is new of it; returns whether that was done. What a dialog asks about stays as it is. */
async function follow() {
  const parts = ["#shown", "#table", "#facets", "#live", "#detail"].filter($);
  if (!parts.length) return true;
  if ($("dialog[open]")) return false;
  const url = location.href;
  const { response, page } = await fetchPage(url);
  // What was removed will not be there next time either.
  if (response.status === 404) return removed();
  if (!response.ok || location.href !== url || $("dialog[open]")) return false;
  for (const part of parts) replace($(part), page.querySelector(part));
  localise();
  return true;
}

/** Says on an image's page that it was removed, in place of what could be done with it. */
function removed() {
  const said = Object.assign(document.createElement("p"), { className: "problem", role: "status" });
  said.textContent = "This image was removed.";
  $("#detail form")?.replaceWith(said);
  return true;
}

/** What has the focus, as a selector that finds it on the fresh page, too. */
function focused(old) {
  const element = document.activeElement;
  if (!old.contains(element)) return null;
  const attribute = ["id", "href", "value"].find((name) => element.hasAttribute(name));
  return attribute && `${element.localName}[${attribute}="${CSS.escape(element.getAttribute(attribute))}"]`;
}

function replace(old, fresh) {
  if (!old || !fresh) return;
  // Pictures that stay keep their element, so that they do not flicker.
  const pictures = new Map([...old.querySelectorAll("img")].map((img) => [img.getAttribute("src"), img]));
  for (const img of fresh.querySelectorAll("img")) {
    const known = pictures.get(img.getAttribute("src"));
    if (known) img.replaceWith(known);
  }
  const ticked = new Set([...old.querySelectorAll("input:checked")].map((box) => box.value));
  for (const box of fresh.querySelectorAll("input[type=checkbox]")) box.checked = ticked.has(box.value);
  for (const details of fresh.querySelectorAll("details[id]")) {
    details.open = old.querySelector(`#${details.id}`)?.open ?? details.open;
  }
  const focus = focused(old);
  old.replaceWith(fresh);
  if (focus) fresh.querySelector(focus)?.focus({ preventScroll: true });
  fresh.dispatchEvent(new Event("change", { bubbles: true }));
}

/** Follows the state for ever, faster while `busy()`. */
export async function watch(uploads, busy) {
  for (;;) {
    if (document.visibilityState === "visible" && isLive()) await refresh(uploads).catch(() => {});
    await sleep(busy() ? 1000 : 3000);
  }
}
