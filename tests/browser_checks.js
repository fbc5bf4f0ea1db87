/* What tests/test_atlas_browser.py asks of a page, injected by selenium. */
"use strict";
window.checks = (function () {
  const isShown = (node) => node.checkVisibility({ visibilityProperty: true })
    && node.getClientRects().length > 0;
  const shown = (selector) => [...document.querySelectorAll(selector)].filter(isShown);
  const brief = (node) => {
    const text = (node.getAttribute("aria-label") || node.textContent || "").trim().slice(0, 40);
    const id = node.id ? `#${node.id}` : `.${node.getAttribute("class") || ""}`;
    return `${node.localName}${id} "${text}"`;
  };

  // ---------- contrast, as WCAG 2.2 defines it ----------

  const pen = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });

  /* [red, green, blue, alpha] of a computed colour, in 0..255 and 0..1. */
  function rgba(color) {
    pen.clearRect(0, 0, 1, 1);
    pen.fillStyle = color;
    pen.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = pen.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  }
  const over = (top, bottom) =>
    [0, 1, 2].map((i) => top[3] * top[i] + (1 - top[3]) * bottom[i]).concat(1);

  function backgroundOf(node) {
    const layers = [];
    for (let at = node; at; at = at.parentElement) {
      const color = rgba(getComputedStyle(at).backgroundColor);
      layers.push(color);
      if (color[3] === 1) return layers.reduceRight((bottom, top) => over(top, bottom));
    }
    return null;
  }

  function opacityOf(node) {
    let opacity = 1;
    for (let at = node; at; at = at.parentElement) opacity *= getComputedStyle(at).opacity;
    return opacity;
  }

  function luminance([r, g, b]) {
    const [x, y, z] = [r, g, b].map((value) => value / 255)
      .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  }

  function ratio(a, b) {
    const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y);
    return (high + 0.05) / (low + 0.05);
  }

  function contrastOf(node, pseudo) {
    const bottom = backgroundOf(node);
    if (!bottom) return 0;
    const style = getComputedStyle(node, pseudo);
    const color = rgba(node instanceof SVGElement ? style.fill : style.color);
    color[3] *= opacityOf(node);
    return ratio(over(color, bottom), bottom);
  }

  /* Texts of less contrast than that; how many were looked at. */
  function contrast(least) {
    const nodes = new Set();
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      const parent = walker.currentNode.parentElement;
      if (!walker.currentNode.data.trim() || parent.closest("option, script, noscript")) continue;
      if (!parent.closest(":disabled") && isShown(parent)) nodes.add(parent);
    }
    const looked = [...nodes, ...shown("input, select")].map((node) => [node, null]);
    shown("input[placeholder]").forEach((node) => looked.push([node, "::placeholder"]));
    const low = looked.map(([node, pseudo]) => [contrastOf(node, pseudo), node])
      .filter(([value]) => value < least)
      .map(([value, node]) => `${value.toFixed(2)} ${brief(node)}`);
    return { low, count: looked.length };
  }

  /* Contrast of a colour of the style sheet, which drawings use, with the page. */
  function variable(name) {
    const probe = document.createElement("span");
    probe.style.color = `var(${name})`;
    document.body.append(probe);
    const value = contrastOf(probe, null);
    probe.remove();
    return value;
  }

  // ---------- structure ----------

  const named = (node) => {
    const by = (node.getAttribute("aria-labelledby") || "").split(/\s+/).filter(Boolean);
    const texts = by.map((id) => (document.getElementById(id) || {}).textContent || "");
    return (texts.join(" ") || node.getAttribute("aria-label") || node.getAttribute("alt")
      || [...(node.labels || [])].map((label) => label.textContent).join(" ")
      || (node.matches("input, select, img, svg, canvas") ? "" : node.textContent)).trim();
  };

  function structure() {
    const problems = [];
    const unless = (holds, text) => { if (!holds) problems.push(text); };
    const all = [...document.querySelectorAll("[id]")].map((node) => node.id);
    unless(new Set(all).size === all.length, `ids twice: ${all.filter((id, i) => all.indexOf(id) < i)}`);
    for (const attribute of ["for", "aria-labelledby", "aria-describedby"]) {
      for (const node of document.querySelectorAll(`[${attribute}]`)) {
        for (const id of node.getAttribute(attribute).split(/\s+/)) {
          const isLater = node.hidden || id === "unit-title"; // of a view that is not open
          unless(document.getElementById(id) || isLater, `${brief(node)} ${attribute}=${id}: nothing`);
        }
      }
    }
    unless(document.documentElement.lang, "no language");
    unless(document.title.trim(), "no title");
    for (const [selector, count] of [["h1", 1], ["main", 1], ["header", 1], ["footer", 1]]) {
      unless(shown(selector).length === count, `${shown(selector).length} ${selector}`);
    }
    shown("nav, form, section[role=region], [role=region]").forEach((node) =>
      unless(node.localName === "form" || named(node), `${brief(node)} has no name`));
    shown("a[href], button, input, select, summary, [role=img], img, canvas").forEach((node) =>
      unless(node.closest("[aria-hidden=true]") || named(node), `${brief(node)} has no name`));
    const controls = shown("input, select").map(named);
    unless(new Set(controls).size === controls.length, `controls of the same name: ${controls}`);
    shown("svg").forEach((node) => unless(
      node.closest("[aria-hidden=true]") || node.querySelector("text")
        || (node.getAttribute("role") === "img" && named(node)),
      `${brief(node)} is neither hidden nor named`));
    shown("a[aria-hidden=true]").forEach((node) =>
      unless(node.tabIndex < 0, `${brief(node)} is hidden and can be reached`));
    const levels = shown("h1, h2, h3, h4").map((node) => Number(node.localName[1]));
    levels.forEach((level, i) => unless(level <= (levels[i - 1] || 0) + 1, `h${level} after h${levels[i - 1]}`));
    unless(!document.querySelector("[tabindex]:not([tabindex='0']):not([tabindex='-1'])"), "tabindex above 0");
    shown("th").forEach((node) => unless(node.scope, `${brief(node)} has no scope`));
    return problems;
  }

  // ---------- keyboard ----------

  const reachable = () => shown("a[href], button, input, select, summary, [tabindex], video")
    .filter((node) => node.tabIndex >= 0 && !node.disabled);
  const isMarked = (node) => {
    const style = getComputedStyle(node);
    return (style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1)
      || style.boxShadow !== "none";
  };

  /* The element that has the focus, and whether one sees that. */
  const focused = () =>
    ({ name: brief(document.activeElement), isMarked: isMarked(document.activeElement) });

  return { contrast, variable, structure, focused, shown, named, brief,
    reachable: () => reachable().map(brief), rgba, backgroundOf, luminance };
}());
