"use strict";
const KEPT = 50, PAUSE_MS = 1000, SILENT_MS = 30000;
const byId = (id) => document.getElementById(id);
let state = null, rows = [], isDrawing = false, pictureOf = null, wakeUp = () => {};

// --- the token and the language: neither ever stands in an address that is sent
function stored(key, value) {
  try {
    if (value !== undefined) sessionStorage.setItem(key, value);
    return sessionStorage.getItem(key) || "";
  } catch { return ""; }
}
function tokenOf() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    stored("token", given);
    history.replaceState(null, "", location.pathname + location.search);
    return given;
  }
  return stored("token");
}
let token = tokenOf();
const asked = new URLSearchParams(location.search).get("lang") || stored("lang") || navigator.language || "en";
let language = asked.toLowerCase().startsWith("zh") ? "zh" : "en";
const headers = () => (token ? { Authorization: `Bearer ${token}` } : {});
function say(key, ...values) {
  const text = WORDS[language][key] ?? key;
  return text.replace(/\{(\d)\}/g, (_, index) => String(values[Number(index)]));
}
function named(key, values) {
  return (WORDS[language][key] ?? key).replace(/\{(\w+)\}/g, (_, name) => String(values[name] ?? ""));
}

// --- what comes
async function listen() {
  for (;;) {
    const stop = new AbortController();
    let timer = setTimeout(() => stop.abort(), SILENT_MS);
    try {
      const reply = await fetch("/events", { headers: headers(), cache: "no-store", signal: stop.signal });
      if (reply.status === 401) {
        byId("token").hidden = false;
        setLive(false, "wrong_token");
        clearTimeout(timer);
        await new Promise((resolve) => { wakeUp = resolve; });
        continue;
      }
      if (!reply.ok) throw new Error(String(reply.status));
      byId("token").hidden = true;
      rows = [];
      const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        clearTimeout(timer);
        timer = setTimeout(() => stop.abort(), SILENT_MS);
        const frames = (rest + value).split("\n\n");
        rest = frames.pop();
        for (const frame of frames) take(frame);
      }
    } catch { /* said below, and tried again */ }
    clearTimeout(timer);
    setLive(false, "lost");
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
  }
}
function take(frame) {
  const line = frame.split("\n").find((each) => each.startsWith("data: "));
  if (!line) return;
  const news = JSON.parse(line.slice(6));
  if (news.state) state = news.state;
  rows = rows.concat(news.rows).slice(-KEPT);
  setLive(true, "live");
  if (!isDrawing) {
    isDrawing = true;
    requestAnimationFrame(() => { isDrawing = false; draw(); });
  }
}
function setLive(is, word) {
  byId("status").dataset.word = word;
  byId("status").textContent = say(word);
  byId("status").className = is ? "" : "lost";
}

