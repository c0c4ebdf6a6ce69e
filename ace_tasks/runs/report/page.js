"use strict";
// The one script of a contact sheet: sliders, filters, and links between signed pages.
(() => {
  const form = document.forms[0];
  const rows = [...document.querySelectorAll("main > article")];
  const links = [...document.querySelectorAll("a[data-signed]")];
  document.documentElement.classList.add("js");

  document.querySelector("main").addEventListener("input", ({ target }) => {
    target.parentElement.style.setProperty("--split", `${target.value}%`);
    target.setAttribute("aria-valuetext", `${target.value} % before`);
  });

  const filters = ["status", "task", "row"].map((name) => form.elements[name]);

  const filter = () => {
    const [status, task, part] = filters.map((field) => field.value.trim().toLowerCase());
    let count = 0;
    for (const row of rows) {
      const { dataset } = row;
      row.hidden =
        (status && dataset.status !== status) || (task && dataset.task !== task) || !dataset.row.includes(part);
      count += !row.hidden;
    }
    const all = `${rows.length} ${rows.length === 1 ? "row" : "rows"}`;
    form.querySelector("output").textContent = status || task || part ? `${count} of ${all} of this page` : all;
    // Links carry the chosen filters behind their #, so that the next page applies them too.
    const chosen = filters.filter((field) => field.value).map((field) => [field.name, field.value]);
    for (const link of links) link.hash = new URLSearchParams(chosen);
  };

  // A page that was opened by a signed link uses the signed links of its neighbours.
  if (location.search) for (const link of links) link.href = link.dataset.signed;
  const given = new URLSearchParams(location.hash.slice(1));
  for (const field of filters) {
    const value = given.get(field.name) ?? "";
    if (field.options && ![...field.options].some((option) => option.value === value)) field.add(new Option(value));
    field.value = value;
  }
  filter();

  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(filter));
  form.elements.more.addEventListener("click", ({ target }) => {
    const open = target.getAttribute("aria-pressed") !== "true";
    target.setAttribute("aria-pressed", open);
    for (const each of document.querySelectorAll("details.more")) each.open = open;
  });
})();
