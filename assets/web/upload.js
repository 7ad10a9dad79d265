// The queue of an upload. Files stay in it until the server has them, whatever becomes of the connection: sending one again is
// safe, since the server knows bytes that it has.

import { sleep } from "./page.js";

const BATCH_FILES = 50;
const BATCH_BYTES = 16 * 2 ** 20;
const LANES = 3;
/** Seconds between tries: doubled from the first to the second, half of it at random, so that many pages do not come back at once. */
const SHORTEST = 0.5;
const LONGEST = 30;
/** A file that the server takes and then says nothing about is sent so often. */
const ATTEMPTS = 5;
/** A request on which nothing moves for so many milliseconds is given up. The server gives its store one minute for a file. */
const STALLED_MS = 3 * 60_000;
/** The rate is that of so many milliseconds. */
const RATE_MS = 15_000;
/** What is less than that says little about the rate. */
const LEAST_MS = 1000;

const passes = (status) => status === 0 || status === 408 || status === 425 || status === 429 || (status >= 500 && status !== 507);

/** How fast something grows just now. */
class Rate {
  #samples = [];

  note(value) {
    const now = performance.now();
    if (now - (this.#samples.at(-1)?.at ?? -Infinity) > 250) this.#samples.push({ at: now, value });
    while (now - this.#samples[0].at > RATE_MS && this.#samples.length > 1) this.#samples.shift();
  }

  perSecond() {
    const [first, last] = [this.#samples[0], this.#samples.at(-1)];
    const now = performance.now();
    return first && now > first.at + LEAST_MS ? ((last.value - first.value) * 1000) / (now - first.at) : 0;
  }
}

/** One file. Its `state`: queued, sending, stored (and being classified), done, failed or cancelled. */
class Entry {
  state = "queued";
  text = "";
  /** Of a label: sure, fair or unsure. */
  doubt = "";
  sent = 0;
  image = null;
  renamed = false;
  attempts = 0;
  /** When the server was last known to have the image. */
  seen = 0;
  constructor(file, path) {
    this.file = file;
    this.path = path;
    this.folder = path.includes("/") ? path.slice(0, path.lastIndexOf("/")) : "";
  }
}

export class Uploads extends EventTarget {
  entries = [];
  /** Stored images whose labels are awaited: name to entries. */
  pending = new Map();
  counts = { queued: 0, sending: 0, stored: 0, done: 0, failed: 0, cancelled: 0 };
  bytes = { all: 0, sent: 0 };
  /** Folders that the files are in. */
  folders = new Set();
  /** Files that failed before the server had them. */
  lost = 0;
  /** Rates of bytes and of labels. */
  sending = new Rate();
  labelling = new Rate();
  paused = false;
  /** Why nothing is sent just now, for a person to read. */
  problem = "";
  #queue = [];
  #head = 0;
  #lanes = 0;
  #requests = new Set();
  #closed = null;
  /** Most bytes of one request, as far as this server or what is before it takes them. */
  #most = BATCH_BYTES;
  /** Failures in a row of requests and of tries to reach the server. */
  #failures = 0;
  #login;
  /** How often somebody has logged in here. */
  #logins = 0;

  /** `login` resolves to whether there is a session again. */
  constructor(login) {
    super();
    this.#login = login;
    addEventListener("online", () => this.#closed?.hurry());
  }

  /** Files that the server does not have yet. */
  get unsent() {
    return this.counts.queued + this.counts.sending;
  }

  add(files) {
    for (const { file, path } of files) {
      const entry = new Entry(file, path);
      this.entries.push(entry);
      this.folders.add(entry.folder);
      this.counts.queued += 1;
      this.bytes.all += file.size;
      this.#queue.push(entry);
    }
    this.#changed();
    this.#start();
  }

  pause(paused) {
    this.paused = paused;
    this.#changed();
    this.#start();
  }

  cancel() {
    for (const entry of this.entries) {
      if (entry.state === "queued" || entry.state === "sending") this.#end(entry, "cancelled", "cancelled");
    }
    this.#queue = [];
    this.#head = 0;
    for (const request of this.#requests) request.abort();
    this.#closed?.hurry();
    this.#changed();
  }

  /** Sends files again that are in this state, failed or cancelled, and that the server does not have. */
  retry(state) {
    for (const entry of this.entries) {
      if (entry.state !== state || entry.image) continue;
      if (state === "failed") this.lost -= 1;
      entry.attempts = 0;
      this.#set(entry, "queued", "");
      this.bytes.all += entry.file.size - entry.sent;
      this.#queue.push(entry);
    }
    this.#changed();
    this.#start();
  }

  /** The image's result, or why there will be none. */
  labelled(image, state, text, doubt) {
    for (const entry of this.pending.get(image) ?? []) {
      this.#set(entry, state, text);
      entry.doubt = doubt;
    }
    this.pending.delete(image);
    this.labelling.note(this.counts.done + this.counts.failed);
    this.#changed();
  }

  /** The image is no longer on the server. */
  removed(image) {
    for (const entry of this.pending.get(image) ?? []) {
      this.bytes.sent -= entry.sent;
      entry.sent = 0;
      entry.image = null;
      entry.renamed = false;
      this.#end(entry, "failed", "the image was removed");
    }
    this.pending.delete(image);
    this.#changed();
  }

  /** When an image whose label is awaited was last known to be on the server. */
  seen(image) {
    return this.pending.get(image)?.[0].seen ?? 0;
  }

  /** The server has the image. */
  see(image) {
    for (const entry of this.pending.get(image) ?? []) entry.seen = performance.now();
  }

  /** Has the others whose labels are awaited go first. */
  postpone(image) {
    const entries = this.pending.get(image);
    this.pending.delete(image);
    if (entries) this.pending.set(image, entries);
  }

  /** Asks to log in before more is sent. */
  sessionEnded() {
    // Who has declined to log in, is asked when the upload is to go on.
    if (this.paused || this.#closed || !this.unsent) return;
    this.#close("Log in to go on", async () => {
      if (await this.#login()) this.#logins += 1;
      else this.pause(true);
    });
  }

  /** Nothing could be sent or labelled for a while: what the rates were says nothing about what they will be. */
  interrupted() {
    this.sending = new Rate();
    this.labelling = new Rate();
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }

  #set(entry, state, text) {
    this.counts[entry.state] -= 1;
    this.counts[state] += 1;
    entry.state = state;
    entry.text = text;
  }

  /** The file is no longer to be sent. */
  #end(entry, state, text) {
    this.bytes.all -= entry.file.size - entry.sent;
    if (state === "failed") this.lost += 1;
    this.#set(entry, state, text);
  }

  #start() {
    while (this.#lanes < LANES && this.#head < this.#queue.length && !this.paused) {
      this.#lanes += 1;
      this.#lane().finally(() => {
        this.#lanes -= 1;
        this.#changed();
      });
    }
  }

  async #lane() {
    for (;;) {
      while (this.#closed) await this.#closed.open;
      if (this.paused) return;
      const batch = this.#take();
      if (!batch.length) return;
      await this.#send(batch);
      // Other work of the page has its turn.
      await sleep(0);
    }
  }

  /** The next files for one request. */
  #take() {
    const batch = [];
    let bytes = 0;
    while (this.#head < this.#queue.length && batch.length < BATCH_FILES) {
      const entry = this.#queue[this.#head];
      if (batch.length && bytes + entry.file.size > this.#most) break;
      this.#head += 1;
      if (entry.state !== "queued") continue;
      bytes += entry.file.size;
      batch.push(entry);
    }
    if (this.#head > 1000 && this.#head * 2 > this.#queue.length) {
      this.#queue = this.#queue.slice(this.#head);
      this.#head = 0;
    }
    return batch;
  }

  /** Sends one request and deals with what comes of it. */
  async #send(batch) {
    for (const entry of batch) this.#set(entry, "sending", "");
    const logins = this.#logins;
    const { status, answer, retryAfter } = await this.#request(batch);
    for (const entry of batch) this.#sent(entry, 0);
    const rest = batch.filter((entry) => entry.state === "sending");
    if (!rest.length) return this.#changed();
    if (status === 401) {
      this.#requeue(rest);
      // What was on its way when somebody logged in is just sent again.
      if (logins === this.#logins) this.sessionEnded();
    } else if (!answer?.files && passes(status)) {
      await this.#unsent(rest, status, retryAfter);
    } else if (!answer?.files && status === 413 && batch.length > 1) {
      // Each by itself may not be too large.
      this.#most = Math.min(this.#most, batch.reduce((sum, { file }) => sum + file.size, 0) / 2);
      this.#requeue(rest);
    } else {
      const outcomes = answer?.files ?? [];
      const fallback = { error: answer?.error ?? `the server says ${status}`, status };
      // An entry without a file is about the request: what came after it was not read.
      batch.forEach((entry, index) => entry.state === "sending" && this.#settle(entry, outcomes[index] ?? (outcomes.length ? null : fallback)));
      if (rest.some((entry) => entry.state === "queued")) this.#back(retryAfter, "The server could not take some files");
      else if (!this.#closed) this.problem = "";
    }
    this.#changed();
  }

  #request(batch) {
    return new Promise((resolve) => {
      const form = new FormData();
      for (const { file, path } of batch) form.append("file", file, path);
      const request = new XMLHttpRequest();
      this.#requests.add(request);
      let stalled = null;
      const moves = () => {
        clearTimeout(stalled);
        stalled = setTimeout(() => request.abort(), STALLED_MS);
      };
      const end = () => {
        clearTimeout(stalled);
        this.#requests.delete(request);
        let answer = null;
        try {
          answer = JSON.parse(request.responseText);
        } catch {
          // An answer that is no JSON comes from a proxy in between.
        }
        resolve({ status: request.status, answer, retryAfter: Number(request.getResponseHeader("Retry-After")) || 0 });
      };
      request.upload.onload = moves;
      request.upload.onprogress = (event) => {
        moves();
        let left = event.loaded;
        for (const entry of batch) {
          this.#sent(entry, Math.max(0, Math.min(entry.file.size, left)));
          left -= entry.file.size;
        }
        this.#changed();
      };
      request.onload = request.onerror = request.onabort = end;
      request.open("POST", "/");
      request.setRequestHeader("Accept", "application/json");
      request.send(form);
      moves();
    });
  }

  #sent(entry, bytes) {
    if (entry.state !== "sending") return;
    this.bytes.sent += bytes - entry.sent;
    entry.sent = bytes;
    this.sending.note(this.bytes.sent);
  }

  /** No server took the request. A file that cannot be read looks the same, and would for ever. */
  async #unsent(batch, status, retryAfter) {
    if (status === 0) {
      for (const entry of batch) {
        const readable = await entry.file.slice(0, 1).arrayBuffer().then(() => true, () => false);
        if (!readable && entry.state === "sending") this.#end(entry, "failed", "the file cannot be read any more; choose it again");
      }
    }
    this.#requeue(batch.filter((entry) => entry.state === "sending"));
    this.#back(retryAfter, status === 0 ? "No connection to the server" : `The server cannot take files now (${status})`);
  }

