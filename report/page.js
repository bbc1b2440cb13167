"use strict";
const body = document.getElementById("classes").tBodies[0];
const heads = [...document.querySelectorAll("#classes thead th")];
const valueOf = (row, column) => row.cells[column].dataset.v ?? row.cells[column].textContent;
heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
  const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  const rows = [...body.rows].sort((one, other) => {
    const [a, b] = [valueOf(one, column), valueOf(other, column)];
    if (a === "" || b === "") return (a === "") - (b === "");  // what has no value stays below
    return sign * ("v" in one.cells[column].dataset ? a - b : a.localeCompare(b));
  });
  body.append(...rows);
  heads.forEach((other) => other.setAttribute("aria-sort", "none"));
  head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
}));
