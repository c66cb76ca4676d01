"use strict";
// Sorting by a click on a column: best first, then the other way round. Rows without a score come last both times.
for (const table of document.querySelectorAll("table.board")) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  heads.forEach((head, place) => {
    const button = head.querySelector("button");
    button.hidden = false;
    button.nextElementSibling.hidden = true;
    button.addEventListener("click", () => {
      const first = place === 0 || "lower" in head.dataset ? "ascending" : "descending";
      const other = first === "ascending" ? "descending" : "ascending";
      const way = head.getAttribute("aria-sort") === first ? other : first;
      heads.forEach((each) => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", way);
      const value = (row) => {
        const text = row.cells[place].dataset.value;
        return text === undefined ? null : Number(text);
      };
      const rows = [...body.rows].sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        if (x === null || y === null) return (x === null) - (y === null);
        return way === "ascending" ? x - y : y - x;
      });
      body.append(...rows);
    });
  });
}
