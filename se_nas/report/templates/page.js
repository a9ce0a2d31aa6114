"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const narrow = matchMedia("(max-width: 40rem)");
  const element = (tag, properties = {}, ...children) => {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  };
  const state = (() => { try { return JSON.parse(sessionStorage.getItem("se-nas")) || {}; } catch { return {}; } })();
  const keep = () => { try { sessionStorage.setItem("se-nas", JSON.stringify(state)); } catch { /* private window */ } };
  const webgl = (() => { try { return !!document.createElement("canvas").getContext("webgl"); } catch { return false; } })();
  let printing = false;

  // A chart as Python wrote it, made complete: "@name" is a colour of the theme, `columns` are taken from the store.
  const colours = () => (dark.matches && !printing ? data.dark : data.light);
  const painted = (value, theme) => {
    if (Array.isArray(value)) return value.length && typeof value[0] === "number" && typeof value[value.length - 1] !== "string" ? value : value.map((v) => painted(v, theme));
    if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, painted(v, theme)]));
    return typeof value === "string" && value[0] === "@" && value.slice(1) in theme ? theme[value.slice(1)] : value;
  };
  const column = (source, rows) => {
    const { name, zero = 0, factor = 1 } = typeof source === "string" ? { name: source } : source;
    const values = rows ? rows.map((i) => data.columns[name][i]) : data.columns[name];
    return factor === 1 && !zero ? values : values.map((v) => (v === null ? null : (v - zero) * factor));
  };
  const filled = (trace) => {
    const { columns, rows, ...rest } = trace;
    for (const [key, source] of Object.entries(columns || {})) {
      if (key === "customdata") {
        const parts = source.map((s) => column(s, rows));
        rest.customdata = parts[0].map((_, i) => parts.map((p) => p[i]));
      } else rest[key] = column(source, rows);
    }
    if (rest.type === "scattergl" && (!webgl || printing)) rest.type = "scatter";
    return rest;
  };
  // The budget that a slider stands at, as a line in its chart.
  const limits = {};
  const budgetOf = (name) => (data.charts[name].budgets || [])[state[name] || 0];
  const limitLine = (name) => {
    const budget = budgetOf(name);
    if (!budget || limits[name] === undefined) return {};
    const x = (limits[name] - budget.zero) * budget.factor, theme = colours();
    return {
      shapes: [{ type: "line", x0: x, x1: x, yref: "paper", y0: 0, y1: 1, line: { color: theme.mark, width: 1.5, dash: "dot" } }],
      annotations: [{ x, xanchor: "auto", yref: "paper", y: 1, yanchor: "top", text: "budget", showarrow: false, font: { color: theme.mark } }],
    };
  };
  const draw = (box) => {
    const chart = data.charts[box.dataset.chart];
    const theme = colours();
    const view = chart.views[state[box.dataset.chart] || 0] || chart.views[0];
    const axis = { gridcolor: theme.line, zerolinecolor: theme.edge, linecolor: theme.edge, automargin: true };
    const layout = painted(view.layout, theme);
    Plotly.react(box, view.traces.map((t) => painted(filled(t), theme)), {
      ...layout,
      font: { color: theme.ink, size: narrow.matches ? 11 : 13, family: "system-ui, sans-serif" },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      margin: { l: 10, r: 14, t: 14, b: 10 }, height: chart.height, width: printing ? 660 : undefined, autosize: !printing,
      dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
      hoverlabel: { bgcolor: theme.paper, bordercolor: theme.edge, font: { color: theme.ink }, align: "left" },
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", ...layout.legend },
      xaxis: { ...axis, ...layout.xaxis }, yaxis: { ...axis, ...layout.yaxis }, ...limitLine(box.dataset.chart),
    }, { responsive: true, displaylogo: false, showSendToCloud: false, displayModeBar: narrow.matches ? false : "hover", modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] });
  };
  const sliders = {};
  const boxes = [...document.querySelectorAll(".chart")];
  const drawAll = () => boxes.forEach(draw);
  const show = (name) => document.querySelectorAll(`[data-view^="${name}-"]`).forEach((part) => {
    part.hidden = part.dataset.view !== `${name}-${state[name] || 0}`;
  });
  document.querySelectorAll("select[data-chart]").forEach((select) => {
    const name = select.dataset.chart;
    if ((state[name] || 0) >= select.options.length) state[name] = 0;
    select.value = String(state[name] || 0);
    show(name);
    select.addEventListener("change", () => {
      state[name] = Number(select.value);
      keep();
      delete limits[name];
      (sliders[name] || (() => {}))();
      draw(document.getElementById(`${name}-chart`));
      show(name);
    });
  });

  // Text to copy: a button beside it, which says when it is done.
  const copied = async (text, box) => {
    try { await navigator.clipboard.writeText(text); return true; } catch { /* an old browser, or not allowed */ }
    getSelection().selectAllChildren(box);
    return document.execCommand("copy");
  };
  const copyButton = (box) => {
    const button = element("button", { type: "button", className: "copy", textContent: "Copy" });
    button.setAttribute("aria-label", "Copy the command");
    button.addEventListener("click", async () => {
      button.textContent = (await copied(box.textContent, box)) ? "Copied" : "Press Ctrl+C";
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
    return button;
  };
  document.querySelectorAll("pre.command").forEach((box) => box.after(copyButton(box)));

  // The network that one would take under a budget. Commands name the folder in which this page lies.
  const folder = (() => {
    if (location.protocol !== "file:") return data.folder;
    const path = decodeURIComponent(location.pathname).replace(/\/[^/]*$/, "");
    return /^\/[A-Za-z]:/.test(path) ? path.slice(1) : path;
  })();
  const quoted = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\"'\"'")}'`);
  const command = (text) => text.replace(/\bRUN(\/\S+)?(?=\s|$)/, (_, rest) => quoted(folder + (rest || "")));
  document.querySelectorAll("[data-budget]").forEach((box) => {
    const name = box.dataset.budget, STEPS = 1000;
    const label = element("label", { htmlFor: `${name}-budget` });
    const slider = element("input", { type: "range", id: `${name}-budget`, min: 0, max: STEPS, step: 1 });
    const title = element("p", { className: "offer" }), facts = element("ul");
    const line = element("pre", { className: "command", tabIndex: 0 });
    line.setAttribute("aria-label", "The command");
    const said = element("div", {}, title, facts);
    said.setAttribute("role", "status");
    box.append(label, slider, said, line, copyButton(line));
    const amount = (value, budget) => (budget.whole ? Math.floor(value).toLocaleString("en") : Number(value.toPrecision(5)).toString());
    const tell = () => {
      const budget = budgetOf(name);
      box.hidden = !budget;
      if (!budget) return;
      const limit = limits[name];
      const text = `at most ${amount(limit, budget)} ${budget.whole ? budget.name : budget.unit}`;
      label.textContent = `Budget: ${text}`;
      slider.setAttribute("aria-valuetext", text);
      const within = budget.steps.filter(([from]) => from <= limit * (1 + 1e-12));
      const offer = data.charts[name].offers[within[within.length - 1][1]];
      title.replaceChildren("Best within this budget: ", element("strong", { textContent: offer.title }), `, ${offer.placement}`);
      facts.replaceChildren(...offer.facts.map((fact) => element("li", { textContent: fact })));
      line.textContent = command(offer.command);
    };
    sliders[name] = () => {
      const budget = budgetOf(name);
      if (budget) {
        limits[name] = Math.max(budget.low, Math.min(budget.high, budget.start));
        slider.disabled = budget.high === budget.low;
        slider.value = slider.disabled ? STEPS : Math.round((STEPS * (limits[name] - budget.low)) / (budget.high - budget.low));
      }
      tell();
    };
    slider.addEventListener("input", () => {
      const budget = budgetOf(name), at = Number(slider.value);
      limits[name] = at === STEPS ? budget.high : budget.low + ((budget.high - budget.low) * at) / STEPS;
      tell();
      Plotly.relayout(`${name}-chart`, limitLine(name));
    });
    sliders[name]();
  });
  drawAll();
  dark.addEventListener("change", drawAll);
  narrow.addEventListener("change", drawAll);
  addEventListener("beforeprint", () => { printing = true; drawAll(); });
  addEventListener("afterprint", () => { printing = false; drawAll(); });

  // A table of all rows of the store, a page at a time, sorted and filtered on request.
  const text = (value, digits) => value === null || value === undefined ? "" : typeof value !== "number" ? String(value)
    : digits === undefined ? String(value) : value.toLocaleString("en", { minimumFractionDigits: Math.max(0, digits), maximumFractionDigits: digits });
  document.querySelectorAll("[data-paged]").forEach((box) => {
    const { heads, size, caption } = data.paged[box.dataset.paged];
    const total = data.columns[heads[0].key].length;
    let sorted = null, up = true, at = 0, wanted = "";
    const body = element("tbody"), count = element("span");
    count.setAttribute("role", "status");
    const head = element("tr", {}, ...heads.map((h) => {
      const button = element("button", { type: "button", textContent: h.label });
      const cell = element("th", { scope: "col", className: h.digits === undefined ? "" : "number" }, button);
      button.addEventListener("click", () => {
        up = sorted === h ? !up : h.digits === undefined;
        sorted = h;
        at = 0;
        head.querySelectorAll("th").forEach((c) => c.removeAttribute("aria-sort"));
        cell.setAttribute("aria-sort", up ? "ascending" : "descending");
        fill();
      });
      return cell;
    }));
    const step = (label, by) => {
      const button = element("button", { type: "button", textContent: label });
      button.addEventListener("click", () => { at += by * size; fill(); });
      return button;
    };
    const back = step("Previous", -1), next = step("Next", 1);
    const search = element("input", { type: "search", placeholder: "Filter: a placement, a state, ..." });
    search.setAttribute("aria-label", "Filter the rows");
    search.addEventListener("input", () => { wanted = search.value.toLowerCase(); at = 0; fill(); });
    const fill = () => {
      let rows = [...Array(total).keys()];
      if (wanted) rows = rows.filter((i) => heads.some((h) => text(data.columns[h.key][i], h.digits).toLowerCase().includes(wanted)));
      if (sorted) {
        const values = data.columns[sorted.key], sign = up ? 1 : -1;
        rows.sort((a, b) => values[a] === values[b] ? a - b : values[a] === null ? 1 : values[b] === null ? -1 : values[a] < values[b] ? -sign : sign);
      }
      at = Math.max(0, Math.min(at, rows.length - 1));
      at -= at % size;
      const shown = rows.slice(at, at + size);
      body.replaceChildren(...shown.map((i) => element("tr", {}, ...heads.map((h, k) => {
        const cell = element(k ? "td" : "th", { className: h.digits !== undefined ? "number" : h.long ? "long" : "", textContent: text(data.columns[h.key][i], h.digits) });
        if (!k) cell.scope = "row";
        return cell;
      }))));
      back.disabled = at === 0;
      next.disabled = at + size >= rows.length;
      count.textContent = rows.length ? `${(at + 1).toLocaleString("en")} to ${(at + shown.length).toLocaleString("en")} of ${rows.length.toLocaleString("en")}` : "no rows";
    };
    const scroll = element("div", { className: "scroll", tabIndex: 0 }, element("table", {}, element("thead", {}, head), body));
    scroll.setAttribute("role", "region");
    scroll.setAttribute("aria-label", caption);
    box.replaceChildren(element("div", { className: "bar" }, search, back, next, count), scroll, element("p", { className: "more", textContent: "Scroll sideways for more columns." }));
    fill();
  });

  // What is wider than the page scrolls, which its faded edge and a line below it say.
  const edges = (box) => {
    const left = box.scrollLeft > 1, right = box.scrollLeft + box.clientWidth < box.scrollWidth - 1;
    box.classList.toggle("cut-left", left);
    box.classList.toggle("cut-right", right);
    box.classList.toggle("wide", box.scrollWidth > box.clientWidth + 1);
  };
  const watched = new ResizeObserver((entries) => entries.forEach((entry) => edges(entry.target)));
  document.querySelectorAll(".scroll, nav ul").forEach((box) => {
    box.addEventListener("scroll", () => edges(box), { passive: true });
    watched.observe(box);
    edges(box);
  });

  // Only the page of a running search has a button to pause; it loads itself again.
  const pause = document.getElementById("pause");
  if (pause) {
    const label = () => { pause.textContent = state.paused ? "Resume" : "Pause"; pause.setAttribute("aria-pressed", String(!!state.paused)); };
    pause.addEventListener("click", () => { state.paused = !state.paused; keep(); label(); });
    label();
    setInterval(() => { if (!state.paused) location.reload(); }, 1000 * data.refresh);
  }
})();
