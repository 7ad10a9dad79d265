// What all parts of the page share: elements, problems in the header, sessions, local times, pictures that do not come.

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
  const notice = $("#notice span");
  if (notice.textContent !== shown) notice.textContent = shown;
  $("#notice a").hidden = !problems.has("session");
  $("#notice").hidden = !shown;
}

/** What the form to log in says. */
const ENDED = ["Your session has ended", "Log in, and the upload goes on."];
const ASKED = ["Log in", "The upload goes on meanwhile."];
const ADMIN = ["The admin token is needed", "Log in with it to go on."];

let session = null;
/** Whether the form is there because the session has ended, and not because somebody wants another one. */
let ended = false;

/** Logs in without leaving the page; resolves to whether that was done. `admin` is for that token, `asked` for another session. */
export function login({ admin = false, asked = false } = {}) {
  session ??= new Promise((resolve) => {
    const dialog = $("#login");
    const alert = dialog.querySelector("[role=alert]");
    [dialog.querySelector("h2").textContent, dialog.querySelector("p").textContent] = admin ? ADMIN : asked ? ASKED : ENDED;
    dialog.querySelector("[type=button]").onclick = () => dialog.close();
    dialog.onclose = () => resolve(dialog.returnValue === "yes");
    dialog.querySelector("form").onsubmit = async (event) => {
      event.preventDefault();
      const body = new URLSearchParams(new FormData(event.target));
      if (admin) body.set("admin", "true");
      const response = await fetch("/login", { method: "POST", body, ...asJson }).catch(() => null);
      const wrong = { 401: "This token is wrong.", 403: "This is not the admin token." }[response?.status];
      const said = wrong ?? (await response?.json().catch(() => null))?.error;
      if (response?.ok) dialog.close("yes");
      else alert.textContent = said ?? "The server does not answer; try again.";
    };
    alert.textContent = "";
    dialog.returnValue = "";
    ended = !admin && !asked;
    dialog.showModal();
  }).finally(() => {
    session = null;
    $("#login form").reset();
  });
  return session;
}

/** There is a session again, whoever began it. */
export function loggedIn() {
  if (session && ended) $("#login").close("yes");
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

/** A picture that does not come is asked for so often, ever less so: the server may have no time for it just now. */
const TRIES = 5;

/** A picture has not come. One that cannot be shown has the sign that the table has for it. */
function missed(picture) {
  if (picture.localName !== "img" || !picture.matches(".thumb img, .large img")) return;
  const isLarge = picture.matches(".large img");
  const tries = isLarge && $("#detail .verdict.failed") ? TRIES : Number(picture.dataset.tries ?? 0);
  if (tries < TRIES) {
    picture.dataset.tries = tries + 1;
    const again = () => picture.naturalWidth || (picture.src = picture.getAttribute("src"));
    setTimeout(again, 1000 * 2 ** tries * (0.5 + Math.random()));
  } else if (isLarge) {
    picture.replaceWith(Object.assign(document.createElement("span"), { className: "broken", textContent: "!" }));
  }
}

/** Deals with pictures that do not come. */
export function mendPictures() {
  document.addEventListener("error", (event) => missed(event.target), true);
  // Those of the page as it came may have failed before there was anybody to hear of it.
  for (const picture of document.images) if (picture.complete && !picture.naturalWidth) missed(picture);
}
