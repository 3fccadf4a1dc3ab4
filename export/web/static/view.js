// What is shown of a picture and of what was found in it.

const HIDDEN = "#7d7d7d";
const FEW = 5; // labels that are shown at first
const LARGEST = 1024; // pixels along a side of the picture on the page

/** The picture with what is hidden behind a veil, the cells where the mask has them. */
export function drawPicture(canvas, bitmap, about, positions) {
  const shrink = Math.min(1, LARGEST / Math.max(bitmap.width, bitmap.height));
  const grow = Math.max(1, Math.floor(384 / Math.max(bitmap.width, bitmap.height)));
  const factor = shrink < 1 ? shrink : grow;
  const context = sized(canvas, Math.round(bitmap.width * factor), Math.round(bitmap.height * factor));
  context.imageSmoothingEnabled = factor < 1;
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  const edges = [bitmap.width, bitmap.height].map((length, axis) => {
    const side = about.image_size / about.patch_size;
    const scale = (axis ? canvas.height : canvas.width) / length;
    const cut = about.grid === "scaled" ? (x) => x : Math.floor;
    return Array.from({ length: side + 1 }, (_, k) => Math.round(cut((k * length) / side) * scale));
  });
  context.globalAlpha = 0.8;
  hide(context, edges, positions, HIDDEN);
  context.globalAlpha = 1;
  hide(context, edges, positions, context.createPattern(hatch(), "repeat"));
}

/** Thin lines, so that grey cells differ from a picture's own grey. */
function hatch() {
  const tile = document.createElement("canvas");
  const context = sized(tile, 12, 12);
  context.strokeStyle = "#fff9";
  for (const shift of [-12, 0, 12]) {
    context.moveTo(shift, 12);
    context.lineTo(shift + 12, 0);
  }
  context.stroke();
  return tile;
}

/** What the classifier takes, pixel by pixel, hidden patches grey. */
export function drawModel(canvas, picture, about, positions) {
  const context = sized(canvas, picture.width, picture.height);
  context.putImageData(new ImageData(picture.data, picture.width, picture.height), 0, 0);
  const side = about.image_size / about.patch_size;
  const edges = [picture.width, picture.height].map((length) =>
    Array.from({ length: side + 1 }, (_, k) => (k * length) / side),
  );
  hide(context, edges, positions, HIDDEN);
}

function sized(canvas, width, height) {
  canvas.width = width; // which clears it
  canvas.height = height;
  return canvas.getContext("2d");
}

function hide(context, [columns, rows], positions, fill) {
  const side = columns.length - 1;
  const visible = new Set(positions);
  context.fillStyle = fill;
  for (let place = 0; place < side * side; place++) {
    if (visible.has(place)) continue;
    const [x, y] = [place % side, Math.floor(place / side)];
    const [left, top] = [columns[x], rows[y]];
    context.fillRect(left, top, columns[x + 1] - left, rows[y + 1] - top);
  }
}

/** [label, probability] pairs, the likeliest first; of equal ones the first stays first. */
export function ranked(labels, probabilities) {
  const pairs = labels.map((label, i) => [label, probabilities[i]]);
  return pairs.sort((a, b) => b[1] - a[1]);
}

/** A share in percent. */
export function percent(value) {
  return `${(100 * value).toFixed(1)} %`;
}

/** Labels with bars, in a list; a button shows those behind the first. */
export class Bars {
  constructor(list, more) {
    this.list = list;
    this.more = more;
    this.all = false;
    more.addEventListener("click", () => {
      this.all = !this.all;
      this.show(this.pairs);
    });
  }

  show(pairs) {
    this.pairs = pairs;
    const few = pairs.length > 2 * FEW;
    const shown = few && !this.all ? pairs.slice(0, FEW) : pairs;
    while (this.list.children.length > shown.length) this.list.lastElementChild.remove();
    while (this.list.children.length < shown.length) this.list.append(row());
    shown.forEach(([label, share], i) => fill(this.list.children[i], label, share));
    this.more.hidden = !few;
    this.more.setAttribute("aria-expanded", String(this.all));
    this.more.textContent = this.all ? "Fewer labels" : `All ${pairs.length} labels`;
  }
}

function row() {
  const item = document.createElement("li");
  for (const name of ["label", "share", "bar"]) {
    item.append(Object.assign(document.createElement("span"), { className: name }));
  }
  const bar = item.lastElementChild;
  bar.setAttribute("role", "meter");
  bar.setAttribute("aria-valuemin", "0");
  bar.setAttribute("aria-valuemax", "100");
  bar.append(document.createElement("span"));
  return item;
}

function fill(item, label, share) {
  const [name, number, bar] = item.children;
  name.textContent = label;
  number.textContent = percent(share);
  bar.setAttribute("aria-label", label);
  bar.setAttribute("aria-valuenow", (100 * share).toFixed(1));
  bar.setAttribute("aria-valuetext", percent(share));
  bar.firstElementChild.style.width = `${100 * share}%`;
}
