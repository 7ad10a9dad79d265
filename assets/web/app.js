// Live status and results, uploads with progress, and pages that change without ending an upload. The pages work without it.

import { LongList } from "./list.js";
import { Uploads, sleep } from "./upload.js";

const LOOKUP = 500;
/** Larger pictures are not decoded for a thumbnail. */
const THUMBNAIL_BYTES = 8 * 2 ** 20;
/** What systems leave in folders, and nobody means to upload. */
const CLUTTER = /^(\..*|thumbs\.db|desktop\.ini)$/i;

const $ = (selector) => document.querySelector(selector);
document.documentElement.classList.add("js");
const asJson = { headers: { Accept: "application/json" } };

// What stands between this page and the server, in the header of every page.

const problems = new Map();
function problem(key, text) {
  if (text) problems.set(key, text);
  else problems.delete(key);
  const shown = [...problems.values()].join(" ");
  if ($("#notice").textContent !== shown) $("#notice").textContent = shown;
  $("#notice").hidden = !shown;
}

// A session that ends while files are queued: log in here, and they go on.

let session = null;
function login() {
  session ??= new Promise((resolve) => {
    const dialog = $("#login");
    dialog.oncancel = (event) => event.preventDefault();
    dialog.onclose = resolve;
    dialog.querySelector("form").onsubmit = async (event) => {
      event.preventDefault();
      const body = new URLSearchParams(new FormData(event.target));
      const response = await fetch("/login", { method: "POST", body, ...asJson }).catch(() => null);
      const said = response?.status === 401 ? "This token is wrong." : (await response?.json().catch(() => null))?.error;
      if (response?.ok) dialog.close();
      else dialog.querySelector("[role=alert]").textContent = said ?? "The server does not answer; try again.";
    };
    dialog.querySelector("[role=alert]").textContent = "";
    dialog.showModal();
  }).finally(() => {
    session = null;
    $("#login form").reset();
  });
  return session;
}

const uploads = new Uploads(login);

// Status strip and the parts of a page that show the state.

function show(status) {
  for (const element of document.querySelectorAll("[data-status]")) {
    const value = element.dataset.status.split(".").reduce((at, key) => at?.[key], status);
    if (value !== undefined) element.textContent = Math.round(value).toLocaleString();
  }
  const stuck = status.queue.visible > 0 && status.fleet.running === 0 && status.workers.length === 0;
  problem("workers", stuck && "No worker is running; images wait.");
  problem("stores", status.age_seconds > 5 && `The stores do not answer; this is the state of ${status.age_seconds} s ago.`);
}

let shown = "";
async function refresh() {
  const response = await fetch("/api/status", asJson).catch(() => null);
  problem("server", (!response || response.status >= 500) && "The server does not answer. Trying again…");
  problem("session", response?.status === 401 && "Your session has ended; log in again.");
  if (!response?.ok) return;
  if (session) $("#login").close();
  const status = await response.json();
  // What the page said when it came: rows may have been written since.
  const said = $('[data-status="results.total"]')?.textContent;
  show(status);
  // Only a page whose rows can have changed is fetched again; a person who reads a page further on is left alone with it.
  const state = JSON.stringify([status.results, status.labels, $("#live") && [status.workers, status.fleet, status.scaling]]);
  if (state === shown) return;
  const same = shown === "" && said === String(status.results.total);
  shown = state;
  if (!same) await Promise.all(["#table", "#live"].map(replace));
}

async function fetchPage(url) {
  const response = await fetch(url, { headers: { Accept: "text/html" } });
  return { response, page: new DOMParser().parseFromString(await response.text(), "text/html") };
}

async function replace(selector) {
  const old = $(selector);
  if (!old || old.contains(document.activeElement)) return;
  const { response, page } = await fetchPage(location.href);
  const fresh = response.ok && page.querySelector(selector);
  if (!fresh || !old.isConnected) return;
  // Pictures that stay keep their element, so that they do not flicker.
  const pictures = new Map([...old.querySelectorAll("img")].map((img) => [img.getAttribute("src"), img]));
  for (const img of fresh.querySelectorAll("img")) {
    const known = pictures.get(img.getAttribute("src"));
    if (known) img.replaceWith(known);
  }
  old.replaceWith(fresh);
}

async function watch() {
  for (;;) {
    if (document.visibilityState === "visible" && $("#strip")) await refresh().catch(() => {});
    await sleep(uploads.pending.size > 0 ? 1000 : 3000);
  }
}

// Other pages of the service while an upload runs: in this document, so that it goes on.

const busy = () => uploads.unsent > 0 || uploads.pending.size > 0;

