(() => {
  const key = (cell) => {
    if (!cell.classList.contains("cna-number")) return cell.textContent;
    const number = Number(cell.dataset.sort ?? NaN);
    return Number.isNaN(number) ? -Infinity : number;
  };
  const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
  const sort = (table, head, column) => {
    const rising = head.getAttribute("aria-sort") === "descending";
    const rows = [...table.tBodies[0].rows];
    rows.sort((a, b) => compare(key(a.cells[column]), key(b.cells[column])) * (rising ? 1 : -1));
    table.tBodies[0].append(...rows);
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", rising ? "ascending" : "descending");
  };
  for (const table of document.querySelectorAll(".cna-table:not([data-ready])")) {
    table.dataset.ready = "";
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      head.tabIndex = 0;
      head.title = "Sort";
      head.onclick = () => sort(table, head, column);
      head.onkeydown = (event) => {
        if (event.key === "Enter" || event.key === " ") {
          event.preventDefault();
          head.onclick();
        }
      };
    });
  }
})();
