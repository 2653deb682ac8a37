// The page: it sends the bytes of an image to the server of this machine, and shows the answer. All words are in texts.json.
"use strict";

const at = (id) => document.getElementById(id);
let about, texts, request, addresses = [];

const fill = (text, values) => text.replace(/\{(\w+)\}/g, (_, name) => values[name]);
const say = (name, values = {}) => fill(texts.script[name], values);
const SPACE = "\u00a0"; // does not break a line
function percent(share) {
  if (share > 0 && share < 0.001) return `<${SPACE}0.1${SPACE}%`;
  if (share < 1 && share > 0.999) return `>${SPACE}99.9${SPACE}%`;
  const fine = (share > 0 && share < 0.0995) || (share < 1 && share >= 0.995);
  return `${(100 * share).toFixed(fine ? 1 : 0)}${SPACE}%`;
}
const level = (share) => `${+(100 * share).toFixed(1)}${SPACE}%`;
const count = (number, name) => say(number === 1 ? `one_${name}` : `many_${name}`, { count: number });
const title = (name) => (about.card?.data?.class_names[name] ? `${about.card.data.class_names[name]} (${name})` : name);

function element(tag, text, attributes = {}) {
  const made = document.createElement(tag);
  made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function address(base64, type) {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  addresses.push(URL.createObjectURL(new Blob([bytes], { type })));
  return addresses.at(-1);
}

async function start() {
  about = await (await fetch("/about.json")).json();
  texts = about.texts;
  at("network").append(networkInWords());
  if (about.card) at("network").append(document.createElement("br"), say("run", about.card));
  at("kinds").textContent = fill(texts.page.kinds, { megabytes: about.megabytes });
  at("summary").replaceChildren(element("p", say("nothing_yet"), { class: "quiet" }));
  for (const name of about.examples) {
    const button = element("button", "", { type: "button", "aria-pressed": "false" });
    button.append(element("img", "", { src: `/examples/${name}`, alt: say("drawn") }), element("span", name));
    button.addEventListener("click", () => send(async () => (await fetch(`/examples/${name}`)).blob(), button));
    const item = document.createElement("li");
    item.append(button);
    at("examples").append(item);
  }
}

function networkInWords() {
  if (!about.card) return say("network_alone", about);
  const { model, data } = about.card;
  const words = { network: model.network, size: about.size, method: model.method ?? say("unknown_method"), data: data?.title ?? say("unknown_data") };
  return say("network", words);
}

// The newest image wins: the answer on an earlier image is not shown any more.
async function send(read, pressed = null, remark = "") {
  request?.abort();
  const mine = (request = new AbortController());
  for (const button of at("examples").querySelectorAll("button")) button.setAttribute("aria-pressed", String(button === pressed));
  at("problem").textContent = "";
  at("answer").classList.add("old");
  at("summary").className = "waiting";
  at("summary").replaceChildren(element("p", say("working")));
  look();
  let answer, problem;
  try {
    const body = await read();
    if (body.size > about.megabytes * 1e6) problem = fill(texts.refused.too_large, { megabytes: about.megabytes });
    else {
      const headers = { "Content-Type": "application/octet-stream" };
      answer = await (await fetch("/predict", { method: "POST", body, headers, signal: mine.signal })).json();
      problem = answer.error;
    }
  } catch {
    problem = at("problem").dataset.unreachable;
  }
  if (mine !== request) return;
  at("summary").className = "";
  at("answer").classList.remove("old");
  at("answer").hidden = Boolean(problem);
  at("summary").replaceChildren();
  if (problem) at("problem").textContent = problem;
  else show(answer, remark);
  look();
}

// Where the result is out of sight, as below everything else on a phone, scroll to it.
function look() {
  const { top } = at("result").getBoundingClientRect();
  if (top < 0 || top > 0.6 * innerHeight) at("result").scrollIntoView({ block: "start" });
}

function show(answer, remark) {
  for (const old of addresses.splice(0)) URL.revokeObjectURL(old);
  const best = answer.classes[0];
  const lines = [say("summary", { class: title(best.name), percent: percent(best.probability) })];
  const inside = answer.classes.filter((one) => one.in_set && !always(one.name)).map((one) => one.name);
  if (about.set) lines.push(answer.classes.every((one) => always(one.name)) ? say("set_of_all") : setInWords(inside));
  if (remark) lines.push(remark);
  at("summary").replaceChildren(...lines.map((line, k) => element("p", line, k ? {} : { class: "first" })));

  at("picture").src = address(answer.picture, "image/png");
  at("picture").alt = say("picture");
  at("picture-note").textContent = say("picture_note", about);
  const map = answer.map;
  at("map").hidden = at("controls").hidden = !map;
  if (map) {
    at("map").src = address(map.picture, "image/png");
    at("map").alt = say("map");
    const words = { method: texts.methods[map.method], class: title(best.name), cells: map.cells?.join("×") };
    const notes = [say("map_made", words)];
    if (map.cells) notes.push(say("map_cells", words));
    if (about.learned !== true) notes.push(say(about.learned === false ? "map_not_learned" : "map_not_checked"));
    at("map-note").textContent = notes.join(" ");
  } else at("map-note").textContent = say("map_absent", { class: title(best.name) });

  at("classes").replaceChildren(...answer.classes.map((one) => row(one)));
  at("set-note").textContent = setNote(best.name);
  at("card").replaceChildren(...card([best.name, ...inside.filter((name) => name !== best.name)]));
}

// Of these classes the validation part had too few images, so they are in every set.
const always = (name) => about.set?.always.includes(name);

function setInWords(inside) {
  const others = about.set.always.length;
  const also = others ? say("set_also", { classes: count(others, "class") }) : "";
  const words = { level: level(about.set.level), count: inside.length, classes: inside.map(title).join(", "), also };
  return say(inside.length ? "set_some" : "set_none", words);
}

function setNote(best) {
  if (!about.set) return say("set_absent");
  const { coverage } = about.set;
  const notes = [say("set_note", { level: level(about.set.level) })];
  if (best in coverage) notes.push(say("set_coverage", { all: percent(coverage.all), class: title(best), own: percent(coverage[best]) }));
  if (about.set.always.length) notes.push(say("set_always", { classes: about.set.always.join(", ") }));
  return notes.join(" ");
}

const range = (test) => say("range", { low: percent(test.sensitivity_low).replace(/\s%$/, ""), high: percent(test.sensitivity_high) });
const tested = (name) => about.card?.results.classes?.find((one) => one.class === name);

function row(one) {
  const line = document.createElement("tr"), name = element("th", title(one.name), { scope: "row" });
  if (one.in_set) {
    if (!always(one.name)) line.className = "in-set";
    name.append(" ", element("span", say(always(one.name) ? "always" : "in_set"), { class: "mark" }));
  }
  const probability = element("td", percent(one.probability)), bar = element("span", "", { class: "bar" });
  bar.append(document.createElement("span"));
  bar.firstChild.style.width = `${100 * one.probability}%`;
  probability.append(bar);
  const test = tested(one.name), found = element("td", test?.n ? percent(test.sensitivity) : say("none_tested"));
  if (test?.n) found.append(element("small", say("found", { range: range(test), images: test.n })));
  line.append(name, probability, found);
  return line;
}

function card(names) {
  const results = about.card?.results;
  if (!results?.classes) return [element("p", results?.reason ?? say("card_absent"))];
  const list = document.createElement("ul");
  for (const name of names) {
    const test = tested(name), { n, precision, sensitivity } = test;
    const words = {
      class: title(name), images: count(n, "image"), lesions: count(test.lesions, "lesion"), percent: percent(sensitivity),
      range: range(test), level: level(results.level),
    };
    const right = precision ? { share: percent(precision), predicted: count(Math.round((sensitivity * n) / precision), "image") } : {};
    const sentences = n ? [say("sensitivity", words), say(precision ? "precision" : "never_right", { ...words, ...right })] : [say("absent_in_test", words)];
    list.append(element("li", sentences.join(" ")));
  }
  const limits = document.createElement("details"), all = document.createElement("ul");
  all.append(...about.card.limits.map((limit) => element("li", limit)));
  limits.append(element("summary", say("limits", { count: about.card.limits.length })), all);
  const test = say("card_test", { data: about.card.data.title, images: count(results.images, "image") });
  return [list, element("p", test, { class: "quiet" }), limits];
}

function take(files) {
  if (!files.length) return;
  const remark = files.length > 1 ? say("one_at_a_time", { count: files.length }) : "";
  send(async () => files[0], null, remark);
}

at("file").addEventListener("change", () => {
  take([...at("file").files]);
  at("file").value = ""; // so that the same file can be chosen again
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  at("drop").classList.add("over");
});
document.addEventListener("dragleave", (event) => event.relatedTarget || at("drop").classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault(); // or the browser would open the file
  at("drop").classList.remove("over");
  const files = [...event.dataTransfer.files];
  if (files.length) take(files);
  else at("problem").textContent = say("no_file");
});
at("show-map").addEventListener("change", () => (at("map").style.visibility = at("show-map").checked ? "visible" : "hidden"));
at("opacity").addEventListener("input", () => (at("map").style.opacity = at("opacity").value / 100));
start().catch(() => (at("problem").textContent = at("problem").dataset.unreachable));
