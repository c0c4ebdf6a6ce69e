"use strict";
// The script of a comparison's page: copy the command of an alternative. It sends nothing.
(() => {
  document.documentElement.classList.add("js");
  document.querySelector("main").addEventListener("click", async ({ target }) => {
    if (!target.matches(".copy")) return;
    const line = target.closest("li");
    const command = line.querySelector("code");
    const said = line.querySelector("output");
    try {
      await navigator.clipboard.writeText(command.textContent);
      said.textContent = "Copied.";
    } catch { // the browser keeps its clipboard from this page
      getSelection().selectAllChildren(command);
      said.textContent = "The command is selected: copy it.";
    }
  });
})();
