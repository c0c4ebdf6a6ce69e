"use strict";
// The script of a review: keep or reject each picture, by mouse and by keyboard. It sends nothing. A
// person saves a file, copies a text, or follows a link to a form and submits it there.
(() => {
  const byId = (id) => document.getElementById(id);
  const { run, output, file, pages } = byId("decide").dataset;
  const form = document.forms[0];
  const main = document.querySelector("main");
  const cards = [...main.querySelectorAll("article")];
  const links = [...document.querySelectorAll("a[data-form]")];
  const place = `ace-catalog decisions ${run}`; // the same on all pages of a review
  const keys = new Map([["k", "keep"], ["r", "reject"], ["u", "undecided"]]);
  const longest = 8000; // characters of a link; servers and proxies refuse longer ones

  let decisions = new Map(); // row id → keep or reject
  let last = "";
  let isUnsaved = false;

  // Not JSON.parse alone: anything on the same origin may have written there.
  const parse = (text) => new Map(Object.entries(JSON.parse(text) ?? {}).filter(([, each]) => each === "keep" || each === "reject"));
  const refuse = () => { byId("unstored").hidden = false; };
  const load = () => {
    try { decisions = parse(localStorage.getItem(place)); } catch (error) { if (!(error instanceof SyntaxError)) refuse(); }
  };
  const store = () => {
    try { localStorage.setItem(place, JSON.stringify(Object.fromEntries(decisions))); } catch { refuse(); }
  };

  const decisionOn = (card) => decisions.get(card.dataset.id) ?? "undecided";
  const visible = () => cards.filter((card) => !card.hidden);
  const focused = () => document.activeElement.closest("article");

  // ---------------------------------------------------------------- what is shown

  const count = (all) => `${all.filter((each) => each === "keep").length} kept, ${all.filter((each) => each === "reject").length} rejected`;

  const counts = () => {
    const here = cards.map(decisionOn);
    const undecided = here.filter((each) => each === "undecided").length;
    const all = pages > 1 ? `; all ${pages} pages: ${count([...decisions.values()])}` : "";
    return `${last}${count(here)}, ${undecided} undecided${all}`;
  };

  const show = () => {
    for (const card of cards) {
      const decision = (card.dataset.decision = decisionOn(card));
      card.querySelector(`.choice [value=${decision}]`).checked = true;
    }
    byId("counts").textContent = counts();
    byId("text").value = text();
    showLinks();
  };

  // ---------------------------------------------------------------- what is handed on

  // Those of this page in its order, then those of other pages. What this sheet no longer shows has
  // been carried out.
  const ids = (wanted) => {
    const here = cards.map((card) => card.dataset.id);
    const others = pages > 1 ? [...decisions.keys()].filter((id) => !here.includes(id)) : [];
    return [...here, ...others].filter((id) => decisions.get(id) === wanted);
  };
  const text = (indent) => JSON.stringify({ run, promote: ids("keep"), discard: ids("reject") }, null, indent);

  const showLinks = () => {
    // A row may be called "all", which alone would stand for every row.
    const [promote, discard] = ["keep", "reject"].map((each) => ids(each).join(",").replace(/^all$/, "all,"));
    for (const link of links) {
      const href = (parameters) => {
        let quoted = JSON.stringify(parameters);
        for (let n = 0; n < link.dataset.quoted; n++) quoted = encodeURIComponent(quoted);
        return link.dataset.form + quoted;
      };
      const whole = href({ output, run, promote, discard });
      const fits = whole.length <= longest;
      link.href = fits ? whole : href({ output, run });
      link.parentElement.querySelector(".notice").hidden = fits;
    }
  };

  const save = () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([`${text(1)}\n`], { type: "application/json" }));
    link.download = file;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href));
    isUnsaved = false;
  };

  const copy = async () => {
    const field = byId("text");
    try {
      await navigator.clipboard.writeText(field.value);
      last = "Copied. ";
    } catch { // the browser keeps its clipboard from this page
      field.closest("details").open = true;
      field.select();
      last = "The text is selected: copy it. ";
    }
    byId("counts").textContent = counts();
  };

  // ---------------------------------------------------------------- what a person does

  const decide = (card, decision) => {
    load(); // another page of the review may have written since
    if (decision === "undecided") decisions.delete(card.dataset.id);
    else decisions.set(card.dataset.id, decision);
    last = `${card.dataset.id}: ${decision}. `;
    isUnsaved = true;
    store();
    show();
  };

  // Only now does the filter hide what has been decided. If a click did, the cards would move under
  // the pointer, and the next click would decide about another picture.
  const go = (card) => {
    const target = card ?? byId("decide-title");
    target.focus({ preventScroll: true });
    form.dispatchEvent(new Event("input"));
    target.scrollIntoView({ block: "center" });
  };

  const goOn = (isWanted) => {
    const all = visible();
    const from = all.indexOf(focused()) + 1;
    go([...all.slice(from), ...all.slice(0, from)].find(isWanted));
  };
  const goToUndecided = () => goOn((card) => decisionOn(card) === "undecided");

  main.addEventListener("change", ({ target }) => {
    if (target.type === "radio") decide(target.closest("article"), target.value);
  });
  main.addEventListener("keydown", (event) => {
    const card = focused();
    const key = event.key.toLowerCase();
    if (!card || event.ctrlKey || event.metaKey || event.altKey) return;
    if (keys.has(key)) {
      const looked = form.elements.decision.value; // a person may go through the kept ones again
      decide(card, keys.get(key));
      if (key !== "u") goOn((each) => decisionOn(each) === (looked || "undecided"));
    } else if (key === "n" || key === "p") {
      const all = visible();
      go(all[all.indexOf(card) + (key === "n" ? 1 : -1)] ?? card);
    } else return;
    event.preventDefault();
  });
  byId("next").addEventListener("click", goToUndecided);
  byId("save").addEventListener("click", save);
  byId("copy").addEventListener("click", copy);
  byId("clear").addEventListener("click", () => {
    if (!confirm(`Clear all decisions on run ${run}?`)) return;
    decisions.clear();
    last = "";
    store();
    show();
  });
  addEventListener("storage", () => { load(); show(); });
  addEventListener("beforeunload", (event) => {
    if (isUnsaved && !byId("unstored").hidden) event.preventDefault();
  });
  load();
  store();
  show();
})();
