"use strict";
const root = document.documentElement, $ = (id) => document.getElementById(id);
// Words in backticks are code: made of text alone, whoever wrote them.
const prose = (text) => text.split(/`([^`\n]+)`/).map((part, place) => place % 2 ? Object.assign(document.createElement("code"), { textContent: part }) : part);
for (const said of document.querySelectorAll(".prose")) said.replaceChildren(...prose(said.textContent));
// The age is that of the moment of reading; nothing on the page changes with it but its words.
for (const said of document.querySelectorAll("[data-finished]")) {
  const hours = (Date.now() - Date.parse(said.dataset.finished)) / 36e5;
  if (hours > 36) {
    said.classList.add("old");
    said.append(` (${Math.floor(hours / 24)} days ago: newer results may exist)`);
  }
}
if ($("data")) interactive(JSON.parse($("data").textContent));

function interactive(data) {
  const marks = [...document.querySelectorAll("#grid tbody [class]")], rows = [...$("grid").tBodies[0].rows];
  const places = new Map(marks.map((mark, place) => [mark, place])), checks = data.checks;
  const byName = new Map(checks.map((check, place) => [check.check, place]));
  const words = checks.map((check) => [check.check, check.v, check.reason, check.owner, check.sign, check.s, data.texts[check.evidence], data.texts[check.detail]].join(" ").toLowerCase());
  const rowOf = marks.map((mark) => rows.indexOf(mark.closest("tr")));
  const views = [...document.querySelectorAll("[data-view]")].map((button) => button.dataset.view);
  let at = {}, seen = {}, turns = 0;

  const read = () => Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  function go(change) {
    const next = new URLSearchParams(Object.entries({ ...at, ...change }).filter(([, value]) => value));
    history.replaceState(null, "", "#" + next);
    show();
  }

  function show() {
    at = read();
    const view = views.includes(at.v) ? at.v : "grid", query = (at.q || "").toLowerCase(), state = at.s || "";
    for (const section of document.querySelectorAll("section[data-in]")) section.classList.toggle("on", section.dataset.in === view);
    for (const button of document.querySelectorAll("[data-view]")) button.setAttribute("aria-pressed", button.dataset.view === view);
    for (const button of document.querySelectorAll("[data-state]")) button.setAttribute("aria-pressed", button.dataset.state === state);
    if ($("search").value !== (at.q || "")) $("search").value = at.q || "";
    if (seen.q !== query || seen.s !== state) filter(query, state);
    if (view === "images" || view === "libraries") narrow(view, query);
    if (view === "compare") compare();
    if (view === "metrics") plots(query, state);
    seen = { q: query, s: state };
    if (at.c && byName.has(at.c)) detail(byName.get(at.c)); else $("detail").close();
  }

  function filter(query, state) {
    const some = new Uint8Array(rows.length);
    let number = 0;
    marks.forEach((mark, place) => {
      const fits = (!state || checks[place].s === state) && words[place].includes(query);
      if (mark.classList.contains("off") === fits) mark.classList.toggle("off", !fits);
      if (fits) { some[rowOf[place]] = 1; number++; }
    });
    const all = !query && !state;
    // the rows of a screen come back at once, those below it once they are shown
    let first = 40;
    const turn = ++turns;
    const later = rows.filter((row, place) => { const fits = all || some[place]; if (!fits || first-- > 0) row.hidden = !fits; else return row.hidden; });
    if (later.length) requestAnimationFrame(() => setTimeout(() => { if (turn === turns) for (const row of later) row.hidden = false; }));
    for (const cause of document.querySelectorAll(".todo li")) cause.hidden = !(!state || cause.classList.contains(state)) || !cause.textContent.toLowerCase().includes(query);
    $("shown").textContent = all ? "" : `${number} of ${marks.length} checks`;
  }

  function narrow(view, query) {
    const parts = [...document.querySelectorAll(`section[data-in=${view}] details`)];
    for (const part of parts) part.hidden = !part.textContent.toLowerCase().includes(query);
    if (query && !parts.some((part) => part.open && !part.hidden)) { const first = parts.find((part) => !part.hidden); if (first) first.open = true; }
  }

  function element(name, content = "", attributes = {}) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...[content].flat());
    return made;
  }
  const table = (head, body) => element("div", element("table", [element("tr", head.map((cell) => element("th", cell, { scope: "col" }))),
    ...body.map((cells) => element("tr", cells.map((cell, place) => place ? element("td", cell) : element("th", cell, { scope: "row" }))))]),
    { class: "wide", tabindex: "0", role: "region", "aria-label": head.join(", ") });
  const link = (check) => element("a", check.check, { href: "#" + new URLSearchParams({ ...at, c: check.check }) });
  const quoted = (word) => /^[\w@%+=:,.\/-]+$/.test(word) ? word : `'${word.replaceAll("'", `'"'"'`)}'`;
  function amount(value, unit) {
    if (value == null) return "none";
    const [by, name] = unit === "MB" && value >= 1000 ? [1000, "GB"] : unit === "s" && value < 1 ? [1e-3, "ms"] : [1, unit];
    return `${Number((value / by).toPrecision(3))} ${name}`;
  }

  function trail(check, last = 14) {
    const spans = [...check.t].map((letter, place) => [letter, place]).slice(-last).map(([letter, place]) => {
      const verdict = data.letters[letter] || "not in this run";
      return element("span", letter, { title: `${data.runs[place]}: ${verdict}`, class: letter === "p" ? "good" : "fktou".includes(letter) ? "bad" : "" });
    });
    const used = [...new Set(check.t.slice(-last))].map((letter) => `${letter} ${data.letters[letter] || "not in the run"}`);
    return element("p", [`Last ${spans.length} runs: `, ...spans, ` ${used.join(", ")}`], { class: "trail" });
  }

  function plot([unit, values, low, high]) {
    const known = values.filter((value) => value != null), all = low == null ? known : [...known, low, high];
    const least = Math.min(...all), span = Math.max(...all) - least || 1, height = (value) => 38 - 36 * (value - least) / span;
    const space = "http://www.w3.org/2000/svg", made = document.createElementNS(space, "svg");
    made.setAttribute("viewBox", "0 0 200 40"); made.setAttribute("class", "plot"); made.setAttribute("preserveAspectRatio", "none"); made.setAttribute("aria-hidden", "true");
    const add = (name, attributes) => { const part = document.createElementNS(space, name); for (const key in attributes) part.setAttribute(key, attributes[key]); made.append(part); };
    if (low != null) add("rect", { x: 0, width: 200, y: height(high), height: height(low) - height(high) });
    const points = values.map((value, place) => value == null ? null : `${200 * place / Math.max(values.length - 1, 1)},${height(value)}`).filter(Boolean);
    add("polyline", { points: points.length > 1 ? points.join(" ") : `0,${points[0].split(",")[1]} 200,${points[0].split(",")[1]}` });
    return made;
  }
  const series = (name, one) => [name, plot(one), amount(one[1].find((value) => value != null), one[0]), amount(one[1].at(-1), one[0]), one[4] || ""];

  function detail(place) {
    const check = checks[place], box = $("detail"), text = (name) => name in check ? data.texts[check[name]] : "";
    const close = element("button", "Close", { type: "button", class: "close" });
    close.onclick = () => go({ c: "" });
    const parts = [close, element("h2", check.check, { id: "check" })];
    const say = (title, content, kind = "p") => { if (content && content.length) parts.push(element("h3", title), element(kind, kind === "p" ? prose(content) : content)); };
    const [state] = [document.querySelector(`[data-state=${check.s}]`)];
    parts.push(element("p", [element("b", check.v), check.reason ? ` (${check.reason}${check.sign ? " " + check.sign : ""})` : "", check.blame ? `, blame: ${check.blame}` : "", state ? `; ${state.lastChild.textContent.trim()}` : "", check.since ? `; ${check.since}` : "", check.ran ? `; verdict of run ${check.ran}` : ""]));
    parts.push(trail(check));
    say("What happened", text("detail")); say("Evidence", text("evidence"), "pre"); say("A guess", text("guess"));
    say("Remedy", text("remedy")); say("Known", check.known); say("Owner", check.owner);
    const [cause, confirm, remedy] = data.reasons[check.reason] || [];
    if (cause) parts.push(element("details", [element("summary", `The reason ${check.reason}`), element("h3", "Cause"), element("p", prose(cause)), element("h3", "How to confirm"), element("p", prose(confirm)), element("h3", "What to do"), element("p", prose(remedy))]));
    if (text("parts")) parts.push(element("h3", "Parts"), table(["part", "status", "seconds", "message"], text("parts").map((part) => [part.name, part.status, part.seconds, part.message || ""])));
    say("Notes", (text("notes") || []).join("; ")); say("Traceback", text("traceback"), "pre"); say("Output and stacks", text("output"), "pre");
    if (check.m) parts.push(element("h3", "Metrics"), table(["metric", "over the runs", "first", "now", "judged"], Object.entries(check.m).map(([name, one]) => series(name, one))));
    say("Packages added to the image", (text("resolved") || []).join("\n"), "pre"); say("A plain install would replace", (text("drift") || []).join(", "));
    say("Replaced in the image", (text("replaced") || []).join(", "));
    const facts = data.environments[check.environment];
    if (facts) parts.push(element("h3", "Environment"), table(["fact", "value"], Object.entries(facts)));
    const own = quoted(check.check.replace(/^([^\/@]+)@[^\/]*/, "$1")), ran = check.ran || data.run;
    say("Reproduce", (data.again[ran] || data.again[data.run]).replace(" CHECK", () => " " + own), "pre");
    say("All that was recorded", "compat show " + own + " --run " + quoted(ran), "pre");
    box.replaceChildren(...parts);
    box.dataset.place = place;
    if (!box.open) box.showModal();
  }

  function compare() {
    const options = [...data.runs.map((run, place) => ["r" + place, "run " + run]), ...data.columns.map((name, place) => ["c" + place, name])];
    for (const [id, key, standard] of [["from", "a", Math.max(data.runs.length - 2, 0)], ["to", "b", data.runs.length - 1]]) {
      if (!$(id).options.length) $(id).append(...options.map(([value, name]) => element("option", name, { value })));
      $(id).value = at[key] || "r" + standard;
    }
    const [a, b] = [$("from").value, $("to").value], found = [], verdict = (letter) => data.letters[letter] || "not in this run";
    if (a[0] !== b[0]) return $("differences").replaceChildren(element("p", "Choose two runs, or two columns."));
    if (a[0] === "r") {
      for (const check of checks) if (check.t[+a.slice(1)] !== check.t[+b.slice(1)]) found.push([link(check), verdict(check.t[+a.slice(1)]), verdict(check.t[+b.slice(1)])]);
    } else {
      const other = new Map(checks.filter((check) => check.c === +a.slice(1)).map((check) => [check.r + " " + check.p, check]));
      for (const check of checks) {
        const same = check.c === +b.slice(1) && other.get(check.r + " " + check.p);
        if (same && same.v + same.reason !== check.v + check.reason) found.push([link(check), [same, check].map((one) => `${one.v} ${one.reason || ""}`)].flat());
      }
    }
    const names = [a, b].map((value) => options.find(([key]) => key === value)[1]);
    $("differences").replaceChildren(element("p", `${found.length} checks differ${found.length > 500 ? "; the first 500:" : ""}`), table(["check", ...names], found.slice(0, 500)));
  }

  function plots(query, state) {
    const all = checks.flatMap((check, place) => words[place].includes(query) && (!state || check.s === state) ? Object.entries(check.m || {}).map(([name, one]) => [check, name, one]) : []);
    all.sort((one, other) => !!other[2][4] - !!one[2][4]);
    $("plots").replaceChildren(element("p", `${all.length} series, ${all.filter((one) => one[2][4]).length} with a note${all.length > 200 ? "; the first 200:" : ""}`),
      table(["check", "metric", "over the runs", "first", "now", "judged"], all.slice(0, 200).map(([check, name, one]) => [link(check), ...series(name, one)])));
  }

  const focus = (mark) => { if (mark) { for (const old of document.querySelectorAll("#grid [tabindex]")) old.tabIndex = -1; mark.tabIndex = 0; mark.focus(); mark.scrollIntoView({ block: "nearest", inline: "nearest" }); } };
  function beside(mark, down) {
    let row = mark.closest("tr");
    do row = down > 0 ? row.nextElementSibling : row.previousElementSibling; while (row && (row.hidden || !row.querySelector("[class]")));
    return row && [...row.querySelectorAll("[class]")].sort((one, other) => Math.abs(one.offsetLeft - mark.offsetLeft) - Math.abs(other.offsetLeft - mark.offsetLeft))[0];
  }
  const step = (mark, by) => { let place = places.get(mark) + by; while (marks[place] && rows[rowOf[place]].hidden) place += by; return marks[place]; };
  const grid = $("grid");
  grid.setAttribute("role", "grid");
  for (const mark of grid.querySelectorAll("tbody span[class]")) mark.setAttribute("role", "button");
  if (marks.length) marks[0].tabIndex = 0;
  grid.addEventListener("click", (event) => { const mark = event.target.closest("tbody [class]"); if (mark) { focus(mark); go({ c: checks[places.get(mark)].check }); } });
  grid.addEventListener("keydown", (event) => {
    const mark = event.target.closest("tbody [class]"), moves = { ArrowRight: () => step(mark, 1), ArrowLeft: () => step(mark, -1), ArrowDown: () => beside(mark, 1), ArrowUp: () => beside(mark, -1) };
    if (!mark) return;
    if (moves[event.key]) { focus(moves[event.key]()); event.preventDefault(); }
    if (event.key === "Enter" || event.key === " ") { go({ c: checks[places.get(mark)].check }); event.preventDefault(); }
  });
  document.addEventListener("keydown", (event) => {
    if (/INPUT|SELECT/.test(event.target.tagName) || $("detail").open || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "/") { $("search").focus(); event.preventDefault(); }
    if (event.key === "n") {
      go({ v: "" });
      const from = places.get(document.activeElement) ?? -1, next = checks.map((check, place) => check.s === "new" ? place : -1).filter((place) => place >= 0 && !rows[rowOf[place]].hidden);
      focus(marks[next.find((place) => place > from) ?? next[0]]);
    }
  });
  document.addEventListener("click", (event) => {
    const { state, view } = event.target.closest("[data-state], [data-view]")?.dataset || {};
    if (state) go({ s: at.s === state ? "" : state });
    if (view) go({ v: view === "grid" ? "" : view });
  });
  $("search").addEventListener("input", () => go({ q: $("search").value }));
  for (const [id, key] of [["from", "a"], ["to", "b"]]) $(id).addEventListener("change", () => go({ [key]: $(id).value }));
  $("detail").addEventListener("close", () => { if (read().c) { const place = +$("detail").dataset.place; go({ c: "" }); focus(marks[place]); } });
  addEventListener("hashchange", show);
  root.classList.add("js");
  show();
}