// --- what is shown
function translate() {
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  for (const element of document.querySelectorAll("[data-word]")) element.textContent = say(element.dataset.word);
  byId("language").textContent = say("_other");
  byId("language").lang = language === "zh" ? "en" : "zh-CN";
}
function place(point, last) {
  if (point == null) return say("several");
  const words = point === 0 ? say("all_cloud") : point === last ? say("all_edge") : "";
  return words ? `${point}, ${words}` : String(point);
}
function fact(key, text) { return [html("dt", {}, say(key)), html("dd", {}, text)]; }
function fill(id, ...children) { byId(id).replaceChildren(...children); }
function wide(id) { return Math.max(280, byId(id).clientWidth); }
function keepScroll(id, child) {
  const box = byId(id), top = box.scrollTop;
  box.replaceChildren(child);
  box.scrollTop = top;
}
function draw() {
  if (!state) return;
  if (!document.body.dataset.program && state.program === "tasks") byId("aligned").value = "time"; // they overlap
  document.body.dataset.program = state.program;
  const title = [state.network || state.name, say(`title_${state.program}`)].filter(Boolean).join(" · ");
  document.title = byId("title").textContent = title;
  drawBanners();
  const facts = { edge: edgeFacts, cloud: cloudFacts, tasks: taskFacts, lab: labFacts }[state.program];
  fill("facts", ...facts());
  if (state.program === "lab") return drawCells();
  if (state.program === "edge") { drawAnswer(); drawCuts(); drawMap(); }
  if (state.program === "cloud") drawEdges();
  drawRequests();
  return undefined;
}
function drawBanners() {
  const shown = state.banners.map((banner) => {
    const values = { ...banner, age: seconds(banner.age), speed: percent(banner.speed), ratio: banner.ratio?.toFixed(2), load: banner.load?.toFixed(1) };
    return html("div", { class: "banner" }, html("strong", {}, named(banner.code, values)), named(WORDS.en[`${banner.code}_${banner.code_of}_do`] ? `${banner.code}_${banner.code_of}_do` : `${banner.code}_do`, values));
  });
  const text = shown.map((each) => each.textContent).join("\n");
  if (byId("banners").dataset.text !== text) { // read aloud once, not with every frame
    byId("banners").dataset.text = text;
    fill("banners", ...shown);
  }
}
async function drawAnswer() {
  const { input, answer } = state;
  const truth = input.truth ? ` (${say("truth", input.truth)})` : "";
  byId("source").textContent = input.source + truth;
  if (answer) {
    const top = answer.top.map((each) => html("div", { class: "share" }, html("span", {}, `${(each.probability * 100).toFixed(2)} %`), html("span", {}, each.label),
      svg("svg", { width: "100%", height: 5, "aria-hidden": "true" }, svg("rect", { width: `${Math.max(0.3, each.probability * 100)}%`, height: 5, class: "fill-share" }))));
    const named = answer.rows.map((each) => `${each.row} ${each.label}`).join(", ");
    const outputs = answer.top.length ? [] : answer.outputs.map((each) => html("p", {}, say("outputs", each.dtype, each.shape.join(" x "))));
    fill("top", ...top, ...outputs, ...(named ? [html("p", {}, named)] : []));
  }
  const of = `${input.source} ${state.frames ? state.frames.number : ""}`;
  if (of === pictureOf) return;
  pictureOf = of;
  const canvas = byId("picture");
  try {
    const reply = await fetch("/picture.png", { headers: headers() });
    canvas.hidden = reply.status !== 200;
    if (canvas.hidden) return;
    const bitmap = await createImageBitmap(await reply.blob());
    canvas.width = bitmap.width;
    canvas.height = bitmap.height;
    canvas.getContext("2d").drawImage(bitmap, 0, 0);
    canvas.setAttribute("aria-label", input.source);
  } catch { pictureOf = null; }
}
function byText(counts) {
  return Object.entries(counts).map(([who, count]) => `${say(`by_${who}`)} ${count}`).join(", ") || say("none_yet");
}
function linkText(link) {
  return link.up_bytes_per_s == null ? say("no_link") : say("link_text", rate(link.up_bytes_per_s), rate(link.down_bytes_per_s), seconds(link.rtt_s), link.source);
}
function cloudText(cloud) {
  return !cloud ? say("cloud_none") : cloud.is_connected ? say("cloud_ok", cloud.place, cloud.device) : say("cloud_lost");
}
function savedText(sizes) {
  return say("saved_text", bytes(Math.max(0, sizes.raw - sizes.sent)), bytes(sizes.raw), percent(sizes.raw ? 1 - sizes.sent / sizes.raw : 0));
}
function edgeFacts() {
  const { plan, cloud, link, power } = state, latest = rows[rows.length - 1];
  const gain = plan.gain == null ? "" : say("gain_text", plan.gain.toFixed(2));
  return [
    ...fact("plan", say("plan_text", place(plan.point, plan.last), seconds(plan.total_s)) + gain),
    ...fact("weights", state.weights), ...fact("link", linkText(link)), ...fact("cloud_at", cloudText(cloud)),
    ...(cloud && cloud.load != null ? fact("load", say("load_text", cloud.load.toFixed(2), seconds(cloud.queue_s))) : []),
    ...fact("speeds", say("speeds_text", percent(state.speed.edge), percent(state.speed.cloud))),
    ...fact("count", String(state.count)), ...fact("by", byText(state.completed_by)),
    ...(latest ? fact("energy", say("energy_text", latest.energy_j.toPrecision(3), power.profile, power.radio)) : []),
    ...fact("saved", savedText(state.bytes)),
    ...(state.frames ? fact("frames", say("frames_text", state.frames.rate_per_s.toFixed(1), state.frames.dropped, seconds(latest && latest.age_s))) : []),
    ...(state.changes.length ? fact("moves", state.changes.slice(-3).map((each) => each.text).join("; ")) : []),
  ];
}
function taskFacts() {
  return [...fact("done", say("of", state.done, state.total)), ...fact("by", byText(state.completed_by)), ...fact("link", linkText(state.link)),
    ...fact("cloud_at", cloudText(state.cloud)), ...fact("saved", savedText(state.bytes))];
}
function cloudFacts() {
  const { queue, memory } = state;
  const loaded = Object.entries(memory.networks).map(([name, size]) => `${name} ${bytes(size)}`).join(", ");
  const batches = Object.entries(state.batches).map(([size, count]) => say("batches_text", count, size)).join(", ");
  const blocked = Object.entries(state.blocked).map(([source, left]) => say("blocked_text", source, seconds(left))).join(", ");
  const refusals = Object.entries(state.refusals).map(([code, count]) => `${code} ${count}`).join(", ");
  return [
    ...fact("computing", state.device), ...fact("networks", loaded || say("none_yet")), ...fact("connections", say("of", state.connections, state.limits.max_connections)),
    ...fact("waiting_requests", say("waiting_text", queue.waiting, state.limits.max_queue, seconds(queue.queue_s))), ...fact("load", `${state.load.toFixed(2)}`),
    ...fact("speeds", percent(state.speed)), ...fact("answers", String(state.count)), ...fact("batches", batches || say("none_yet")),
    ...fact("memory", say("memory_text", bytes(memory.rss_bytes), bytes(Object.values(memory.networks).reduce((a, b) => a + b, 0)))),
    ...fact("refusals", refusals || say("nobody")), ...fact("penalties", blocked || say("nobody")),
  ];
}
function labFacts() {
  const { done, total, left_s: left } = state;
  return [...fact("done", say("of", done, total)), ...(left == null ? [] : fact("left", seconds(left))), ...fact("state", state.current || "-")];
}
function drawEdges() {
  const heads = [[say("peer")], [say("network")], [say("where")], [say("rate"), "n"], [say("answers"), "n"], [say("p50"), "n"], [say("p95"), "n"], [say("batch"), "n"], [say("refusals"), "n"]];
  keepScroll("edges", table(heads, state.edges.map((each) => [[each.peer, "long"], [each.network || "-"], [each.count ? place(each.point, each.last) : say("idle")], [each.rate ? rate(each.rate) : "-", "n"],
    [each.count, "n"], [seconds(each.p50_s), "n"], [seconds(each.p95_s), "n"], [each.batch ? each.batch.toFixed(1) : "-", "n"], [each.refusals, each.refusals ? "n bad" : "n"]])));
}
function drawCells() {
  const heads = state.columns.map((name) => [say(name)]);
  keepScroll("cells", table(heads, state.cells.map((cells) => cells.map((text) => [text]))));
}
function drawRequests() {
  const stages = [...new Set(rows.flatMap((row) => [...row.stages, ...row.predicted].map(([name]) => name)))];
  const order = ["receive", "edge", "encode", "wait", "transfer", "decode", "queue", "cloud", "send"].filter((name) => stages.includes(name));
  const keys = order.map((name) => html("span", {}, svg("svg", { viewBox: "0 0 12 12", "aria-hidden": "true" }, svg("rect", { width: 12, height: 12, class: `fill-${name}` })), say(name)));
  fill("legend", ...keys, ...(rows.some((row) => row.predicted.length) ? [html("span", {}, say("predicted"))] : []));
  if (rows.length) {
    const latest = rows[rows.length - 1];
    fill("waterfall", waterfall(wide("waterfall"), rows, byId("aligned").value === "aligned", `${say("waterfall")}: ${say("total")} ${seconds(latest.total_s)}`));
  } else fill("waterfall", html("p", { class: "note" }, say("none_yet")));
  const isEdge = state.program === "edge";
  const heads = [[say("n"), "n"], ...(isEdge ? [] : [[say("network")]]), ...(state.program === "cloud" ? [[say("peer")]] : []), [say("total"), "n"], ...order.map((name) => [say(name), "n"]),
    ...(state.program === "cloud" ? [[say("batch"), "n"]] : [[say("predicted_total"), "n"], [say("codec")], [say("sent"), "n"], [say("who")]]), [say("where")],
    ...(isEdge ? [[say("joules"), "n"]] : []), [say("note")]];
  keepScroll("requests", table(heads, rows.slice().reverse().map((row) => {
    const of = Object.fromEntries(row.stages.map(([name, , length]) => [name, length]));
    const expected = lasting(row.predicted);
    return [[row.number, "n"], ...(isEdge ? [] : [[row.name]]), ...(state.program === "cloud" ? [[row.peer]] : []), [seconds(row.total_s), "n"], ...order.map((name) => [of[name] == null ? "-" : seconds(of[name]), "n"]),
      ...(state.program === "cloud" ? [[row.batch, "n"]] : [[row.predicted.length ? seconds(expected) : "-", "n"], [row.codec || "-"], [bytes(row.payload_bytes), "n"], [say(`by_${row.completed_by}`), row.completed_by === "fallback" || !row.completed_by ? "bad" : ""]]),
      [row.point === null ? say("several") : String(row.point)], ...(isEdge ? [[`${row.energy_j.toPrecision(3)} J`, "n"]] : []), [row.why || "", "long"]];
  })));
}
function drawCuts() {
  const { points, plan } = state, running = plan.pinned ?? plan.point, select = byId("point");
  keepScroll("cuts", cuts(wide("cuts") - 4, points, running, plan.pinned, `${say("cuts")}: ${place(running, plan.last)}`));
  const names = points.map((p) => `${p.point} ${p.layer}`).join("\n");
  if (select.dataset.names !== names) {
    select.dataset.names = names;
    select.replaceChildren(...points.map((p) => html("option", { value: p.point }, `${p.point}  ${short(p.layer, 40)}`)));
    if (plan.point != null) select.value = String(plan.point);
  }
  for (const button of byId("pin").querySelectorAll("button")) button.disabled = !token;
  if (!byId("pin-state").dataset.error) byId("pin-state").textContent = plan.pinned != null ? say("pinned_to", place(plan.pinned, plan.last)) : token ? say("free") : say("needs_token");
}
// The rate that the predictions are made with: the measured one, as corrected by what was learnt.
function ratesNow() {
  const sent = state.points.find((p) => p.up_bytes > 0 && p.upload_s > 0);
  return { ...state.link, up_bytes_per_s: sent ? sent.up_bytes / sent.upload_s : state.link.up_bytes_per_s };
}
function bestNow() {
  const now = ratesNow();
  return bestAt(state.points, now, now.up_bytes_per_s, now.edge_speed);
}
function drawMap() {
  const { points, link, trail } = state;
  if (!(link.up_bytes_per_s > 0) || points.length < 2) { fill("map", html("p", { class: "note" }, say("no_link"))); return; }
  const factor = ratesNow().up_bytes_per_s / link.up_bytes_per_s, best = bestNow();
  const along = trail.map((each) => ({ ...each, up_bytes_per_s: each.up_bytes_per_s * factor }));
  byId("map").dataset.best = best;
  fill("map", decisionMap(wide("map"), points, ratesNow(), along, { x: say("map_x"), y: say("map_y"), label: `${say("map")}: ${place(best, state.plan.last)}` }));
}

