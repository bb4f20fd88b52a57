"use strict";
// The page of `foveal view`. All text from the folder goes in as text, never as HTML.

const study = document.body.dataset.kind === "study";
const says = document.body.dataset.says; // "class", "map", or what is drawn on images: boxes, masks, key points, ...
const answered = says === "class", mapped = says === "map", boxed = !answered && !mapped;
const at = (id) => document.getElementById(id);
const OFTEN = 2000, SELDOM = 10000; // milliseconds between looks at a study under way, and at one where nothing runs
const now = { arm: 0, seed: 0, image: null, alone: null, map: null, pinned: false, found: null };
let progress = null, images = [], album = null, asked = 0;

function made(name, attributes = {}, ...children) {
  const svg = ["svg", "rect", "text", "title", "path", "polyline", "circle"].includes(name);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

async function get(path) {
  let answer;
  try {
    answer = await fetch(path);
  } catch {
    throw new Error("The server does not answer. Start foveal view again, and this page goes on.");
  }
  if (answer.ok) return answer.json();
  if (answer.status !== 409) throw new Error(await answer.text());
  const { message, hint } = await answer.json();
  throw new Error(hint ? `${message}. What works: ${hint}` : message);
}

const complaints = {};
function complain(about, text) {
  complaints[about] = text;
  const said = Object.values(complaints).filter(Boolean).join(" ");
  if (at("problem").textContent !== said) at("problem").textContent = said;
  at("problem").hidden = !said;
}

async function trying(about, action) {
  try {
    await action();
    complain(about, "");
  } catch (error) {
    complain(about, error.message);
  }
}

const signed = (value) => (Math.abs(value) < 0.005 ? "0.00" : `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`);
const sign = (value) => (value > 1e-9 ? "won" : value < -1e-9 ? "lost" : "even");

// Runs ----------------------------------------------------------------------------------------------------------------

async function watch() {
  await trying("runs", async () => {
    const before = progress, found = await get("data/progress");
    progress = found;
    if (JSON.stringify(before) !== JSON.stringify(found)) {
      showRuns(before);
      const finished = (of) => of && JSON.stringify(of.cells.filter((cell) => cell.state === "finished").map((cell) => [cell.arm, cell.seed]));
      if (finished(before) !== finished(found)) await chooseArm(false);
    }
  });
  const busy = !progress || progress.cells.some((cell) => cell.state === "running");
  setTimeout(watch, busy ? OFTEN : SELDOM);
}

function showRuns(before) {
  const { arms, seeds, cells, metric, split, verdict, left } = progress;
  const count = (word) => cells.filter((cell) => cell.state === word).length;
  const part = cells.reduce((sum, cell) => sum + (cell.state === "finished" ? 1 : cell.epochs / cell.planned), 0) / cells.length;
  const words = ["running", "failed", "interrupted", "waiting"].filter(count).map((word) => `${count(word)} ${word}`);
  let said = `${count("finished")} of ${cells.length} runs finished`;
  if (words.length) said += `: ${words.join(", ")}`;
  if (left && words.length) said += `, about ${left} left`;
  if (words.length && !count("running")) said += `. Nothing runs now; ${progress.command} goes on`;
  at("summary").textContent = `${said}.`;
  if (progress.stale) at("summary").append(` ${progress.stale} more are of other data, versions or arguments, and not counted.`);
  const percent = Math.round(100 * Math.min(1, part));
  at("bar").setAttribute("aria-valuenow", percent);
  at("bar").firstElementChild.style.width = `${percent}%`;

  at("lead").replaceChildren();
  if (verdict && verdict.sentence) at("lead").append(`${verdict.complete && count("finished") === cells.length ? "" : "So far: "}${verdict.sentence} `);
  if (progress.page) at("lead").append(made("a", { href: "report.html" }, "The whole report"));
  complain("verdict", verdict ? verdict.problem : "");

  const top = Math.max(0.01, ...cells.flatMap((cell) => cell.curve).filter((value) => value !== null));
  const line = (cell) => {
    const points = cell.curve.map((value, i) => (value === null ? null : `${((i + 1) * 100) / Math.max(cell.planned, cell.curve.length)},${30 - (30 * value) / top}`));
    const last = cell.curve.filter((value) => value !== null).at(-1);
    const label = last === undefined ? "no epoch yet" : `${metric} after ${cell.curve.length} epochs: ${last.toFixed(3)}`;
    const drawn = made("polyline", { class: "curve", points: points.filter(Boolean).join(" ") });
    return made("svg", { viewBox: "0 0 100 30", preserveAspectRatio: "none", role: "img", "aria-label": label }, made("path", { class: "floor", d: "M0 30H100" }), drawn);
  };
  const due = seeds.filter((seed) => cells.some((cell) => cell.seed === seed)); // planned looks need no more for now
  const heads = [made("th", { scope: "col" }, "Arm"), ...due.map((seed) => made("th", { scope: "col" }, `seed ${seed}`))];
  at("runs").tHead.replaceChildren(made("tr", {}, ...heads));
  at("runs").tBodies[0].replaceChildren(...arms.map((arm) => made("tr", {}, made("th", { scope: "row" }, arm.name), ...due.map((seed) => {
    const cell = cells.find((one) => one.arm === arm.name && one.seed === seed);
    if (!cell) return made("td", {}, "–"); // the arm has its word
    const state = cell.state === "finished" ? (cell.score === null ? "?" : cell.score.toFixed(3)) : `${cell.state} ${cell.epochs}/${cell.planned}`;
    return made("td", { class: cell.state, title: cell.reason || null }, line(cell), made("span", { class: "state" }, state));
  }))));
  at("measure").textContent = `The lines are ${metric} by epoch, all on the same scale; the numbers are those of best.pt on ${split}.`;
  at("reasons")?.remove();
  const failed = cells.filter((cell) => cell.reason);
  if (failed.length) {
    const reasons = failed.map((cell) => made("li", {}, `${cell.arm}, seed ${cell.seed}: ${cell.reason}`));
    at("runs").parentElement.after(made("ul", { id: "reasons", class: "reasons" }, ...reasons));
  }

  const names = arms.map((arm) => arm.name).join("\n");
  if (!before || before.arms.map((arm) => arm.name).join("\n") !== names) {
    const others = arms.map((arm, i) => [arm, i]).filter(([arm]) => arm.role !== "baseline");
    at("arm").replaceChildren(...others.map(([arm, i]) => made("option", { value: i }, arm.name)));
    now.arm = others.length ? others[0][1] : 0;
  }
}

// Images --------------------------------------------------------------------------------------------------------------

async function chooseArm(fresh = true) {
  await trying("images", async () => {
    const found = await get(`data/images/${now.arm}`), name = progress.arms[now.arm].name;
    complain("notes", found.notes.join(" "));
    images = found.images;
    at("seed").replaceChildren(...found.seeds.map((seed) => made("option", { value: seed }, String(progress.seeds[seed]))));
    if (!found.seeds.includes(now.seed)) now.seed = found.seeds[0] ?? 0;
    at("seed").value = String(now.seed);
    const count = (word) => images.filter((image) => sign(image.difference) === word).length;
    at("count").textContent = images.length
      ? `${images.length} images of ${progress.split}: ${name} does better than the baseline on ${count("won")}, worse on ${count("lost")}, equally well on ${count("even")}. ` +
        `By ${progress.score}, averaged over ${found.seeds.length} seed${found.seeds.length > 1 ? "s" : ""}; those won most come first.`
      : `No seed is finished yet for both the baseline and ${name}.`;
    showList();
    const kept = !fresh && images.some((image) => image.image === now.image);
    await chooseImage(kept ? now.image : images[0]?.image ?? null);
  });
}

function showList() {
  at("list").replaceChildren(...images.map((image) => {
    const children = [made("span", { title: image.name }, image.name)];
    if (study) children.push(made("span", { class: sign(image.difference) }, signed(image.difference)));
    return made("li", {}, made("button", { type: "button", "data-image": image.image, onclick: () => chooseImage(image.image) }, ...children));
  }));
}

async function chooseImage(image, focus = false) {
  now.image = image;
  const mine = ++asked;
  const old = at("list").querySelector("[aria-current]");
  const button = at("list").querySelector(`[data-image="${image}"]`);
  old?.removeAttribute("aria-current");
  button?.setAttribute("aria-current", "true");
  if (button && (focus || at("list").scrollHeight > at("list").clientHeight)) keepInSight(button);
  if (focus && at("list").contains(document.activeElement)) button?.focus({ preventScroll: true });
  if (image === null) {
    at("title").textContent = "";
    at("sides").replaceChildren();
    if (answered && study) at("class").textContent = "";
    return;
  }
  await trying("image", async () => {
    const judged = images.find((one) => one.image === image).seeds; // with folds by some seeds only
    const seed = !judged || judged.includes(now.seed) ? now.seed : judged[0];
    if (study) at("seed").value = String(seed);
    const found = study ? await get(`data/image/${now.arm}/${seed}/${image}`) : explained(album.images[image]);
    if (mine !== asked) return; // another was chosen meanwhile
    now.found = { ...found, seed }; // until the next answer the page shows this seed, whichever is chosen
    const difference = study ? images.find((one) => one.image === image).difference : 0;
    at("title").textContent = study ? `${found.name}: ${signed(difference)}` : found.name;
    if (answered && study) at("class").textContent = `True class: ${found.true}`;
    showSides();
  });
}

function keepInSight(button) {
  const list = at("list").getBoundingClientRect(), box = button.getBoundingClientRect();
  if (box.top < list.top) at("list").scrollTop -= list.top - box.top;
  if (box.bottom > list.bottom) at("list").scrollTop += box.bottom - list.bottom;
}

function explained(image) {
  const prefix = (number) => (number === null ? null : `picture/map/${number}`);
  return {
    name: image.name, photo: prefix(image.picture), size: [image.width, image.height], true: image.true_boxes,
    sides: [{ boxes: image.boxes, answers: image.answers }], why: image.maps.length ? "" : "The manifest has no gates of this image.", command: "",
    maps: image.maps.map((one) => ({ ...one, picture: prefix(one.picture) })),
  };
}

function showSides() {
  const names = study ? ["baseline", progress.arms[now.arm].name] : [album.model];
  const shown = now.found.sides.map((side, i) => [side, i]).filter(([, i]) => now.alone === null || now.alone === i);
  const last = names.length - 1;
  at("sides").replaceChildren(...shown.map(([side, i]) => {
    const figure = made("figure", { "data-side": i }, made("figcaption", {}, made("b", {}, names[i]), made("span", {})), frame(i === last));
    if (answered) figure.append(answers(side));
    if (side.classes) figure.append(classes(side));
    if (i === last) figure.append(maps());
    return figure;
  }));
  draw();
  showMap();
}

function answers(side) {
  return made("ol", { class: "answers" }, ...side.answers.map(({ label, right, confidence }) => {
    const children = [label, ...(right ? [made("span", {}, " true class")] : [])];
    if (confidence !== undefined) children.push(` ${confidence.toFixed(2)}`);
    return made("li", { class: right ? "right" : null }, ...children);
  }));
}

const colour = (label) => `hsl(${(label * 137.5) % 360} 75% 55%)`;

function classes(side) {
  return made("ul", { class: "classes" }, ...side.classes.map((one) => {
    const swatch = made("svg", { "aria-hidden": true, viewBox: "0 0 10 10" }, ...(one.class < 0 ? [] : [made("rect", { width: 10, height: 10, fill: colour(one.class) })]));
    return made("li", {}, swatch, `${one.label} `, made("span", {}, `IoU ${one.iou.toFixed(2)}, ${one.share ? `${(100 * one.share).toFixed(1)} % of the labelled pixels` : "not in the image"}`));
  }));
}

function drawCells() {
  const { rows, columns, runs } = now.found.true, shown = at("overlay").value;
  const true_ = runs.flatMap(([label, count]) => Array(count).fill(label));
  for (const figure of at("sides").children) {
    const side = now.found.sides[figure.dataset.side], node = figure.querySelector(".frame"), canvas = node.querySelector("canvas");
    if (!node.querySelector("img:not(.map)")) node.style.aspectRatio = `${columns} / ${rows}`;
    const said = side.runs.flatMap(([label, count]) => Array(count).fill(label));
    [canvas.width, canvas.height] = [columns, rows];
    const pen = canvas.getContext("2d");
    said.forEach((label, i) => {
      const one = shown === "true" ? true_[i] : label, right = true_[i] === label || true_[i] < -1; // -2 is no class, -1 what a single class leaves
      if (shown === "none" || (shown === "wrong" && right) || (one < 0 && shown !== "wrong")) return;
      pen.fillStyle = one < 0 ? "#fff" : colour(one);
      pen.fillRect(i % columns, Math.floor(i / columns), 1, 1);
    });
    const words = `mean IoU ${side.score.toFixed(2)} with seed ${progress.seeds[now.found.seed]}`;
    canvas.setAttribute("aria-label", words);
    figure.querySelector("figcaption span").textContent = words;
  }
}

function frame(withMaps) {
  const { photo, name, maps } = now.found;
  const node = made("div", { class: "frame" });
  if (photo) node.append(made("img", { src: photo, alt: name, onload: draw }));
  else node.append(made("p", { class: "empty" }, `The photograph is not there${answered ? "" : `; the ${mapped ? "classes" : "boxes"} are drawn without it`}.`));
  if (mapped && study) node.append(made("canvas", { role: "img" }));
  if (boxed) node.append(made("svg", { role: "img", preserveAspectRatio: "none" }));
  if (withMaps && maps.some((one) => one.picture)) {
    node.tabIndex = 0;
    node.setAttribute("role", "group");
    node.setAttribute("aria-label", `${name}, its gate while it has the focus`);
    const enter = () => showMap(now.map ?? firstMap()), leave = () => showMap();
    for (const kind of ["mouseenter", "focus"]) node.addEventListener(kind, enter);
    for (const kind of ["mouseleave", "blur"]) node.addEventListener(kind, leave);
  }
  return node;
}

function sizeOf(node) {
  const photo = node.querySelector("img:not(.map)");
  if (study && photo && photo.naturalWidth) return [photo.naturalWidth, photo.naturalHeight];
  if (now.found.size) return now.found.size;
  if (mapped) return [now.found.true.columns, now.found.true.rows];
  const boxes = answered ? [] : [...now.found.true, ...now.found.sides.flatMap((side) => side.boxes)].map((one) => one.box);
  return [Math.max(1, ...boxes.map((box) => box[2])), Math.max(1, ...boxes.map((box) => box[3]))];
}

function draw() {
  if (boxed) drawBoxes();
  else if (study) (mapped ? drawCells : judgeAnswers)();
}

function judgeAnswers() {
  for (const figure of at("sides").children) {
    const given = now.found.sides[figure.dataset.side].answers, place = given.findIndex((one) => one.right) + 1;
    const wrong = place ? `wrong, the true class is answer ${place}` : `wrong, the true class is not among the first ${given.length}`;
    figure.querySelector("figcaption span").textContent = `${place === 1 ? "right" : wrong}; with seed ${progress.seeds[now.found.seed]}`;
  }
}

function drawBoxes() {
  const least = Number(at("confidence").value), truth = at("truth").checked, named = at("names").checked;
  for (const figure of at("sides").children) {
    const side = now.found.sides[figure.dataset.side], node = figure.querySelector(".frame"), svg = node.querySelector("svg");
    const [width, height] = sizeOf(node);
    if (!node.querySelector("img:not(.map)")) svg.parentElement.style.aspectRatio = `${width} / ${height}`;
    const unit = width / Math.max(1, node.clientWidth); // of the image, for one on the screen
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.replaceChildren();
    const kept = side.boxes.filter((one) => one.confidence === null || one.confidence >= least);
    const taken = new Set(kept.map((one) => one.object).filter((object) => object >= 0));
    const put = (one, kind, words) => {
      const [left, top, right, bottom] = one.box;
      const lines = one.lines ?? (one.corners && [one.corners]); // of a mask, or of a rotated box; else the box is upright
      const d = lines?.map((line) => `M${line.map((point) => point.join(" ")).join("L")}Z`).join("");
      const place = lines ? { d } : { x: left, y: top, width: Math.max(0, right - left), height: Math.max(0, bottom - top) };
      const shape = lines ? "path" : "rect";
      svg.append(made(shape, { ...place, class: "halo" }), made(shape, { ...place, class: `${kind} ${says === "masks" ? "filled" : ""}` }, made("title", {}, words)));
      for (const [x, y] of one.points ?? []) svg.append(made("circle", { cx: x, cy: y, r: 3.5 * unit, class: `point ${kind}` }, made("title", {}, words)));
      if (!named || kind === "true") return;
      const size = 11 * unit, y = top > size ? top - 3 * unit : Math.min(height, top + size);
      const text = made("text", { x: Math.max(0, left), y, "font-size": size, "stroke-width": 3 * unit }, words);
      svg.append(text);
      const over = left + text.getComputedTextLength() - width;
      if (over > 0) text.setAttribute("x", Math.max(0, left - over));
    };
    if (truth) now.found.true.forEach((one, i) => put(one, study && !taken.has(i) ? "missed" : "true", study && !taken.has(i) ? `${one.label} missed` : one.label));
    for (const one of kept) put(one, !study || one.object >= 0 ? "found" : "wrong", one.confidence === null ? one.label : `${one.label} ${one.confidence.toFixed(2)}`);
    const wrong = kept.length - taken.size, all = now.found.true.length;
    let words = `${kept.length} detected` + (all ? `, ${all} true ${says}` : "");
    if (study) {
      const score = kept.length + all ? (2 * taken.size) / (kept.length + all) : 1;
      words = `${taken.size} found, ${wrong} wrong, ${all - taken.size} missed; F1 ${score.toFixed(2)} with seed ${progress.seeds[now.found.seed]}`;
    }
    svg.setAttribute("aria-label", words);
    figure.querySelector("figcaption span").textContent = words;
  }
}

// Gates ---------------------------------------------------------------------------------------------------------------

function firstMap() {
  const found = now.found.maps.findIndex((one) => one.picture);
  return found < 0 ? null : found;
}

function maps() {
  const { maps, why, command } = now.found;
  const node = made("div", { class: "maps" });
  if (why) node.append(made("p", { class: command ? null : "note" }, command ? `${why} This makes them, for this image and those won and lost most:` : why));
  if (maps.length) node.append(made("dl", { class: "numbers", "aria-live": "polite" }));
  if (command) node.append(made("pre", { tabindex: 0, "aria-label": "command" }, command));
  let where = null, row;
  maps.forEach((one, i) => {
    if (one.where !== where) {
      where = one.where;
      row = made("div", { role: "group", "aria-label": where });
      node.append(made("h4", {}, where), row);
    }
    const children = one.picture ? [made("img", { src: one.picture, alt: "", loading: "lazy" }), one.title] : [`${one.title}: no picture`];
    const shown = () => showMap(i), gone = () => showMap();
    row.append(made("button", {
      type: "button", "data-map": i, "aria-pressed": "false", disabled: !one.picture,
      onmouseenter: shown, onfocus: shown, onmouseleave: gone, onblur: gone, onclick: () => pin(now.pinned && now.map === i ? null : i),
    }, ...children));
  });
  return node;
}

function pin(map) {
  now.map = map;
  now.pinned = map !== null;
  showMap();
}

function showMap(hovered = null) {
  const chosen = hovered ?? (now.pinned ? now.map : null);
  const figure = at("sides").querySelector("figure:last-child"), map = chosen === null ? null : now.found.maps[chosen];
  for (const button of at("sides").querySelectorAll("[data-map]")) button.setAttribute("aria-pressed", String(now.pinned && Number(button.dataset.map) === now.map));
  const node = figure?.querySelector(".frame");
  if (!node || !figure.querySelector(".maps")) return;
  node.querySelector(".map")?.remove();
  node.classList.remove("apart");
  const numbers = figure.querySelector(".numbers");
  numbers?.replaceChildren();
  if (!map || !map.picture) return;
  const picture = made("img", { class: "map", src: map.picture, alt: `${map.title}, ${map.where}` });
  picture.addEventListener("load", () => {
    const [width, height] = sizeOf(node), ratio = picture.naturalWidth / picture.naturalHeight / (width / height);
    const apart = map.apart || ratio < 0.93 || ratio > 1.07; // bars and profiles are no maps of the photograph
    picture.classList.toggle("apart", apart);
    node.classList.toggle("apart", apart && picture.isConnected);
  });
  node.insertBefore(picture, node.querySelector("svg"));
  numbers?.append(made("div", {}, made("dt", {}, `${map.title}:`)), ...Object.entries(map.numbers).map(([key, value]) => made("div", {}, made("dt", {}, key), made("dd", {}, value.toFixed(3)))));
}

// Keys and controls -----------------------------------------------------------------------------------------------------

function step(by) {
  const place = images.findIndex((one) => one.image === now.image) + by;
  if (place >= 0 && place < images.length) chooseImage(images[place].image, true);
}

function alone(side) {
  now.alone = now.alone === side ? null : side;
  if (now.found) showSides();
}

function nextMap() {
  const there = now.found ? now.found.maps.map((one, i) => (one.picture ? i : null)).filter((i) => i !== null) : [];
  pin(there[now.pinned ? there.indexOf(now.map) + 1 : 0] ?? null);
}

function toggle(box) {
  box.checked = !box.checked;
  if (now.found) draw();
}

function nextOverlay() {
  at("overlay").selectedIndex = (at("overlay").selectedIndex + 1) % at("overlay").options.length;
  if (now.found) draw();
}

function nextSeed() {
  const seeds = [...at("seed").options].map((option) => Number(option.value));
  if (!seeds.length) return;
  now.seed = seeds[(seeds.indexOf(now.seed) + 1) % seeds.length];
  at("seed").value = String(now.seed);
  chooseImage(now.image);
}

const KEYS = {
  j: () => step(1), ArrowDown: () => step(1), ArrowRight: () => step(1),
  k: () => step(-1), ArrowUp: () => step(-1), ArrowLeft: () => step(-1),
  g: nextMap, "?": () => at("keys").showModal(),
  ...(boxed ? { t: () => toggle(at("truth")), n: () => toggle(at("names")) } : {}),
  ...(mapped && study ? { o: nextOverlay } : {}),
  ...(study ? { a: () => alone(0), b: () => alone(1), s: nextSeed } : {}),
};

document.addEventListener("keydown", (event) => {
  const { target, key } = event;
  if (event.ctrlKey || event.altKey || event.metaKey || at("keys").open || !KEYS[key]) return;
  if (key.startsWith("Arrow") && target.closest("select, input, .scroll, pre")) return; // they have a use for arrows
  if (target.closest("select")) return; // letters choose there
  event.preventDefault();
  KEYS[key]();
});

at("help").addEventListener("click", () => at("keys").showModal());
at("tools").addEventListener("submit", (event) => event.preventDefault());
at("tools").addEventListener("input", () => {
  if (boxed) document.querySelector("output").textContent = Number(at("confidence").value).toFixed(2);
  if (now.found) draw();
});
addEventListener("resize", () => now.found && draw());

function showAbout({ model, ablation, page }) {
  at("lead").append(`Gates of ${model}. `);
  if (page) at("lead").append(made("a", { href: "index.html" }, "Its own page, with the colour bars"));
  if (!ablation) return;
  const number = (value) => made("td", { class: "number" }, value === null ? "–" : value.toFixed(4));
  const heads = ["Attention", "trained", "gate frozen to its mean", "taken out"].map((text) => made("th", { scope: "col" }, text));
  const rows = ablation.rows.map((row) => made("tr", {}, made("th", { scope: "row" }, row.attention), number(ablation.trained), number(row.frozen), number(row.removed)));
  at("ablation").append(made("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Ablation" }, made("table", {}, made("caption", { class: "note" }, ablation.metric), made("thead", {}, made("tr", {}, ...heads)), made("tbody", {}, ...rows))));
}

if (study) {
  at("arm").addEventListener("change", () => { now.arm = Number(at("arm").value); pin(null); chooseArm(); });
  at("seed").addEventListener("change", () => { now.seed = Number(at("seed").value); chooseImage(now.image); });
  watch();
} else {
  trying("album", async () => {
    album = await get("data/album");
    images = album.images.map((image, i) => ({ image: i, name: image.name }));
    at("count").textContent = `${images.length} image${images.length === 1 ? "" : "s"}. A map shows over the photograph while it is pointed at or has the focus; a click or g keeps it there.`;
    showAbout(album);
    showList();
    await chooseImage(images.length ? 0 : null);
  });
}
