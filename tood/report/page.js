// Whether a box has more at its right side
for (const box of document.querySelectorAll(".scroll")) {
  const mark = () =>
    box.parentElement.classList.toggle("more", box.scrollLeft + box.clientWidth < box.scrollWidth - 1);
  box.addEventListener("scroll", mark, { passive: true });
  new ResizeObserver(mark).observe(box);
  mark();
}

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
    keyed.sort(([one], [other]) => {
      if (!one || !other) return !one - !other;
      const numbers = Number(one) - Number(other);
      const order = Number.isNaN(numbers) ? one.localeCompare(other) : numbers;
      return rising ? order : -order;
    });
    body.append(...keyed.map(([, row]) => row));
  });
}