async function visit(url, push) {
  let loaded;
  try {
    loaded = await fetchPage(url);
  } catch {
    return problem("page", "That page cannot be loaded now.");
  }
  problem("page", "");
  const { response, page } = loaded;
  if (new URL(response.url).pathname === "/login") {
    await login();
    return visit(url, push);
  }
  for (const part of ["header nav", "main"]) {
    const fresh = page.querySelector(part);
    if (fresh) $(part)?.replaceWith(fresh);
  }
  document.title = page.title;
  if (push) history.pushState(null, "", response.url);
  scrollTo(0, 0);
  shown = "";
  bind();
}

document.addEventListener("click", (event) => {
  const link = event.target.closest?.("a[href]");
  if (!link || !busy() || event.defaultPrevented || event.button || event.ctrlKey || event.metaKey || event.shiftKey) return;
  const url = new URL(link.href);
  if (url.origin !== location.origin || link.hasAttribute("download") || link.target || link.getAttribute("href").startsWith("#")) return;
  event.preventDefault();
  if (url.pathname.startsWith("/images/")) open(url, "_blank", "noopener");
  else visit(url, true);
});
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (!busy() || event.defaultPrevented || form.method !== "get") return;
  event.preventDefault();
  const url = new URL(form.action);
  url.search = new URLSearchParams(new FormData(form));
  visit(url, true);
});
addEventListener("popstate", () => visit(location.href, false));
addEventListener("beforeunload", (event) => {
  if (uploads.unsent > 0) event.preventDefault();
});

// The list of an upload.

function makeRow() {
  const row = document.createElement("li");
  row.innerHTML = '<img alt="" width="32" height="32" decoding="async"><span></span><progress></progress><span></span>';
  row.firstChild.onerror = () => {
    row.entry.bare = true;
    row.classList.add("bare");
  };
  return row;
}

const words = { queued: "waiting", sending: "uploading", stored: "classifying", cancelled: "cancelled" };

function fillRow(row, entry) {
  const [picture, name, bar, state] = row.children;
  if (row.entry !== entry) {
    row.entry = entry;
    if (picture.src) URL.revokeObjectURL(picture.src);
    entry.bare ??= entry.file.size > THUMBNAIL_BYTES;
    if (entry.bare) picture.removeAttribute("src");
    else picture.src = URL.createObjectURL(entry.file);
    bar.max = Math.max(entry.file.size, 1);
    bar.setAttribute("aria-label", entry.path);
  }
  const kind = entry.bare ? `${entry.state} bare` : entry.state;
  if (row.className !== kind) row.className = kind;
  const said = entry.renamed ? `${entry.path}, stored as ${entry.image}` : entry.path;
  if (name.title !== said) name.textContent = name.title = said;
  bar.value = entry.image ? bar.max : entry.sent;
  const text = entry.text || words[entry.state];
  if (state.title !== text) state.textContent = state.title = text;
}

const list = new LongList($("#list"), makeRow, fillRow);
const ORDER = ["failed", "sending", "stored", "done", "queued", "cancelled"];
const FILTERS = {
  all: ORDER,
  failed: ["failed"],
  open: ["sending", "queued", "stored"],
  done: ["done"],
};

const duration = (s) => (s < 90 ? `${Math.ceil(s)} s` : s < 5400 ? `${Math.round(s / 60)} min` : `${Math.round(s / 3600)} h`);

function summary() {
  const { counts, entries, unsent } = uploads;
  const lost = entries.filter((entry) => entry.state === "failed" && !entry.image).length;
  const stored = entries.length - unsent - counts.cancelled - lost;
  const parts = [`${stored.toLocaleString()} of ${entries.length.toLocaleString()} stored`, `${counts.done.toLocaleString()} labelled`];
  if (counts.failed) parts.push(`${counts.failed.toLocaleString()} failed`);
  if (counts.cancelled) parts.push(`${counts.cancelled.toLocaleString()} cancelled`);
  if (uploads.problem && unsent) parts.push(uploads.problem);
  else if (uploads.paused && unsent) parts.push("paused");
  else if (unsent) {
    const { rate, left } = uploads.progress();
    if (rate > 0) parts.push(`${(rate / 1e6).toFixed(1)} MB/s`);
    if (left < 1e5) parts.push(`about ${duration(left)} left`);
  }
  return parts.join(", ");
}

