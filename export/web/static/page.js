// What happens on the page: pictures come in by file, drop, paste or camera, and labels come out.

import { Camera, CAN } from "./camera.js";
import { render } from "./card.js";
import { Classifier } from "./classifier.js";
import { openPicture, pixelsOf } from "./pictures.js";
import { Bars, drawModel, drawPicture, percent, ranked } from "./view.js";

const $ = (id) => document.getElementById(id);
const LOST = "Without WebGL this browser takes transparent pixels darker than they are stored.";
const SAY_EVERY = 2000; // milliseconds between what a screen reader is told of a camera's frames

const bars = new Bars($("bars"), $("more"));
const camera = new Camera($("video"), (frame) => classify(frame, { live: true }));
const times = []; // of the last frames, in milliseconds
let classifier; // a promise of it
let count = 0; // pictures so far; masks take turns
let last = null; // the picture that is shown, for another classifier
let said = { text: "", at: 0 };
let asked = 0; // files so far
let order = 0; // of what was asked for: what is overtaken isn't shown
let queue = Promise.resolve(); // one picture after the other, and nothing is freed meanwhile

function fail(error) {
  $("error").textContent = String(error.message ?? error).split("\n")[0];
}

/** Does something when all that was asked for before is done. */
function inTurn(job) {
  const done = queue.then(job);
  queue = done.catch(() => {});
  return done;
}

/** Labels a bitmap and shows it. */
function classify(bitmap, how) {
  const mine = ++order;
  return inTurn(() => mine === order && label(bitmap, how, mine));
}

async function label(bitmap, { name = "A camera's frame", live = false, flat = false }, mine) {
  const network = await classifier;
  const started = performance.now();
  const source = pixelsOf(bitmap, !live && !flat);
  const picture = await network.scale(source).catch((error) => {
    throw new Error(`${name}: ${error.message}`);
  });
  const scaled = performance.now();
  const turn = count++;
  const probabilities = await network.run(picture, turn);
  const ended = performance.now();
  if (mine !== order || (live && !camera.isOn)) return;
  const { about } = network;
  $("size").textContent = `${picture.width} × ${picture.height}`;
  const positions = about.masks[turn % about.masks.length];
  $("message").textContent = source.lost ? LOST : "";
  drawPicture($("picture"), bitmap, about, positions);
  drawModel($("model"), picture, about, positions);
  show(ranked(about.labels, probabilities), name, live);
  time(ended - scaled, ended - started, live);
  document.body.dataset.state = "shown";
}

function show(pairs, name, live) {
  const [label, share] = pairs[0];
  const text = `${label}, ${percent(share)}`;
  $("answer").textContent = label;
  $("sure").textContent = percent(share);
  $("picture").setAttribute("aria-label", `${name}, hidden patches hatched`);
  bars.show(pairs);
  const now = performance.now();
  if (live && (label === said.label || now - said.at < SAY_EVERY)) return;
  said = { label, at: now };
  $("said").textContent = live ? text : `${name}: ${text}`;
}

function time(network, all, live) {
  if (!live) times.length = 0;
  times.push([network, all]);
  if (times.length > 30) times.shift();
  const [inside, total] = [0, 1].map((i) => median(times.map((pair) => pair[i])).toFixed(1));
  $("time").textContent = `${inside} ms for the network, ${total} ms with scaling`;
}

function median(values) {
  return values.sort((a, b) => a - b)[Math.floor(values.length / 2)];
}

/** Labels a file that was chosen, dropped or pasted. */
async function take(file) {
  if (!file) return;
  stop();
  const mine = ++asked;
  $("error").textContent = "";
  try {
    const bitmap = await openPicture(file);
    if (mine !== asked) return bitmap.close();
    const before = last;
    inTurn(() => before?.bitmap.close());
    last = { bitmap, name: file.name || "A picture", flat: file.type === "image/gif" };
    await classify(bitmap, last);
  } catch (error) {
    fail(error);
  }
}

function pictureOf(transfer) {
  const files = [...(transfer?.files ?? [])];
  return files.find((file) => file.type.startsWith("image/")) ?? files[0];
}

function stop() {
  camera.stop();
  $("camera").textContent = "Use the camera";
}

async function switchCamera() {
  if (camera.isOn) return stop();
  $("error").textContent = "";
  $("camera").textContent = "Stop the camera";
  times.length = 0;
  last = null;
  asked++;
  try {
    await camera.start();
  } catch (error) {
    fail(error);
    stop();
  }
  if (!camera.isOn) stop();
}

function listen() {
  for (const id of ["choose", "shoot"]) {
    $(id).addEventListener("change", ({ target }) => {
      take(target.files[0]);
      target.value = ""; // so that the same file can be chosen again
    });
  }
  $("camera").hidden = !CAN;
  $("camera").addEventListener("click", switchCamera);
  addEventListener("pagehide", stop);
  addEventListener("paste", ({ clipboardData }) => take(pictureOf(clipboardData)));
  addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("over");
  });
  addEventListener("dragleave", ({ relatedTarget }) => {
    if (!relatedTarget) document.body.classList.remove("over");
  });
  addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("over");
    const file = pictureOf(event.dataTransfer);
    if (file) take(file);
    else fail(new Error("A picture's file can be dropped here, nothing else."));
  });
  $("card").addEventListener("toggle", showCard, { once: true });
}

async function showCard() {
  try {
    const response = await fetch("model_card.md", { cache: "no-cache" });
    if (!response.ok) throw new Error(`model_card.md isn't there (${response.status}).`);
    $("card-text").replaceChildren(render(await response.text()));
  } catch (error) {
    fail(error);
  }
}

/** Loads a classifier in place of the one before; what is shown is labelled anew. */
async function use(about) {
  const before = classifier;
  $("message").textContent = "Loading…";
  $("about").textContent = about.summary;
  classifier = Classifier.load(about);
  try {
    await classifier;
    $("message").textContent = "";
    document.body.dataset.ready = "yes";
    if (last) await classify(last.bitmap, last);
  } catch (error) {
    $("message").textContent = "";
    fail(error);
  }
  before?.then((old) => inTurn(() => old.close())).catch(() => {});
}

async function main() {
  document.body.dataset.started = "yes";
  listen();
  const response = await fetch("page.json", { cache: "no-cache" });
  if (!response.ok) throw new Error(`page.json isn't there (${response.status}).`);
  const { title, classifiers } = await response.json();
  document.title = $("title").textContent = title;
  for (const { file } of classifiers) $("which").append(new Option(file));
  $("choice").hidden = classifiers.length < 2;
  $("which").addEventListener("change", ({ target }) => use(classifiers[target.selectedIndex]));
  await use(classifiers[0]);
}

main().catch(fail);
