"use strict";
// The script of every contact sheet: sliders, filters, and links between signed pages.
(() => {
  const form = document.forms[0];
  const rows = [...document.querySelectorAll("main > article")];
  const links = [...document.querySelectorAll("a[data-signed]")];
  document.documentElement.classList.add("js");

  document.querySelector("main").addEventListener("input", ({ target }) => {
    if (target.type !== "range") return;
    target.parentElement.style.setProperty("--split", `${target.value}%`);
    target.setAttribute("aria-valuetext", `${target.value} % before`);
  });

  const filters = [...form.querySelectorAll("select, input")];
  const found = form.querySelector("output");

  const filter = () => {
    const chosen = filters.filter((field) => field.value.trim());
    const fits = ({ dataset }) =>
      chosen.every(({ name, value, options }) =>
        options ? dataset[name] === value : dataset[name].includes(value.trim().toLowerCase()));
    // A row that has the focus stays, or its keys would be gone.
    for (const row of rows) row.hidden = !fits(row) && !row.contains(document.activeElement);
    const count = rows.filter((row) => !row.hidden).length;
    const all = `${rows.length} ${rows.length === 1 ? "row" : "rows"}`;
    const text = chosen.length ? `${count} of ${all} of this page` : all;
    if (found.textContent !== text) found.textContent = text;
    // Links carry the chosen filters behind their #, so that the next page applies them too.
    for (const link of links) link.hash = new URLSearchParams(chosen.map(({ name, value }) => [name, value]));
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
