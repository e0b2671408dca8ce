"use strict";

// The state of the page; its elements are drawn from it and from the service's answers.
const trail = []; // queries so far, the last is shown: {blob} of an uploaded image, or {id, image, name} of the gallery
let matches = [];
let thresholds = [];
let limit = 0.5; // cosine distance up to which two images are taken for one person
let asked = 0; // number of the newest search; answers to older ones are ignored

const $ = (id) => document.getElementById(id);
const percent = (share) => `${+(100 * share).toPrecision(3)} %`;

async function ask(path, options = {}) {
  const token = sessionStorage.getItem("token");
  const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch {
    throw new Error("The service does not answer. Is it still running?");
  }
  if (answer.status === 401) {
    await login();
    return ask(path, options);
  }
  if (answer.ok) return answer;
  let reason = `the service answered ${answer.status}`;
  try {
    reason = (await answer.json()).error;
  } catch {}
  throw new Error(`That did not work: ${reason}.`);
}

let loggingIn = null;
function login() {
  // Several requests may be refused at once; one dialog is enough.
  loggingIn ??= new Promise((done) => {
    const dialog = $("login");
    dialog.addEventListener("close", () => {
      sessionStorage.setItem("token", $("token").value.trim());
      $("token").value = "";
      loggingIn = null;
      done();
    }, { once: true });
    dialog.showModal();
  });
  return loggingIn;
}

function say(text, isProblem = false) {
  $("message").textContent = text;
  $("message").classList.toggle("problem", isProblem);
}

// Images need the token, too, which <img src> cannot send.
async function picture(image, path) {
  try {
    const url = URL.createObjectURL(await (await ask(path)).blob());
    image.onload = () => URL.revokeObjectURL(url);
    image.src = url;
  } catch {
    image.alt = "no longer available";
  }
}

function filters() {
  const query = new URLSearchParams({ k: $("count").value });
  if ($("camera").value) query.append("camid", $("camera").value);
  for (const id of ["start", "end"]) {
    if ($(id).value) query.append(id, new Date($(id).value).getTime() / 1000);
  }
  return query;
}

async function search() {
  const query = trail.at(-1);
  if (!query) return;
  const number = ++asked;
  $("results").classList.add("searching");
  if (!matches.length) say("Searching …");
  const request = query.blob
    ? { method: "POST", body: query.blob, headers: { "Content-Type": query.blob.type || "application/octet-stream" } }
    : { method: "POST", body: JSON.stringify({ id: query.id }), headers: { "Content-Type": "application/json" } };
  try {
    const found = await (await ask(`/search?${filters()}`, request)).json();
    if (number !== asked) return;
    matches = found.matches;
    say("");
    const chosen = $("matches").contains(document.activeElement);
    showMatches();
    mark();
    // The focused match is gone; without this, keyboard focus would return to the top of the page.
    if (chosen) $("matches").querySelector(".again")?.focus({ preventScroll: true });
  } catch (error) {
    if (number !== asked) return;
    matches = [];
    showMatches();
    say(error.message, true);
  }
  $("results").classList.remove("searching");
}

function showQuery() {
  const query = trail.at(-1);
  $("back").disabled = trail.length < 2;
  $("keep").disabled = !query?.blob;
  $("query").hidden = !query;
  $("invitation").hidden = Boolean(query);
  $("drop").classList.toggle("filled", Boolean(query));
  if (!query) return;
  if (query.blob) {
    const url = URL.createObjectURL(query.blob);
    $("query").onload = () => URL.revokeObjectURL(url);
    $("query").src = url;
    $("query").alt = "The picture that is searched for";
  } else {
    picture($("query"), query.image);
    $("query").alt = `${query.name}, searched for`;
  }
}

function searchFor(query) {
  trail.push(query);
  showQuery();
  window.scrollTo(0, 0);
  search();
}

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function showMatches() {
  $("matches").replaceChildren(...matches.map(card));
}

function card(match, place) {
  const image = element("img", { alt: "", loading: "lazy" });
  picture(image, match.image);
  const bar = element("i");
  bar.style.width = `${Math.min(100, (100 * match.distance) / $("threshold").max)}%`;
  const camera = match.camid ? ` · camera ${match.camid}` : "";
  const facts = element("span", { className: "facts" },
    element("b", { textContent: match.distance.toFixed(3) }), camera,
    element("span", { className: "bar" }, bar),
    element("span", { className: "name", textContent: match.name, title: match.name }));
  const again = element("button", { className: "again", type: "button", onclick: () => searchFor(match) }, image, facts);
  again.setAttribute("aria-label", `Match ${place + 1}: ${match.name}, distance ${match.distance.toFixed(3)}${camera}. Search for it`);
  const remove = element("button", { className: "remove", type: "button", textContent: "×", title: "Remove from the gallery", onclick: () => removeMatch(match) });
  remove.setAttribute("aria-label", `Remove ${match.name} from the gallery`);
  return element("li", {}, again, remove);
}