// --- what may be done
async function pin(point) {
  const note = byId("pin-state");
  delete note.dataset.error;
  const reply = await fetch("/pin", { method: "POST", headers: { ...headers(), "Content-Type": "application/json" }, body: JSON.stringify({ point }) });
  if (!reply.ok) {
    note.dataset.error = "1";
    note.textContent = reply.status === 401 ? say("needs_token") : say("no_pin", await reply.text());
  }
}
async function download() {
  let reply = null;
  for (let tries = 0; tries < 5 && !(reply && reply.ok); tries++) {
    if (reply) await new Promise((resolve) => setTimeout(resolve, 2 * PAUSE_MS));
    reply = await fetch("/trace.json", { headers: headers() });
  }
  if (!reply.ok) return;
  const link = html("a", { download: `${state ? state.program : "edgecloud"}-trace.json`, href: URL.createObjectURL(await reply.blob()) });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
byId("pin").addEventListener("submit", (event) => { event.preventDefault(); pin(Number(byId("point").value)); });
byId("release").addEventListener("click", () => pin(null));
byId("download").addEventListener("click", download);
byId("aligned").addEventListener("change", draw);
byId("language").addEventListener("click", () => {
  language = language === "zh" ? "en" : "zh";
  stored("lang", language);
  delete byId("point").dataset.names;
  translate();
  draw();
});
byId("token").addEventListener("submit", (event) => {
  event.preventDefault();
  token = byId("token-text").value.trim();
  stored("token", token);
  byId("token-text").value = "";
  wakeUp();
});
addEventListener("hashchange", () => { token = tokenOf(); wakeUp(); });
addEventListener("resize", () => { if (state) draw(); });
translate();
setLive(false, "waiting");
listen();
