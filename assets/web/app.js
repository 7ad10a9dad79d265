// Uploads with progress, live status and results. The pages work without it.

const BATCH_FILES = 50;
const BATCH_BYTES = 16 * 2 ** 20;
const PARALLEL = 3;
const LOOKUP = 500;

const $ = (selector) => document.querySelector(selector);
document.documentElement.classList.add("js");

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const asJson = { headers: { Accept: "application/json" } };

// Status strip and the parts of a page that show the state.

function show(status) {
  for (const element of document.querySelectorAll("[data-status]")) {
    const value = element.dataset.status.split(".").reduce((at, key) => at?.[key], status);
    if (value !== undefined) element.textContent = Math.round(value).toLocaleString();
  }
}

let shown = "";
async function refresh() {
  const response = await fetch("/api/status", asJson);
  if (!response.ok) return;
  const status = await response.json();
  // What the page said when it came: rows may have been written since.
  const said = $('[data-status="results.total"]').textContent;
  show(status);
  // Only a page whose rows can have changed is fetched again; a person who reads a page further on is left alone with it.
  const state = JSON.stringify([status.results, status.labels, $("#live") && [status.workers, status.fleet, status.scaling]]);
  if (state === shown) return;
  const same = shown === "" && said === String(status.results.total);
  shown = state;
  if (!same) await Promise.all(["#table", "#live"].map(replace));
}

async function replace(selector) {
  const old = $(selector);
  if (!old || old.contains(document.activeElement)) return;
  const response = await fetch(location.href, { headers: { Accept: "text/html" } });
  if (!response.ok) return;
  const fresh = new DOMParser().parseFromString(await response.text(), "text/html").querySelector(selector);
  if (fresh) {
    // Pictures that stay keep their element, so that they do not flicker.
    const pictures = new Map([...old.querySelectorAll("img")].map((img) => [img.getAttribute("src"), img]));
    for (const img of fresh.querySelectorAll("img")) pictures.get(img.getAttribute("src")) && img.replaceWith(pictures.get(img.getAttribute("src")));
    old.replaceWith(fresh);
  }
}

async function watch() {
  for (;;) {
    if (document.visibilityState === "visible") await refresh().catch(() => {});
    await sleep(pending.size > 0 ? 1000 : 3000);
  }
}

// Uploads.

/** Stored images whose labels are awaited: name to list items. */
const pending = new Map();
const counts = { files: 0, bytes: 0, sent: 0, stored: 0, labelled: 0, failed: 0 };

function item(file, path) {
  const li = document.createElement("li");
  const name = document.createElement("span");
  name.textContent = name.title = path;
  const bar = document.createElement("progress");
  bar.max = Math.max(file.size, 1);
  bar.value = 0;
  bar.setAttribute("aria-label", path);
  const state = document.createElement("span");
  state.textContent = "waiting";
  li.append(name, bar, state);
  return { file, li, name, bar, state };
}

function finish(entry, kind, text) {
  entry.li.className = kind;
  entry.state.textContent = entry.state.title = text;
  if (kind === "failed") counts.failed += 1;
  if (kind === "done") counts.labelled += 1;
}

function summarise() {
  $("#total").max = Math.max(counts.bytes, 1);
  $("#total").value = counts.sent;
  const parts = [`${counts.stored} of ${counts.files} stored`, `${counts.labelled} labelled`];
  if (counts.failed) parts.push(`${counts.failed} failed`);
  $("#summary").textContent = parts.join(", ");
}

function batches(entries) {
  const all = [];
  let bytes = Infinity;
  for (const entry of entries) {
    if (bytes + entry.file.size > BATCH_BYTES || all.at(-1).length >= BATCH_FILES) {
      all.push([]);
      bytes = 0;
    }
    all.at(-1).push(entry);
    bytes += entry.file.size;
  }
  return all;
}