  #settle(entry, outcome) {
    if (outcome?.image) {
      this.#failures = 0;
      entry.attempts = 0;
      entry.image = outcome.image;
      entry.renamed = outcome.renamed === true;
      this.bytes.sent += entry.file.size;
      entry.sent = entry.file.size;
      this.#set(entry, "stored", "");
      this.pending.set(entry.image, [...(this.pending.get(entry.image) ?? []), entry]);
      this.see(entry.image);
    } else if (outcome && passes(outcome.status)) {
      this.#requeue([entry]);
    } else if ((!outcome || outcome.file === "") && ++entry.attempts < ATTEMPTS) {
      this.#requeue([entry]);
    } else {
      this.#end(entry, "failed", outcome?.error ?? "the server did not take the file");
    }
  }

  #requeue(batch) {
    for (const entry of batch) {
      this.#set(entry, "queued", "");
      this.#queue.push(entry);
    }
  }

  /** Nothing is sent until the server can be reached again; `retryAfter` is what it asked for, in seconds. */
  #back(retryAfter, problem) {
    if (!this.#closed) this.#close(problem, () => this.#reconnect(retryAfter, problem));
  }

  /** Nothing is sent until what `reopen` begins has ended. */
  #close(problem, reopen) {
    this.problem = problem;
    const closed = { hurry: () => {}, open: null };
    this.#closed = closed;
    closed.open = reopen().finally(() => {
      this.#closed = null;
      this.problem = "";
      this.#changed();
      this.#start();
    });
    this.#changed();
  }

  async #reconnect(retryAfter, problem) {
    let wish = retryAfter;
    for (;;) {
      const longest = Math.min(LONGEST, SHORTEST * 2 ** this.#failures);
      this.#failures += 1;
      const seconds = wish + longest * (0.5 + Math.random() / 2);
      wish = 0;
      this.problem = `${problem}. Reconnecting…`;
      this.#changed();
      await new Promise((resolve) => {
        setTimeout(resolve, seconds * 1000);
        this.#closed.hurry = resolve;
      });
      if (!this.unsent) return;
      const asked = fetch("/healthcheck", { cache: "no-store", signal: AbortSignal.timeout(10_000) });
      if (!(await asked.then((response) => response.ok, () => false))) continue;
      this.interrupted();
      return;
    }
  }
}
