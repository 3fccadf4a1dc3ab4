// From a picture of any size to the pixels that a classifier takes: what sparse_ist_tf/masks/cells.py
// does, in the same order and rounded alike. No document is needed: Node runs this file, too.
//
// A picture is {width, height, data}, data RGBA bytes row by row. A source is {width, height, strip},
// strip(top, height) a promise of the RGBA bytes of some of its rows, so that a large photo is never
// in memory as a whole.

const STRIP = 1 << 20; // pixels that are read at a time

/**
 * What makes a row's outputs of its pixels, cell by cell, each bilinear and antialiased where that
 * reduces it, with nothing from beyond its edges.
 *
 * @param {number} length pixels of the row.
 * @param {number} grid cells of the row; one for a whole image.
 * @param {number} size outputs of each cell.
 * @returns {{first: number, weights: number[]}[]} for every output the first pixel that it is made
 *   of, and the weights from there on, which sum to 1.
 */
export function cellWeights(length, grid, size) {
  const outputs = [];
  for (let cell = 0; cell < grid; cell++) {
    const start = Math.floor((cell * length) / grid);
    const extent = Math.floor(((cell + 1) * length) / grid) - start;
    const reach = Math.max(1, extent / size);
    for (let i = 0; i < size; i++) {
      const centre = ((i + 0.5) * extent) / size;
      const near = Math.max(0, Math.floor(centre - reach - 0.5));
      const far = Math.min(extent - 1, Math.ceil(centre + reach - 0.5));
      const all = [];
      for (let pixel = near; pixel <= far; pixel++) {
        all.push(Math.max(0, 1 - Math.abs(pixel + 0.5 - centre) / reach));
      }
      const total = all.reduce((sum, weight) => sum + weight, 0);
      outputs.push({ first: start + near, weights: all.map((w) => Math.fround(w / total)) });
    }
  }
  return outputs;
}

/**
 * As cellWeights, by another filter, of a row that becomes shorter.
 *
 * @param {number} length pixels of the row.
 * @param {number} grid cells of the row.
 * @param {number} size outputs of each cell.
 * @param {string} resize "bilinear", plain and from pixels' corners as MediaPipe has it, or "area",
 *   the mean of what is covered.
 */
export function reducingWeights(length, grid, size, resize) {
  const total = grid * size;
  const outputs = [];
  for (let output = 0; output < total; output++) {
    const cell = Math.floor(output / size);
    const place = (output * length) / total;
    const reach = resize === "area" ? length / total : 1;
    const first = Math.max(Math.floor((cell * length) / grid), Math.floor(place));
    const last = Math.floor(((cell + 1) * length) / grid) - 1;
    const all = [];
    for (let pixel = first; pixel <= Math.min(last, Math.ceil(place + reach)); pixel++) {
      const covered = Math.min(place + reach, pixel + 1) - Math.max(place, pixel);
      all.push(Math.max(0, resize === "area" ? covered : 1 - Math.abs(pixel - place)));
    }
    const sum = all.reduce((a, b) => a + b, 0);
    outputs.push({ first, weights: all.map((weight) => Math.fround(weight / sum)) });
  }
  return outputs;
}

/** What scales a row as a classifier's training did. */
function weightsOf(length, grid, size, resize = "antialias") {
  const whole = grid === 1 && resize === "bilinear"; // enlarged likewise
  if (resize === "antialias" || (length <= grid * size && !whole)) {
    return cellWeights(length, grid, size);
  }
  return reducingWeights(length, grid, size, resize);
}

/** A picture in memory as a source. */
export function sourceOf(picture) {
  const { width, height, data } = picture;
  const strip = async (top, count) => data.subarray(4 * width * top, 4 * width * (top + count));
  return { width, height, strip };
}