/** Sends one request; its progress is laid on the files in their order. */
function send(batch) {
  return new Promise((resolve) => {
    const form = new FormData();
    for (const { file } of batch) form.append("file", file, file.name);
    const request = new XMLHttpRequest();
    const before = counts.sent;
    let sent = 0;
    const advance = (loaded) => {
      counts.sent += loaded - sent;
      sent = loaded;
      let left = loaded;
      for (const entry of batch) {
        entry.bar.value = Math.max(0, Math.min(entry.file.size, left)) || (left > 0 ? entry.bar.max : 0);
        if (left > 0 && entry.state.textContent === "waiting") entry.state.textContent = "uploading";
        left -= entry.file.size;
      }
      summarise();
    };
    const size = batch.reduce((sum, { file }) => sum + file.size, 0);
    request.upload.onprogress = (event) => advance(Math.min(event.loaded, size));
    request.onload = () => {
      advance(size);
      let answer = {};
      try {
        answer = JSON.parse(request.responseText);
      } catch {
        // An answer that is no JSON comes from a proxy in between.
      }
      batch.forEach((entry, index) => settle(entry, answer.files?.[index], answer.error ?? `HTTP status ${request.status}`));
      resolve();
    };
    request.onerror = request.onabort = () => {
      counts.sent = before;
      for (const entry of batch) finish(entry, "failed", "the connection was lost");
      resolve();
    };
    request.open("POST", "/");
    request.setRequestHeader("Accept", "application/json");
    request.send(form);
  }).then(summarise);
}

function settle(entry, outcome, problem) {
  if (!outcome?.image) return finish(entry, "failed", outcome?.error ?? problem);
  counts.stored += 1;
  entry.bar.value = entry.bar.max;
  entry.state.textContent = "classifying";
  if (outcome.renamed) {
    const stored = document.createElement("small");
    stored.textContent = `stored as ${outcome.image}`;
    entry.name.append(stored);
    entry.name.title = `${entry.name.title}, ${stored.textContent}`;
  }
  pending.set(outcome.image, [...(pending.get(outcome.image) ?? []), entry]);
}

async function upload(files) {
  if (!files.length) return;
  $("#progress").hidden = false;
  const entries = files.map(({ file, path }) => item(file, path));
  $("#list").append(...entries.map((entry) => entry.li));
  counts.files += entries.length;
  counts.bytes += entries.reduce((sum, { file }) => sum + file.size, 0);
  summarise();
  const queue = batches(entries);
  const lane = async () => {
    for (let batch = queue.shift(); batch; batch = queue.shift()) await send(batch);
  };
  await Promise.all(Array.from({ length: PARALLEL }, lane));
}

/** Asks for the labels of stored images until all are there. */
async function label() {
  for (;;) {
    const names = [...pending.keys()].slice(0, LOOKUP);
    if (names.length) {
      try {
        const response = await fetch("/api/results/lookup", {
          method: "POST",
          headers: { ...asJson.headers, "Content-Type": "application/json" },
          body: JSON.stringify({ names }),
        });
        const { results = [], missing = [] } = response.ok ? await response.json() : {};
        for (const result of results) {
          for (const entry of pending.get(result.image) ?? []) {
            if (result.error) finish(entry, "failed", result.error);
            else finish(entry, "done", `${result.label} ${Math.round(result.confidence * 100)} %`);
          }
          pending.delete(result.image);
        }
        // Those that are still in work go to the end, so that all are asked about in turn.
        for (const name of missing) {
          const entries = pending.get(name);
          pending.delete(name);
          if (entries) pending.set(name, entries);
        }
        if (results.length) summarise();
      } catch {
        await sleep(2000);
      }
    }
    await sleep(names.length ? 500 : 1000);
  }
}

/** All files of a drop, those in folders too. */
async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return [...transfer.files].map((file) => ({ file, path: file.name }));
  const files = [];
  const walk = async (entry) => {
    if (entry.isFile) {
      const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
      if (!file.name.startsWith(".")) files.push({ file, path: entry.fullPath.slice(1) });
      return;
    }
    const reader = entry.createReader();
    for (;;) {
      const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
      if (!some.length) return;
      for (const child of some) await walk(child);
    }
  };
  for (const entry of entries) await walk(entry);
  return files;
}

const form = $("#upload");
if (form) {
  const chosen = (input) => {
    const files = [...input.files].map((file) => ({ file, path: file.webkitRelativePath || file.name }));
    input.value = "";
    upload(files);
  };
  for (const input of [$("#files"), $("#folder")]) input.addEventListener("change", () => chosen(input));
  form.addEventListener("submit", (event) => event.preventDefault());
  let depth = 0;
  const over = (change) => {
    depth += change;
    form.classList.toggle("over", depth > 0);
  };
  form.addEventListener("dragenter", () => over(1));
  form.addEventListener("dragleave", () => over(-1));
  form.addEventListener("dragover", (event) => event.preventDefault());
  form.addEventListener("drop", async (event) => {
    event.preventDefault();
    over(-depth);
    upload(await dropped(event.dataTransfer));
  });
  label();
}
if ($("#strip")) watch();
