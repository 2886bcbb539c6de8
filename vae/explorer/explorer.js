// The page: a latent plane to move over, sliders, test images, a drawing pad. Each of them changes the code, and
// `show` draws what the decoder makes of it. networks.js computes the networks.
"use strict";

const element = id => document.getElementById(id);
const PEN = 3; // width of a drawing's strokes, in pixels of an image
const STRIP = 10; // images along a line
const STEP = 0.02; // of the plane's width, for an arrow key
const REACH = 3; // of an attribute's slider; -1 and 1 are the mean codes without and with it

const run = JSON.parse(element("run").textContent);
const [height, width, channels] = run.image_shape;

// Numbers ------------------------------------------------------------------------------------------------------

// Arrays lie behind each other in one compressed block; the rest of `run` says where: {type, start, length}
async function unpack(base64) {
  const bytes = Uint8Array.from(atob(base64), letter => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

function fillIn(part, block) {
  const types = {int8: Int8Array, uint8: Uint8Array, uint16: Uint16Array, float32: Float32Array};
  for (const [key, value] of Object.entries(part)) {
    if (!value || typeof value !== "object") continue;
    if (value.type in types) part[key] = new types[value.type](block, value.start, value.length);
    else fillIn(value, block);
  }
}

// Pixel means in [0, 1] of one code
function decodeOne(code) {
  const pixels = compute(run.decoder, code);
  return pixels.map(run.likelihood === "bernoulli" ? ACTIVATIONS.sigmoid : x => Math.min(Math.max(x, 0), 1));
}

// Apply a function to each of several inputs of `size` numbers, flat or nested; the results are flat
function forEachOf(inputs, size, apply) {
  const flat = Float32Array.from(Array.from(inputs, input => typeof input === "number" ? input : [...input]).flat());
  const parts = [];
  for (let start = 0; start < flat.length; start += size) parts.push(...apply(flat.subarray(start, start + size)));
  return Float32Array.from(parts);
}

// Mean of q(z|x) of one image
const meanOf = pixels => compute(run.encoder, pixels).slice(0, run.z);

function gaussian() {
  return Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
}

// Where a code lies in the plane: [across, up]
const project = code => [0, 1].map(k => code.reduce((sum, value, unit) => sum + value * run.axes[2 * unit + k], 0));

// The code, moved to a place of the plane the way the codes of the test images move there
function moved(code, [x, y]) {
  const [atX, atY] = project(code);
  return code.map((value, unit) => value + run.moves[2 * unit] * (x - atX) + run.moves[2 * unit + 1] * (y - atY));
}

// Images -------------------------------------------------------------------------------------------------------

function paint(canvas, pixels) {
  canvas.width = width;
  canvas.height = height;
  const image = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    for (let k = 0; k < 3; k++) image.data[4 * i + k] = Math.round(255 * pixels[i * channels + k % channels]);
    image.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

const state = {
  code: new Float32Array(run.z), // the one that is kept
  preview: null, // the one under the pointer
  line: null, // [start, end] in the plane
  colouring: 0,
};
let due = false; // whether a frame has been asked for

// Keep a code, and show it beside the image that it came from
function keep(code, original, origin) {
  Object.assign(state, {code, preview: null});
  dropLine();
  element("started").hidden = !original;
  if (original) {
    paint(element("original"), original);
    element("origin").textContent = origin;
  }
  refresh();
}

function refresh() {
  if (!due) requestAnimationFrame(show);
  due = true;
}

function show() {
  due = false;
  const code = state.preview || state.code;
  paint(element("decoded"), decodeOne(code));
  element("code").textContent = run.z > 2 ? "" : ` from ${Array.from(code, value => value.toFixed(2)).join(", ")}`;
  sliders.forEach(slider => slider.follow(code));
  drawPlane();
}

// One image a frame, so that the page stays responsive while a large network decodes
function showStrip(start, end) {
  const codes = [start, end].map(place => moved(state.code, place));
  const canvases = Array.from({length: STRIP}, () => document.createElement("canvas"));
  element("strip").replaceChildren(...canvases);
  const next = k => {
    if (k === STRIP || !canvases[k].isConnected) return;
    const share = k / (STRIP - 1);
    paint(canvases[k], decodeOne(codes[0].map((value, unit) => value + share * (codes[1][unit] - value))));
    requestAnimationFrame(() => next(k + 1));
  };
  next(0);
}

// The plane ----------------------------------------------------------------------------------------------------

const plane = element("plane"), dots = document.createElement("canvas");
let view; // {left, bottom, span}: the part of the plane that is shown, a square

function fitView() {
  const sorted = [0, 1].map(k => run.points.filter((_, i) => i % 2 === k).sort());
  const ends = sorted.map(values => [values[0], values[values.length - 1]]);
  const span = 1.1 * Math.max(...ends.map(([low, high]) => high - low)) || 6;
  const [x, y] = ends.map(([low, high]) => (low + high) / 2);
  view = {left: x - span / 2, bottom: y - span / 2, span};
}

const toScreen = ([x, y]) => [
  (x - view.left) / view.span * plane.width, (1 - (y - view.bottom) / view.span) * plane.height,
];

function toPlane(event) {
  const box = plane.getBoundingClientRect();
  return inView([
    view.left + (event.clientX - box.left) / box.width * view.span,
    view.bottom + (1 - (event.clientY - box.top) / box.height) * view.span,
  ]);
}

// The nearest place in the part of the plane that is shown
const inView = place => [view.left, view.bottom].map((low, k) => Math.min(Math.max(place[k], low), low + view.span));

function drawDots() {
  const scale = devicePixelRatio || 1;
  for (const canvas of [plane, dots]) { // at least 1: a canvas without pixels cannot be drawn
    canvas.width = Math.max(1, plane.clientWidth * scale);
    canvas.height = Math.max(1, plane.clientHeight * scale);
  }
  const pen = dots.getContext("2d"), count = run.points.length / 2;
  const {values, categories} = run.colourings[state.colouring];
  const radius = scale * Math.min(4, Math.max(1.5, 100 / Math.sqrt(count)));
  pen.globalAlpha = 0.75;
  for (let i = 0; i < count; i++) {
    pen.fillStyle = categories[values[i]].colour;
    pen.beginPath();
    pen.arc(...toScreen(run.points.subarray(2 * i)), radius, 0, 7);
    pen.fill();
  }
}

function drawPlane() {
  const pen = plane.getContext("2d"), scale = devicePixelRatio || 1, style = getComputedStyle(document.body);
  pen.clearRect(0, 0, plane.width, plane.height);
  pen.drawImage(dots, 0, 0);
  pen.strokeStyle = style.color;
  pen.lineWidth = 2 * scale;
  pen.beginPath();
  if (state.line) {
    pen.moveTo(...toScreen(state.line[0]));
    pen.lineTo(...toScreen(state.line[1]));
  }
  pen.stroke();
  for (const code of [state.code, state.preview]) if (code) {
    pen.fillStyle = code === state.code ? style.color : style.backgroundColor;
    pen.beginPath();
    pen.arc(...toScreen(project(code)), 6 * scale, 0, 7);
    pen.fill();
    pen.stroke();
  }
}

function preview(place) {
  state.preview = moved(state.code, place);
  if (lineBy === "pointer") state.line = [state.line[0], place];
  refresh();
}

let lineBy = null; // "pointer" or "keys" while a line is drawn

function startLine(place, by) {
  dropLine();
  lineBy = by;
  state.line = [place, place];
}

function dropLine() {
  lineBy = state.line = null;
  element("strip").replaceChildren();
}

// Keep the end; it decodes to what the strip ends with
function endLine(place) {
  const [start] = state.line;
  dropLine();
  if (Math.hypot(place[0] - start[0], place[1] - start[1]) > STEP * view.span) {
    state.line = [start, place];
    showStrip(start, place);
  }
  keepPlace(place);
}

function keepPlace(place) {
  if (run.z <= 2) element("started").hidden = true; // with more units, the rest of that image's code stays
  Object.assign(state, {code: moved(state.code, place), preview: null});
  refresh();
}

function onKey(event) {
  const moves = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1]};
  const place = project(state.code);
  if (event.key in moves) {
    const target = inView(moves[event.key].map((way, k) => place[k] + way * STEP * view.span));
    if (lineBy) state.line = [state.line[0], target];
    keepPlace(target);
  } else if (event.key === "Enter") lineBy ? endLine(place) : startLine(place, "keys");
  else if (event.key === "Escape") {
    dropLine();
    refresh();
  } else return;
  event.preventDefault();
}

function listenToPlane() {
  plane.addEventListener("pointerdown", event => {
    if (event.button) return; // the right one
    plane.setPointerCapture(event.pointerId);
    startLine(toPlane(event), "pointer");
    preview(toPlane(event));
  });
  plane.addEventListener("pointermove", event => preview(toPlane(event)));
  plane.addEventListener("pointerup", event => lineBy === "pointer" && endLine(toPlane(event)));
  for (const name of ["pointerleave", "pointercancel"]) plane.addEventListener(name, () => {
    if (lineBy === "pointer") dropLine();
    state.preview = null;
    refresh();
  });
  plane.addEventListener("keydown", onKey);
  new ResizeObserver(() => { drawDots(); drawPlane(); }).observe(plane);
}

function showLegend() {
  element("legend").replaceChildren(...run.colourings[state.colouring].categories.map(({name, colour}) => {
    const item = document.createElement("li"), dot = document.createElement("i");
    dot.style.background = colour;
    item.append(dot, name);
    return item;
  }));
}

function offerColourings() {
  const select = element("colouring").querySelector("select");
  select.append(...run.colourings.map(({name}) => new Option(name)));
  element("colouring").hidden = run.colourings.length < 2;
  select.addEventListener("change", () => {
    state.colouring = select.selectedIndex;
    showLegend();
    drawDots();
    drawPlane();
  });
}

// Sliders, test images, the drawing pad ------------------------------------------------------------------------

let sliders = [];

// A slider moves the code along a direction. `valueOf` says where a code lies along it.
function addSlider(section, name, [low, high], direction, valueOf) {
  const label = document.createElement("label"), input = document.createElement("input");
  const output = document.createElement("output");
  Object.assign(input, {type: "range", min: low, max: high, step: (high - low) / 200});
  label.append(name, input, output);
  element(section).append(label);
  element(section).hidden = false;
  input.addEventListener("input", () => {
    const move = input.value - valueOf(state.code);
    state.code = state.code.map((value, unit) => value + move * direction[unit]);
    refresh();
  });
  sliders.push({
    follow(code) {
      const value = valueOf(code);
      input.min = Math.min(input.min, value); // few codes lie outside the usual range
      input.max = Math.max(input.max, value);
      if (document.activeElement !== input || state.preview) input.value = value;
      output.textContent = value.toFixed(2);
    },
  });
}

function addSliders() {
  for (const {unit, low, high} of run.units)
    addSlider("units", `unit ${unit}`, [low, high], Float32Array.from({length: run.z}, (_, k) => k === unit ? 1 : 0),
      code => code[unit]);
  for (const {name, direction, centre} of run.attributes) {
    const square = direction.reduce((sum, value) => sum + value * value, 0);
    addSlider("attributes", name, [-REACH, REACH], direction,
      code => code.reduce((sum, value, unit) => sum + (value - centre[unit]) * direction[unit], 0) / square);
  }
}

function addStarts() {
  const size = height * width * channels;
  run.starts.names.forEach((name, k) => {
    const pixels = Float32Array.from(run.starts.pixels.subarray(k * size, (k + 1) * size), value => value / 255);
    const button = document.createElement("button"), canvas = document.createElement("canvas");
    paint(canvas, pixels);
    button.type = "button";
    button.title = name;
    button.setAttribute("aria-label", name);
    button.append(canvas);
    button.addEventListener("click", () => keep(meanOf(pixels), pixels, name));
    element("starts").append(button);
  });
  element("sample").addEventListener("click", () => keep(Float32Array.from({length: run.z}, gaussian)));
}

function offerDrawing() {
  const pad = element("pad"), pen = penFor(pad, PEN);
  let strokes = [], drawing = false;
  const scale = [pad.width / width, pad.height / height]; // pixels of the pad in one of an image
  const at = ({offsetX, offsetY}) => [offsetX / pad.clientWidth * width, offsetY / pad.clientHeight * height];
  const draw = event => {
    if (!drawing) return;
    strokes.at(-1).push(at(event));
    pen.resetTransform();
    pen.scale(...scale);
    trace(pen, strokes);
    const pixels = asTestImage(strokes);
    keep(meanOf(pixels), pixels, "your drawing, as the encoder sees it");
  };
  pad.addEventListener("pointerdown", event => {
    pad.setPointerCapture(event.pointerId);
    drawing = strokes.push([at(event)]) > 0;
    draw(event);
  });
  pad.addEventListener("pointermove", draw);
  for (const name of ["pointerup", "pointercancel"]) pad.addEventListener(name, () => { drawing = false; });
  element("clear").addEventListener("click", () => {
    strokes = [];
    penFor(pad, PEN);
    keep(state.code);
  });
  element("drawing").hidden = false;
}

// A white pen on a canvas that becomes black
function penFor(canvas, lineWidth) {
  const pen = canvas.getContext("2d", {willReadFrequently: true});
  pen.resetTransform();
  pen.fillRect(0, 0, canvas.width, canvas.height);
  return Object.assign(pen, {strokeStyle: "#fff", lineWidth, lineCap: "round", lineJoin: "round"});
}

function trace(pen, strokes) {
  pen.beginPath();
  for (const [first, ...others] of strokes) {
    pen.moveTo(...first);
    others.forEach(point => pen.lineTo(...point));
  }
  pen.stroke();
}

// The strokes at the usual size of the test images, with their centre of mass, and drawn with a pen of one width
function asTestImage(strokes) {
  const ends = [0, 1].map(k => strokes.flat().map(point => point[k])).map(all => [Math.min(...all), Math.max(...all)]);
  const scale = (run.drawing.size - PEN) / Math.max(...ends.map(([low, high]) => high - low), 1);
  const pen = penFor(Object.assign(document.createElement("canvas"), {width, height}), PEN);
  const drawAt = shift => {
    penFor(pen.canvas, PEN);
    const placed = point => point.map((value, k) => shift[k] + scale * (value - (ends[k][0] + ends[k][1]) / 2));
    trace(pen, strokes.map(stroke => stroke.map(placed)));
    const {data} = pen.getImageData(0, 0, width, height);
    return Float32Array.from({length: width * height}, (_, i) => data[4 * i] / 255);
  };
  const middle = [width / 2, height / 2], mass = centreOfMass(drawAt(middle));
  return drawAt(middle.map((value, k) => value + run.drawing.centre[k] - mass[k]));
}

function centreOfMass(pixels) {
  const sums = [0, 0, 0];
  pixels.forEach((value, i) => {
    [i % width + 0.5, Math.floor(i / width) + 0.5, 1].forEach((weight, k) => { sums[k] += weight * value; });
  });
  return [sums[0] / sums[2], sums[1] / sums[2]];
}

// ----------------------------------------------------------------------------------------------------------------

async function open() {
  element("title").textContent = document.title = run.title;
  fillIn(run, await unpack(run.block));
  delete run.block;
  window.vae = {
    decode: codes => forEachOf(codes, run.z, decodeOne),
    encode: pixels => forEachOf(pixels, height * width * channels, image => compute(run.encoder, image)),
  };
  element("about").textContent = run.about;
  [element("across").textContent, element("up").textContent] = run.axis_names;
  document.querySelector("main").hidden = false;
  fitView();
  addSliders();
  addStarts();
  offerColourings();
  showLegend();
  if (run.drawing) offerDrawing();
  listenToPlane();
  element("starts").children[run.starts.first].click();
}

open().catch(error => { element("about").textContent = `This browser cannot show the page: ${error.message}`; throw error; });
