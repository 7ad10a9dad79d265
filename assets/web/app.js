// Live status and results, uploads with progress, and pages that change without ending an upload. The pages work without it.

import { listen, takeDrops } from "./choose.js";
import { label } from "./labels.js";
import { watch } from "./live.js";
import { login, mendPictures } from "./page.js";
import { Progress } from "./progress.js";
import { Uploads } from "./upload.js";
import { begin } from "./visit.js";

document.documentElement.classList.add("js");
const uploads = new Uploads(login);
const busy = () => uploads.unsent > 0 || uploads.pending.size > 0;

new Progress(uploads);
begin(busy, () => listen(uploads));
takeDrops(uploads);
mendPictures();
addEventListener("beforeunload", (event) => {
  if (uploads.unsent > 0) event.preventDefault();
});
label(uploads);
watch(uploads, busy);
