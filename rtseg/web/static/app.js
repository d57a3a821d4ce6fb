// The page: pictures in, masks out. `state` is open to whoever drives the page, its tests among them.

import { agreement } from "./labels.js";
import { Engine, devices } from "./engine.js";
import { Pane } from "./pane.js";
import { bitmapOf, closeVideo, dropped, openVideo, sort } from "./sources.js";

const $ = (id) => document.getElementById(id);
const NAMES = { wasm: "WebAssembly", webgpu: "WebGPU" };
const FAITHFUL = 0.99; // share of labels that a graphics processor has to share with WebAssembly

export const state = { site: null, engine: new Engine(), panes: [], files: [], place: 0, video: null, photo: null, done: 0, note: "" }; // done: pictures so far
let round = 0; // what was asked for before the last change is dropped

const view = () => document.querySelector("input[name=view]:checked").value;
const how = () => ({ view: view(), opacity: $("opacity").value / 100, palette: $("palette").value });
const runsOn = () => `onnxruntime-web, ${NAMES[state.engine.device]}${state.engine.device === "wasm" ? `, ${state.threads} thread${state.threads > 1 ? "s" : ""}` : ""}`;

function say(text, failed = false) {
  $("status").textContent = text;
  $("status").classList.toggle("failed", failed);
}

const saying = (work) => async (...words) => {
  try {
    await work(...words);
  } catch (error) {
    say(error.message, true);
  }
};

async function json(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(`${address} is not beside the page (${answer.status}): copy the whole folder`);
  return answer.json();
}

async function readSite() {
  const site = await json("networks.json");
  for (const network of site.networks) network.card = await json(network.card);
  return site;
}

function redraw() {
  if (!state.photo) return;
  const [one, other] = state.panes, both = other && one.labels && other.labels && sameClasses(one, other);
  for (const pane of state.panes) {
    pane.draw(state.photo, { ...how(), other: both ? (pane === one ? other : one) : null });
    pane.legend($("palette").value);
    pane.showTimes(runsOn());
  }
  $("differing").hidden = $("agreement").hidden = !both;
  if (both) $("agreement").textContent = `The two networks give ${(100 * agreement(one.labels, other.labels)).toFixed(2)} % of the pixels the same class.`;
}

function sameClasses(one, other) {
  const text = (pane) => JSON.stringify([pane.network.card.classes, pane.network.card.shape]);
  return text(one) === text(other);
}

/** Segment one picture in every pane; false where something newer was asked for meanwhile. */
async function segment(photo, name, mine) {
  for (const pane of state.panes) {
    const { card, address } = pane.network;
    const { loadMs } = await state.engine.load(card, address);
    if (loadMs) await state.engine.run(card, await createImageBitmap(photo)); // the first call prepares, and is not timed
    const found = await state.engine.run(card, await createImageBitmap(photo));
    if (mine !== round) return false;
    pane.photoSize = { width: photo.width, height: photo.height };
    pane.take(found, name);
  }
  state.photo = photo;
  state.name = name;
  document.body.dataset.done = state.done += 1;
  redraw();
  if (state.prefer !== state.engine.device) setTimeout(runOn, 0, state.prefer);
  return true;
}

async function showPicture() {
  const mine = ++round, file = state.files[state.place];
  $("place").textContent = `${state.place + 1} of ${state.files.length}`;
  say(`${file.name}: segmenting`);
  const photo = await bitmapOf(file);
  if (await segment(photo, file.name, mine)) say([file.name, state.note].filter(Boolean).join("; "));
}

async function playVideo(video, name) {
  const mine = ++round;
  say(name);
  while (mine === round && state.video === video) {
    await new Promise(requestAnimationFrame);
    if (video.seeking || video.readyState < 2 || (video.paused && state.frame === video.currentTime)) continue;
    state.frame = video.currentTime;
    const old = state.photo;
    await segment(await createImageBitmap(video), name, mine);
    if (old !== state.photo) old?.close();
    if (isFinite(video.duration) && document.activeElement !== $("seek")) $("seek").value = (1000 * video.currentTime) / video.duration;
  }
}

function leaveVideo() {
  if (state.video) closeVideo(state.video);
  state.video = null;
  $("playing").hidden = true;
}

const beginVideo = saying(async (file) => {
  leaveVideo();
  say(file ? `${file.name}: opening` : "asking for the camera");
  const video = (state.video = await openVideo(file));
  $("steps").hidden = true;
  $("controls").hidden = $("playing").hidden = false;
  $("seeking").hidden = !isFinite(video.duration);
  await video.play();
  $("play").textContent = "Pause";
  await playVideo(video, file?.name ?? "camera");
});

export const take = saying(async (given) => {
  const { files, left } = sort(given);
  if (!files.length) throw new Error("there is no picture and no video among these files: give PNG, JPEG, WebP, MP4 or WebM");
  state.note = left ? `${left} other file${left > 1 ? "s were" : " was"} left out` : "";
  const video = files.find((file) => file.type.startsWith("video/"));
  if (video && files.length === 1) return beginVideo(video);
  leaveVideo();
  state.files = files.filter((file) => !file.type.startsWith("video/"));
  state.place = 0;
  $("steps").hidden = state.files.length < 2;
  $("controls").hidden = false;
  await showPicture();
});

