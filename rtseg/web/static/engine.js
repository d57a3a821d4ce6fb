// The page's side of the worker: a question, a promise of its answer.

export class Engine {
  constructor() {
    this.waiting = new Map();
    this.asked = 0;
    this.device = null;
    this.open();
  }

  open() {
    this.worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
    this.worker.onmessage = ({ data: { id, answer, error } }) => {
      const { done, failed } = this.waiting.get(id);
      this.waiting.delete(id);
      error === undefined ? done(answer) : failed(new Error(error));
    };
    this.worker.onerror = (event) => {
      for (const { failed } of this.waiting.values()) failed(new Error(event.message || "the worker could not be started"));
      this.waiting.clear();
    };
  }

  ask(what, words, moved = []) {
    const id = this.asked++;
    return new Promise((done, failed) => {
      this.waiting.set(id, { done, failed });
      this.worker.postMessage({ id, what, ...words }, moved);
    });
  }

  /** Begin with "wasm" or "webgpu", in a worker of its own, since a worker holds one runtime for good. */
  async start(device) {
    if (this.device !== null) {
      this.worker.terminate();
      this.open();
    }
    this.device = device;
    const threads = Math.min(navigator.hardwareConcurrency || 1, 8);
    return (await this.ask("start", { device, threads })).threads;
  }

  load(card, address) {
    return this.ask("load", { card, address });
  }

  /** Labels (Uint8Array, height x width of the network) and milliseconds; the bitmap is handed over. */
  run(card, bitmap) {
    return this.ask("run", { file: card.file, bitmap }, [bitmap]);
  }
}

/** "webgpu" where the browser has it and a graphics processor stands behind it, else "wasm". */
export async function devices() {
  const adapter = await navigator.gpu?.requestAdapter();
  if (!adapter) return ["wasm"];
  const software = adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter;
  return software ? ["wasm", "webgpu"] : ["webgpu", "wasm"];
}
