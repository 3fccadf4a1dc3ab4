// A .tflite file as a function of pictures, in LiteRT's wasm. WebGPU is left alone: it has open bugs.

import { loadAndCompile, loadLiteRt, Tensor } from "./runtime/index.js";
import { rgb, scale } from "./scaling.js";

let runtime; // a page loads it once

/** A classifier of page.json, ready to run. */
export class Classifier {
  /**
   * @param about what page.json says of the file.
   * @returns {Promise<Classifier>}
   * @throws {Error} one line, where the file or the runtime can't be loaded.
   */
  static async load(about) {
    runtime ??= loadLiteRt(new URL("./runtime/", import.meta.url).href);
    const url = new URL(encodeURIComponent(about.file), import.meta.url);
    const response = await fetch(url, { cache: "no-cache" });
    if (!response.ok) throw new Error(`${about.file} isn't there (${response.status}).`);
    const [bytes] = await Promise.all([response.arrayBuffer(), runtime]);
    const model = await loadAndCompile(new Uint8Array(bytes), { accelerator: "wasm" });
    const classifier = new Classifier(about, model);
    const [height, width] = about.input;
    await classifier.run({ width, height, data: new Uint8ClampedArray(4 * width * height) });
    return classifier;
  }

  constructor(about, model) {
    this.about = about;
    this.model = model;
  }

  /** A source's pixels as the classifier takes them. */
  scale(source) {
    return scale(source, this.about);
  }

  /**
   * @param picture of the classifier's own size, as scale() makes it.
   * @param {number} turn of the masks in page.json, where a file holds none.
   * @returns {Promise<Float32Array>} the probability of each label.
   */
  async run(picture, turn = 0) {
    const arrays = this.inputs(picture, this.about.masks[turn % this.about.masks.length]);
    const tensors = {};
    for (const { name, shape } of this.model.getInputDetails()) {
      tensors[name] = new Tensor(arrays[name], shape);
    }
    try {
      const [output] = Object.values(await this.model.run(tensors));
      const values = Float32Array.from(output.toTypedArray());
      output.delete();
      return this.about.outputs === "probabilities" ? values : softmax(values);
    } finally {
      for (const tensor of Object.values(tensors)) tensor.delete();
    }
  }

  inputs(picture, positions) {
    const image = rgb(picture);
    if (this.about.kind !== "classifier_patches") return { image };
    const { image_size: size, patch_size: patch } = this.about;
    const patches = new Uint8Array(positions.length * patch * patch * 3);
    const row = patch * 3;
    positions.forEach((position, i) => {
      const top = Math.floor(position / (size / patch)) * patch;
      const left = (position % (size / patch)) * patch;
      for (let y = 0; y < patch; y++) {
        const from = ((top + y) * size + left) * 3;
        patches.set(image.subarray(from, from + row), (i * patch + y) * row);
      }
    });
    return { patches, positions: Int32Array.from(positions) };
  }

  /** Frees what the runtime holds of it. */
  close() {
    this.model.delete();
  }
}

function softmax(logits) {
  const most = Math.max(...logits);
  const grown = logits.map((value) => Math.exp(value - most));
  const total = grown.reduce((sum, value) => sum + value, 0);
  return grown.map((value) => value / total);
}