async function removeMatch(match) {
  if (!confirm(`Remove ${match.name} from the gallery?`)) return;
  try {
    await ask(`/gallery/${match.id}`, { method: "DELETE" });
    matches = matches.filter((other) => other.id !== match.id);
    showMatches();
    mark();
    summarise();
  } catch (error) {
    say(error.message, true);
  }
}

async function keepQuery() {
  const { blob } = trail.at(-1);
  const query = new URLSearchParams({ name: blob.name ?? "" });
  if ($("camera").value) query.append("camid", $("camera").value);
  try {
    const kept = await (await ask(`/gallery?${query}`, { method: "POST", body: blob })).json();
    await Promise.all([summarise(), search()]);
    say(`Added as ${kept.name}.`);
  } catch (error) {
    say(error.message, true);
  }
}

function limitTo(distance) {
  limit = distance;
  $("threshold").value = distance;
  mark();
}

// Dim the matches beyond the slider's distance, and show its error rates if these were measured.
function mark() {
  $("distance").textContent = limit.toFixed(3);
  [...$("matches").children].forEach((item, place) => item.classList.toggle("beyond", matches[place].distance > limit));
  for (const button of $("marks").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", Number(button.value) === limit);
  }
  const within = matches.filter((match) => match.distance <= limit).length;
  const counted = matches.length ? `${within} of these ${matches.length} are within it. ` : "";
  // Pairs accepted at a calibrated distance are also accepted at a larger one.
  const below = thresholds.filter((one) => one.distance <= limit).at(-1);
  const above = thresholds.find((one) => one.distance > limit);
  let meaning = "The model has no calibrated distances; export it with a test set to get them.";
  if (thresholds.length && below) {
    meaning = `On its test set the model accepts at least ${percent(below.tar)} of true pairs, and ` +
      (above ? `at most ${percent(above.far)} of false ones.` : `${percent(below.far)} of false ones or more.`);
    if (below.distance === limit) {
      meaning = `On its test set the model accepts ${percent(below.tar)} of true pairs, and ${percent(below.far)} of false ones.`;
    }
  } else if (thresholds.length) {
    meaning = `On its test set the model accepts less than ${percent(above.tar)} of true pairs, and less than ${percent(above.far)} of false ones.`;
  }
  $("meaning").textContent = counted + meaning;
}

async function summarise() {
  const [model, { cameras }] = await Promise.all(["/model", "/cameras"].map(async (path) => (await ask(path)).json()));
  const mAP = model.metrics.mAP === undefined ? "" : ` · mAP ${percent(model.metrics.mAP)} on its test set`;
  $("summary").textContent = `${model.gallery.toLocaleString("en")} images${mAP}`;
  const chosen = $("camera").value;
  const known = cameras.filter((camera) => camera !== 0);
  $("camera").replaceChildren(...["", ...known].map((value) => element("option", { value, textContent: value || "any" })));
  $("camera").value = known.map(String).includes(chosen) ? chosen : "";
  return model;
}

async function begin() {
  const model = await summarise();
  thresholds = model.thresholds.toSorted((a, b) => a.distance - b.distance);
  // The range of distances differs from model to model: 0.1 for one, 1 for another.
  if (thresholds.length) $("threshold").max = Math.min(2, 1.5 * thresholds.at(-1).distance).toFixed(3);
  $("marks").hidden = !thresholds.length;
  $("marks").replaceChildren("one false pair in ", ...thresholds.map((one) => element("button", {
    type: "button", value: one.distance, textContent: Math.round(1 / one.far).toLocaleString("en"),
    title: `Accepts ${percent(one.tar)} of true pairs`, onclick: () => limitTo(one.distance),
  })));
  limitTo(thresholds.findLast((one) => one.far <= 0.011)?.distance ?? 0.5);
  say(model.gallery ? "" : "The gallery is empty. Drop a picture, then add it.");
}

function take(files) {
  const picture = [...files].find((file) => file.type.startsWith("image/"));
  if (picture) searchFor({ blob: picture });
  else say("This is not an image.", true);
}

$("file").addEventListener("change", (event) => { take(event.target.files); event.target.value = ""; });
$("drop").addEventListener("keydown", (event) => {
  if (event.key === "Enter" || event.key === " ") { event.preventDefault(); $("file").click(); }
});
// Anywhere on the page: an image dropped beside the field must not replace the page.
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") take(event.dataTransfer.files);
  });
}
document.addEventListener("paste", (event) => { if (event.clipboardData.files.length) take(event.clipboardData.files); });
$("back").addEventListener("click", () => { trail.pop(); showQuery(); search(); });
$("keep").addEventListener("click", keepQuery);
$("threshold").addEventListener("input", () => limitTo(Number($("threshold").value)));
$("filters").addEventListener("change", search);
$("filters").addEventListener("submit", (event) => event.preventDefault());
begin().catch((error) => say(error.message, true));
