// Photographs at the network's size, by Pillow's own arithmetic, so that the page and `serve.py` show a network the same pixels.

const BITS = 22; // of the fixed-point weights, as Pillow has them

/** For each of `large` places: the first point it takes from `small`, and the weights of that point and the following ones. */
function weights(small, large) {
  const scale = small / large, stretch = Math.max(scale, 1);
  return Array.from({ length: large }, (_, place) => {
    const centre = (place + 0.5) * scale;
    const first = Math.max(Math.trunc(centre - stretch + 0.5), 0);
    const end = Math.min(Math.trunc(centre + stretch + 0.5), small);
    const raw = Array.from({ length: end - first }, (_, k) => Math.max(0, 1 - Math.abs((first + k - centre + 0.5) / stretch)));
    const sum = raw.reduce((a, b) => a + b, 0);
    return { first, taken: Int32Array.from(raw, (w) => Math.trunc(0.5 + (w / sum) * (1 << BITS))) };
  });
}

const clip = (value) => (value < 0 ? 0 : value > 255 ? 255 : value);

/** One axis: `lines` runs of `small` points, `gap` numbers apart, become runs of `large` points. Three bands; `step` is a pixel's width in `from`. */
function along(from, step, lines, small, large, fromAt, toAt, into) {
  const plan = weights(small, large);
  for (let line = 0; line < lines; line++) {
    for (let place = 0; place < large; place++) {
      const { first, taken } = plan[place];
      let red = 1 << (BITS - 1), green = red, blue = red;
      for (let k = 0; k < taken.length; k++) {
        const at = fromAt(line, first + k) * step, w = taken[k];
        red += from[at] * w;
        green += from[at + 1] * w;
        blue += from[at + 2] * w;
      }
      const to = toAt(line, place) * 3;
      into[to] = clip(red >> BITS);
      into[to + 1] = clip(green >> BITS);
      into[to + 2] = clip(blue >> BITS);
    }
  }
  return into;
}

/** RGBA of width x height -> RGB of newWidth x newHeight (Uint8Array), as Pillow's BILINEAR gives it: rows first, then columns. */
export function bilinear(rgba, width, height, newWidth, newHeight) {
  const rows = along(rgba, 4, height, width, newWidth, (y, x) => y * width + x, (y, x) => y * newWidth + x,
    new Uint8Array(newWidth * height * 3));
  if (height === newHeight) return rows;
  return along(rows, 3, newWidth, height, newHeight, (x, y) => y * newWidth + x, (x, y) => y * newWidth + x,
    new Uint8Array(newWidth * newHeight * 3));
}

/** For each of `large` places the nearest of `small` points; summed up step by step, since on a tie Pillow's rounding decides. */
function nearestOf(small, large) {
  const step = small / large, found = new Int32Array(large);
  for (let place = 0, at = step / 2; place < large; place++, at += step) found[place] = Math.min(Math.floor(at), small - 1);
  return found;
}

/** Labels of width x height -> newWidth x newHeight by the nearest point, as Pillow's NEAREST gives them. */
export function nearest(labels, width, height, newWidth, newHeight) {
  const into = new Uint8Array(newWidth * newHeight), columns = nearestOf(width, newWidth), rows = nearestOf(height, newHeight);
  for (let y = 0; y < newHeight; y++)
    for (let x = 0; x < newWidth; x++) into[y * newWidth + x] = labels[rows[y] * width + columns[x]];
  return into;
}