/** Every cell of a source scaled by itself to [height, width] pixels; a picture. */
export async function resample(source, grid, [height, width], resize) {
  if (source.height === grid * height && source.width === grid * width) {
    return { ...source, data: (await source.strip(0, source.height)).slice() };
  }
  const tall = await scaleRows(source, weightsOf(source.height, grid, height, resize));
  const columns = weightsOf(source.width, grid, width, resize);
  return scaleColumns(tall, source.width, columns, resize === "bilinear" ? halfUp : halfToEven);
}

/** Which outputs a pixel has a part in, and with what weight. */
function users(length, outputs) {
  const out = Array.from({ length }, () => []);
  outputs.forEach(({ first, weights }, output) => {
    weights.forEach((weight, i) => weight && out[first + i].push([output, weight]));
  });
  return out;
}

async function scaleRows(source, outputs) {
  const { width, height } = source;
  const uses = users(height, outputs);
  const sums = new Float64Array(outputs.length * width * 3);
  const most = Math.max(1, Math.floor(STRIP / width));
  for (let top = 0; top < height; top += most) {
    const count = Math.min(most, height - top);
    const bytes = await source.strip(top, count);
    for (let row = 0; row < count; row++) {
      for (const [output, weight] of uses[top + row]) {
        let to = output * width * 3;
        for (let from = 4 * width * row, end = from + 4 * width; from < end; from += 4, to += 3) {
          sums[to] += weight * bytes[from];
          sums[to + 1] += weight * bytes[from + 1];
          sums[to + 2] += weight * bytes[from + 2];
        }
      }
    }
  }
  return Float32Array.from(sums);
}

function scaleColumns(rows, from, outputs, round) {
  const width = outputs.length;
  const height = rows.length / (from * 3);
  const data = new Uint8ClampedArray(4 * width * height).fill(255);
  for (let y = 0; y < height; y++) {
    outputs.forEach(({ first, weights }, x) => {
      for (let colour = 0; colour < 3; colour++) {
        let sum = 0;
        let at = (y * from + first) * 3 + colour;
        for (let i = 0; i < weights.length; i++, at += 3) sum += weights[i] * rows[at];
        data[4 * (y * width + x) + colour] = round(Math.fround(sum));
      }
    });
  }
  return { width, height, data };
}

/** The nearest integer, of two the greater one, as MediaPipe rounds. */
function halfUp(value) {
  return Math.floor(Math.fround(value + 0.5));
}

/** The nearest integer, of two the even one, as TensorFlow rounds. */
function halfToEven(value) {
  const up = Math.round(value);
  return up - value === 0.5 && up % 2 ? up - 1 : up;
}

/**
 * A picture as a classifier takes it.
 *
 * @param source of any size.
 * @param classifier {kind, grid, resize, image_size, patch_size, input: [height, width]}, as
 *   page.json has.
 * @throws {Error} where the picture has fewer pixels than patches along a side.
 */
export async function scale(source, classifier) {
  const { kind, grid, resize, image_size: size, patch_size: patch, input } = classifier;
  if (grid === "scaled") return resample(source, 1, [size, size], resize);
  const side = size / patch;
  const lengths = [source.height, source.width];
  const short = Math.min(...lengths);
  if (short < side) {
    throw new Error(`${short} pixels along a side can't be cut into ${side} patches`);
  }
  if (kind === "classifier_sensor") {
    return resample(source, side, input.map((length) => length / side), resize);
  }
  // What a sensor sends is never larger than its cells; the encoder's patches are made of that.
  const sent = lengths.map((length) => Math.min(patch, Math.ceil(length / side)));
  const picture = await resample(source, side, sent, resize);
  return resample(sourceOf(picture), side, [patch, patch], resize);
}

/** The pixels' red, green and blue, row by row. */
export function rgb({ data }) {
  const out = new Uint8Array((data.length / 4) * 3);
  for (let from = 0, to = 0; from < data.length; from += 4, to += 3) {
    out[to] = data[from];
    out[to + 1] = data[from + 1];
    out[to + 2] = data[from + 2];
  }
  return out;
}
