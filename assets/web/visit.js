// Moving about: pages that change without ending an upload, questions before what cannot be undone, keys and ticked rows.

import { fetchPage, forget } from "./live.js";
import { $, confirmed, localise, login, problem } from "./page.js";

let busy = () => false;
let opened = () => {};
/** The page that is shown: moving within one is no visit. */
let here = "";
const page = () => location.pathname + location.search;

/** Notes which page is shown. What was done is said once: when the page is loaded again, it is long ago. */
function arrived() {
  const url = new URL(location.href);
  const said = ["again", "deleted"].filter((key) => url.searchParams.has(key));
  for (const key of said) url.searchParams.delete(key);
  if (said.length) history.replaceState(history.state, "", url);
  here = page();
}

/** How many pages were asked for: only the last of them is shown. */
let visits = 0;

/** What the form to log in is to say, if there has to be one before what was asked for. */
function wantsLogin(response, fresh, url) {
  const at = new URL(response.url);
  const asked = new URL(url, location.href).pathname === "/login";
  // What changes something is not sent to the form, but refused with a link to it.
  const admin = Boolean(fresh.querySelector('main a[href="/login?admin=true"]'));
  if (response.status === 401 || admin) return { admin, asked };
  return at.pathname === "/login" && { admin: at.searchParams.get("admin") === "true", asked };
}

/** Shows another page of the service in this document, so that an upload goes on. */
async function visit(url, request, push) {
  visits += 1;
  const number = visits;
  const loaded = await fetchPage(url, request).catch(() => null);
  if (number !== visits) return;
  problem("page", !loaded && "That page cannot be loaded now.");
  if (!loaded) return;
  const { response, page: fresh } = loaded;
  const form = wantsLogin(response, fresh, url);
  if (form) {
    const done = await login(form);
    if (done && number === visits) await visit(form.asked ? "/" : url, request, push);
    return;
  }
  for (const part of ["header nav", "main", "footer"]) {
    const other = fresh.querySelector(part);
    if (other) $(part)?.replaceWith(other);
  }
  document.title = fresh.title;
  if (push) history.pushState(null, "", response.url);
  arrived();
  scrollTo(0, 0);
  forget();
  localise();
  opened();
}

function clicked(event) {
  const link = event.target.closest?.("a[href]");
  if (!link || !busy() || event.defaultPrevented || event.button || event.ctrlKey || event.metaKey || event.shiftKey) return;
  const url = new URL(link.href);
  if (url.origin !== location.origin || link.hasAttribute("download") || link.target || link.getAttribute("href").startsWith("#")) return;
  event.preventDefault();
  if (url.pathname.startsWith("/images/")) open(url, "_blank", "noopener");
  else visit(url, {}, true);
}

const count = (n) => (n === 1 ? "this image" : `these ${n.toLocaleString()} images`);

/** Submits what a form said when it was asked about: it may be gone, or say something else by now. */
function post(action, data) {
  const form = document.createElement("form");
  form.hidden = true;
  form.setAttribute("method", "post");
  form.setAttribute("action", action);
  for (const [name, value] of data) {
    form.append(Object.assign(document.createElement("input"), { type: "hidden", name, value }));
  }
  document.body.append(form);
  form.requestSubmit();
  document.body.removeChild(form);
}

async function submitted(event) {
  const { target: form, submitter } = event;
  if (event.defaultPrevented || form.method === "dialog" || form.enctype === "multipart/form-data") return;
  const data = new URLSearchParams(new FormData(form, submitter));
  if (submitter?.value === "delete" && !data.has("confirmed")) {
    event.preventDefault();
    const action = form.getAttribute("action");
    if (!(await confirmed(`Delete ${count(data.getAll("image").length)}?`))) return;
    data.set("confirmed", "yes");
    return post(action, data);
  }
  if (!busy()) return;
  // A control may be called "action", and then is what `form.action` gives.
  const url = new URL(form.getAttribute("action") ?? "", location.href);
  if (url.pathname === "/logout") return;
  event.preventDefault();
  if (form.method === "get") url.search = data;
  visit(url, form.method === "get" ? {} : { method: "POST", body: data }, true);
}

/** The bar beneath a table does what it says with the rows that are ticked. */
function ticked() {
  const form = $("#rows");
  if (!form || !$("#all")) return;
  const boxes = [...form.querySelectorAll("input[name=image]")];
  const chosen = boxes.filter((box) => box.checked).length;
  form.classList.toggle("none", chosen === 0);
  $("#chosen").textContent = chosen === 1 ? "1 image" : `${chosen} images`;
  const all = $("#all");
  all.checked = chosen > 0 && chosen === boxes.length;
  all.indeterminate = chosen > 0 && chosen < boxes.length;
}

/** Whether a key was the last that was used, and no pointer. */
let keyed = false;

function changed(event) {
  if (event.target.id === "all") {
    for (const box of document.querySelectorAll("#rows input[name=image]")) box.checked = event.target.checked;
  }
  // Who chooses with keys passes by what is in between; the button is for them.
  if (event.target.matches("select[data-submit]") && !keyed) event.target.form.requestSubmit();
  ticked();
}

/** Arrow keys lead from image to image. */
function pressed(event) {
  if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey || event.target.matches("input, select, textarea, #list")) return;
  const to = { ArrowLeft: "prev", ArrowRight: "next" }[event.key];
  if (to) $(`#detail [rel=${to}]`)?.click();
}

/** Begins: `isBusy` tells whether an upload must not be ended, `onOpen` is called for every page that is shown here. */
export function begin(isBusy, onOpen) {
  busy = isBusy;
  opened = () => {
    onOpen();
    ticked();
    $("#progress").classList.toggle("small", location.pathname !== "/");
    // On a phone the rows come first.
    if (matchMedia("(max-width: 60rem)").matches) {
      for (const details of document.querySelectorAll("#facets details")) details.open = false;
    }
  };
  document.addEventListener("click", clicked);
  document.addEventListener("submit", submitted);
  document.addEventListener("change", changed);
  document.addEventListener("keydown", pressed);
  document.addEventListener("keydown", () => (keyed = true), true);
  document.addEventListener("pointerdown", () => (keyed = false), true);
  arrived();
  addEventListener("popstate", () => page() !== here && visit(location.href, {}, false));
  localise();
  opened();
}
