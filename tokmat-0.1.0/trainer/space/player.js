// What gradio runs when the player is loaded, with `element`, `props` and `watch` (gr.HTML). `props.value` is what
// trainer/space/runs.py returns, or {error: sentence}. Texts become text nodes, so that none of them is read as HTML.
const part = (name) => element.querySelector(`[data-part="${name}"]`);
const SVG = "http://www.w3.org/2000/svg";
let run = null; // what is shown
let at = 0; // its step; run.steps.length is the end, where all is committed
let timer = null;
let slot = 2; // chosen one, or the one that holds the followed token
let place = null; // of the followed token among the generated ones

function make(kind, text, attributes = {}) {
  const made = document.createElement(kind);
  made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

const share = (value) => `${Math.round(100 * value)} %`;
const ended = () => at === run.steps.length;
const current = () => run.steps[Math.min(at, run.steps.length - 1)];
const committed = () => (ended() ? run.tokens.length : run.steps[at].start);
const level = (maturity) => `--level: ${Math.round(100 * maturity)}%`;

// Tokens as text, with those marked that repeat what was there before: neighbours in one mark.
function written(tokens, into) {
  for (let first = 0, next; first < tokens.length; first = next) {
    for (next = first; next < tokens.length && tokens[next][1] === tokens[first][1]; next++);
    const text = tokens.slice(first, next).map((token) => token[0]).join("");
    into.append(tokens[first][1] ? make("mark", text) : text);
  }
}

function showTexts() {
  const text = part("text");
  text.replaceChildren(make("span", run.prompt, { class: "prompt" }));
  written(run.tokens.slice(0, committed()), text);
  if (!ended()) {
    const step = current();
    for (const [piece, owner] of step.tail) {
      const style = level(step.maturity[owner]);
      const span = make("span", piece, { class: owner === slot ? "liquid chosen" : "liquid", style });
      span.addEventListener("click", () => choose(owner));
      text.append(span);
    }
  }
  const forwards = run.forwards - run.steps.length + Math.min(at + 1, run.steps.length);
  const done = ended() ? run.tokens.length : committed() + current().committed;
  const rate = (done / forwards).toFixed(2);
  part("ours").textContent =
    `${rate} tokens per forward (${done} in ${forwards}) · ${share(run.repeated.tokmat)} repeated in all`;
  const twin = part("twin");
  twin.replaceChildren(make("span", run.prompt, { class: "prompt" }));
  written(run.twin.slice(0, forwards), twin);
  const later = make("span", "", { class: "later" });
  written(run.twin.slice(forwards), later);
  twin.append(later);
  const reached = Math.min(forwards, run.twin.length);
  part("theirs").textContent =
    `1 token per forward (${reached} in ${reached}) · ${share(run.repeated.twin)} repeated in all`;
}

function showSlots() {
  const step = current();
  const labels = part("slots").children;
  for (let index = 0; index < labels.length; index++) {
    const there = !ended() && index < step.maturity.length;
    const [name, token] = [labels[index].querySelector("span"), labels[index].querySelector("b")];
    const commits = there && index < step.committed;
    name.textContent = there ? (commits ? "commits" : `${index + 1} · ${step.maturity[index].toFixed(2)}`) : `${index + 1}`;
    token.textContent = there ? run.names[step.top[index][0]] : "–";
    labels[index].className = there ? "slot" : "slot none";
    labels[index].setAttribute("style", there ? level(step.maturity[index]) : "");
    const input = labels[index].querySelector("input");
    input.checked = index === slot && (place === null || place === step.start + index);
    input.setAttribute(
      "aria-label",
      there ? `Slot ${index + 1}, ${run.names[step.top[index][0]]}, maturity ${step.maturity[index]}` : `Slot ${index + 1}, empty`,
    );
  }
}

// Where the curves go: [step, slot] of the chosen slot in the whole run, or of a token on its way to the front.
function path() {
  const found = [];
  run.steps.forEach((step, index) => {
    const owner = place === null ? slot : place - step.start;
    if (owner >= 0 && owner < step.maturity.length) found.push([index, owner]);
  });
  return found;
}

function curve(name, points, here) {
  const svg = part(name);
  const values = points.map(([step, owner]) => run.steps[step][name][owner]);
  const [first, last] = place === null ? [0, run.steps.length - 1] : [points[0]?.[0] ?? 0, points.at(-1)?.[0] ?? 0];
  const top = Math.max(...values, 0.001);
  const x = (step) => (300 * (step - first)) / Math.max(last - first, 1);
  const y = (value) => 58 - (54 * value) / top;
  const line = document.createElementNS(SVG, "polyline");
  line.setAttribute("points", points.map(([step], index) => `${x(step)},${y(values[index])}`).join(" "));
  const cursor = document.createElementNS(SVG, "line");
  const now = Math.min(Math.max(at, first), last);
  for (const [key, value] of Object.entries({ x1: x(now), x2: x(now), y1: 0, y2: 60 })) cursor.setAttribute(key, value);
  svg.replaceChildren(line, cursor);
  const told = here ? run.steps[here[0]][name][here[1]].toFixed(2) : "";
  part(`${name}-now`).textContent = told;
  const range = values.length ? `from ${values[0].toFixed(2)} to ${values.at(-1).toFixed(2)}` : "empty";
  svg.setAttribute("aria-label", `${name} over ${points.length} steps, ${range}${told ? `, now ${told}` : ""}`);
}

function showDetails() {
  const points = path();
  const here = points.filter(([step]) => step <= at).at(-1); // a token that is committed stays as it was
  const rows = [];
  let title = `Slot ${slot + 1}: nothing in it`;
  if (here) {
    const [index, owner] = here;
    const step = run.steps[index];
    const gone = place !== null && place < committed();
    title = gone
      ? `Token ${place + 1}, committed in step ${index + 1}`
      : `Slot ${owner + 1} holds token ${step.start + owner + 1} of the text`;
    step.top[owner].forEach((token, rank) => {
      const cosine = step.cosines[owner][rank];
      const row = document.createElement("tr");
      const bar = make("td", "", { class: "bar" });
      bar.append(make("i", "", { style: `width: ${Math.max(100 * cosine, 0)}%` }));
      row.append(make("td", run.names[token]), bar, make("td", cosine.toFixed(3)));
      rows.push(row);
    });
  }
  part("chosen").textContent = title;
  part("candidates").replaceChildren(...rows);
  curve("entropy", points, here);
  curve("distance", points, here);
}

function show() {
  if (place !== null && !ended()) slot = Math.max(place - current().start, 0);
  showTexts();
  showSlots();
  showDetails();
  part("place").textContent = ended() ? `All ${run.steps.length} steps` : `Step ${at + 1} of ${run.steps.length}`;
  part("step").value = at + 1;
  part("back").disabled = at === 0;
  part("forward").disabled = ended();
}

// For screen readers, when one step was asked for and when the play is over; not while it plays.
function say() {
  const names = ended() ? [] : current().top.map((top) => run.names[top[0]]);
  const tail = ended() ? "All is committed." : `Liquid: ${names.join(", ")}.`;
  part("said").textContent = `${part("place").textContent}. ${part("text").textContent.slice(-120)} ${tail}`;
}

function go(step) {
  at = Math.min(Math.max(step, 0), run.steps.length);
  show();
}

function choose(owner) {
  slot = owner;
  if (place !== null) place = current().start + owner;
  show();
}

function pause() {
  clearInterval(timer);
  timer = null;
  part("play").textContent = "Play";
}

function play() {
  clearInterval(timer);
  if (ended()) go(0);
  part("play").textContent = "Pause";
  timer = setInterval(() => {
    if (!element.isConnected) return clearInterval(timer);
    go(at + 1);
    if (ended()) {
      pause();
      say();
    }
  }, 1000 / part("speed").value);
}

function step(by) {
  pause();
  go(at + by);
  say();
}

function begin(value) {
  part("error").hidden = !value.error;
  const pieces = (value.error ?? "").split("`"); // names stand in backticks
  part("error").replaceChildren(...pieces.map((text, index) => (index % 2 ? make("code", text) : text)));
  if (value.error) return;
  pause();
  run = value;
  part("player").hidden = false;
  part("step").max = run.steps.length + 1;
  const slots = Math.max(...run.steps.map((step) => step.maturity.length));
  part("slots").replaceChildren(
    ...Array.from({ length: slots }, (_, index) => {
      const label = make("label", "", { class: "slot" });
      const input = make("input", "", { type: "radio", name: "slot" });
      input.addEventListener("change", () => choose(index));
      label.append(input, make("span", ""), make("b", ""));
      return label;
    }),
  );
  slot = Math.min(slot, slots - 1);
  place = null;
  element.querySelector('[name="follow"][value="slot"]').checked = true;
  part("text").style.minHeight = ""; // room for the whole text, so that nothing moves while it grows
  go(run.steps.length);
  part("text").style.minHeight = `${part("text").offsetHeight}px`;
  go(value.at ?? 0);
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  if (value.at === undefined && !still) play();
}

part("play").addEventListener("click", () => (timer === null ? play() : pause()));
part("back").addEventListener("click", () => step(-1));
part("forward").addEventListener("click", () => step(1));
part("step").addEventListener("input", (event) => {
  pause();
  go(event.target.value - 1);
});
part("speed").addEventListener("input", (event) => {
  part("pace").textContent = event.target.value;
  if (timer !== null) play();
});
for (const input of element.querySelectorAll('[name="follow"]')) {
  input.addEventListener("change", () => {
    place = input.value === "token" ? current().start + slot : null;
    show();
  });
}
for (const name of ["text", "twin"]) {
  part(name).addEventListener("keydown", (event) => {
    const keys = {
      " ": () => (timer === null ? play() : pause()),
      ArrowLeft: () => step(-1),
      ArrowRight: () => step(1),
      Home: () => step(-at),
      End: () => step(run.steps.length),
    };
    if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in keys)) return;
    event.preventDefault();
    keys[event.key]();
  });
}
watch("value", () => begin(props.value));
if (props.value) begin(props.value);
