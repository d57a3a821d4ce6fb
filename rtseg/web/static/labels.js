// What is made of a label map: shares, colours, agreement, words.

/** Pixels of each class, as an array of counts. */
export function count(labels, classes) {
  const counts = new Array(classes).fill(0);
  for (const label of labels) counts[label]++;
  return counts;
}

/** Share of equal labels of two maps of the same size. */
export function agreement(one, other) {
  let equal = 0;
  for (let k = 0; k < one.length; k++) equal += one[k] === other[k];
  return equal / one.length;
}

/** The map as RGBA; `shown(label)` says whether a class is painted, the others are left clear. */
export function paint(labels, width, height, palette, shown) {
  const picture = new ImageData(width, height);
  const words = new Uint32Array(picture.data.buffer);
  const table = palette.map(([red, green, blue], k) => (shown(k) ? ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0 : 0));
  for (let k = 0; k < labels.length; k++) words[k] = table[labels[k]];
  return picture;
}

/** RGBA that is red where two maps differ and clear elsewhere. */
export function paintDifference(one, other, width, height) {
  const picture = new ImageData(width, height);
  const words = new Uint32Array(picture.data.buffer);
  for (let k = 0; k < one.length; k++) words[k] = one[k] === other[k] ? 0 : 0xff3928d6;
  return picture;
}

/** The classes that cover most, in words, for those who do not see the picture. */
export function describe(counts, classes) {
  const all = counts.reduce((a, b) => a + b, 0) || 1;
  const ordered = counts.map((n, k) => [n / all, classes[k]]).filter(([share]) => share >= 0.005).sort((a, b) => b[0] - a[0]);
  return ordered.slice(0, 6).map(([share, name]) => `${name} ${Math.round(100 * share)} %`).join(", ");
}

export function median(numbers) {
  const ordered = [...numbers].sort((a, b) => a - b), middle = ordered.length >> 1;
  return ordered.length % 2 ? ordered[middle] : (ordered[middle - 1] + ordered[middle]) / 2;
}
