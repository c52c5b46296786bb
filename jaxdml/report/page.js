"use strict";
// Draws the figures one after the other, and gives the map its colours, controls and hover card.
// Text from data enters the page through textContent alone.
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const COLOURS = ["#0b7bc1", "#e08a00", "#00966b", "#c95f9a", "#d1480f", "#4fa8dc", "#8a63b8",
    "#8a8d93", "#a0703a", "#6f9a1d"];
  const MARKERS = ["circle", "square", "triangle", "diamond", "inverted_triangle"];
  const SIGNS = { circle: "●", square: "■", triangle: "▲", diamond: "◆", inverted_triangle: "▼" };
  const colourOf = (code) => COLOURS[code % COLOURS.length];
  const markerOf = (code) => MARKERS[(code + Math.floor(code / COLOURS.length)) % MARKERS.length];
  const element = (name, text, className) => {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  };

  function startMap(plot) {
    const data = read("map-data");
    const source = plot.renderers.find((r) => r.data_source.name === "map-points").data_source;
    const card = document.getElementById("card");
    const legend = document.getElementById("legend");
    const colourBy = document.getElementById("colour-by");
    const highlight = document.getElementById("highlight");
    const place = document.getElementById("map-plot");
    const count = data.row.length;
    const classes = data.columns[0];
    const size = window.innerWidth < 600 ? 5 : 8;
    let column = classes;
    let shown = null;
    let pinned = null;

    const paint = (code) => {
      shown = code;
      const all = code === null;
      source.data.alpha = classes.codes.map((c) => (all ? 0.8 : c === code ? 1 : 0.1));
      source.data.size = classes.codes.map((c) => (!all && c === code ? 1.5 * size : size));
      source.change.emit();
    };
    const recolour = () => {
      column = data.columns[Number(colourBy.value)];
      source.data.colour = column.codes.map(colourOf);
      source.data.marker = column.codes.map(markerOf);
      legend.replaceChildren();
      if (column.names.length <= 12) {
        column.names.forEach((name, code) => {
          const entry = element("span");
          const swatch = element("i", SIGNS[markerOf(code)], "swatch");
          swatch.style.color = colourOf(code);
          entry.append(swatch, name);
          legend.append(entry);
        });
      } else {
        legend.append(element("span",
          `${column.names.length} values: colours and marks repeat; point at one to see its class.`));
      }
      paint(pinned);
    };
    const fit = (range, values) => {
      const low = Math.min(...values);
      const high = Math.max(...values);
      const room = 0.06 * (high - low || 1);
      const ends = { start: low - room, end: high + room };
      // Bokeh's own reset button goes back to these, too.
      range.setv({ ...ends, reset_start: ends.start, reset_end: ends.end });
    };
    const reset = () => {
      fit(plot.x_range, source.data.x);
      fit(plot.y_range, source.data.y);
    };
    const layout = (name) => {
      source.data.x = data.layouts[name].x;
      source.data.y = data.layouts[name].y;
      source.change.emit();
      reset();
      for (const button of document.querySelectorAll("[data-layout]")) {
        button.setAttribute("aria-pressed", String(button.dataset.layout === name));
      }
    };
    const zoom = (factor) => {
      for (const range of [plot.x_range, plot.y_range]) {
        const middle = (range.start + range.end) / 2;
        const half = ((range.end - range.start) / 2) * factor;
        range.setv({ start: middle - half, end: middle + half });
      }
    };
    const sprite = (index) => {
      const { side, per_sheet, columns_a_sheet: columns } = data;
      const cell = index % per_sheet;
      const scale = 128 / side;
      const rows = Math.ceil(Math.min(per_sheet, count - (index - cell)) / columns);
      const made = element("div", undefined, `sprite sheet-${Math.floor(index / per_sheet)}`);
      made.setAttribute("role", "img");
      made.setAttribute("aria-label", classes.names[classes.codes[index]]);
      made.style.backgroundSize = `${columns * 128}px ${rows * 128}px`;
      made.style.backgroundPosition =
        `-${(cell % columns) * 128}px -${Math.floor(cell / columns) * 128}px`;
      if (scale > 1.5) made.style.imageRendering = "pixelated";
      return made;
    };
    const show = (index) => {
      if (card.dataset.index === String(index)) return;
      card.dataset.index = String(index);
      const lines = data.columns.slice(1).map((other) =>
        element("small", `${other.name}: ${other.names[other.codes[index]]}`));
      card.replaceChildren(sprite(index),
        element("b", classes.names[classes.codes[index]]), ...lines,
        element("small", data.record[index]));
      card.classList.add("shown");
    };
    const hide = () => {
      card.classList.remove("shown");
      delete card.dataset.index;
      if (shown !== pinned) paint(pinned);
    };

    data.columns.forEach((one, place) => colourBy.append(new Option(one.name, place)));
    classes.names.forEach((name, code) => highlight.append(new Option(name, code)));
    // Hundreds of classes share ten colours: a column of fewer values says more at first sight.
    const values = (one) => (one.names.length > 1 ? one.names.length : Infinity);
    const fewest = data.columns.reduce((a, b) => (values(b) < values(a) ? b : a));
    if (classes.names.length > 20) colourBy.value = String(data.columns.indexOf(fewest));
    source.inspect.connect(() => {
      const [index] = source.inspected.indices;
      if (index === undefined) return hide();
      show(index);
      if (pinned === null && shown !== classes.codes[index]) paint(classes.codes[index]);
    });
    place.addEventListener("pointermove", (event) => {
      const right = event.clientX + 20 + 240 > window.innerWidth;
      card.style.left = right ? "" : `${event.clientX + 20}px`;
      card.style.right = right ? `${Math.max(4, window.innerWidth - event.clientX + 20)}px` : "";
      const low = event.clientY > window.innerHeight / 2;
      card.style.top = low ? "" : `${event.clientY + 16}px`;
      card.style.bottom = low ? `${window.innerHeight - event.clientY + 16}px` : "";
    });
    place.addEventListener("pointerleave", hide);
    colourBy.addEventListener("change", recolour);
    highlight.addEventListener("change", () => {
      pinned = highlight.value === "" ? null : Number(highlight.value);
      paint(pinned);
    });
    for (const button of document.querySelectorAll("[data-layout]")) {
      button.addEventListener("click", () => layout(button.dataset.layout));
    }
    for (const button of document.querySelectorAll("[data-zoom]")) {
      button.addEventListener("click", () => {
        if (button.dataset.zoom === "reset") reset();
        else zoom(Number(button.dataset.zoom));
      });
    }
    recolour();
    reset();
  }

  // Sorts by a column at a click on its head, and hides the classes that are not looked for.
  function startTable(table) {
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const filter = document.getElementById("class-filter");
    const shown = document.getElementById("class-count");
    const key = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent;
    const before = (a, b) => (a === "" || b === "" ? (a === "") - (b === "")
      : isNaN(a) || isNaN(b) ? a.localeCompare(b, undefined, { numeric: true }) : a - b);
    for (const button of table.querySelectorAll("[data-sort]")) {
      const head = button.closest("th");
      const column = Number(button.dataset.sort);
      button.addEventListener("click", () => {
        const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
        for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
        rows.sort((a, b) => sign * before(key(a, column), key(b, column)));
        body.append(...rows);
      });
    }
    filter.addEventListener("input", () => {
      const wanted = filter.value.trim().toLowerCase();
      for (const row of rows) row.hidden = !row.cells[0].textContent.toLowerCase().includes(wanted);
      const left = rows.filter((row) => !row.hidden).length;
      shown.textContent = wanted ? `${left} of ${rows.length}` : "";
    });
  }

  async function start() {
    const table = document.getElementById("class-table");
    if (table) startTable(table);
    for (const id of read("figures")) {
      const place = document.getElementById(id);
      const views = await Bokeh.embed.embed_item(read(`${id}-item`), id);
      if (id === "map-plot") startMap(views.roots[0].model);
      place.dataset.drawn = "true";
      // One at a time: the page can be read and scrolled meanwhile.
      await new Promise((resolve) => setTimeout(resolve));
    }
    document.documentElement.dataset.ready = "true";
  }
  window.addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("details")) details.open = true;
  });
  start();
})();
