// A long list of which only the rows in view are in the document.

const ROW = 40;
const SPARE = 12;

export class LongList {
  #view;
  #list;
  #make;
  #fill;
  #entries = [];
  #rows = new Map();
  #free = [];

  /** Shows entries in the list within the scrolling element `view`: `make` makes a row, `fill` shows an entry in it. */
  constructor(view, make, fill) {
    this.#view = view;
    this.#list = view.firstElementChild;
    this.#make = make;
    this.#fill = fill;
    view.addEventListener("scroll", () => this.#draw(), { passive: true });
  }

  show(entries) {
    this.#entries = entries;
    this.#draw();
  }

  #draw() {
    const { scrollTop, clientHeight } = this.#view;
    const count = this.#entries.length;
    const first = Math.max(0, Math.min(Math.floor(scrollTop / ROW), count) - SPARE);
    const last = Math.min(count, Math.ceil((scrollTop + clientHeight) / ROW) + SPARE);
    const wanted = this.#entries.slice(first, last);
    const wantedSet = new Set(wanted);
    for (const [entry, row] of this.#rows) {
      if (wantedSet.has(entry)) continue;
      this.#rows.delete(entry);
      this.#free.push(row);
    }
    wanted.forEach((entry, index) => {
      let row = this.#rows.get(entry);
      if (!row) {
        row = this.#free.pop() ?? this.#make();
        this.#rows.set(entry, row);
      }
      this.#fill(row, entry);
      // Rows in place stay, so that what is focused or selected stays too.
      const there = this.#list.children[index];
      if (there !== row) this.#list.insertBefore(row, there ?? null);
    });
    for (const row of this.#free) row.remove();
    this.#list.style.paddingBlock = `${first * ROW}px ${(count - last) * ROW}px`;
  }
}
