// Choosing files: by buttons or by dropping them, folders with all that is in them.

import { $, problem, sleep } from "./page.js";

/** What systems leave in folders, and nobody means to upload. */
const CLUTTER = /^(\..*|thumbs\.db|desktop\.ini)$/i;
/** How pictures begin, for those whose name does not tell. */
const BEGINNINGS = [/^\x89PNG/, /^\xff\xd8\xff/, /^GIF8/, /^BM/, /^RIFF.{4}WEBP/s];

let leftOut = 0;
function leave(count) {
  leftOut += count;
  $("#left-out").hidden = leftOut === 0;
  const files = leftOut === 1 ? "file is" : "files are";
  $("#left-out").textContent = `${leftOut.toLocaleString()} ${files} left out: hidden or no pictures.`;
}

/** Whether a file of a folder, at `path` from it, may be a picture. */
async function isWanted(file, path) {
  if (path.split("/").some((part) => CLUTTER.test(part))) return false;
  if (file.type) return file.type.startsWith("image/");
  const head = await file.slice(0, 12).arrayBuffer().catch(() => new ArrayBuffer(0));
  const text = String.fromCharCode(...new Uint8Array(head));
  return BEGINNINGS.some((beginning) => beginning.test(text));
}

/** Queues files, some at a time so that the page stays alive; of a folder only what may be a picture. */
async function choose(uploads, files, isFolder) {
  let some = [];
  for (let n = 0; n < files.length; n += 1) {
    const file = files[n];
    const path = file.webkitRelativePath || file.name;
    if (isFolder && !(await isWanted(file, path))) leave(1);
    else some.push({ file, path });
    if (some.length === 500 || n === files.length - 1) {
      uploads.add(some);
      some = [];
      await sleep(0);
    }
  }
}

/** Queues all files of a drop, those in folders too. */
async function dropped(uploads, transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return choose(uploads, [...transfer.files], false);
  let unreadable = 0;
  const look = async (entry, isFolder) => {
    if (entry.isFile) {
      const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
      const path = entry.fullPath.slice(1);
      if (isFolder && !(await isWanted(file, path))) leave(1);
      else uploads.add([{ file, path }]);
      return;
    }
    const reader = entry.createReader();
    for (;;) {
      const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
      if (!some.length) return;
      for (const child of some) await walk(child, true);
    }
  };
  const walk = (entry, isFolder) => look(entry, isFolder).catch(() => (unreadable += 1));
  for (const entry of entries) await walk(entry, false);
  const what = unreadable === 1 ? "One file or folder" : `${unreadable.toLocaleString()} files or folders`;
  problem("drop", unreadable && `${what} of what was dropped cannot be read; choose it with the buttons.`);
}

/** Has the form of this page, if it has one, add to the upload. */
export function listen(uploads) {
  const form = $("#upload");
  if (!form) return;
  for (const input of [$("#files"), $("#folder")]) {
    input.onchange = async () => {
      const files = input.files;
      await choose(uploads, files, input.id === "folder");
      if (input.files === files) input.value = "";
    };
  }
  form.onsubmit = (event) => event.preventDefault();
}

/** What is dragged is of this page: one of its pictures is a file to the browser, too. */
let ours = false;

/** Whether files are dragged. Text may be dropped into a field as ever. */
const hasFiles = ({ dataTransfer }) => !ours && Boolean(dataTransfer?.types.includes("Files"));

/** Takes drops anywhere on a page with a form. Elsewhere they do nothing: the browser would leave the page for the file. */
export function takeDrops(uploads) {
  document.addEventListener("dragstart", () => (ours = true));
  document.addEventListener("dragend", () => (ours = false));
  const over = (is) => $("#upload")?.classList.toggle("over", is);
  document.addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    if (over(true) === undefined) event.dataTransfer.dropEffect = "none";
  });
  // Between elements there is another one that is entered; outside of the window there is none.
  document.addEventListener("dragleave", (event) => event.relatedTarget || over(false));
  document.addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    if (over(false) === undefined) return;
    problem("drop", "");
    dropped(uploads, event.dataTransfer);
  });
}
