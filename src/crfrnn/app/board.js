// The board: the dividing slider, the cross, and drawing. Gradio runs this once, with `element`,
// `trigger` and `watch`; what is inside `element` is replaced whenever the picture changes.
let cut = 50;
let focused = null;
let cross = null;
let stroke = null;

const find = (name) => element.querySelector(name);
const number = (name) => Number(find(".board").dataset[name]);
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

function divide() {
  element.style.setProperty("--cut", cut + "%");
  const slider = find(".cut");
  if (slider) slider.value = cut;
}

function place(event) {
  const box = find(".stage").getBoundingClientRect();
  const x = number("left") + ((event.clientX - box.left) / box.width) * number("width");
  const y = number("top") + ((event.clientY - box.top) / box.height) * number("height");
  return [
    clamp(x, number("left"), number("left") + number("width") - 0.01),
    clamp(y, number("top"), number("top") + number("height") - 0.01),
  ];
}

function paint(from, to) {
  const stage = find(".stage");
  const canvas = find("canvas");
  if (canvas.width !== stage.clientWidth) {
    canvas.width = stage.clientWidth;
    canvas.height = stage.clientHeight;
  }
  const scale = canvas.width / number("width");
  const pen = canvas.getContext("2d");
  pen.strokeStyle = find(".board").dataset.color;
  pen.lineCap = "round";
  pen.lineWidth = Math.max(2, 2 * number("radius") * scale);
  pen.beginPath();
  pen.moveTo((from[0] - number("left")) * scale, (from[1] - number("top")) * scale);
  pen.lineTo((to[0] - number("left")) * scale, (to[1] - number("top")) * scale);
  pen.stroke();
}

function finish(points) {
  if (number("draws")) trigger("stroke", { points: points });
  else trigger("pick", { x: points[0][0], y: points[0][1] });
}

element.addEventListener("input", (event) => {
  if (event.target.matches(".cut")) {
    cut = Number(event.target.value);
    divide();
  }
});

element.addEventListener("pointerdown", (event) => {
  if (!event.target.closest(".stage") || event.button !== 0) return;
  event.preventDefault();
  find(".stage").focus({ preventScroll: true });
  stroke = [place(event)];
  if (number("draws")) paint(stroke[0], stroke[0]);
});
window.addEventListener("pointermove", (event) => {
  if (!stroke || !find(".board") || !number("draws")) return;
  const next = place(event);
  paint(stroke[stroke.length - 1], next);
  stroke.push(next);
});
window.addEventListener("pointerup", () => {
  if (stroke && find(".board")) finish(stroke);
  stroke = null;
});

element.addEventListener("keydown", (event) => {
  if (!event.target.matches(".stage")) return;
  const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const step = event.shiftKey ? 1 : Math.max(1, Math.round(number("width") / 50));
  cross = cross || [number("x") + 0.5, number("y") + 0.5];
  if (ways[event.key]) {
    const [x, y] = ways[event.key];
    cross = [
      clamp(cross[0] + step * x, number("left") + 0.5, number("left") + number("width") - 0.5),
      clamp(cross[1] + step * y, number("top") + 0.5, number("top") + number("height") - 0.5),
    ];
    find(".cross").setAttribute("transform", `translate(${cross[0]} ${cross[1]})`);
  } else if (event.key === "Enter" || event.key === " ") {
    if (number("draws")) paint(cross, cross);
    finish([cross]);
  } else return;
  event.preventDefault();
});

// A new picture replaces the focused part; give the focus back to the part in its place.
element.addEventListener("focusin", (event) => {
  focused = [".stage", ".cut"].find((name) => event.target.matches(name)) || null;
});
element.addEventListener("focusout", (event) => {
  if (event.relatedTarget) focused = null;
});
watch("value", () => {
  divide();
  if (!number("draws")) cross = null;
  else if (cross && find(".cross"))
    find(".cross").setAttribute("transform", `translate(${cross[0]} ${cross[1]})`);
  if (focused && find(focused)) find(focused).focus({ preventScroll: true });
});
divide();
