/* The pages of an atlas: a layer's wall, filters and scatter, and the view of a unit.

   A classic script, because browsers refuse modules and fetch for pages opened from disk. Data
   files assign to window.ATLAS. All strings in them are untrusted: they reach the page as text or
   as attributes of a few known names, never as HTML, and file names are checked before use. */
"use strict";
(function () {

  // ---------- 1. Elements, numbers, words ------------------------------------------------------

  const SVG = "http://www.w3.org/2000/svg";
  const byId = (id) => document.getElementById(id);

  function fill(node, attributes, children) {
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value !== null && value !== undefined && value !== false) {
        node.setAttribute(name, value === true ? "" : String(value));
      }
    }
    node.append(...children.filter((child) => child !== null && child !== undefined));
    return node;
  }
  const html = (tag, attributes, ...children) =>
    fill(document.createElement(tag), attributes, children);
  const svg = (tag, attributes, ...children) =>
    fill(document.createElementNS(SVG, tag), attributes, children);

  function button(attributes, onClick, ...children) {
    const node = html("button", { type: "button", ...attributes }, ...children);
    node.addEventListener("click", () => onClick(node));
    return node;
  }

  const hint = (...children) => html("p", { class: "hint" }, ...children);
  const soft = (text) => html("span", { class: "hint" }, text);
  const strong = (text) => html("strong", null, text);

  const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
  const clamp = (value, low, high) => Math.max(low, Math.min(high, value));

  /* Three digits, or all digits before the point: 0.253, 8066. */
  function digits(value, count = 3) {
    if (!isNumber(value)) return "–";
    const size = Math.abs(value);
    if (size >= 1000 && size < 1e6) return String(Math.round(value));
    return String(Number(value.toPrecision(count)));
  }
  /* An index as text: what is 0 but for rounding is 0. */
  const indexDigits = (value) => digits(isNumber(value) && Math.abs(value) < 1e-5 ? 0 : value);
  const percent = (share) => (isNumber(share) ? `${Math.round(100 * share)} %` : "–");
  const plural = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;

  /* Round half to even, as Python does. */
  function roundEven(value) {
    const low = Math.floor(value);
    if (value - low !== 0.5) return Math.round(value);
    return low % 2 === 0 ? low : low + 1;
  }

  const isSafeName = (name) =>
    typeof name === "string" && /^[A-Za-z0-9_-][A-Za-z0-9._-]*$/.test(name);
  /* A relative path of safe names, or null. */
  function safePath(...parts) {
    const names = parts.flatMap((part) => (typeof part === "string" ? part.split("/") : [part]));
    return names.every(isSafeName) ? names.join("/") : null;
  }

  function say(text) {
    const said = byId("said");
    said.textContent = "";
    window.setTimeout(() => { said.textContent = text; }, 30);
  }

  // ---------- 2. Copy buttons (all pages) ------------------------------------------------------

  /* By a selection: browsers give pages without a secure address no other way. */
  function copyText(node) {
    const selection = window.getSelection();
    selection.selectAllChildren(node);
    const copied = document.execCommand("copy");
    if (copied) selection.removeAllRanges();
    return copied;
  }

  function onCopy(button) {
    const node = byId(button.dataset.copy);
    if (!node) return;
    const copied = copyText(node);
    say(copied ? "copied" : "the text is selected: copy it with the keyboard");
    if (!copied || button.dataset.label) return;
    button.dataset.label = button.textContent;
    button.textContent = "Copied";
    window.setTimeout(() => {
      button.textContent = button.dataset.label;
      delete button.dataset.label;
    }, 1500);
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest(".copy");
    if (button) onCopy(button);
  });

  if (!byId("wall")) return;

  // ---------- 3. The layer's data --------------------------------------------------------------

  const ROOT = "../../";
  const AGAIN = "reload this page later, or run `diversevis atlas` again";
  const data = window.ATLAS && window.ATLAS.layer;
  const notes = byId("notes");

  function note(text, kind = "note") {
    notes.append(html("p", { class: kind }, text));
  }
  const clearNotes = () => notes.querySelectorAll(".note").forEach((old) => old.remove());

  if (!data || ![data.units, data.indices, data.runs].every(Array.isArray) || !data.columns) {
    note(`The data of this page (layer.js) is missing or cannot be read: ${AGAIN}.`, "problem");
    return;
  }

  const COUNT = data.units.length;
  const NOUN = data.noun || "unit";
  const INDICES = data.indices.filter((index) => Array.isArray(data.columns[index.id]));
  const indexOf = new Map(INDICES.map((index) => [index.id, index]));
  const rowOf = new Map(data.units.map((unit, row) => [unit, row]));
  const isDead = (row) => data.state[row] === "dead";

  /* What low and high numbers say about invariance. */
  const READ = {
    response: "near 1: the unit lets its images differ without a loss of response",
    distance: "high: even the two most similar images differ much",
    phase: "low: as in a complex cell, whose response does not depend on phase; above 1: simple",
    shift: "high: shifts of a texture matter little; 1: not at all",
    deformation: "low: smooth deformations matter little; above 1: more than noise of the same size",
    diversity: "near 0: all images alike, as for a simple cell; near 1: as for a complex cell",
    gain: "high: the batch shows differences that images made alone do not",
    dimension: "near 1: images lie on a line; 2: in a plane, as the phases of a grating; more: beyond",
    natural: "near 1: photographs drive the unit as well as its images do",
    selectivity: "near 0: its images drive no other unit; high: other units respond to them as well",
    varied: "near 1: a photograph drives the unit as well as the best image",
    bipartite: "near 0: as for a linear unit; high: a shifting texture may replace much of the image",
    align: "near 1: another unit is the same but for a rotation, a scale or a shift",
  };
  const columns = new Map();

  /* Values of an index by row (NaN: no number), which are weak, and those that count, sorted. */
  function column(id) {
    if (!columns.has(id)) columns.set(id, makeColumn(id));
    return columns.get(id);
  }

  function makeColumn(id) {
    const values = Float64Array.from(data.columns[id], (value) => (isNumber(value) ? value : NaN));
    const weak = new Uint8Array(COUNT);
    for (const row of (data.weak || {})[id] || []) weak[row] = 1;
    const counts = (row) => !Number.isNaN(values[row]) && !weak[row] && !isDead(row);
    const sorted = values.filter((_, row) => counts(row)).sort();
    return { id, values, weak, counts, sorted, scale: makeScale(sorted, indexOf.get(id).log) };
  }

  /* From numbers to 0..1 and back; logarithmic if the index is and all of its range allows it. */
  function makeScale(sorted, wantsLog) {
    const positive = wantsLog ? sorted.filter((value) => value > 0) : sorted;
    const isLog = Boolean(wantsLog) && positive.length > 0;
    const shape = isLog ? Math.log10 : (value) => value;
    const back = isLog ? (value) => 10 ** value : (value) => value;
    let low = positive.length ? shape(positive[0]) : 0;
    let high = positive.length ? shape(positive[positive.length - 1]) : 1;
    if (!(high > low)) [low, high] = [low - 0.5, high + 0.5];
    return {
      isLog, low: back(low), high: back(high),
      to: (value) => (shape(value) - low) / (high - low),
      from: (share) => back(low + share * (high - low)),
    };
  }

  /* Place of a row's value among those of all other rows: as in diversevis/compare/ranks.py. */
  const ROUNDING = 1e-5;
  const isClose = (a, b) =>
    Math.abs(a - b) <= Math.max(ROUNDING * Math.max(Math.abs(a), Math.abs(b)), ROUNDING);

  /* Number of sorted values for which the test holds; it holds for a first part of them. */
  function countWhile(sorted, test) {
    let low = 0, high = sorted.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (test(sorted[middle])) low = middle + 1; else high = middle;
    }
    return low;
  }

  function rankOf(id, row) {
    const { values, sorted, counts } = column(id);
    if (!counts(row)) return null;
    const value = values[row];
    const lower = countWhile(sorted, (other) => other < value && !isClose(other, value));
    const equal = countWhile(sorted, (other) => other < value || isClose(other, value)) - lower - 1;
    const others = sorted.length - 1;
    if (others < 3) return null;
    return { percentile: (100 * (lower + equal / 2)) / others, others, equal };
  }

  function rankWords(rank, nouns = `${NOUN}s`) {
    if (!rank) return "";
    const among = `${rank.others} ${nouns}`;
    if (rank.equal === rank.others) return `equal to all ${among}`;
    if (rank.percentile === 50) return `in the middle of ${among}`;
    const side = rank.percentile < 50 ? "lower" : "higher";
    const share = Math.max(rank.percentile, 100 - rank.percentile);
    const of = share === 100 ? "all" : `${Math.min(99, roundEven(share))} % of`;
    return `${side} than ${of} ${among}`;
  }

  /* "0.253", "(0.253)" where it says little, "–" where there is none. */
  function valueText(id, row) {
    const { values, weak } = column(id);
    if (Number.isNaN(values[row])) return "–";
    const text = indexDigits(values[row]);
    return weak[row] ? `(${text})` : text;
  }

  function word(index, value) {
    if (!index.words || !isNumber(value)) return "";
    const [low, high] = index.words;
    return value < index.threshold ? low : value > index.threshold ? high : "";
  }

  const MAIN = INDICES.filter((index) => index.main);
  const OTHERS = INDICES.filter((index) => !index.main);
  /* Without sorting all numbers of all indices when the page opens. */
  function hasNumbers({ id }) {
    const weak = new Set((data.weak || {})[id]);
    return data.columns[id].some((value, row) =>
      isNumber(value) && !weak.has(row) && !isDead(row));
  }

  /* "unit 21 of conv3_1: F1/F0 0.25, lower than 55 % of 255 units" */
  function describe(row, sortedBy) {
    const name = `${NOUN} ${data.units[row]} of ${data.layer}`;
    if (isDead(row)) return `${name}: dead`;
    const first = indexOf.get(sortedBy);
    const others = MAIN.filter((index) => index !== first && index.id !== "response");
    const shown = [first, ...others].filter(Boolean).slice(0, 2);
    const parts = shown.map((index) => {
      const rank = rankWords(rankOf(index.id, row));
      return `${index.name} ${valueText(index.id, row)}${rank && `, ${rank}`}`;
    });
    const state = data.state[row] ? [data.state[row]] : [];
    return `${name}: ${[...state, ...parts].join("; ")}`;
  }

  // ---------- 4. The state of the view, and the address ----------------------------------------

  const WIDTH = (data.wall && data.wall.width) || 1;
  const HEIGHT = (data.wall && data.wall.height) || 1;
  const STRIP = data.strip; // how the images of a unit lie in their file; null if one or none
  const ZOOMS = [1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32, 48];
  const SIZES = ZOOMS.filter(
    (size) => size === defaultSize() || (WIDTH * size >= 16 && WIDTH * size <= 288));

  function defaultSize() {
    return ZOOMS.filter((size) => WIDTH * size <= 90).pop() || 1;
  }

  function defaultAxes() {
    const wanted = ["phase", "shift", "deformation", "diversity", "gain", "dimension"];
    const ids = [...wanted, ...INDICES.map((index) => index.id)].filter((id) => indexOf.has(id));
    const [x, y] = [...new Set(ids)].filter((id) => hasNumbers(indexOf.get(id)));
    return { x: x || ids[0] || null, y: y || x || ids[0] || null };
  }

  const DEFAULTS = {
    sort: "unit", order: "asc", filters: new Map(), size: defaultSize(), images: "best", unit: null,
    ...defaultAxes(),
  };

  const formatRange = (id, { low, high }) =>
    `${encodeURIComponent(id)}:${low ?? ""}..${high ?? ""}`;

  const formatFilters = (filters) => [...filters].map((filter) => formatRange(...filter)).join(",");

  function formatState(state) {
    const part = (name) => (state[name] === DEFAULTS[name] ? null
      : `${name}=${encodeURIComponent(state[name])}`);
    const filter = state.filters.size ? `filter=${formatFilters(state.filters)}` : null;
    const parts = [
      part("sort"), part("order"), filter, ...["x", "y", "size", "images", "unit"].map(part)];
    return `#${parts.filter(Boolean).join("&")}`;
  }

  /* The address of a unit in this view; links need no more than that. */
  const addressOf = (unit) => formatState({ ...state, unit });

  /* The state an address asks for, and sentences about what in it cannot be understood. */
  function parseState(hash) {
    const state = { ...DEFAULTS, filters: new Map() };
    const problems = [];
    for (const part of hash.replace(/^#/, "").split("&").filter(Boolean)) {
      const [, name, text] = /^([^=]*)=?(.*)$/s.exec(part);
      const isRead = name === "filter"
        ? text.split(",").map((one) => readFilter(state, one)).every(Boolean)
        : readValue(state, name, readable(text));
      if (!isRead) problems.push(shorten(readable(part)));
    }
    return { state, problems };
  }

  function readable(text) {
    try { return decodeURIComponent(text); } catch (broken) { return text; }
  }
  const shorten = (text, most = 60) => (text.length > most ? `${text.slice(0, most)}…` : text);

  /* What may stand behind a name in the address. */
  const VALUES = {
    sort: ["unit", ...indexOf.keys()], x: [...indexOf.keys()], y: [...indexOf.keys()],
    order: ["asc", "desc"], size: SIZES, images: STRIP ? ["best", "all"] : ["best"],
    unit: data.units,
  };

  function readValue(state, name, text) {
    const value = Object.hasOwn(VALUES, name)
      ? VALUES[name].find((known) => String(known) === text) : undefined;
    if (value !== undefined) state[name] = value;
    return value !== undefined;
  }

  function readFilter(state, text) {
    const colon = text.lastIndexOf(":");
    const id = readable(text.slice(0, Math.max(colon, 0)));
    const range = text.slice(colon + 1);
    const dots = range.indexOf("..");
    if (!indexOf.has(id) || dots < 0) return false;
    const [low, high] = [range.slice(0, dots), range.slice(dots + 2)].map(
      (end) => (end === "" ? null : Number(end)));
    if ([low, high].some((end) => end !== null && !Number.isFinite(end))) return false;
    if (low === null && high === null) return false;
    state.filters.set(id, { low, high });
    return true;
  }

  let state = null;
  let address = null;

  /* Change the view, and "push" a history entry or "replace" the current. */
  function go(change, how = "push") {
    clearNotes();
    const next = { ...state, ...change };
    const hash = formatState(next);
    if (hash !== address) {
      const url = hash === "#" ? window.location.href.split("#")[0] + "#" : hash;
      window.history[how === "push" ? "pushState" : "replaceState"](null, "", url);
    }
    address = hash;
    show(next);
  }

  function goToAddress() {
    const { state: next, problems } = parseState(window.location.hash);
    clearNotes();
    if (problems.length) {
      note(`Part of the address is not understood and ignored: ${problems.join(", ")}`);
    }
    address = formatState(next);
    const isSame = state && formatFilters(state.filters) === formatFilters(next.filters);
    show(isSame ? { ...next, filters: state.filters } : next);
  }

  function show(next) {
    const before = state || {};
    state = next;
    const changed = (...names) => names.some((name) => before[name] !== next[name]);
    if (changed("sort", "order", "filters")) {
      arrange();
      drawFilters();
    }
    if (changed("sort", "order", "filters", "size", "images")) showControls();
    if (changed("sort", "order", "filters", "size", "images", "x", "y")) renderWall();
    for (const link of document.querySelectorAll("#card [data-open]")) {
      link.href = addressOf(link.dataset.open);
    }
    if (changed("x", "y", "filters")) scatter.update();
    if (changed("unit", "sort", "order", "filters")) showUnit(before.unit);
  }

  // ---------- 5. Order: sorted and filtered rows -----------------------------------------------

  let order = [];        // rows in the order of the wall
  let positionOf = null; // position of a row in it, -1 if filtered out

  const isWithin = ({ values, counts }, { low, high }, row) => counts(row)
    && (low === null || values[row] >= low) && (high === null || values[row] <= high);

  /* Numbers first, then those that say little, then rows without a number, then dead units. */
  function sortGroup(sortedBy, row) {
    if (isDead(row)) return 3;
    if (Number.isNaN(sortedBy.values[row])) return 2;
    return sortedBy.weak[row] ? 1 : 0;
  }

  function arrange() {
    const filters = [...state.filters].map(([id, range]) => [column(id), range]);
    const rows = [...data.units.keys()]
      .filter((row) => filters.every(([field, range]) => isWithin(field, range, row)));
    const sign = state.order === "desc" ? -1 : 1;
    if (state.sort === "unit") {
      if (sign < 0) rows.reverse();
    } else {
      const sortedBy = column(state.sort);
      const group = Uint8Array.from({ length: COUNT }, (_, row) => sortGroup(sortedBy, row));
      rows.sort((a, b) => group[a] - group[b]
        || (group[a] < 2 && sign * (sortedBy.values[a] - sortedBy.values[b])) || a - b);
    }
    order = rows;
    positionOf = new Int32Array(COUNT).fill(-1);
    order.forEach((row, position) => { positionOf[row] = position; });
  }

  // ---------- 6. Images out of sheets and strips -----------------------------------------------

  const loads = new Map();

  /* Load an image file once: a promise of its width and height; rejects with a sentence. */
  function loadImage(path) {
    if (path === null) return Promise.reject(new Error("the name of the image file is not valid"));
    if (!loads.has(path)) {
      loads.set(path, new Promise((resolve, reject) => {
        const image = new Image();
        image.onload = () => resolve(image);
        image.onerror = () => reject(new Error("the image is missing or cannot be read"));
        image.src = path;
      }));
    }
    return loads.get(path);
  }

  /* Image `index` of a strip of images of a size, `zoom` times as large; a sentence if it fails. */
  function frame(path, layout, index, zoom, label) {
    const look = zoom < 1 ? "frame smoothly" : "frame";
    const node = html("span", { class: look, role: "img", "aria-label": label });
    node.style.width = `${layout.width * zoom}px`;
    node.style.height = `${layout.height * zoom}px`;
    loadImage(path).then((image) => placeFrame(node, path, image, layout, index, zoom))
      .catch((reason) => breakFrame(node, reason));
    return node;
  }

  function placeFrame(node, path, image, layout, index, zoom) {
    const rows = Math.ceil(layout.count / layout.columns);
    if (image.naturalWidth !== layout.columns * layout.width
        || image.naturalHeight < rows * layout.height) {
      throw new Error("the image has another size than its run recorded");
    }
    cut(node, path, layout, image.naturalHeight / layout.height, index, zoom);
  }

  /* Show the image at a position of a file that holds `rows` rows of them. */
  function cut(node, path, { columns: across, width, height }, rows, position, zoom) {
    const [wide, tall] = [width * zoom, height * zoom];
    const [x, y] = [position % across, Math.floor(position / across)];
    node.style.width = `${wide}px`;
    node.style.height = `${tall}px`;
    node.style.backgroundImage = `url("${path}")`;
    node.style.backgroundSize = `${across * wide}px ${rows * tall}px`;
    node.style.backgroundPosition = `${-x * wide}px ${-y * tall}px`;
  }

  function breakFrame(node, reason) {
    node.classList.add("broken");
    node.textContent = reason.message;
    node.setAttribute("aria-label", `${node.getAttribute("aria-label")}: ${reason.message}`);
  }

  /* Whole numbers, so that pixels stay square; only much larger images are made smaller. */
  const zoomFor = (width, wanted) =>
    (width > 1.6 * wanted ? wanted / width : Math.max(1, Math.round(wanted / width)));

  // ---------- 7. The wall ----------------------------------------------------------------------

  const wall = byId("wall");
  let chunks = [];         // elements; chunk i shows order[i * chunkSize ...]
  let chunkSize = 1;
  let across = 1;          // tiles in a row
  let focusRow = -1;       // the row whose tile the Tab key reaches
  const sheetFailed = new Set();

  const toFill = new Set(); // chunks that are near the screen, filled one in a frame

  const watcher = new IntersectionObserver((entries) => {
    const isWaiting = toFill.size > 0;
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) {
        toFill.add(target);
        continue;
      }
      toFill.delete(target);
      if (!holdsFocusRow(target)) target.replaceChildren();
    }
    if (toFill.size && !isWaiting) fillNext();
  }, { rootMargin: "600px 0px" });

  function fillNext() {
    for (const chunk of toFill) {
      toFill.delete(chunk);
      if (chunk.firstChild) continue;
      fillChunk(chunk);
      break;
    }
    if (toFill.size) window.requestAnimationFrame(fillNext);
  }

  let shownStrip = null;   // size of a tile with all images of a unit

  function measureWall() {
    shownStrip = stripSize();
    const rem = parseFloat(window.getComputedStyle(document.documentElement).fontSize) || 16;
    const all = showsStrips();
    byId("browse").classList.toggle("strips", all);
    const picture = all ? shownStrip : { width: WIDTH * state.size, height: HEIGHT * state.size };
    const width = Math.max(picture.width, Math.ceil(3.75 * rem));
    const gap = (all ? 1 : 0.5) * rem;
    across = Math.max(1, Math.floor((wall.clientWidth + gap) / (width + gap)));
    chunkSize = across * Math.max(1, Math.round((all ? 36 : 84) / across));
    wall.classList.toggle("one-line", all || state.sort === "unit");
    wall.style.setProperty("--gap", `${gap}px`);
    wall.style.setProperty("--across", across);
    wall.style.setProperty("--tile", `${width}px`);
    wall.style.setProperty("--picture", `${picture.height}px`);
  }

  const showsStrips = () => state.images === "all";

  /* Size on the screen of a tile with all images of a unit; not wider than the wall. */
  function stripSize() {
    const size = Math.ceil(state.size / 2);
    const wide = STRIP.columns * WIDTH;
    const tall = Math.ceil(STRIP.count / STRIP.columns) * HEIGHT;
    const zoom = Math.min(size, Math.max(64, wall.clientWidth) / wide);
    return { width: Math.floor(wide * zoom), height: Math.floor(tall * zoom) };
  }

  function renderWall() {
    watcher.disconnect();
    toFill.clear();
    measureWall();
    if (positionOf[focusRow] === undefined || positionOf[focusRow] < 0) focusRow = order[0] ?? -1;
    chunks = [];
    for (let first = 0; first < order.length; first += chunkSize) {
      const chunk = html("ul", { class: "chunk" });
      chunk.dataset.first = first;
      const rows = Math.ceil(Math.min(chunkSize, order.length - first) / across);
      chunk.style.setProperty("--rows", rows);
      chunks.push(chunk);
    }
    wall.replaceChildren(...chunks);
    if (!chunks.length) {
      wall.append(html("p", { class: "none" }, `No ${NOUN} is within all ranges.`));
      return;
    }
    fillChunk(chunks[0]);
    fillChunk(chunkOf(focusRow));
    chunks.forEach((chunk) => watcher.observe(chunk));
  }

  const chunkOf = (row) => chunks[Math.floor(positionOf[row] / chunkSize)];
  const holdsFocusRow = (chunk) => focusRow >= 0 && chunkOf(focusRow) === chunk;

  function fillChunk(chunk) {
    if (!chunk || chunk.firstChild) return;
    const first = Number(chunk.dataset.first);
    const address = addressOf("");
    chunk.append(...order.slice(first, first + chunkSize).map((row) => tile(row, address)));
  }

  function tile(row, address) {
    const unit = data.units[row];
    const link = html("a", {
      href: address + unit, "data-unit": unit, tabindex: row === focusRow ? "0" : "-1",
      "aria-label": describe(row, state.sort), class: isDead(row) ? "tile dead" : "tile",
    }, tilePicture(row), html("span", { class: "number" }, String(unit)), " ");
    const value = state.sort === "unit" ? data.state[row] : valueText(state.sort, row);
    link.append(html("span", { class: "value" }, isDead(row) ? "dead" : value));
    return html("li", null, link);
  }

  function tilePicture(row) {
    const path = showsStrips() && stripPath(row);
    if (!path) return wallPicture(row, showsStrips() ? shownStrip.height / HEIGHT : state.size);
    const image = html("img", {
      src: path, alt: "", loading: "lazy", decoding: "async", class: "pixels strip-tile",
      ...shownStrip,
    });
    image.addEventListener("error", () => pictureMissing(image));
    return image;
  }

  /* The file with all images of a unit, or null. */
  function stripPath(row) {
    const run = data.runs[data.run[row]] || {};
    const name = `unit${String(data.units[row]).padStart(4, "0")}.png`;
    const path = STRIP && !isDead(row) ? safePath("runs", run.digest, name) : null;
    return path && ROOT + path;
  }

  /* The image of a row out of its sprite sheet. */
  function wallPicture(row, zoom) {
    const { columns: across, per, sheets } = data.wall;
    const picture = html("span", { class: "picture" });
    const sheet = Math.floor(row / per);
    const path = safePath(sheets[sheet]);
    const count = Math.min(per, COUNT - sheet * per);
    cut(picture, path, data.wall, Math.ceil(count / across), row % per, zoom);
    if (path === null || sheetFailed.has(path)) return pictureMissing(picture);
    checkSheet(path, count);
    return picture;
  }

  function pictureMissing(picture) {
    picture.classList.add("missing");
    picture.style.backgroundImage = "none";
    return picture;
  }

  const sheetsChecked = new Set();

  function checkSheet(path, count) {
    if (sheetsChecked.has(path)) return;
    sheetsChecked.add(path);
    const { columns: across } = data.wall;
    loadImage(path).then((image) => {
      if (image.naturalWidth !== across * WIDTH
          || image.naturalHeight !== Math.ceil(count / across) * HEIGHT) throw new Error();
    }).catch(() => {
      sheetFailed.add(path);
      note(`Images of this wall are missing or cannot be read (${path}): ${AGAIN}.`, "problem");
      for (const picture of document.querySelectorAll(".picture")) {
        if (picture.style.backgroundImage.includes(path)) pictureMissing(picture);
      }
    });
  }

  const tileOf = (row) => wall.querySelector(`[data-unit="${data.units[row]}"]`);

  function focusTile(row) {
    const old = focusRow >= 0 && positionOf[focusRow] >= 0 ? tileOf(focusRow) : null;
    if (old) old.tabIndex = -1;
    focusRow = row;
    fillChunk(chunkOf(row));
    const link = tileOf(row);
    if (!link) return;
    link.tabIndex = 0;
    link.focus({ preventScroll: true });
    link.scrollIntoView({ block: "nearest" });
  }

  const rowAt = (event) => {
    const link = event.target.closest("[data-unit]");
    return link ? rowOf.get(Number(link.dataset.unit)) : undefined;
  };
  wall.addEventListener("pointerover", (event) => scatter.peek(rowAt(event)));
  wall.addEventListener("pointerleave", () => scatter.peek());

  wall.addEventListener("focusin", (event) => {
    const link = event.target.closest("[data-unit]");
    const row = rowAt(event);
    scatter.peek(row);
    if (row === undefined || row === focusRow) return;
    const old = tileOf(focusRow);
    if (old) old.tabIndex = -1;
    focusRow = row;
    link.tabIndex = 0;
  });

  wall.addEventListener("keydown", (event) => {
    const steps = {
      ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across, ArrowDown: across,
      PageUp: -5 * across, PageDown: 5 * across, Home: -order.length, End: order.length,
    };
    if (!Object.hasOwn(steps, event.key) || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    focusTile(order[clamp(positionOf[focusRow] + steps[event.key], 0, order.length - 1)]);
  });

  let wallWidth = 0;
  new ResizeObserver(() => {
    if (byId("browse").hidden || wall.clientWidth === wallWidth) return;
    wallWidth = wall.clientWidth;
    const before = across;
    measureWall();
    if (before !== across) renderWall();
  }).observe(wall);

  // ---------- 8. Controls: sort, order, size, search -------------------------------------------

  const option = (value, text, disabled = false) =>
    html("option", { value, disabled }, shorten(text));

  function makeControls() {
    const options = () => [["main indices", MAIN], ["more indices", OTHERS]]
      .filter(([, some]) => some.length)
      .map(([label, some]) => html("optgroup", { label },
        ...some.map((index) => option(index.id, index.name, !hasNumbers(index)))));
    byId("sort").append(option("unit", `${NOUN} number`), ...options());
    for (const id of ["x", "y"]) byId(id).append(...options());
    byId("size").max = SIZES.length - 1;
    byId("sort").addEventListener("change", (event) => changeSort({ sort: event.target.value }));
    byId("order").addEventListener("click", () =>
      changeSort({ order: state.order === "asc" ? "desc" : "asc" }));
    byId("size").addEventListener("input", (event) =>
      go({ size: SIZES[Number(event.target.value)] }, "replace"));
    byId("images").parentElement.hidden = !STRIP;
    byId("images").addEventListener("click", () =>
      go({ images: showsStrips() ? "best" : "all" }));
    byId("x").addEventListener("change", (event) => go({ x: event.target.value }));
    byId("y").addEventListener("change", (event) => go({ y: event.target.value }));
    byId("clear").addEventListener("click", () => {
      go({ filters: new Map() });
      byId("filters").querySelector("summary").focus();
    });
    byId("search-form").addEventListener("submit", onSearch);
    byId("presets").append(...MAIN.filter((index) => index.words && hasNumbers(index)).map(presets));
  }

  /* Buttons for both sides of a standard threshold, with their numbers of units. */
  function presets(index) {
    const { threshold } = index;
    const { sorted } = column(index.id);
    const below = countWhile(sorted, (value) => value <= threshold);
    const above = sorted.length - countWhile(sorted, (value) => value < threshold);
    const toggle = (node, range, order) => {
      const isOn = node.getAttribute("aria-pressed") === "true";
      const filters = new Map(state.filters);
      if (isOn) filters.delete(index.id); else filters.set(index.id, range);
      go({ filters, ...(state.sort === "unit" && !isOn ? { sort: index.id, order } : {}) });
    };
    const preset = (text, range, order) =>
      button({ class: "preset", "data-filter": formatRange(index.id, range) },
        (node) => toggle(node, range, order), text);
    const [low, high] = index.words;
    return html("span", { class: "presets-of" }, soft(`${index.measure}: `),
      preset(`${low} (below ${threshold}): ${below}`, { low: null, high: threshold }, "asc"),
      preset(`${high} (above ${threshold}): ${above}`, { low: threshold, high: null }, "desc"));
  }

  /* A button for every active filter, which removes it. */
  function chip([id, { low, high }]) {
    const range = low === null ? `up to ${high}`
      : high === null ? `from ${low}` : `${low} to ${high}`;
    const text = `${indexOf.get(id).name}: ${range}`;
    const remove = () => {
      setFilter(id, null, null);
      byId("filters").querySelector("summary").focus({ preventScroll: true });
    };
    return button({ class: "chip", "aria-label": `${text}; remove` }, remove,
      text, html("span", { "aria-hidden": "true" }, " ×"));
  }

  function changeSort(change) {
    go(change);
    if (wall.getBoundingClientRect().top < 0) wall.scrollIntoView();
  }

  function onSearch(event) {
    event.preventDefault();
    const text = byId("search").value.trim();
    clearNotes();
    if (/^\d+$/.test(text) && rowOf.has(Number(text))) {
      byId("search").value = "";
      go({ unit: Number(text) });
    } else {
      note(`There is no ${NOUN} ${shorten(text) || "without a number"} in this layer.`);
    }
  }

  function showControls() {
    byId("sort").value = state.sort;
    byId("order").textContent = state.order === "asc" ? "low first" : "high first";
    byId("order").setAttribute("aria-label",
      `order: ${state.order === "asc" ? "low" : "high"} first; press to turn round`);
    byId("size").value = SIZES.indexOf(state.size);
    byId("size").setAttribute("aria-valuetext", `${state.size} screen pixels for a pixel`);
    byId("images").setAttribute("aria-pressed", String(showsStrips()));
    const sorted = indexOf.get(state.sort);
    byId("sort-meaning").textContent = sorted
      ? `${READ[sorted.id] || sorted.meaning || ""}${missingWords(sorted.id)}`
      : "Choose an index to sort by: its number stands under every image, and what it means here.";
    byId("sort-meaning").title = (sorted && sorted.meaning) || "";
    byId("clear").hidden = state.filters.size === 0;
    byId("chips").replaceChildren(...[...state.filters].map(chip));
    const active = new Set([...state.filters].map(([id, range]) => formatRange(id, range)));
    for (const node of byId("presets").querySelectorAll(".preset")) {
      node.setAttribute("aria-pressed", String(active.has(node.dataset.filter)));
    }
    showCounts();
  }

  /* Why there are units without a number: slow measures are often made for a sample. */
  function missingWords(id) {
    const count = order.filter((row) => !Number.isNaN(column(id).values[row])).length;
    return count < order.length ? ` (measured in ${count} of these ${plural(order.length, NOUN)})` : "";
  }

  function showCounts() {
    const all = plural(COUNT, NOUN);
    const shown = state.filters.size ? `${order.length} of ${all}` : null;
    const dead = data.state.filter((name) => name === "dead").length;
    byId("count").textContent = shown || `all ${all}`;
    byId("count-all").textContent = `${shown || all}${dead ? `, ${dead} dead` : ""}`;
    byId("count-all").classList.toggle("filtered", Boolean(shown));
  }

  const isSmooth = () => document.body.classList.contains("smoothed");

  function toggleSmooth() {
    const on = document.body.classList.toggle("smoothed");
    document.querySelectorAll("button.smooth").forEach((button) =>
      button.setAttribute("aria-pressed", String(on)));
  }
  document.addEventListener("click", (event) => {
    if (event.target.closest("button.smooth")) toggleSmooth();
  });

  // ---------- 9. Filters: a histogram per index ------------------------------------------------

  const BINS = 32;
  const PLOT = { width: 320, height: 64 };
  const filterBoxes = [];

  function binOf(scale, value) {
    const share = scale.to(value);
    return Number.isFinite(share) ? clamp(Math.floor(share * BINS), 0, BINS - 1) : 0;
  }

  function countBins({ values, counts, scale }, rows) {
    const bins = new Float64Array(BINS);
    for (const row of rows) if (counts(row)) bins[binOf(scale, values[row])] += 1;
    return bins;
  }

  function barsPath(bins, top) {
    const wide = PLOT.width / BINS;
    const tall = (count) => Math.max(1.5, ((PLOT.height - 4) * count) / top);
    const bar = (count, bin) =>
      `M${bin * wide} ${PLOT.height}v${-tall(count)}h${wide - 1}V${PLOT.height}z`;
    return Array.from(bins, (count, bin) => (count ? bar(count, bin) : "")).join("");
  }

  /* An empty drawing that is as wide as its box. */
  const plot = (attributes, ...children) => svg("svg", {
    viewBox: `0 0 ${PLOT.width} ${PLOT.height}`, preserveAspectRatio: "none", "aria-hidden": "true",
    ...attributes,
  }, ...children);

  function makeFilter(index) {
    const field = column(index.id);
    const bins = allBins(field);
    const { low, high } = field.scale;
    const box = {
      index, field, top: Math.max(1, ...bins),
      within: svg("path", { class: "bars within" }),
      brush: svg("rect", { class: "brush", y: 0, height: PLOT.height }),
      from: rangeInput(index, "from", low), to: rangeInput(index, "to", high),
    };
    box.plot = plot({ class: "brushable" },
      svg("path", { class: "bars", d: barsPath(bins, box.top) }), box.within, box.brush,
      isNumber(index.threshold) ? thresholdLine(field.scale, index.threshold) : null);
    box.node = html("fieldset", { class: "filter", "data-index": index.id },
      html("legend", { title: index.meaning || null }, index.name,
        field.scale.isLog ? html("span", { class: "log" }, " log") : null),
      box.plot,
      html("span", { class: "range" },
        html("label", null, "from ", box.from), html("label", null, "to ", box.to)));
    listenFilter(box);
    filterBoxes.push(box);
    return box.node;
  }

  function allBins(field) {
    field.bins = field.bins || countBins(field, data.units.keys());
    return field.bins;
  }

  function rangeInput(index, end, placeholder) {
    return html("input", {
      type: "number", step: "any", placeholder: digits(placeholder),
      "aria-label": `${index.name}, ${end}`, class: end,
    });
  }

  function thresholdLine(scale, threshold) {
    const x = clamp(scale.to(threshold), -1, 2) * PLOT.width;
    return svg("line", { class: "threshold", x1: x, x2: x, y1: 0, y2: PLOT.height });
  }

  function setFilter(id, low, high, how) {
    const filters = new Map(state.filters);
    if (low === null && high === null) filters.delete(id); else filters.set(id, { low, high });
    go({ filters }, how);
  }

  function listenFilter(box) {
    const typed = (how) => () => {
      const [low, high] = [box.from, box.to].map((input) =>
        (input.value === "" || !Number.isFinite(Number(input.value)) ? null : Number(input.value)));
      setFilter(box.index.id, low, high, how);
    };
    for (const input of [box.from, box.to]) input.addEventListener("change", typed("push"));
    box.plot.addEventListener("pointerdown", (event) => startBrush(box, event));
  }

  function startBrush(box, down) {
    if (down.button !== 0) return;
    down.preventDefault();
    const shareAt = (event) => {
      const area = box.plot.getBoundingClientRect();
      return clamp((event.clientX - area.left) / area.width, 0, 1);
    };
    const start = shareAt(down);
    let end = start, how = "push", waiting = false;
    const apply = () => {
      waiting = false;
      const [a, b] = [Math.min(start, end), Math.max(start, end)];
      if (b - a < 0.01) setFilter(box.index.id, null, null, how);
      else setFilter(box.index.id, rounded(box, a), rounded(box, b), how);
      how = "replace";
    };
    const move = (event) => {
      end = shareAt(event);
      if (!waiting) { waiting = true; window.requestAnimationFrame(apply); }
    };
    box.plot.onpointermove = move;
    box.plot.onpointerup = (event) => { end = shareAt(event); apply(); };
    box.plot.onlostpointercapture = () => { box.plot.onpointermove = box.plot.onpointerup = null; };
    box.plot.setPointerCapture(down.pointerId);
  }

  /* The number at a share of the scale, in the digits that a screen can tell apart; open at the
     ends. */
  function rounded({ field: { scale } }, share) {
    if (share <= 0 || share >= 1) return null;
    const value = scale.from(share);
    const [first, last] = [value, scale.from(share + 1 / PLOT.width) - value]
      .map((number) => Math.floor(Math.log10(Math.abs(number))));
    return Number(value.toPrecision(clamp(first - last + 1, 3, 12)));
  }

  function drawFilters() {
    const isFiltered = state.filters.size > 0;
    for (const box of filterBoxes) {
      const range = state.filters.get(box.index.id);
      box.node.classList.toggle("active", Boolean(range));
      box.plot.classList.toggle("crossed", isFiltered);
      const bins = isFiltered ? countBins(box.field, order) : [];
      box.within.setAttribute("d", barsPath(bins, box.top));
      drawRange(box, range);
    }
  }

  function drawRange(box, range) {
    const { low, high } = range || { low: null, high: null };
    for (const [input, end] of [[box.from, low], [box.to, high]]) {
      if (end === null) input.value = "";
      else if (Number(input.value) !== end || input.value === "") input.value = String(end);
    }
    const share = (end, open) =>
      (end === null ? open : clamp(box.field.scale.to(end) || 0, 0, 1) * PLOT.width);
    const [left, right] = range ? [share(low, 0), share(high, PLOT.width)] : [0, 0];
    box.brush.setAttribute("x", left);
    box.brush.setAttribute("width", Math.max(0, right - left));
  }

  function makeFilters() {
    byId("filters-main").append(...MAIN.filter(hasNumbers).map(makeFilter));
    if (!OTHERS.some(hasNumbers)) byId("filters-more").hidden = true;
    const more = byId("filters-more");
    const others = () => {
      if (byId("filters-others").firstChild) return;
      byId("filters-others").append(...OTHERS.filter(hasNumbers).map(makeFilter));
      drawFilters();
    };
    more.addEventListener("toggle", () => { if (more.open) others(); });
    more.open = OTHERS.some((index) => state.filters.has(index.id));
    drawFilters();
  }

  // ---------- 10. Scatter of two indices -------------------------------------------------------

  const scatter = (function () {
    const canvas = byId("scatter");
    const card = byId("card");
    const MARGIN = { left: 54, right: 14, top: 12, bottom: 44 };
    let dots = [];     // {row, x, y} on the canvas, in CSS pixels
    let pointed = -1;  // row
    let cardTimer = 0;
    let waiting = false;

    const color = (name) => window.getComputedStyle(document.body).getPropertyValue(name).trim();

    /* Draw before the next frame, once for all changes until then. */
    function update() {
      if (!waiting) window.requestAnimationFrame(redraw);
      waiting = true;
    }

    function redraw() {
      waiting = false;
      if (!state || !state.x || !state.y) return;
      byId("x").value = state.x;
      byId("y").value = state.y;
      if (!canvas.clientWidth) return; // not shown: drawn when it has a size again
      placeDots();
      draw();
    }

    function placeDots() {
      const [a, b] = [column(state.x), column(state.y)];
      const { width, height } = area();
      dots = [];
      let lost = 0;
      for (let row = 0; row < COUNT; row += 1) {
        if (!a.counts(row) || !b.counts(row)) continue;
        const [x, y] = [a.scale.to(a.values[row]), b.scale.to(b.values[row])];
        if (!Number.isFinite(x) || !Number.isFinite(y)) { lost += 1; continue; }
        dots.push({ row, x: across(x, width), y: up(y, height) });
      }
      const without = lost ? `; ${lost} at or below 0 cannot stand on a log axis` : "";
      byId("scatter-note").textContent = plural(dots.length, "dot") + without;
      canvas.setAttribute("aria-label", `${indexOf.get(state.x).name} across, `
        + `${indexOf.get(state.y).name} up, ${plural(dots.length, NOUN)}`);
    }

    /* Where a share of an axis is on the canvas; dots at its ends are within. */
    const INSET = 8;
    const across = (share, width) => MARGIN.left + INSET + share * (width - 2 * INSET);
    const up = (share, height) => MARGIN.top + height - INSET - share * (height - 2 * INSET);

    function area() {
      const { clientWidth, clientHeight } = canvas;
      return {
        width: clientWidth - MARGIN.left - MARGIN.right,
        height: clientHeight - MARGIN.top - MARGIN.bottom,
      };
    }

    function draw() {
      const ratio = window.devicePixelRatio || 1;
      canvas.width = Math.round(canvas.clientWidth * ratio);
      canvas.height = Math.round(canvas.clientHeight * ratio);
      const pen = canvas.getContext("2d");
      pen.scale(ratio, ratio);
      pen.font = `12px ${window.getComputedStyle(document.body).fontFamily}`;
      drawAxis(pen, "x");
      drawAxis(pen, "y");
      const size = dots.length > 3000 ? 1.5 : dots.length > 600 ? 2.25 : 3.5;
      const alpha = dots.length > 600 ? 0.5 : 0.75;
      drawDots(pen, dots.filter(({ row }) => positionOf[row] < 0), size, color("--faint"), 1);
      drawDots(pen, dots.filter(({ row }) => positionOf[row] >= 0), size, color("--accent"), alpha);
      const mark = dots.find(({ row }) => row === pointed);
      if (mark) drawMark(pen, mark);
    }

    function drawDots(pen, some, size, fillColor, alpha) {
      pen.beginPath();
      for (const { x, y } of some) {
        pen.moveTo(x + size, y);
        pen.arc(x, y, size, 0, 2 * Math.PI);
      }
      pen.fillStyle = fillColor;
      pen.globalAlpha = alpha;
      pen.fill();
      pen.globalAlpha = 1;
    }

    function drawMark(pen, { x, y }) {
      pen.beginPath();
      pen.arc(x, y, 7, 0, 2 * Math.PI);
      pen.lineWidth = 2.5;
      pen.strokeStyle = color("--strong");
      pen.stroke();
    }

    function drawAxis(pen, axis) {
      const { width, height } = area();
      const index = indexOf.get(state[axis]);
      const { scale } = column(index.id);
      const isX = axis === "x";
      const at = (share) => (isX ? across(share, width) : up(share, height));
      const line = (share, dash, stroke) => {
        pen.beginPath();
        pen.setLineDash(dash);
        pen.strokeStyle = stroke;
        pen.lineWidth = 1;
        if (isX) { pen.moveTo(at(share), MARGIN.top); pen.lineTo(at(share), MARGIN.top + height); }
        else { pen.moveTo(MARGIN.left, at(share)); pen.lineTo(MARGIN.left + width, at(share)); }
        pen.stroke();
        pen.setLineDash([]);
      };
      pen.fillStyle = color("--soft");
      pen.textAlign = isX ? "center" : "right";
      pen.textBaseline = isX ? "top" : "middle";
      for (const tick of ticks(scale)) {
        line(scale.to(tick), [], color("--line"));
        const text = digits(tick, 6); // of a narrow scale: 0.9985, 0.999
        if (isX) pen.fillText(text, at(scale.to(tick)), MARGIN.top + height + 6);
        else pen.fillText(text, MARGIN.left - 6, at(scale.to(tick)));
      }
      const share = isNumber(index.threshold) ? scale.to(index.threshold) : -1;
      if (share > 0 && share < 1) line(share, [4, 4], color("--orange"));
      drawTitle(pen, index, isX, width, height);
    }

    function drawTitle(pen, index, isX, width, height) {
      pen.fillStyle = color("--ink");
      pen.textAlign = "center";
      pen.textBaseline = "middle";
      const text = `${shorten(index.name, 40)}${column(index.id).scale.isLog ? " (log)" : ""}`;
      if (isX) return pen.fillText(text, MARGIN.left + width / 2, MARGIN.top + height + 32, width);
      pen.save();
      pen.translate(10, MARGIN.top + height / 2);
      pen.rotate(-Math.PI / 2);
      pen.fillText(text, 0, 0, height);
      pen.restore();
    }

    /* About five round numbers within a scale. */
    function ticks(scale) {
      return scale.isLog ? logTicks(scale) : linearTicks(scale.low, scale.high);
    }

    function linearTicks(low, high) {
      const rough = (high - low) / 4;
      const power = 10 ** Math.floor(Math.log10(rough));
      const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
      const made = [];
      for (let i = Math.ceil(low / step); i * step <= high && made.length < 20; i += 1) {
        made.push(i * step);
      }
      return made;
    }

    function logTicks({ low, high }) {
      const made = [];
      for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1) {
        for (const factor of high / low > 200 ? [1] : [1, 2, 5]) made.push(factor * 10 ** power);
      }
      const within = made.filter((tick) => tick >= low && tick <= high);
      const every = Math.ceil(within.length / 8);
      return within.filter((_, i) => i % every === 0);
    }

    function nearest(x, y, most) {
      let best = null, least = most * most;
      for (const dot of dots) {
        const distance = (dot.x - x) ** 2 + (dot.y - y) ** 2 - (positionOf[dot.row] >= 0 ? 4 : 0);
        if (distance < least) [best, least] = [dot, distance];
      }
      return best;
    }

    /* The next dot along an axis: every dot can be reached. */
    function nextDot(from, axis, by) {
      const line = [...dots].sort((a, b) => a[axis] - b[axis] || a.row - b.row);
      return line[line.indexOf(from) + by];
    }

    function point(row, delay = 40) {
      window.clearTimeout(cardTimer);
      if (row === undefined || row === pointed) return;
      cardTimer = window.setTimeout(() => {
        pointed = row;
        draw();
        showCard(row);
      }, delay);
    }

    /* Show a unit of the wall beside it, where there is room; a screen reader reads its tile. */
    const isBeside = window.matchMedia("(min-width: 80rem)");
    function peek(row) {
      if (!isBeside.matches || !canvas.clientWidth) return;
      card.setAttribute("aria-live", "off");
      point(row, 150);
    }

    function showCard(row) {
      const shown = [...new Set([indexOf.get(state.x), indexOf.get(state.y), ...MAIN])].slice(0, 8);
      const unit = data.units[row];
      card.replaceChildren(
        html("p", { class: "card-title" },
          html("a", { href: addressOf(unit), "data-open": unit }, `${NOUN} ${unit}`),
          data.state[row] ? ` ${data.state[row]}` : null),
        stripPicture(row),
        html("dl", null, ...shown.map((index) => html("div", null, html("dt", null, index.name),
          html("dd", null, valueText(index.id, row))))));
      card.hidden = false;
    }

    /* The unit's strip of images as it is, or its image of the wall. */
    function stripPicture(row) {
      const path = stripPath(row);
      const box = html("p", { class: "strip-box" });
      loadImage(path).then((image) => {
        const zoom = Math.max(1, Math.floor(300 / image.naturalWidth));
        box.append(html("img", {
          src: path, alt: `all images of ${describe(row, state.sort)}`, class: "pixels",
          width: image.naturalWidth * zoom, height: image.naturalHeight * zoom,
        }));
      }).catch(() => box.append(wallPicture(row, zoomFor(WIDTH, 96))));
      return box;
    }

    function hide() {
      window.clearTimeout(cardTimer);
      pointed = -1;
      card.hidden = true;
      draw();
    }

    const at = (event) => {
      const box = canvas.getBoundingClientRect();
      return nearest(event.clientX - box.left, event.clientY - box.top, 20);
    };
    canvas.addEventListener("pointermove", (event) => {
      const dot = at(event);
      canvas.classList.toggle("over", Boolean(dot));
      if (!dot) return;
      card.setAttribute("aria-live", "polite");
      point(dot.row);
    });
    canvas.addEventListener("click", (event) => {
      const dot = at(event);
      if (!dot) return;
      const isKnown = dot.row === pointed && !card.hidden;
      if (event.pointerType === "touch" && !isKnown) point(dot.row);
      else go({ unit: data.units[dot.row] });
    });
    canvas.addEventListener("keydown", (event) => {
      const ways = {
        ArrowLeft: ["x", -1], ArrowRight: ["x", 1], ArrowUp: ["y", -1], ArrowDown: ["y", 1],
      };
      const current = dots.find(({ row }) => row === pointed);
      if (Object.hasOwn(ways, event.key)) {
        event.preventDefault();
        const middle = canvas.clientWidth / 2;
        const next = current ? nextDot(current, ...ways[event.key]) : nearest(middle, middle, 1e5);
        card.setAttribute("aria-live", "polite");
        if (next) point(next.row, 0);
      } else if (event.key === "Enter" && current) {
        event.preventDefault();
        go({ unit: data.units[current.row] });
      } else if (event.key === "Escape" && current) hide();
    });
    new ResizeObserver(update).observe(canvas);
    window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", update);
    return { update, peek };
  }());

  // ---------- 11. Details of a unit, loaded when it is opened ----------------------------------

  const scripts = new Map();

  /* Load a data script once; the promise gives what it assigned to ATLAS[key], or null. */
  function loadData(key, path) {
    if (path === null) return Promise.resolve(null);
    if (!scripts.has(path)) {
      scripts.set(path, new Promise((resolve) => {
        const script = html("script", { src: path });
        script.onload = () => resolve(window.ATLAS[key] || null);
        script.onerror = () => { scripts.delete(path); script.remove(); resolve(null); };
        document.head.append(script);
      }));
    }
    return scripts.get(path);
  }

  /* Where the details of a row are: "runs/<digest>/units-0000", or null. */
  function detailsKey(row) {
    const run = data.runs[data.run[row]] || {};
    const number = String(Math.floor(data.row[row] / data.units_per_file)).padStart(4, "0");
    return safePath("runs", run.digest, `units-${number}`);
  }

  async function loadDetails(row) {
    const key = detailsKey(row);
    const units = await loadData(key, key && `${ROOT}${key}.js`);
    return units && Object.hasOwn(units, data.units[row]) ? units[data.units[row]] : null;
  }

  async function loadNeighbours(row) {
    const found = await loadData("neighbours", safePath(data.neighbours));
    const listed = found && Array.isArray(found.units) ? found.units[row] : null;
    return listed ? { by: found.by, listed } : null;
  }

  // ---------- 12. The view of a unit: frame and moving about -----------------------------------

  const view = byId("unit-view");
  const browse = byId("browse");
  let wallScroll = 0;
  let opened = 0; // counts openings, so that late data of a unit left behind is dropped

  function showUnit(before) {
    if (state.unit === null) return closeUnit(before);
    const row = rowOf.get(state.unit);
    if (before === state.unit && !view.hidden) return updateSteps(row);
    if (view.hidden) wallScroll = window.scrollY;
    browse.hidden = true;
    view.hidden = false;
    document.title = `${NOUN} ${state.unit}, ${data.model} ${data.layer}`;
    renderUnit(row);
    window.scrollTo(0, 0);
    byId("unit-title").focus({ preventScroll: true });
  }

  function closeUnit(before) {
    document.title = `${data.model} ${data.layer}`;
    if (view.hidden) return;
    view.hidden = true;
    view.replaceChildren();
    browse.hidden = false;
    opened += 1;
    renderWall();
    window.scrollTo(0, wallScroll);
    const row = rowOf.get(before);
    if (row !== undefined && positionOf[row] >= 0) focusTile(row);
  }

  /* The row before or after in the order of the wall; among all rows if this is filtered out. */
  function step(row, by) {
    if (positionOf[row] >= 0) return order[positionOf[row] + by];
    return row + by >= 0 && row + by < COUNT ? row + by : undefined;
  }

  function goStep(by) {
    const next = step(rowOf.get(state.unit), by);
    if (next !== undefined) go({ unit: data.units[next] });
  }

  function unitBar(row) {
    const key = (id, text, action, keys) => button({ id, "aria-keyshortcuts": keys }, action, text);
    return html("div", { class: "unit-bar" },
      key("close", "Back to the wall", () => go({ unit: null }), "Escape"),
      html("span", { class: "steps" },
        key("previous", "‹ Previous", () => goStep(-1), "ArrowLeft"),
        html("span", { id: "step-text" }),
        key("next", "Next ›", () => goStep(1), "ArrowRight")),
      html("button", {
        type: "button", class: "smooth", "aria-pressed": String(isSmooth()),
      }, "Smooth"));
  }

  function updateSteps(row) {
    byId("previous").disabled = step(row, -1) === undefined;
    byId("next").disabled = step(row, 1) === undefined;
    const sortedBy = state.sort === "unit" ? "number" : indexOf.get(state.sort).name;
    byId("step-text").textContent = positionOf[row] >= 0
      ? `${positionOf[row] + 1} of ${order.length}, by ${sortedBy}` : "outside of the filter";
  }

  document.addEventListener("keydown", (event) => {
    if (view.hidden || event.ctrlKey || event.altKey || event.metaKey || event.shiftKey) return;
    if (event.target.closest("input, select, textarea, video, .scroll")) return;
    if (event.key === "ArrowLeft") goStep(-1);
    else if (event.key === "ArrowRight") goStep(1);
    else if (event.key === "Escape") go({ unit: null });
    else return;
    event.preventDefault();
  });

  // ---------- 13. The view of a unit: its parts ------------------------------------------------

  function part(id, title, ...children) {
    return html("section", { id: `part-${id}`, "aria-labelledby": `title-${id}` },
      html("h2", { id: `title-${id}` }, title), ...children);
  }

  function renderUnit(row) {
    opened += 1;
    const mine = opened;
    const unit = data.units[row];
    const body = html("div", { class: "unit-body", "aria-busy": "true" }, hint("Loading…"));
    const layer = ` of ${data.model} ${data.layer}${data.variant ? `, ${data.variant}` : ""}`;
    const { command } = data.runs[data.run[row]] || {};
    view.replaceChildren(unitBar(row),
      html("h1", { id: "unit-title", tabindex: "-1" },
        `${NOUN[0].toUpperCase()}${NOUN.slice(1)} ${unit}`, html("span", { class: "of" }, layer)),
      command ? copyable("Made by", String(command), "made") : "", body);
    updateSteps(row);
    loadDetails(row).then((details) => {
      if (mine !== opened) return;
      body.replaceChildren(...unitParts(row, details));
      body.removeAttribute("aria-busy");
      const drivers = driversOf(details);
      if (drivers) showDrivers(byId("part-neighbours"), drivers);
      else {
        loadNeighbours(row).then((neighbours) => {
          if (mine === opened && neighbours) showNeighbours(byId("part-neighbours"), neighbours);
        });
      }
    });
  }

  function unitParts(row, details) {
    if (!details) {
      return [
        html("p", { class: "problem" },
          `The details of this ${NOUN} are missing or cannot be read: ${AGAIN}.`),
        wallPicture(row, zoomFor(WIDTH, 168)), partIndices(row, {}), partNeighbours(),
        partFiles(row, {}),
      ];
    }
    const folder = `${ROOT}runs/${data.runs[data.run[row]].digest}`;
    const d = { answers: {}, errors: {}, seeds: {}, responses: [], ...details, folder };
    return [
      sideBySide([partImages(row, d)], [partAnswers(row, d)]),
      sideBySide([partNatural(row, d)], [partBest(row, d), partAlone(row, d)]),
      partIndices(row, d), partNeighbours(), sideBySide([partDistances(d)], [partTrace(d)]),
      partFilm(d, row), partPictures(d, row), partFiles(row, d),
    ].filter(Boolean);
  }

  const sideBySide = (left, right) => html("div", { class: "beside" },
    ...[left, right].map((parts) => html("div", null, ...parts.filter(Boolean)))
      .filter((side) => side.firstChild));

  const filePath = (d, name) => {
    const path = safePath(name);
    return path && `${d.folder}/${path}`;
  };

  /* Images of a strip with a caption under each. */
  function figures(d, strip, zoom, label, caption) {
    const path = filePath(d, strip.file);
    const figure = (_, i) => html("li", null, frame(path, strip, i, zoom, label(i)), caption(i));
    const count = Math.min(strip.count, 200);
    return html("ul", { class: "figures" }, ...Array.from({ length: count }, figure));
  }

  const captionText = (...children) => html("p", { class: "caption" }, ...children);

  const OF_METAMERS = NOUN === "photograph";  // whose responses are errors of the match, negated

  function responseCaption(response, best) {
    if (OF_METAMERS && isNumber(response)) return captionText(strong(percent(-response)));
    if (!isNumber(response) || !(best > 0)) return captionText(strong(digits(response)));
    return captionText(strong(percent(response / best)), soft(` ${digits(response)}`));
  }

  const reduction = (strip) =>
    (strip.reduction > 1 ? `Shown at 1/${strip.reduction} of their size. ` : "");

  /* Sentences on the state of a unit, and on how its optimization ended. */
  function stateLines(row, d) {
    const name = d.state || data.state[row];
    const lines = Object.hasOwn(data.states, name) ? [data.states[name]] : [];
    const ended = [];
    if (d.stop && d.stop !== "dead") ended.push(`stopped: ${d.stop}`);
    if (isNumber(d.steps) && d.steps) ended.push(`${d.steps} steps`);
    if (ended.length) lines.push(ended.join(", "));
    return lines.map((line) => html("p", { class: name ? "note" : "hint" }, line));
  }

  function partImages(row, d) {
    if (!d.images) return partWithoutImages(row, d);
    const best = isNumber(d.response_best) ? `, ${digits(d.response_best)}` : "";
    return part("images", "Images",
      hint(`${reduction(d.images)}Under an image: ` + (OF_METAMERS ? "relative error of the match."
        : `response as a share of the best response${best}, and as a number.`)),
      figures(d, d.images, zoomOfBatch(d.images),
        (i) => `image ${i} of ${describe(row, "unit")}`,
        (i) => responseCaption(d.responses[i], d.response_best)),
      ...stateLines(row, d));
  }

  /* As large as the first screen allows: up to six images in two rows beside the answers. */
  function zoomOfBatch({ count, width, height }) {
    if (count > 12) return zoomFor(width, 104);
    const [wide, tall] = [window.innerWidth, window.innerHeight];
    const [across, room] = wide < 640 ? [2, wide - 44] : wide < 1024 ? [3, wide - 80]
      : [count > 6 ? 4 : count > 4 ? 3 : 2, 0.57 * wide - 72];
    const most = clamp((tall - 290) / Math.ceil(count / across), 112, 400) / height;
    const zoom = Math.max(1, Math.min(room / across / width, most));
    return width < 48 ? Math.floor(zoom) : zoom; // pixels that can be seen stay square
  }

  function partWithoutImages(row, d) {
    const instead = isDead(row) ? [] : [
      hint(`No images of this ${NOUN} were made. Its best grating, or the photograph that drives `
        + "it most:"),
      wallPicture(row, zoomFor(WIDTH, 168)),
    ];
    return part("images", "Images", ...stateLines(row, d), ...instead);
  }

  function partBest(row, d) {
    const strip = d.best && (d.best.of === "alone" ? d.alone : d.images);
    if (!strip || OF_METAMERS) return null;
    const of = d.best.of === "alone" ? "of those made alone" : "of the batch";
    const zoom = zoomFor(strip.width, 112);
    return part("best", "Best single image",
      frame(filePath(d, d.best.file), strip, d.best.index, zoom,
        `best single image, ${of}, of ${describe(row, "unit")}`),
      captionText(strong(digits(d.best.response)), soft(` ${of}`)));
  }

  const ANSWERS = [
    ["phase", "Phase"], ["shift", "Shifts"], ["deformation", "Deformations"],
    ["overall", "All in all"],
  ];

  /* "0.253 is lower than 55 % of 255 other units"; "" where numbers have no rank. */
  function rankText(name, row) {
    const id = name === "overall" ? "diversity" : name;
    const rank = indexOf.has(id) ? rankWords(rankOf(id, row), `other ${NOUN}s`) : "";
    return rank && `${valueText(id, row)} is ${rank}`;
  }

  /* A number and its % sign stay on a line. */
  const unbroken = (text) => text.replaceAll(" %", "\u00a0%");

  function partAnswers(row, d) {
    const known = ANSWERS.filter(([name]) => typeof d.answers[name] === "string");
    if (!known.length) return null;
    const small = (text) => (text ? html("dd", { class: "hint" }, unbroken(text)) : null);
    const answer = ([name, title]) => html("div", null,
      html("dt", null, title), html("dd", null, unbroken(d.answers[name])),
      small(rankText(name, row)), small(name === "phase" && d.grating && gratingText(d.grating)));
    return part("answers", "To what is it invariant?",
      html("dl", { class: "answers" }, ...known.map(answer)));
  }

  function gratingText({ frequency, orientation, color, response }) {
    const place = `${digits(frequency)} cycles per pixel, ${digits(orientation)}°`;
    return `Best grating: ${place}${color ? `, ${color}` : ""}, response ${digits(response)}`;
  }

  function partDistances(d) {
    if (!Array.isArray(d.distances) || d.distances.length < 2) return null;
    const noise = isNumber(data.noise_distance)
      ? `; images of noise are ${digits(data.noise_distance)} apart` : "";
    return part("distances", "Distances of the images",
      hint(`RMS grey levels${noise}. Bold: the smallest. The images count from 0, row by row.`),
      scrollBox("Distances of the images", distanceTable(d.distances)));
  }

  function distanceTable(distances) {
    const pairs = distances.flatMap(
      (line, i) => line.filter((value, j) => j !== i && isNumber(value)));
    const [least, most] = [Math.min(...pairs), Math.max(...pairs)];
    const cell = (value, isSame) => {
      if (isSame || !isNumber(value)) return html("td");
      const node = html("td", { class: value === least ? "least" : null }, digits(value));
      node.style.setProperty("--shade", `${Math.round((45 * value) / most)}%`);
      return node;
    };
    const head = distances.map((_, j) => html("th", { scope: "col" }, String(j)));
    const rows = distances.map((line, i) => html("tr", null,
      html("th", { scope: "row" }, String(i)),
      ...line.map((value, j) => cell(value, i === j))));
    return html("table", { class: "distances" },
      html("thead", null, html("tr", null, html("td"), ...head)), html("tbody", null, ...rows));
  }

  const scrollBox = (label, child) =>
    html("div", { class: "scroll", role: "region", "aria-label": label, tabindex: "0" }, child);

  function partTrace(d) {
    const trace = d.trace;
    if (!trace || !Array.isArray(trace.step) || trace.step.length < 2) return null;
    const response = OF_METAMERS ? "minus the mean relative error" : "mean response";
    const curves = [["response", response], ["distance", "smallest distance, as optimized"]]
      .filter(([name]) => Array.isArray(trace[name]) && trace[name].some(isNumber));
    return part("trace", "Optimization",
      ...curves.map(([name, title]) => curve(trace.step, trace[name], title, name)));
  }

  function curve(steps, values, title, name) {
    const points = steps.map((step, i) => [step, values[i]])
      .filter((point) => point.every(isNumber));
    const [first, last] = [points[0], points[points.length - 1]];
    const all = points.map(([, value]) => value);
    const [low, high] = [Math.min(...all), Math.max(...all)];
    const x = (step) => (300 * (step - first[0])) / ((last[0] - first[0]) || 1);
    const y = (value) => 58 - (54 * (value - low)) / ((high - low) || 1);
    const at = ([step, value]) => `${x(step).toFixed(1)} ${y(value).toFixed(1)}`;
    const text = `${title}: ${digits(first[1])} at step ${first[0]}, `
      + `${digits(last[1])} at step ${last[0]}; ${digits(low)} to ${digits(high)}`;
    return html("figure", { class: "curve" }, html("figcaption", null, text),
      svg("svg", { viewBox: "0 0 300 62", preserveAspectRatio: "none", "aria-hidden": "true" },
        svg("path", { class: name, d: `M${points.map(at).join("L")}` })));
  }

  // ---------- 14. The view of a unit: all numbers ----------------------------------------------

  function partIndices(row, d) {
    const hasNumber = (index) => !Number.isNaN(column(index.id).values[row]);
    const [main, others] = [MAIN, OTHERS].map((some) => some.filter(hasNumber));
    const absent = isDead(row) ? [] : MAIN.filter((index) => !hasNumber(index));
    const reasons = Object.entries((data.runs[data.run[row]] || {}).not_measured || {});
    return part("indices", "Every number, and its place in the layer",
      main.length ? indexTable("Indices", main, row, d) : null,
      others.length ? otherIndices(others, row, d) : null,
      absent.length ? hint(`No number: ${absent.map((index) => index.name).join(", ")}.`) : null,
      ...reasons.map(([name, reason]) => hint(`${name} was not measured: ${reason}`)));
  }

  function indexTable(label, some, row, d) {
    const heads = ["Index", "Value", "In words", "Place in the layer", "What it means"]
      .map((text) => html("th", { scope: "col" }, text));
    return scrollBox(label, html("table", { class: "indices" },
      html("thead", null, html("tr", null, ...heads)),
      html("tbody", null, ...some.map((index) => indexRow(index, row, d)))));
  }

  let showsOthers = false; // stays open from unit to unit

  function otherIndices(others, row, d) {
    const box = html("details", { id: "other-indices", open: showsOthers },
      html("summary", null, `${others.length} more`), indexTable("More indices", others, row, d));
    box.addEventListener("toggle", () => { showsOthers = box.open; });
    return box;
  }

  function indexRow(index, row, d) {
    const field = column(index.id);
    const words = field.weak[row] ? "says little" : word(index, field.values[row]);
    return html("tr", { "data-index": index.id, class: index.main ? "main-index" : null },
      html("th", { scope: "row" }, index.name),
      html("td", { class: "value" }, ...valueParts(index, row, d)),
      html("td", { class: "words" }, words),
      html("td", { class: "rank" }, html("div", null,
        placeInLayer(field, row), html("span", null, rankWords(rankOf(index.id, row))))),
      html("td", { class: "meaning" }, index.meaning || ""));
  }

  /* "0.253 ± 0.04 F1/F0", and what other seeds gave. */
  function valueParts(index, row, d) {
    const error = (d.errors || {})[index.id];
    const seeds = (d.seeds || {})[index.id];
    const parts = [
      strong(valueText(index.id, row)), isNumber(error) ? ` ± ${digits(error, 2)}` : "",
      html("span", { class: "unit" }, ` ${index.unit || ""}`),
    ];
    if (seeds) {
      const spread = `${indexDigits(seeds.mean)} ± ${digits(seeds.deviation, 2)}`;
      parts.push(html("span", { class: "hint seeds" }, `${spread} over ${seeds.count} seeds`));
    }
    return parts;
  }

  /* The layer's histogram with a mark at the unit. */
  function placeInLayer(field, row) {
    if (field.sorted.length < 2) return null;
    const bins = allBins(field);
    const at = field.scale.to(field.values[row]);
    const x = clamp(at, 0.004, 0.996) * PLOT.width;
    const mark = svg("line", { class: "mark", x1: x, x2: x, y1: 0, y2: PLOT.height });
    return plot({ class: "place" },
      svg("path", { class: "bars", d: barsPath(bins, Math.max(1, ...bins)) }),
      Number.isFinite(at) ? mark : null);
  }

  // ---------- 15. The view of a unit: more images, film, pictures, neighbours, files -----------

  function partAlone(row, d) {
    const strip = d.alone;
    if (!strip) return null;
    const responses = strip.responses || [];
    return part("alone", "Images made alone",
      hint(`${reduction(strip)}Every image was optimized without the others.`),
      figures(d, strip, zoomFor(strip.width, 64),
        (i) => `image ${i}, made alone, of ${describe(row, "unit")}`,
        (i) => responseCaption(responses[i], d.response_best)));
  }

  function partNatural(row, d) {
    const strip = d.natural;
    if (!strip) return null;
    const items = strip.items || [];
    const name = (i) => String((items[i] || {}).photograph ?? "a photograph");
    const caption = (i) => html("div", null,
      responseCaption((items[i] || {}).response, d.response_best),
      html("p", { class: "caption hint photograph", title: name(i) }, name(i)));
    return part("natural", "Natural exemplars",
      hint(`${reduction(strip)}Crops of photographs that drive the ${NOUN} most, with the response `
        + "as a share of its best response."),
      figures(d, strip, zoomFor(strip.width, 112),
        (i) => `crop of ${name(i)}, for ${describe(row, "unit")}`, caption));
  }

  function partFilm(d, row) {
    const path = d.film && filePath(d, d.film);
    if (!path) return null;
    const box = html("div");
    const toggle = (node) => {
      const show = !box.firstChild;
      node.textContent = show ? "Hide the film" : "Show the film";
      node.setAttribute("aria-expanded", String(show));
      box.replaceChildren(...(show ? [filmNode(path, row)] : []));
    };
    return part("film", "Film of the optimization",
      button({ "aria-expanded": "false" }, toggle, "Show the film"), box);
  }

  function filmNode(path, row) {
    const label = `film of the optimization of ${describe(row, "unit")}`;
    const node = path.endsWith(".mp4")
      ? html("video", { src: path, controls: true, loop: true, "aria-label": label })
      : html("img", { src: path, alt: label, class: "pixels film" });
    const missing = html("p", { class: "note" }, "The film is missing or cannot be read.");
    node.addEventListener("error", () => node.replaceWith(missing));
    return node;
  }

  const MEASURES = {
    phase: "Tuning to phase", shift: "Texture and its map of shifts", deformation: "Deformations",
    diversity: "Diversity", dimension: "Dimension, and paths between images",
    gain: "Gain of a batch", natural: "Natural images",
    bipartite: "Bipartite field", selectivity: "Selectivity", align: "Alignment and families",
    varied: "Natural varied images", metamers: "Metamers of random weights",
    front: "Response against diversity",
  };

  const pictureTitle = (name) => (Object.hasOwn(MEASURES, name) ? MEASURES[name] : name);

  function partPictures(d, row) {
    const known = Object.keys(MEASURES).filter((name) => Object.hasOwn(d.pictures || {}, name));
    const names = [...new Set([...known, ...Object.keys(d.pictures || {})])];
    if (!names.length) return null;
    const section = (name) => html("section", { class: "picture-of", "data-measure": name },
      html("h3", null, pictureTitle(name)),
      typeof d.answers[name] === "string" ? html("p", null, d.answers[name]) : null,
      measurePicture(drawnPicture(d.pictures[name], row), name, row));
    return part("pictures", "Pictures of the measures",
      html("div", { class: "pictures" }, ...names.map(section)));
  }

  /* The path of a picture from the root of the atlas; null if it is not drawn yet. */
  function drawnPicture(path, row) {
    const folder = String(path).split("/").slice(0, -1).join("/");
    const missing = (data.missing || {})[folder];
    const isMissing = Array.isArray(missing) && missing.includes(data.units[row]);
    return isMissing ? null : safePath(path);
  }

  function measurePicture(path, name, row) {
    const missing = () =>
      html("p", { class: "note" }, `not drawn yet, or cannot be read: ${AGAIN}`);
    if (path === null) return missing();
    const image = html("img", {
      src: ROOT + path, loading: "lazy", decoding: "async", width: 1050, height: 750,
      class: "card-white", alt: `${pictureTitle(name)}, ${describe(row, name)}`,
    });
    image.addEventListener("error", () => image.replaceWith(missing()));
    image.addEventListener("load", () => {
      image.width = image.naturalWidth;
      image.height = image.naturalHeight;
    });
    return image;
  }

  const partNeighbours = () => html("div", { id: "part-neighbours" });

  /* Rows of the units whose images drive the unit, with its response: measured (selectivity). */
  function driversOf(details) {
    if (!details || !Array.isArray(details.driven_by)) return null;
    const known = details.driven_by.map(([unit, value]) => [rowOf.get(unit), value])
      .filter(([row]) => row !== undefined);
    return known.length ? known : null;
  }

  function showDrivers(box, listed) {
    box.replaceWith(part("neighbours", `${NOUN[0].toUpperCase()}${NOUN.slice(1)}s whose images `
      + "drive this one",
      hint(`Measured: the mean response of this ${NOUN} to their images, as a share of its best `
        + "response. Shown is the best image of each."),
      html("ul", { class: "neighbours" },
        ...listed.map(([row, value]) => neighbour(row, percent(value), "response")))));
  }

  function showNeighbours(box, { by, listed }) {
    const known = listed.filter(([row]) => data.units[row] !== undefined);
    if (!known.length) return;
    box.replaceWith(part("neighbours", `Similar ${NOUN}s`, hint(`By ${by}. Shown is the best `
      + "image, which need not be the most similar."),
      html("ul", { class: "neighbours" },
        ...known.map(([row, value]) => neighbour(row, digits(value), "similarity")))));
  }

  function neighbour(row, text, what) {
    const unit = data.units[row];
    return html("li", null, html("a", {
      href: addressOf(unit), "data-neighbour": unit, class: "tile",
      "aria-label": `${describe(row, state.sort)}; ${what} ${text}`,
    }, wallPicture(row, zoomFor(WIDTH, 96)), html("span", { class: "number" }, String(unit)),
    html("span", { class: "value" }, text)));
  }

  let copies = 0;
  function copyable(label, text, look = "") {
    copies += 1;
    const id = `copy-${copies}`;
    const button = html("button", {
      type: "button", class: "copy", "data-copy": id, "aria-label": `Copy: ${label}`,
    }, "Copy");
    return html("p", { class: `copyable ${look}` },
      soft(`${label}: `), html("code", { id, title: look ? text : null }, text), " ", button);
  }

  function runFacts(run) {
    const facts = [
      run.made, run.version && `diversevis ${run.version}`, run.device,
      run.weights && `weights: ${run.weights}`,
      (run.measures || []).length ? `measured: ${run.measures.join(", ")}` : null,
    ];
    return hint(facts.filter(Boolean).join("; "));
  }

  function partFiles(row, d) {
    const run = data.runs[data.run[row]] || {};
    const unit = `${run.quoted} unit=${data.units[row]}`;
    const link = ([href, name]) => html("li", null, html("a", { href, download: true }, name));
    return part("files", "How it was made, and its files",
      run.command ? copyable("Command", String(run.command)) : null,
      run.folder ? copyable("Folder", String(run.folder)) : null,
      run.rerun ? copyable("To repeat exactly this run", String(run.rerun)) : null,
      run.folder ? copyable("These numbers as text", `diversevis show ${unit}`) : null,
      run.folder ? copyable("Figure for a paper", `diversevis figure ${unit} kind=sheet`) : null,
      runFacts(run), html("ul", { class: "files" }, ...filesOf(row, d).map(link)));
  }

  /* [address, name] of every file about a unit. */
  function filesOf(row, d) {
    const strips = [d.images, d.alone, d.natural].filter(Boolean).map((strip) => strip.file);
    const images = [...strips, d.film].filter(isSafeName)
      .map((name) => [`${d.folder}/${name}`, name]);
    const pictures = Object.entries(d.pictures || {})
      .filter(([, path]) => drawnPicture(path, row))
      .map(([name, path]) => [ROOT + path, `${name}.png`]);
    const key = detailsKey(row);
    const numbers = key ? [[`${ROOT}${key}.js`, "numbers (units of the run, as a script)"]] : [];
    return [...images, ...pictures, ...numbers, ["layer.js", "numbers of the whole layer"]];
  }

  // ---------- 16. Facts of the layer, and the start --------------------------------------------

  const pixels = (pair) => (Array.isArray(pair) ? `${pair[0]} × ${pair[1]} px` : "");

  function showFacts() {
    const facts = [
      isNumber(data.contrast) && data.n ? `RMS contrast ${digits(data.contrast)} grey levels` : "",
      data.stride ? `stride ${pixels(data.stride)}` : "",
      data.response ? `response: ${data.response}` : "",
    ];
    byId("facts").append(...facts.filter(Boolean).map((fact) => html("li", null, fact)));
    const noted = (data.notes || []).map((text) => html("p", { class: "note" }, text));
    byId("layer-notes").append(...noted);
    const runs = byId("runs");
    const text = `${plural(data.runs.length, "run")} made this layer`;
    runs.querySelector("summary").textContent = text;
    runs.addEventListener("toggle", listRuns);
  }

  const MOST_RUNS = 200;

  function listRuns() {
    const runs = byId("runs");
    if (!runs.open || runs.querySelector(".run")) return;
    const about = (run) => html("div", { class: "run" }, copyable("Folder", String(run.folder)),
      copyable("Command", String(run.command)), runFacts(run));
    runs.append(...data.runs.slice(0, MOST_RUNS).map(about));
    const more = data.runs.length - MOST_RUNS;
    if (more > 0) runs.append(hint(`${more} more are not listed.`));
  }

  function start() {
    window.history.scrollRestoration = "manual";
    showFacts();
    makeControls();
    window.setTimeout(makeFilters, 0); // in a task after the wall's
    if (window.matchMedia("(max-width: 48rem)").matches) {
      byId("filters").open = false;
      byId("scatter-panel").open = /[#&][xy]=/.test(window.location.hash);
    }
    document.querySelector(".skip").addEventListener("click", (event) => {
      event.preventDefault();
      byId("main").focus();
    });
    window.addEventListener("hashchange", goToAddress);
    goToAddress();
  }

  start();
}());
