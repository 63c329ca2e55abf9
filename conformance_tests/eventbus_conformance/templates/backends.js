"use strict";
(() => {
  const needs = [...document.querySelectorAll("input[name=need]")];
  const limits = [...document.querySelectorAll("select[data-limit]")];
  const cards = [...document.querySelectorAll(".card")];
  const level = document.getElementById("level");
  const differ = document.getElementById("differ");
  const clauses = [...document.querySelectorAll("tr[data-level]")];
  const groups = [...document.querySelectorAll("tr.group")];
  const head = document.getElementById("rows").nextElementSibling.tHead;
  const form = document.getElementById("choose");

  const within = (card, select) => {
    const value = Number.parseFloat(card.dataset[select.dataset.limit]);
    const wanted = Number.parseFloat(select.value);
    return select.dataset.atMost === undefined ? value >= wanted : value <= wanted;
  };
  const item = (text) => Object.assign(document.createElement("li"), { textContent: text });

  function lacking(card) {
    const lacks = [];
    for (const need of needs.filter((each) => each.checked)) {
      const told = card.querySelector(`[data-need="${need.value}"]`);
      if (told.dataset.answer !== "yes") lacks.push(told.cloneNode(true));
    }
    for (const select of limits.filter((each) => each.value)) {
      if (!within(card, select)) lacks.push(item(`${select.dataset.lacks} ${card.dataset[`${select.dataset.limit}Told`]}`));
    }
    return lacks;
  }

  function choose() {
    const asked = needs.some((each) => each.checked) || limits.some((each) => each.value);
    const found = new Map(cards.map((card) => [card, lacking(card)]));
    const fits = cards.filter((card) => !found.get(card).length);
    for (const [card, lacks] of found) {
      card.classList.toggle("unfit", lacks.length > 0);
      const list = card.querySelector(".lacks");
      list.hidden = !lacks.length;
      list.replaceChildren(...lacks);
      card.querySelector(".verdict").textContent = !asked ? "" : lacks.length ? "does not fit" : "fits";
      for (const cell of document.querySelectorAll(`[data-column="${card.dataset.column}"]`)) {
        // With none that fits, all stay to be compared.
        if (cell !== card) cell.hidden = fits.length > 0 && lacks.length > 0;
      }
    }
    [...cards].sort((one, other) => found.get(one).length - found.get(other).length)
      .forEach((card) => card.parentElement.append(card));
    document.getElementById("fit").textContent = !asked ? ""
      : fits.length ? `${fits.length} of ${cards.length} fit; the tables show only these.` : "None fits all; the nearest come first.";
    rows();
  }

  function rows() {
    for (const row of clauses) {
      const told = new Set([...row.querySelectorAll("td:not([hidden])")].map((cell) => cell.dataset.outcome));
      const same = differ.value === "differ" ? told.size < 2 : differ.value === "open" ? told.size === 1 && told.has("pass") : false;
      row.hidden = same || (level.value !== "" && row.dataset.level !== level.value);
    }
    for (const group of groups) {
      group.cells[0].colSpan = 1 + head.querySelectorAll("th[data-column]:not([hidden])").length;
      group.hidden = !clauses.some((row) => row.dataset.level === group.dataset.of && !row.hidden);
    }
    const shown = clauses.filter((row) => !row.hidden).length;
    document.getElementById("shown").textContent = `${shown} of ${clauses.length} clauses`;
  }

  // What was chosen is in the address, so that it can be sent to others.
  const inputs = [...needs, ...limits, level, differ];
  function remember() {
    const chosen = new URLSearchParams();
    for (const each of inputs) {
      if (each.type === "checkbox" ? each.checked : each.value) chosen.append(each.name, each.value);
    }
    history.replaceState(null, "", chosen.size ? `#${chosen}` : location.pathname + location.search);
  }
  function recall() {
    if (!location.hash.includes("=")) return;
    const chosen = new URLSearchParams(location.hash.slice(1));
    for (const each of inputs) {
      if (each.type === "checkbox") each.checked = chosen.getAll(each.name).includes(each.value);
      else each.value = chosen.get(each.name) ?? "";
    }
  }

  form.hidden = false;
  document.getElementById("rows").hidden = false;
  document.addEventListener("change", () => { choose(); remember(); });
  form.addEventListener("reset", () => setTimeout(() => { choose(); remember(); }));
  addEventListener("hashchange", () => {
    recall();
    const target = document.getElementById(location.hash.slice(1));
    if (target?.hidden) level.value = differ.value = "";
    choose();
    target?.scrollIntoView();
  });
  recall();
  choose();
})();
