// One network and what it sees: a picture, its legend, its times.

import { count, describe, median, paint, paintDifference } from "./labels.js";
import { nearest } from "./resize.js";

const WIDEST = 1920; // pixels that a picture is shown with; labels are the network's own
const KEPT = 30; // times that a median is taken of

export class Pane {
  constructor(template, site, first, changed) {
    this.element = template.content.firstElementChild.cloneNode(true);
    this.site = site;
    this.changed = changed;
    this.hidden = new Set();
    const part = (name) => this.element.querySelector(name);
    this.parts = Object.fromEntries(["canvas", "select", ".under", ".times", ".legend", ".absent", ".made"].map((n) => [n.replace(".", ""), part(n)]));
    site.networks.forEach(({ card }, k) => this.parts.select.add(new Option(card.model, k)));
    part(".which").hidden = site.networks.length < 2;
    this.parts.select.onchange = () => { this.choose(Number(this.parts.select.value)); this.changed("network"); };
    this.parts.canvas.onpointermove = (event) => this.point(event);
    this.parts.canvas.onpointerleave = () => { this.parts.under.textContent = ""; };
    part(".save-mask").onclick = () => this.save("mask");
    part(".save-overlay").onclick = () => this.save("shown");
    this.choose(first);
  }

  choose(k) {
    Object.assign(this, { network: this.site.networks[k], labels: null, counts: null, times: [] });
    this.hidden.clear();
    this.parts.select.value = k;
    const { card } = this.network, [height, width] = card.shape.slice(2);
    const agreed = card.agreement === null ? "" : `; ${(100 * card.agreement).toFixed(2)} % of the labels are PyTorch's, on ${card.examples} images when it was exported`;
    const elsewhere = card.latency ? `; ${card.latency.median_ms.toFixed(2)} ms in ${card.latency.runtime} on ${card.latency.device}` : "";
    this.parts.made.textContent = `${card.model}: sees ${width} x ${height}, ${card.classes.length} classes${agreed}${elsewhere}.`;
  }

  get size() {
    const [height, width] = this.network.card.shape.slice(2);
    return { width, height };
  }

  take({ labels, networkMs, prepareMs }, name) {
    this.labels = labels;
    this.name = name;
    this.counts = count(labels, this.network.card.classes.length);
    this.times.push({ network: networkMs, all: networkMs + prepareMs });
    this.times = this.times.slice(-KEPT);
  }

  showTimes(runsOn) {
    if (!this.times.length) return;
    const middle = (key) => median(this.times.map((time) => time[key]));
    const all = middle("all"), of = this.times.length > 1 ? `, median of ${this.times.length}` : "";
    this.parts.times.textContent = `${middle("network").toFixed(1)} ms a frame in the network, ${all.toFixed(1)} ms from photograph to labels (${(1000 / all).toFixed(1)} frames a second)${of}; ${runsOn}, on this device`;
  }

  /** Draw the photograph, and the labels over it. */
  draw(photo, { view, opacity, palette, other }) {
    const scale = Math.min(1, WIDEST / photo.width), { canvas } = this.parts;
    canvas.width = Math.round(photo.width * scale);
    canvas.height = Math.round(photo.height * scale);
    const context = canvas.getContext("2d");
    if (view !== "mask") context.drawImage(photo, 0, 0, canvas.width, canvas.height);
    if (this.labels && view !== "photograph") {
      context.imageSmoothingEnabled = false;
      context.globalAlpha = view === "mask" ? 1 : view === "difference" ? 0.85 : opacity;
      context.drawImage(this.layer(view, palette, other), 0, 0, canvas.width, canvas.height);
    }
    canvas.setAttribute("aria-label", `${this.name}, ${view}, by ${this.network.card.model}: ${this.counts ? describe(this.counts, this.network.card.classes) : "not segmented yet"}`);
  }

  layer(view, palette, other) {
    const { width, height } = this.size, layer = new OffscreenCanvas(width, height);
    layer.getContext("2d").putImageData(view === "difference" && other
      ? paintDifference(this.labels, other.labels, width, height)
      : paint(this.labels, width, height, this.colours(palette), (k) => !this.hidden.has(k)), 0, 0);
    return layer;
  }

  colours(palette) {
    return this.network.palettes[palette] ?? this.network.card.palette;
  }

  legend(palette) {
    if (!this.counts) return;
    const { classes } = this.network.card, all = this.labels.length, absent = [];
    const focus = this.parts.legend.contains(document.activeElement) ? document.activeElement.dataset.label : null;
    this.parts.legend.replaceChildren(...classes.flatMap((name, k) => {
      if (!this.counts[k]) return (absent.push(name), []);
      return [this.entry(name, k, this.colours(palette)[k], this.counts[k] / all)];
    }));
    if (focus !== null) this.parts.legend.querySelector(`[data-label="${focus}"]`)?.focus();
    this.parts.absent.hidden = !absent.length;
    this.parts.absent.querySelector("summary").textContent = `${absent.length} ${absent.length === 1 ? "class" : "classes"} not in this picture`;
    this.parts.absent.querySelector("p").textContent = absent.join(", ");
  }

  entry(name, k, [red, green, blue], share) {
    const item = document.createElement("li"), button = document.createElement("button"), swatch = document.createElement("span");
    button.type = "button";
    button.dataset.label = k;
    button.title = "Show or hide this class";
    button.setAttribute("aria-pressed", String(!this.hidden.has(k)));
    swatch.className = "swatch";
    swatch.style.background = `rgb(${red}, ${green}, ${blue})`;
    button.append(swatch, `${name} ${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`);
    button.onclick = () => {
      this.hidden.delete(k) || this.hidden.add(k);
      this.changed("legend");
    };
    item.append(button);
    return item;
  }

  /** The class under the pointer. */
  point(event) {
    if (!this.labels) return;
    const box = this.parts.canvas.getBoundingClientRect(), { width, height } = this.parts.canvas;
    const fit = Math.min(box.width / width, box.height / height); // object-fit: contain leaves margins
    const across = (event.clientX - box.left - (box.width - width * fit) / 2) / (width * fit);
    const down = (event.clientY - box.top - (box.height - height * fit) / 2) / (height * fit);
    if (across < 0 || across >= 1 || down < 0 || down >= 1) return;
    const at = Math.floor(down * this.size.height) * this.size.width + Math.floor(across * this.size.width);
    this.parts.under.textContent = `under the pointer: ${this.network.card.classes[this.labels[at]]}`;
  }

  /** The mask in the data set's colours at the photograph's size, or the canvas as it is. */
  async save(what) {
    if (!this.labels) return;
    const blob = what === "shown"
      ? await new Promise((done) => this.parts.canvas.toBlob(done))
      : await this.mask().convertToBlob({ type: "image/png" });
    const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: `${this.name.replace(/\.\w+$/, "")}-${what}.png` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  mask() {
    const { width, height } = this.size, large = this.photoSize;
    const canvas = new OffscreenCanvas(large.width, large.height);
    canvas.getContext("2d").putImageData(paint(nearest(this.labels, width, height, large.width, large.height), large.width, large.height, this.network.card.palette, () => true), 0, 0);
    return canvas;
  }
}
