// Networks run here, beside the page, one picture at a time; nothing leaves this computer.

import { bilinear } from "./resize.js";

const loaded = new Map(); // network's file -> { card, session }
let runtime = null;

async function openRuntime(device, threads) {
  const file = device === "webgpu" ? "./ort/ort.webgpu.min.mjs" : "./ort/ort.wasm.min.mjs";
  const ort = await import(file);
  ort.env.wasm.wasmPaths = new URL("./ort/", import.meta.url).href;
  ort.env.wasm.numThreads = self.crossOriginIsolated ? threads : 1;
  ort.env.logLevel = "error";
  return { ort, device };
}

async function checked(card, address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(`${card.file} is not beside the page (${answer.status}): copy the whole folder`);
  const bytes = await answer.arrayBuffer();
  if (self.crypto?.subtle) { // browsers have it on https and on this computer only
    const sum = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
    if ([...sum].map((b) => b.toString(16).padStart(2, "0")).join("") !== card.file_sha256)
      throw new Error(`${card.file} and its card do not fit: copy both again`);
  }
  return bytes;
}

async function load({ card, address }) {
  if (loaded.has(card.file)) return {};
  const began = performance.now();
  const session = await runtime.ort.InferenceSession.create(await checked(card, address), { executionProviders: [runtime.device], logSeverityLevel: 3 });
  loaded.set(card.file, { card, session });
  return { loadMs: performance.now() - began };
}

/** RGBA of a picture, upright and in its own numbers. */
function pixelsOf(bitmap) {
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, bitmap.width, bitmap.height).data;
}

function refuseClear(rgba) {
  for (let k = 3; k < rgba.length; k += 4)
    if (rgba[k] !== 255) throw new Error("this picture has a fourth band that says something: save it without transparency");
}

async function run({ file, bitmap }) {
  const { card, session } = loaded.get(file);
  const [height, width] = card.shape.slice(2);
  const began = performance.now();
  const rgba = pixelsOf(bitmap);
  refuseClear(rgba);
  const pixels = bilinear(rgba, bitmap.width, bitmap.height, width, height);
  bitmap.close();
  const asked = performance.now();
  const given = new runtime.ort.Tensor("uint8", pixels, [1, height, width, 3]);
  const found = await session.run({ [session.inputNames[0]]: given });
  const output = found[session.outputNames[0]];
  const labels = new Uint8Array(await output.getData());
  const done = performance.now();
  return { labels, networkMs: done - asked, prepareMs: asked - began };
}

async function start({ device, threads }) {
  for (const { session } of loaded.values()) await session.release();
  loaded.clear();
  runtime = await openRuntime(device, threads);
  return { threads: runtime.ort.env.wasm.numThreads };
}

const work = { start, load, run };
let turn = Promise.resolve(); // one thing after the other

onmessage = ({ data: { id, what, ...words } }) => {
  turn = turn.then(async () => {
    try {
      const answer = await work[what](words);
      postMessage({ id, answer }, answer.labels ? [answer.labels.buffer] : []);
    } catch (error) {
      postMessage({ id, error: String(error?.message ?? error) });
    }
  });
};
