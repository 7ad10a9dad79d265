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
  $("#left-out").textContent = `${leftOut.toLocaleString()} other ${leftOut === 1 ? "file is" : "files are"} left out: no pictures.`;
}

/** Whether a file of a folder may be a picture. */
async function isWanted(file) {
  if (CLUTTER.test(file.name)) return false;
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
    if (isFolder && !(await isWanted(file))) leave(1);
    else some.push({ file, path: file.webkitRelativePath || file.name });
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
      if (isFolder && !(await isWanted(file))) leave(1);
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
    problem("drop", "");
    dropped(uploads, event.dataTransfer);
  };
}
