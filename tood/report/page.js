// Whether a box has more at its right side
for (const box of document.querySelectorAll(".scroll")) {
  const mark = () =>
    box.parentElement.classList.toggle("more", box.scrollLeft + box.clientWidth < box.scrollWidth - 1);
  box.addEventListener("scroll", mark, { passive: true });
  new ResizeObserver(mark).observe(box);
  mark();
}

// The contents mark the section that is read
const entries = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
const sections = [...entries.keys()].map((id) => document.getElementById(id)).filter(Boolean);
const locate = () => {
  const above = sections.filter((title) => title.getBoundingClientRect().top < innerHeight / 3);
  const id = (above.at(-1) ?? sections[0])?.id;
  for (const [name, link] of entries) {
    if (name !== id) link.removeAttribute("aria-current");
    else if (!link.hasAttribute("aria-current")) {
      link.setAttribute("aria-current", "true");
      const list = link.closest("ul");
      list.scrollLeft = link.offsetLeft - list.clientWidth / 3;
    }
  }
};
addEventListener("scroll", locate, { passive: true });
locate();

// Sorts by the column of a title; the same title again turns the order round. What is unknown is last.
for (const button of document.querySelectorAll(".sortable th button")) {
  button.addEventListener("click", () => {
    const title = button.closest("th");
    const body = button.closest("table").tBodies[0];
    const rising = title.getAttribute("aria-sort") !== "ascending";
    for (const other of title.parentElement.cells) other.removeAttribute("aria-sort");
    title.setAttribute("aria-sort", rising ? "ascending" : "descending");
    const keyed = [...body.rows].map((row) => {
      const cell = row.cells[title.cellIndex];
      return [cell.dataset.order ?? cell.textContent, row];
    });
    keyed.sort(([key], [other]) => {
      if (!key || !other) return !key - !other;
      const numbers = Number(key) - Number(other);
      const order = Number.isNaN(numbers) ? key.localeCompare(other) : numbers;
      return rising ? order : -order;
    });
    body.append(...keyed.map(([, row]) => row));
  });
}
