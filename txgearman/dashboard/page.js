// The page of the dashboard. It gets one document per poll (see document.py) as a server-sent event, and shows it.
// All text is set as text: names of functions are anybody's bytes. URLs are relative, so that any prefix will do.
"use strict";

const MAX_ROWS = 100; // of functions and of workers, until all are asked for
const MAX_NAMES = 12; // functions of one worker
const RETRY = 10; // seconds until a stream is opened again that the dashboard has refused
const PAUSE = 60; // seconds after which a tab in the background gets no more updates: a browser has six connections
const SVG = "http://www.w3.org/2000/svg";
const COLUMNS = ["waiting", "running", "workers"];

const number = new Intl.NumberFormat();
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const byId = (id) => document.getElementById(id);

let newest = null; // the newest document
let receivedAt = 0; // when it came, on the browser's clock
let events = null; // the stream; null while it is paused
let pause = 0; // the timer that pauses it
const open = new Map(); // open rows: the points of the history, by "function NAME" and "server ADDRESS"
const sorting = { key: null, descending: true }; // null: the document's order
const shown = { functions: MAX_ROWS, workers: MAX_ROWS };

// Elements.

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children); // strings become text
  return made;
}

function graphic(tag, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// Put these rows into a table, and remove all others. The one with the focus keeps it.
function place(body, rows) {
  const focused = document.activeElement;
  let next = body.firstChild;
  for (const row of rows) {
    if (row === next) next = next.nextSibling;
    else body.insertBefore(row, next);
  }
  while (next) {
    const gone = next;
    next = next.nextSibling;
    gone.remove();
  }
  if (focused !== document.activeElement && body.contains(focused)) focused.focus({ preventScroll: true });
}

const count = (value) => (value === null ? "–" : number.format(value));
const compare = (a, b) => (a < b ? -1 : Number(a > b));
const time = (seconds) => clock.format(seconds * 1000);

function duration(seconds) {
  if (seconds < 100) return `${Math.round(seconds)} s`;
  if (seconds < 6000) return `${Math.round(seconds / 60)} min`;
  return `${Math.round(seconds / 3600)} h`;
}

function plural(value, one, many) {
  return `${number.format(value)} ${value === 1 ? one : many}`;
}

// Curves.

// A small curve of the last hour: the maximum of each minute, null where nothing is known.
class Sparkline {
  constructor() {
    this.path = graphic("path", { class: "area" });
    this.svg = graphic("svg", { viewBox: "0 -1 60 22", preserveAspectRatio: "none", role: "img" }, this.path);
    this.drawn = null;
  }

  update(values) {
    const drawn = values.join();
    if (drawn === this.drawn) return;
    this.drawn = drawn;
    const most = Math.max(1, ...values);
    let path = "";
    let inside = false;
    values.forEach((value, index) => {
      const x = 60 - values.length + index;
      if (value !== null) path += `${inside ? "V" : `M${x} 20V`}${(20 - (20 * value) / most).toFixed(1)}h1`;
      else if (inside) path += "V20";
      inside = value !== null;
    });
    this.path.setAttribute("d", inside ? `${path}V20` : path);
    const label = values.length ? `at most ${count(Math.max(...values))} waiting` : "none waiting";
    this.svg.setAttribute("aria-label", label);
  }
}

// The points of the history as three lines: waiting, running, workers.
function chart(points) {
  if (points.length < 2) return element("p", { class: "note" }, "The history begins now.");
  const [from, to] = [points[0][0], points[points.length - 1][0]];
  const most = Math.max(1, ...points.flatMap((point) => point.slice(1)));
  const svg = graphic("svg", { class: "chart", viewBox: "0 -2 1000 124", preserveAspectRatio: "none", role: "img" });
  const legend = element("p", { class: "legend" }, `${time(from)} to ${time(to)}`);
  const labels = [];
  COLUMNS.forEach((name, column) => {
    let path = "";
    points.forEach((point) => {
      const x = ((1000 * (point[0] - from)) / (to - from)).toFixed(1);
      const y = (120 - (120 * point[column + 1]) / most).toFixed(1);
      path += path ? `H${x}V${y}` : `M${x} ${y}`;
    });
    svg.append(graphic("path", { class: name, d: path }));
    const highest = Math.max(...points.map((point) => point[column + 1]));
    labels.push(`${name}: at most ${count(highest)}`);
    const line = { waiting: "──", running: "─ ─", workers: "···" }[name];
    legend.append(element("span", { class: name }, `${line} ${labels[column]}`));
  });
  svg.setAttribute("aria-label", labels.join(", "));
  return element("div", {}, svg, legend);
}

// Rows.

// A row of a server or function, which a click opens.
class Row {
  // The last argument is what its badge says, if something is wrong.
  constructor(kind, name, wrong) {
    this.badge = element("span", { class: "badge" }, wrong);
    this.key = `${kind} ${name}`;
    this.query = `${kind}=${encodeURIComponent(name)}`;
    this.button = element("button", { type: "button", class: "name", "aria-expanded": "false" }, name);
    this.button.addEventListener("click", () => this.toggle());
    this.first = element("th", { scope: "row" }, this.button);
    this.cells = COLUMNS.map(() => element("td", { class: "number" }));
    this.sparkline = new Sparkline();
    this.curve = element("td", { class: "curve" }, this.sparkline.svg);
    this.row = element("tr", {}, this.first, ...this.cells, this.curve);
    this.details = element("td", { colspan: this.row.children.length });
    this.detailsRow = element("tr", { class: "details" }, this.details);
  }

  // The rows of the table that it takes.
  rows() {
    return open.has(this.key) ? [this.row, this.detailsRow] : [this.row];
  }

  async toggle() {
    if (open.delete(this.key)) return render();
    open.set(this.key, null);
    render();
    const answer = await getJSON(`history.json?${this.query}`);
    if (open.has(this.key)) open.set(this.key, answer.points || []);
    return render();
  }

  updateNumbers(item) {
    COLUMNS.forEach((name, index) => setText(this.cells[index], count(item[name])));
    this.sparkline.update(item.history);
    this.button.setAttribute("aria-expanded", String(open.has(this.key)));
  }

  // Mark it, or not, as wrong.
  mark(wrong) {
    this.row.classList.toggle("wrong", wrong);
    if (!wrong) this.badge.remove();
    else if (!this.badge.isConnected) this.button.after(this.badge);
  }

  history() {
    const points = open.get(this.key);
    return points === null ? element("p", { class: "note" }, "Loading the history.") : chart(points);
  }
}

class ServerRow extends Row {
  constructor(server) {
    super("server", server.address, "DOWN");
    this.error = element("small", { class: "wrong" });
    this.note = element("small");
    this.first.append(this.error, this.note);
  }

  update(server) {
    this.updateNumbers(server);
    this.mark(!server.up);
    this.first.colSpan = server.up ? 1 : 1 + this.cells.length; // the reason takes the space of the numbers
    for (const cell of this.cells) cell.hidden = !server.up;
    setText(this.error, server.error || "");
    const notes = server.up ? ["up"] : [server.answered === null ? "has not answered yet" : `last answer ${time(server.answered)}`];
    if (server.version !== null) notes.push(`version ${server.version}`);
    setText(this.note, notes.join(", "));
    if (open.has(this.key)) this.details.replaceChildren(this.history());
  }
}

class FunctionRow extends Row {
  constructor(item) {
    super("function", item.name, "NO WORKER");
    this.priorities = element("small");
  }

  update(item, position) {
    this.updateNumbers(item);
    this.mark(item.abandoned);
    const text = priorities(item.priorities);
    if (text) this.cells[0].append(this.priorities);
    setText(this.priorities, text);
    if (open.has(this.key)) this.details.replaceChildren(this.history(), ...byPriority(text), perServer(item), offering(position));
  }
}

// Waiting jobs by priority, if there are any of another than the normal one.
function priorities(lengths) {
  if (lengths === null || (lengths[0] === 0 && lengths[2] === 0)) return "";
  return ["high", "normal", "low"].map((name, index) => `${count(lengths[index])} ${name}`).join(", ");
}

const byPriority = (text) => (text ? [element("p", {}, `Waiting: ${text}.`)] : []);

function perServer(item) {
  const body = element("tbody");
  for (const [server, ...numbers] of item.servers) {
    const row = element("tr", {}, element("th", { scope: "row" }, newest.servers[server].address));
    if (numbers[0] > 0 && numbers[2] === 0) row.className = "wrong";
    row.append(...numbers.map((value) => element("td", { class: "number" }, count(value))));
    body.append(row);
  }
  const heads = ["Server", "Waiting", "Running", "Workers"].map((name) => element("th", { scope: "col" }, name));
  return element("table", { "aria-label": `${item.name} on each server` }, element("thead", {}, element("tr", {}, ...heads)), body);
}

// The workers that offer the function at this position.
function offering(position) {
  const workers = newest.workers.filter((worker) => worker[4].includes(position));
  const title = element("h3", {}, workers.length ? `Workers that offer it: ${count(workers.length)}` : "No worker offers it");
  const list = element("ul");
  for (const worker of workers.slice(0, MAX_ROWS)) {
    list.append(element("li", {}, `${workerName(worker)}, ${worker[2]}, on ${newest.servers[worker[0]].address}`));
  }
  if (workers.length > MAX_ROWS) list.append(element("li", {}, `and ${count(workers.length - MAX_ROWS)} more`));
  return element("div", {}, title, ...(workers.length ? [list] : []));
}

const workerName = (worker) => (worker[3] === "-" ? `connection ${worker[1]}` : worker[3]);

class WorkerRow {
  constructor() {
    this.name = element("span");
    this.address = element("small");
    this.cells = [element("td"), element("td")];
    this.row = element("tr", {}, element("th", { scope: "row" }, this.name, this.address), ...this.cells);
  }

  update(worker, names) {
    setText(this.name, workerName(worker));
    setText(this.address, worker[2]);
    setText(this.cells[0], newest.servers[worker[0]].address);
    const more = worker[5] - Math.min(names.length, MAX_NAMES);
    setText(this.cells[1], names.slice(0, MAX_NAMES).join(", ") + (more > 0 ? ` and ${count(more)} more` : ""));
  }
}

// The rows of a table, by key. Those that are not shown are removed.
class Rows {
  constructor(table) {
    this.body = byId(table).tBodies[0];
    this.rows = new Map();
  }

  // Return the row of a key, made if need be.
  get(key, make) {
    const row = this.rows.get(key) || make();
    this.next.set(key, row);
    return row;
  }

  // Show the rows that `update` gets.
  render(update) {
    this.next = new Map();
    place(this.body, update());
    this.rows = this.next;
  }
}

const tables = { servers: new Rows("servers"), functions: new Rows("functions-table"), workers: new Rows("workers") };

// Parts of the page.

const anyUp = () => newest.servers.some((server) => server.up);

function renderServers() {
  const ordered = [...newest.servers].sort((a, b) => a.up - b.up);
  tables.servers.render(() =>
    ordered.flatMap((server) => {
      const row = tables.servers.get(server.address, () => new ServerRow(server));
      row.update(server);
      return row.rows();
    }),
  );
  hint("servers-hint", !anyUp() && ["No server answers. Start one: ", "gearmand", ", or to try things out ", "txgearman server"]);
}

function renderFunctions() {
  const words = byId("functions-filter").value.toLowerCase();
  const all = newest.functions.map((item, position) => ({ item, position }));
  const found = all.filter(({ item }) => item.name.toLowerCase().includes(words));
  if (sorting.key !== null) {
    const sign = sorting.descending ? -1 : 1;
    found.sort((a, b) => sign * compare(a.item[sorting.key], b.item[sorting.key]));
  }
  tables.functions.render(() =>
    found.slice(0, shown.functions).flatMap(({ item, position }) => {
      const row = tables.functions.get(item.name, () => new FunctionRow(item));
      row.update(item, position);
      return row.rows();
    }),
  );
  setText(byId("functions-count"), words ? `${count(found.length)} of ${count(all.length)} functions` : "");
  more("functions", found.length, newest.functions_omitted);
  const server = newest.servers[0].address;
  const example = `txgearman work -s ${server} reverse -- rev`;
  hint("functions-hint", anyUp() && !all.length && ["No server has a function yet. A worker brings one: ", example, ", or a job for one: ", `echo abc | txgearman submit -s ${server} reverse`]);
  setText(
    byId("since"),
    `Curves: the most waiting jobs of each minute. The history began at ${time(newest.since)}. ` +
      "It is in memory, and lost when the dashboard restarts.",
  );
}

function renderWorkers() {
  const words = byId("workers-filter").value.toLowerCase();
  const names = (worker) => worker[4].map((each) => (typeof each === "number" ? newest.functions[each].name : each));
  const text = (worker) => [worker[3], worker[2], newest.servers[worker[0]].address, ...names(worker)].join(" ").toLowerCase();
  const found = newest.workers.filter((worker) => !words || text(worker).includes(words));
  found.sort((a, b) => compare(workerName(a), workerName(b))); // those of one worker on several servers together
  tables.workers.render(() =>
    found.slice(0, shown.workers).map((worker) => {
      const row = tables.workers.get(`${worker[0]} ${worker[1]}`, () => new WorkerRow());
      row.update(worker, names(worker));
      return row.row;
    }),
  );
  const all = newest.workers.length + newest.workers_omitted;
  setText(byId("workers-count"), words ? `${count(found.length)} of ${count(all)} workers` : "");
  more("workers", found.length, newest.workers_omitted);
  const start = `txgearman work -s ${newest.servers[0].address} FUNCTION -- COMMAND`;
  hint("workers-hint", anyUp() && !all && ["No worker is connected. Start one: ", start]);
}

// Show a hint whose odd parts are commands, or none.
function hint(id, parts) {
  const node = byId(id);
  node.hidden = !parts;
  if (parts && node.textContent !== parts.join("")) {
    node.replaceChildren(...parts.map((part, index) => (index % 2 ? element("code", {}, part) : part)));
  }
}

// Show the button that shows all rows, if there are more.
function more(name, found, omitted) {
  const button = byId(`${name}-more`);
  button.hidden = found <= shown[name] && !omitted;
  button.disabled = found <= shown[name];
  setText(button, button.disabled ? `${count(omitted)} more are not in the document` : `Show all ${count(found)}`);
}

// One sentence of what is wrong. It is announced, so it changes only when that does.
function summary() {
  const down = newest.servers.filter((server) => !server.up);
  const abandoned = newest.functions.filter((item) => item.abandoned);
  const all = newest.servers.length;
  const parts = [
    down.length
      ? `${plural(down.length, "server is", "servers are")} down of ${all}: ${down.map((server) => server.address).join(", ")}.`
      : `${all === 1 ? "The server is" : `All ${all} servers are`} up.`,
  ];
  if (abandoned.length) {
    const names = abandoned.slice(0, 5).map((item) => item.name);
    if (abandoned.length > 5) names.push("…");
    parts.push(`${plural(abandoned.length, "function has", "functions have")} waiting jobs and no worker: ${names.join(", ")}.`);
  }
  setText(byId("summary"), parts.join(" "));
  byId("summary").className = down.length || abandoned.length ? "down" : "";
  const signs = [];
  if (down.length) signs.push(`${down.length} down`);
  if (abandoned.length) signs.push(`${abandoned.length} without worker`);
  document.title = signs.length ? `${signs.join(", ")} - Gearman` : "Gearman";
}

function renderServerChoice() {
  const select = byId("jobs-server");
  const addresses = newest.servers.map((server) => server.address);
  if ([...select.options].map((option) => option.value).join() !== addresses.join()) {
    select.replaceChildren(...addresses.map((address) => element("option", { value: address }, address)));
  }
}

function render() {
  if (newest === null || document.hidden) return;
  renderServers();
  renderFunctions();
  renderWorkers();
  renderServerChoice();
}

// Updates.

function update(data) {
  newest = data;
  receivedAt = performance.now();
  const values = new Map(data.servers.map((server) => [`server ${server.address}`, server.up ? server : null]));
  for (const item of data.functions) values.set(`function ${item.name}`, item);
  for (const [key, points] of open) {
    const item = values.get(key);
    const last = points && points[points.length - 1];
    if (points && item && !(last && last[0] >= data.time)) {
      points.push([data.time, ...COLUMNS.map((name) => item[name] || 0)]);
      if (points.length > 1800) points.shift();
    }
  }
  summary();
  age();
  render();
}

// Say how old the numbers are, if the next ones are late.
function age() {
  if (newest === null) return;
  const seconds = (performance.now() - receivedAt) / 1000;
  const stale = seconds > newest.expected;
  document.body.classList.toggle("stale", stale);
  setText(byId("updated"), stale ? `Stale: no update for ${duration(seconds)}. As of ${time(newest.time)}` : `As of ${time(newest.time)}`);
}

async function getJSON(url) {
  try {
    const answer = await fetch(url);
    return answer.ok ? await answer.json() : { error: (await answer.text()).trim() };
  } catch {
    return { error: "the dashboard does not answer" };
  }
}

// A browser connects again by itself, but not where the dashboard has refused: there may be too many viewers.
function connect() {
  const stream = new EventSource("events");
  events = stream;
  stream.onmessage = (event) => update(JSON.parse(event.data));
  stream.onerror = async () => {
    if (stream.readyState !== EventSource.CLOSED) return;
    const data = await getJSON("document.json");
    if (!data.error) update(data);
    setTimeout(() => stream === events && connect(), RETRY * 1000);
  };
}

function visibilityChanged() {
  clearTimeout(pause);
  if (!document.hidden) {
    if (events === null) connect();
    render();
    return;
  }
  pause = setTimeout(() => {
    events.close();
    events = null;
    document.title = "Paused - Gearman";
  }, PAUSE * 1000);
}

// What people do.

for (const button of document.querySelectorAll("[data-sort]")) {
  button.addEventListener("click", () => {
    const key = button.dataset.sort;
    const first = key !== "name"; // numbers begin with the largest
    if (sorting.key !== key) Object.assign(sorting, { key, descending: first });
    else if (sorting.descending === first) sorting.descending = !first;
    else sorting.key = null;
    for (const each of document.querySelectorAll("[data-sort]")) {
      const head = each.closest("th");
      if (each.dataset.sort === sorting.key) head.setAttribute("aria-sort", sorting.descending ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    }
    render();
  });
}

for (const name of ["functions", "workers"]) {
  byId(`${name}-filter`).addEventListener("input", render);
  byId(`${name}-more`).addEventListener("click", () => {
    shown[name] = Infinity;
    render();
  });
}

function stateText(answer) {
  if (answer.error) return `not known: ${answer.error}`;
  if (!answer.known) return "no such job: it has ended, or never was";
  if (!answer.running) return "waiting";
  const { numerator, denominator } = answer;
  if (!denominator) return "running";
  return `running, ${count(numerator)} of ${count(denominator)} (${Math.round((100 * numerator) / denominator)} %)`;
}

async function showState(handle) {
  const state = byId("job-state");
  const result = await getJSON(`job.json?handle=${encodeURIComponent(handle)}`);
  if (result.error) return state.replaceChildren(element("p", { class: "down" }, result.error));
  const known = result.answers.filter((answer) => answer.known);
  const lines = (known.length ? known : result.answers).map((answer) => `${answer.server}: ${stateText(answer)}`);
  return state.replaceChildren(element("p", {}, `${result.handle}: ${lines.join("; ")}`));
}

byId("job-form").addEventListener("submit", (event) => {
  event.preventDefault();
  showState(byId("job-handle").value.trim());
});

function jobRow(job) {
  const button = element("button", { type: "button", class: "name" }, job.handle);
  button.addEventListener("click", () => {
    byId("job-handle").value = job.id;
    showState(job.id);
  });
  const notes = [job.stored ? "stored" : "", job.ignored ? "no client waits for it: it will be dropped" : ""];
  return element(
    "tr",
    {},
    element("th", { scope: "row" }, button),
    element("td", { class: "number" }, count(job.retries)),
    element("td", {}, notes.filter(Boolean).join(", ")),
  );
}

byId("jobs-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const result = await getJSON(`jobs.json?server=${encodeURIComponent(byId("jobs-server").value)}`);
  const table = byId("jobs");
  const jobs = result.jobs || [];
  table.hidden = !jobs.length;
  place(table.tBodies[0], jobs.map(jobRow));
  const which = jobs.length < result.total ? ` The first ${count(jobs.length)}:` : "";
  setText(
    byId("jobs-count"),
    result.error ? `No list: ${result.error}` : `${plural(result.total, "job", "jobs")} on ${result.server} at ${time(result.time)}.${which}`,
  );
});

document.addEventListener("visibilitychange", visibilityChanged);
setInterval(age, 1000);
connect();
