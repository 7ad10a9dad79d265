// What all parts of the page share: elements, problems in the header, sessions, local times.

export const $ = (selector) => document.querySelector(selector);
export const asJson = { headers: { Accept: "application/json" } };
export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** The address of a name that may have folders, under `base`. */
export const addressOf = (base, name) => base + name.split("/").map(encodeURIComponent).join("/");

const problems = new Map();

/** Says in the header of every page what is wrong, or that it no longer is. */
export function problem(key, text) {
  if (text) problems.set(key, text);
  else problems.delete(key);
  const shown = [...problems.values()].join(" ");
  if ($("#notice").textContent !== shown) $("#notice").textContent = shown;
  $("#notice").hidden = !shown;
}

let session = null;

/** A session that ends while files are queued: log in here, and they go on. */
export function login() {
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

/** There is a session again, whoever began it. */
export function loggedIn() {
  if (session) $("#login").close();
}

/** Asks before something is done that cannot be undone; resolves to whether it shall be. */
export function confirmed(question) {
  const dialog = $("#confirm");
  dialog.querySelector("h2").textContent = question;
  dialog.returnValue = "";
  return new Promise((resolve) => {
    dialog.onclose = () => resolve(dialog.returnValue === "yes");
    dialog.showModal();
  });
}

const exact = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long" });
const short = { day: "numeric", month: "short", hour: "numeric", minute: "2-digit" };
const thisYear = new Intl.DateTimeFormat(undefined, short);
const before = new Intl.DateTimeFormat(undefined, { ...short, year: "numeric" });

/** Shows times as they are where the reader is. */
export function localise() {
  for (const time of document.querySelectorAll("time[datetime]:not([title])")) {
    const date = new Date(time.dateTime);
    if (Number.isNaN(date.getTime())) continue;
    time.title = exact.format(date);
    if (time.hasAttribute("data-ago")) continue;
    const isThisYear = date.getFullYear() === new Date().getFullYear();
    time.textContent = (isThisYear ? thisYear : before).format(date);
  }
}