const step = saying(async (by) => {
  if (state.video || !state.files.length) return;
  state.place = (state.place + by + state.files.length) % state.files.length;
  await showPicture();
});

async function again() {
  if (state.video) return playVideo(state.video, state.name);
  if (state.photo) await segment(state.photo, state.name, ++round);
}

const panesFor = saying(async (number) => {
  while (state.panes.length > number) state.panes.pop().element.remove();
  while (state.panes.length < number) {
    const pane = new Pane($("pane"), state.site, Math.min(state.panes.length, state.site.networks.length - 1), (what) => saying(what === "network" ? again : redraw)());
    state.panes.push(pane);
    $("panes").append(pane.element);
  }
  $("panes").classList.toggle("two", number > 1);
  if (number < 2 && view() === "difference") document.querySelector("input[value=overlay]").checked = true;
  await again();
});

/** Change the runtime; a graphics processor is taken only where its labels are WebAssembly's. */
const runOn = saying(async (device) => {
  const before = state.panes.map((pane) => pane.labels);
  round += 1;
  state.prefer = $("device").value = device;
  say(`starting ${NAMES[device]}`);
  try {
    state.threads = await state.engine.start(device);
    for (const pane of state.panes) pane.times = [];
    if (state.photo) await segment(state.photo, state.name, ++round);
    const shares = state.panes.map((pane, k) => (before[k] && pane.labels ? agreement(before[k], pane.labels) : 1));
    if (Math.min(...shares) < FAITHFUL)
      throw new Error(`${(100 * Math.min(...shares)).toFixed(1)} % of its labels are WebAssembly's, fewer than 99 %`);
    say(`${state.name ?? "ready"}; ${runsOn()}`);
  } catch (error) {
    if (device === "wasm") throw error;
    await runOn("wasm");
    throw new Error(`WebGPU was left for WebAssembly: ${error.message}`);
  }
  if (state.video) playVideo(state.video, state.name);
});

function listen() {
  $("files").onchange = $("folder").onchange = (event) => { const files = [...event.target.files]; event.target.value = ""; take(files); };
  $("camera").onclick = () => beginVideo(null);
  addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("dragging"); });
  addEventListener("dragleave", () => document.body.classList.remove("dragging"));
  addEventListener("drop", async (event) => {
    event.preventDefault();
    document.body.classList.remove("dragging");
    take(await dropped(event.dataTransfer));
  });
  addEventListener("paste", (event) => { if (event.clipboardData.files.length) take(event.clipboardData.files); });
  document.querySelectorAll("input[name=view]").forEach((input) => (input.onchange = redraw));
  $("opacity").oninput = () => { $("opacity-now").textContent = `${$("opacity").value} %`; redraw(); };
  $("palette").onchange = redraw;
  $("device").onchange = () => runOn($("device").value);
  $("beside").onchange = () => panesFor($("beside").checked ? 2 : 1);
  $("previous").onclick = () => step(-1);
  $("next").onclick = () => step(1);
  $("play").onclick = playOrPause;
  $("seek").oninput = () => { if (state.video) state.video.currentTime = (state.video.duration * $("seek").value) / 1000; };
  addEventListener("keydown", keys);
}

function playOrPause() {
  if (!state.video) return;
  state.video.paused ? state.video.play() : state.video.pause();
  $("play").textContent = state.video.paused ? "Play" : "Pause";
}

function keys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select, input[type=radio], input[type=range]")) return;
  if (event.key === "ArrowLeft") step(-1);
  else if (event.key === "ArrowRight") step(1);
  else if (event.key === " " && !event.target.matches("button, input, summary")) playOrPause();
  else if (event.key === "v") {
    const views = [...document.querySelectorAll("input[name=view]")].filter((input) => !input.parentElement.hidden);
    views[(views.findIndex((input) => input.checked) + 1) % views.length].checked = true;
    redraw();
  } else return;
  event.preventDefault();
}

async function given(images) {
  const files = await Promise.all(images.map(async (path) => {
    const answer = await fetch(path);
    if (!answer.ok) throw new Error(`${path} is not beside the page (${answer.status})`);
    return new File([await answer.blob()], decodeURIComponent(path.split("/").pop()), { type: answer.headers.get("content-type") });
  }));
  await take(files);
}

saying(async () => {
  state.site = await readSite();
  const names = state.site.networks.map(({ card }) => card.model);
  document.title = $("title").textContent = state.site.title;
  for (const name of Object.keys(state.site.networks[0].palettes)) $("palette").add(new Option(name, name));
  const found = await devices();
  for (const device of [...found].sort()) $("device").add(new Option(NAMES[device], device));
  $("comparing").hidden = names.length < 2;
  listen();
  await panesFor(1);
  await runOn("wasm");
  state.prefer = found[0];
  if (state.site.images.length) await given(state.site.images);
  document.body.dataset.ready = "yes";
})();
