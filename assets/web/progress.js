// The list of an upload: what becomes of each file, and of all.

import { LongList } from "./list.js";
import { $, addressOf } from "./page.js";

/** Larger pictures are not decoded for a thumbnail. */
const THUMBNAIL_BYTES = 8 * 2 ** 20;
const ORDER = ["failed", "sending", "stored", "done", "queued", "cancelled"];
const FILTERS = {
  all: () => true,
  failed: ({ state }) => state === "failed",
  open: ({ state }) => state === "sending" || state === "queued" || state === "stored",
  unsure: ({ state, doubt }) => state === "done" && doubt !== "sure",
  done: ({ state }) => state === "done",
};
const WORDS = { queued: "waiting", sending: "uploading", stored: "classifying", cancelled: "cancelled" };

/** A text whose direction turns nothing beside it: between Unicode's first strong isolate and its end. */
const isolated = (text) => `\u2068${text}\u2069`;

function makeRow() {
  const row = document.createElement("li");
  row.innerHTML = '<img alt="" width="32" height="32" decoding="async"><a class="name"></a><progress></progress><span class="verdict"></span>';
  row.firstChild.onerror = () => {
    row.entry.bare = true;
    row.classList.add("bare");
  };
  // The row has no room for long reasons.
  row.lastChild.onfocus = row.lastChild.onclick = () => tellWhy(row.entry);
  return row;
}

function tellWhy({ state, path, text }) {
  $("#reason").hidden = state !== "failed";
  $("#reason").textContent = state === "failed" ? `${isolated(path)}: ${text}` : "";
}

function fillRow(row, entry) {
  const [picture, name, bar, verdict] = row.children;
  if (row.entry !== entry) {
    row.entry = entry;
    if (picture.src) URL.revokeObjectURL(picture.src);
    entry.bare ??= entry.file.size > THUMBNAIL_BYTES;
    if (entry.bare) picture.removeAttribute("src");
    else picture.src = URL.createObjectURL(entry.file);
    bar.max = Math.max(entry.file.size, 1);
    bar.setAttribute("aria-label", entry.path);
  }
  const kind = `${entry.state} ${entry.doubt}${entry.bare ? " bare" : ""}`;
  if (row.className !== kind) row.className = kind;
  const said = entry.renamed ? `${isolated(entry.path)}, stored as ${isolated(entry.image)}` : entry.path;
  if (name.title !== said) name.textContent = name.title = said;
  const address = entry.image ? addressOf("/results/", entry.image) : "";
  if ((name.getAttribute("href") ?? "") !== address) {
    if (address) name.href = address;
    else name.removeAttribute("href");
  }
  bar.value = entry.image ? bar.max : entry.sent;
  const text = entry.text || WORDS[entry.state];
  if (verdict.title !== text) verdict.textContent = verdict.title = text;
  if (entry.state === "failed") verdict.tabIndex = 0;
  else verdict.removeAttribute("tabindex");
}

const duration = (s) => (s < 90 ? `${Math.ceil(s)} s` : s < 5400 ? `${Math.round(s / 60)} min` : `${Math.round(s / 3600)} h`);
const speed = (rate) => (rate < 1e5 ? `${Math.ceil(rate / 1e3)} kB/s` : `${(rate / 1e6).toFixed(1)} MB/s`);
const number = (n) => n.toLocaleString();

export class Progress {
  #uploads;
  #list = new LongList($("#list"), makeRow, fillRow);
  #timer = null;
  #folders = 0;

  constructor(uploads) {
    this.#uploads = uploads;
    uploads.addEventListener("change", () => (this.#timer ??= setTimeout(() => this.#render(), 150)));
    $("#pause").onclick = () => uploads.pause(!uploads.paused);
    $("#cancel").onclick = () => uploads.cancel();
    $("#retry").onclick = () => uploads.retry("failed");
    $("#again").onclick = () => uploads.retry("cancelled");
    $("#filter").onchange = $("#folders").onchange = () => this.#render();
  }

  #summary() {
    const { counts, entries, unsent } = this.#uploads;
    const parts = [`${number(entries.length - unsent - counts.cancelled - this.#uploads.lost)} of ${number(entries.length)} stored`];
    parts.push(`${number(counts.done)} labelled`);
    if (counts.failed) parts.push(`${number(counts.failed)} failed`);
    if (counts.cancelled) parts.push(`${number(counts.cancelled)} cancelled`);
    if (this.#uploads.problem && unsent) parts.push(this.#uploads.problem);
    else if (this.#uploads.paused && unsent) parts.push("paused");
    else parts.push(...this.#pace(unsent));
    return parts.join(", ");
  }

  /** Rate and time left: of sending, then of labelling. */
  #pace(unsent) {
    const waiting = this.#uploads.counts.stored;
    if (!unsent && !waiting) return [];
    const rate = unsent ? this.#uploads.sending.perSecond() : this.#uploads.labelling.perSecond();
    if (!(rate > 0)) return [];
    const left = (unsent ? this.#uploads.bytes.all - this.#uploads.bytes.sent : waiting) / rate;
    const pace = unsent ? speed(rate) : `${rate < 10 ? rate.toFixed(1) : Math.round(rate)} images/s`;
    return left < 1e5 ? [pace, `about ${duration(left)} left`] : [pace];
  }

  /** Folders that the files are in, to choose one. */
  #offerFolders() {
    const { folders } = this.#uploads;
    if (folders.size === this.#folders) return;
    this.#folders = folders.size;
    const chosen = $("#folders").value;
    const options = [...folders].sort((a, b) => a.localeCompare(b, undefined, { numeric: true }));
    $("#folders").replaceChildren(new Option("all folders", ""), ...options.map((folder) => new Option(folder || "no folder", `${folder}/`)));
    $("#folders").value = chosen;
    $("#in-folder").hidden = folders.size < 2;
  }

  #render() {
    this.#timer = null;
    const uploads = this.#uploads;
    const { counts, entries, bytes, unsent } = uploads;
    $("#progress").hidden = entries.length === 0;
    // Half of the way is to the server, half to the label.
    const wanted = Math.max(entries.length - counts.cancelled, 1);
    $("#total").value = (bytes.sent / Math.max(bytes.all, 1) + (counts.done + counts.failed) / wanted) / 2;
    const text = this.#summary();
    if ($("#summary").textContent !== text) $("#summary").textContent = text;
    $("#pause").hidden = $("#cancel").hidden = unsent === 0;
    $("#pause").textContent = uploads.paused ? "Resume" : "Pause";
    $("#retry").hidden = uploads.lost === 0;
    $("#again").hidden = counts.cancelled === 0;
    this.#offerFolders();
    const shows = FILTERS[$("#filter").value];
    const folder = $("#folders").value;
    const groups = Object.fromEntries(ORDER.map((state) => [state, []]));
    for (const entry of entries) {
      if (shows(entry) && (!folder || `${entry.folder}/` === folder)) groups[entry.state].push(entry);
    }
    this.#list.show(ORDER.flatMap((state) => groups[state]));
  }
}