function render() {
  timer = null;
  const { counts, entries, bytes, unsent } = uploads;
  $("#progress").hidden = entries.length === 0;
  $("#total").max = Math.max(bytes.all, 1);
  $("#total").value = bytes.sent;
  const text = summary();
  if ($("#summary").textContent !== text) $("#summary").textContent = text;
  $("#pause").hidden = $("#cancel").hidden = unsent === 0;
  $("#pause").textContent = uploads.paused ? "Resume" : "Pause";
  $("#retry").hidden = !(counts.cancelled || entries.some((entry) => entry.state === "failed" && !entry.image));
  const states = FILTERS[$("#filter").value];
  const groups = Object.fromEntries(states.map((state) => [state, []]));
  for (const entry of entries) groups[entry.state]?.push(entry);
  list.show(states.flatMap((state) => groups[state]));
}

let timer = null;
uploads.addEventListener("change", () => (timer ??= setTimeout(render, 150)));
$("#pause").onclick = () => uploads.pause(!uploads.paused);
$("#cancel").onclick = () => uploads.cancel();
$("#retry").onclick = () => uploads.retry();
$("#filter").onchange = render;

/** Asks for the labels of stored images until all are there. */
async function label() {
  for (;;) {
    const names = [...uploads.pending.keys()].slice(0, LOOKUP);
    if (names.length) await lookup(names).catch(() => sleep(2000));
    await sleep(names.length ? 500 : 1000);
  }
}

async function lookup(names) {
  const response = await fetch("/api/results/lookup", {
    method: "POST",
    headers: { ...asJson.headers, "Content-Type": "application/json" },
    body: JSON.stringify({ names }),
  });
  if (!response.ok) return sleep(2000);
  const { results, missing } = await response.json();
  for (const result of results) {
    if (result.error) uploads.labelled(result.image, "failed", result.error);
    else uploads.labelled(result.image, "done", `${result.uncertain ? "not sure: " : ""}${result.label} ${Math.round(result.confidence * 100)} %`);
  }
  // One of those that have no result may have been removed, and will never have one.
  if (missing.length && !results.length) {
    const one = await fetch(`/api/results/${encodeURIComponent(missing[0])}`, asJson);
    if (one.status === 404) uploads.labelled(missing[0], "failed", "the image was removed");
  }
  // Those that are still in work go to the end, so that all are asked about in turn.
  for (const name of missing) {
    const entries = uploads.pending.get(name);
    uploads.pending.delete(name);
    if (entries) uploads.pending.set(name, entries);
  }
}

// Choosing files.

let leftOut = 0;
function leave(count) {
  leftOut += count;
  $("#left-out").hidden = leftOut === 0;
  $("#left-out").textContent = `${leftOut.toLocaleString()} other ${leftOut === 1 ? "file is" : "files are"} left out.`;
}

const wanted = (file) => !CLUTTER.test(file.name) && (file.type === "" || file.type.startsWith("image/"));

/** Queues files, some at a time so that the page stays alive; of a folder only what may be an image. */
async function choose(files, isFolder) {
  let some = [];
  for (let n = 0; n < files.length; n += 1) {
    const file = files[n];
    if (isFolder && !wanted(file)) leave(1);
    else some.push({ file, path: file.webkitRelativePath || file.name });
    if (some.length === 500 || n === files.length - 1) {
      uploads.add(some);
      some = [];
      await sleep(0);
    }
  }
}

/** Queues all files of a drop, those in folders too. */
async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return choose([...transfer.files], false);
  const walk = async (entry, isFolder) => {
    if (entry.isFile) {
      const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
      if (isFolder && !wanted(file)) leave(1);
      else uploads.add([{ file, path: entry.fullPath.slice(1) }]);
      return;
    }
    const reader = entry.createReader();
    for (;;) {
      const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
      if (!some.length) return;
      for (const child of some) await walk(child, true);
    }
  };
  for (const entry of entries) await walk(entry, false);
}

function bind() {
  const form = $("#upload");
  if (!form) return;
  for (const input of [$("#files"), $("#folder")]) {
    input.onchange = async () => {
      const files = input.files;
      await choose(files, input.id === "folder");
      if (input.files === files) input.value = "";
    };
  }
  form.onsubmit = (event) => event.preventDefault();
  let depth = 0;
  const over = (change) => {
    depth += change;
    form.classList.toggle("over", depth > 0);
  };
  form.ondragenter = () => over(1);
  form.ondragleave = () => over(-1);
  form.ondragover = (event) => event.preventDefault();
  form.ondrop = (event) => {
    event.preventDefault();
    over(-depth);
    dropped(event.dataTransfer).catch(() => problem("drop", "Some of what was dropped cannot be read; choose it with the buttons."));
  };
}

bind();
label();
watch();
