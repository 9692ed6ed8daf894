"use strict";
// Texts only ever become text nodes; nothing is made of HTML.
const SVG = "http://www.w3.org/2000/svg";
function svg(name, attributes, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes || {})) element.setAttribute(key, value);
  element.append(...children);
  return element;
}
function html(name, attributes, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) element.setAttribute(key, value);
  element.append(...children);
  return element;
}
function scaled(value, units, base) {
  let size = Math.abs(value), index = 0;
  while (index < units.length - 1 && size >= base) { size /= base; index++; }
  return `${size >= 100 ? size.toFixed(0) : size >= 10 ? size.toFixed(1) : size.toFixed(2)} ${units[index]}`;
}
const seconds = (s) => s == null ? "-" : s >= 1 ? scaled(s, ["s"], Infinity) : s >= 1e-3 ? scaled(s * 1e3, ["ms"], Infinity) : `${(s * 1e6).toFixed(0)} µs`;
const bytes = (n) => n == null ? "-" : n < 1000 ? `${Math.round(n)} B` : scaled(n, ["B", "kB", "MB", "GB", "TB"], 1000);
const rate = (n) => n == null ? "-" : scaled(n * 8, ["bit/s", "kbit/s", "Mbit/s", "Gbit/s"], 1000);
const percent = (x) => x == null ? "-" : `${Math.round(x * 100)} %`;
const short = (text, most) => text.length > most ? `${text.slice(0, most - 1)}…` : text;

