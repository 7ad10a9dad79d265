// Labels of stored images, asked for until all are there.

import { asJson, addressOf, sleep } from "./page.js";

const LOOKUP = 500;
/** So many images are asked about one by one, to find those that were removed. */
const SINGLE = 20;

/** There are no labels just now. */
function wait(uploads) {
  uploads.interrupted();
  return sleep(2000);
}

/** Asks for ever. */
export async function label(uploads) {
  for (;;) {
    const names = [...uploads.pending.keys()].slice(0, LOOKUP);
    if (names.length) await lookup(uploads, names).catch(() => wait(uploads));
    await sleep(names.length ? 500 : 1000);
  }
}

function tell(uploads, result) {
  if (result.error) return uploads.labelled(result.image, "failed", result.error, "");
  const percent = `${Math.round(result.confidence * 100)} %`;
  if (result.uncertain) uploads.labelled(result.image, "done", `not sure: ${result.label}, ${percent}`, "unsure");
  else uploads.labelled(result.image, "done", `${result.label}, ${percent}`, result.confidence < 0.5 ? "fair" : "sure");
}

async function lookup(uploads, names) {
  const response = await fetch("/api/results/lookup", {
    method: "POST",
    headers: { ...asJson.headers, "Content-Type": "application/json" },
    body: JSON.stringify({ names }),
  });
  if (!response.ok) return wait(uploads);
  const { results, missing } = await response.json();
  for (const result of results) tell(uploads, result);
  if (!results.length) await findRemoved(uploads, missing);
  // Those that are still in work go to the end, so that all are asked about in turn.
  for (const name of missing) uploads.postpone(name);
}

/** Of images without a result, some may have been removed, and will never have one. The longest unseen is asked about first. */
async function findRemoved(uploads, missing) {
  const unseen = [...missing].sort((one, other) => uploads.seen(one) - uploads.seen(other));
  for (let from = 0; from < unseen.length; from += SINGLE) {
    const some = unseen.slice(from, from + SINGLE);
    const said = await Promise.all(some.map(async (name) => (await fetch(addressOf("/api/results/", name), asJson)).status));
    some.forEach((name, n) => {
      if (said[n] === 404) uploads.removed(name);
      if (said[n] < 300) uploads.see(name);
    });
    // Most were removed together, by a reset.
    if (!said.includes(404)) return;
  }
}