// Stages that overlap take turns in two halves, so that both are seen.
function bar(x, y, height, scale, stages, extra) {
  const overlap = stages.some(([, begin], index) => index && begin < stages[index - 1][1] + stages[index - 1][2] - 1e-6);
  const part = overlap ? height / 2 : height;
  return stages.map(([name, begin, length], index) => [name, begin, length, overlap ? index % 2 : 0]).filter(([, , length]) => length * scale > 0.05)
    .map(([name, begin, length, lane]) => svg("rect",
      { x: x + begin * scale, y: y + lane * part, height: part, width: Math.max(0.6, length * scale), class: `fill-${name} ${extra}` }));
}
const lasting = (stages) => Math.max(0, ...stages.map(([, begin, length]) => begin + length));
// Measured in front, predicted behind and higher, so that both ends are seen.
function waterfall(width, rows, isAligned, label) {
  const left = 46, right = 74, step = 24, inner = Math.max(40, width - left - right);
  const shown = rows.slice(-20);
  const end = (row) => Math.max(row.total_s, ...row.predicted.map(([, b, s]) => b + s), 1e-9);
  const from = isAligned ? 0 : Math.min(...shown.map((row) => row.began_s));
  const most = isAligned ? Math.max(...shown.map(end)) : Math.max(...shown.map((row) => row.began_s - from + end(row)));
  const scale = inner / most, height = shown.length * step + 24;
  const picture = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  const parts = width < 600 ? 2 : 4;
  for (let part = 0; part <= parts; part++) {
    const x = left + inner * part / parts;
    picture.append(svg("line", { x1: x, x2: x, y1: 0, y2: height - 20, class: "grid" }),
      svg("text", { x, y: height - 6, class: "tick", "text-anchor": part === parts ? "end" : part ? "middle" : "start" }, seconds(most * part / parts)));
  }
  shown.forEach((row, index) => {
    const y = index * step, x = left + (isAligned ? 0 : (row.began_s - from) * scale);
    picture.append(svg("text", { x: left - 6, y: y + 16, "text-anchor": "end", class: "tick" }, String(row.number)),
      ...bar(x, y + 1, 20, scale, row.predicted, "predicted"), ...bar(x, y + 6, 10, scale, row.stages, ""),
      svg("text", { x: Math.min(width - right + 4, x + end(row) * scale + 5), y: y + 16 }, seconds(row.total_s)));
    if (row.completed_by === "fallback" || row.completed_by === "") picture.append(svg("rect", { x: left - 3, y: y + 4, width: 1, height: 14, class: "late" }));
  });
  return picture;
}
function cuts(width, points, chosen, pinned, words) {
  const left = width < 600 ? 100 : 190, right = 74, step = 22, inner = Math.max(40, width - left - right);
  const most = Math.max(...points.map((p) => p.total_s), 1e-9), scale = inner / most, height = points.length * step + 4;
  const picture = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": words });
  points.forEach((p, index) => {
    const y = index * step, is = p.point === chosen, stages = p.stages, at = lasting(stages);
    if (is || p.point === pinned) picture.append(svg("rect", { x: 0, y, width, height: step, class: "chosen" }));
    picture.append(svg("text", { x: 2, y: y + 15, class: is ? "strong" : "" }, `${is ? "→ " : ""}${p.point === pinned ? "● " : ""}${p.point} ${short(p.layer, width < 600 ? 10 : 22)}`),
      ...bar(left, y + 4, 14, scale, stages, ""), svg("text", { x: left + at * scale + 5, y: y + 15, class: is ? "strong" : "" }, seconds(p.total_s)));
  });
  return picture;
}
// The best point for a rate and a speed, by the same sum of stages that the plan has.
function bestAt(points, now, up, speed) {
  let best = points[0], least = Infinity;
  for (const p of points) {
    let total = (p.edge_s + p.encode_s) * now.edge_speed / speed;
    if (p.up_bytes > 0) total += p.rtt_s + p.up_bytes / up + p.download_s * now.up_bytes_per_s / up + p.queue_s + p.cloud_s - p.hidden_s * Math.min(1, now.up_bytes_per_s / up);
    if (total < least) { least = total; best = p; }
  }
  return best.point;
}
function decisionMap(width, points, now, trail, words) {
  const left = 58, bottom = 40, height = Math.min(380, Math.max(240, width * 0.42)), columns = 64, lines = 28;
  const middle = Math.round(Math.log10(now.up_bytes_per_s)), x0 = middle - 2, x1 = middle + 2, y0 = Math.log2(now.edge_speed) - 3, y1 = Math.log2(now.edge_speed) + 3;
  const w = (width - left - 6) / columns, h = (height - bottom - 4) / lines, last = points[points.length - 1].point;
  const picture = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": words.label });
  const sums = new Map();
  for (let line = 0; line < lines; line++) {
    const speed = 2 ** (y1 - (y1 - y0) * (line + 0.5) / lines);
    let run = null;
    for (let column = 0; column <= columns; column++) {
      const best = column === columns ? null : bestAt(points, now, 10 ** (x0 + (x1 - x0) * (column + 0.5) / columns), speed);
      if (run && best !== run.point) {
        const x = left + run.from * w, y = 2 + line * h, size = column - run.from;
        const share = last ? run.point / last : 0;
        picture.append(svg("rect", { x, y, width: size * w + 0.4, height: h + 0.4, fill: `hsl(${208 - 55 * share} ${62 - 12 * share}% ${66 + 8 * Math.sin(run.point * 2.4)}%)` }));
        const sum = sums.get(run.point) || { count: 0, x: 0, y: 0 };
        sum.count += size; sum.x += size * (x + size * w / 2); sum.y += size * (y + h / 2);
        sums.set(run.point, sum);
        run = null;
      }
      if (!run) run = { point: best, from: column };
    }
  }
  for (const [point, sum] of sums) if (sum.count > columns * lines / 60) picture.append(svg("text", { x: sum.x / sum.count, y: sum.y / sum.count + 4, "text-anchor": "middle", class: "on-map" }, String(point)));
  const at = (m) => [left + (Math.log10(m.up_bytes_per_s) - x0) / (x1 - x0) * (width - left - 6), 2 + (y1 - Math.log2(m.edge_speed)) / (y1 - y0) * (height - bottom - 4)];
  const inside = ([x, y]) => [Math.min(width - 6, Math.max(left, x)), Math.min(height - bottom - 2, Math.max(2, y))].map((v) => v.toFixed(1));
  const path = trail.filter((m) => m.up_bytes_per_s > 0 && m.edge_speed > 0).map(at).map(inside).join(" ");
  const [x, y] = inside(at(now));
  picture.append(svg("polyline", { points: path, class: "trail-under" }), svg("polyline", { points: path, class: "trail" }), svg("circle", { cx: x, cy: y, r: 6, class: "now" }));
  for (let power = x0; power <= x1; power += width < 600 ? 2 : 1) picture.append(svg("text", { x: left + (power - x0) / (x1 - x0) * (width - left - 6), y: height - 22, class: "tick", "text-anchor": power === x0 ? "start" : power === x1 ? "end" : "middle" }, rate(10 ** power)));
  for (let step = 0; step <= 3; step++) { const power = y0 + 1.5 + step * (y1 - y0 - 3) / 3; picture.append(svg("text", { x: left - 6, y: 6 + (y1 - power) / (y1 - y0) * (height - bottom - 4), class: "tick", "text-anchor": "end" }, (2 ** power).toPrecision(2))); }
  picture.append(svg("text", { x: left + (width - left) / 2, y: height - 5, class: "tick", "text-anchor": "middle" }, words.x), svg("text", { x: 12, y: (height - bottom) / 2, class: "tick", "text-anchor": "middle", transform: `rotate(-90 12 ${(height - bottom) / 2})` }, words.y));
  return picture;
}
function table(heads, rows) {
  const body = rows.map((cells) => html("tr", {}, ...cells.map(([text, kind]) => html("td", kind ? { class: kind } : {}, String(text)))));
  return html("table", {}, html("thead", {}, html("tr", {}, ...heads.map(([text, kind]) => html("th", { scope: "col", ...(kind ? { class: kind } : {}) }, text)))), html("tbody", {}, ...body));
}
