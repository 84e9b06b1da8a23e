"use strict";
// Draws the figures that have data for it anew, with zoom and hover; without it (or without the library) the page's
// pictures stay. Nothing is fetched: all data are in the page.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const problems = [];
  window.godwit = { charts: [], problems, ready: false };
  if (typeof uPlot === "undefined" || typeof DecompressionStream === "undefined") {
    window.godwit.ready = true;
    return;
  }
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
  const steps = [[1e3, "ns", 1], [1e6, "us", 1e3], [1e9, "ms", 1e6], [Infinity, "s", 1e9]];
  const three = (v) => (v === 0 ? "0" : Number(v.toPrecision(3)).toString());
  function duration(us) {
    if (us == null) return "-";
    const ns = us * 1e3, step = steps.find((each) => Math.abs(ns) < each[0]);
    return three(ns / step[2]) + " " + step[1];
  }
  function size(v, per = "/s") {
    if (v == null) return "-";
    const names = ["B", "KiB", "MiB", "GiB"];
    let at = 0;
    while (Math.abs(v) >= 1024 && at < 3) { v /= 1024; at++; }
    return three(v) + " " + names[at] + per;
  }
  // Round numbers of KiB, MiB, GiB.
  function sizes(u, axis, low, high, step) {
    const unit = Math.pow(1024, Math.max(0, Math.floor(Math.log(Math.max(high, 1)) / Math.log(1024))));
    const raw = step / unit, power = Math.pow(10, Math.floor(Math.log10(raw)));
    const round = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= raw * 0.999) * unit;
    const found = [];
    for (let at = Math.ceil(low / round) * round; at <= high; at += round) found.push(at);
    return found;
  }
  function rate(v) {
    const bits = v * 8, step = [[1e9, "Gbit/s"], [1e6, "Mbit/s"], [1e3, "kbit/s"]].find((each) => bits >= each[0]) || [1, "bit/s"];
    return three(bits / step[0]) + " " + step[1];
  }
  const second = (v) => (v == null ? "-" : v.toFixed(4).replace(/0{1,3}$/, "") + " s");

  // Three columns of 32-bit integers: steps of the due times (us), latencies (us), due times of what failed (us).
  // Of arrivals: when (steps), and how long after the one before.
  async function unpack(packed) {
    const bytes = Uint8Array.from(atob(packed.data), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
    const all = new Int32Array(await new Response(stream).arrayBuffer());
    const due = new Float64Array(packed.n), late = new Float64Array(packed.n);
    let at = packed.first_us;
    for (let i = 0; i < packed.n; i++) {
      at += all[i];
      due[i] = at / 1e6;
      late[i] = all[packed.n + i];
    }
    return { due, late, failed: Array.from(all.subarray(2 * packed.n), (us) => us / 1e6) };
  }

  function bands(cell) {
    return (u) => {
      const { ctx } = u, { left, top, width, height } = u.bbox;
      ctx.save();
      ctx.beginPath();
      ctx.rect(left, top, width, height);
      ctx.clip();
      for (const [name, low, high, key] of cell.stages) {
        const from = u.valToPos(low, "x", true), to = u.valToPos(high, "x", true);
        ctx.fillStyle = colour(key);
        ctx.fillRect(from, top, Math.max(to - from, 1), height);
      }
      if (cell.pause) {
        ctx.strokeStyle = colour("fg");
        ctx.globalAlpha = 0.45;
        for (const at of cell.pause) {
          const x = Math.round(u.valToPos(at, "x", true)) + 0.5;
          ctx.beginPath();
          ctx.moveTo(x, top);
          ctx.lineTo(x, top + height);
          ctx.stroke();
        }
      }
      ctx.restore();
    };
  }

  // Above the grid, where there is room.
  function names(cell) {
    return (u) => {
      const { ctx } = u, { left, top, width } = u.bbox;
      ctx.save();
      ctx.font = 11 * devicePixelRatio + "px system-ui, sans-serif";
      ctx.fillStyle = colour("muted");
      ctx.textAlign = "left";
      for (const [name, low, high] of cell.stages) {
        const from = Math.max(u.valToPos(low, "x", true), left), to = Math.min(u.valToPos(high, "x", true), left + width);
        const room = ctx.measureText(name).width;
        if (to - from > room + 8) ctx.fillText(name, (from + to - room) / 2, top - 5 * devicePixelRatio);
      }
      ctx.restore();
    };
  }

  const colourOf = (cell) => colour(cell.side === "godwit" ? "c1" : cell.side === "qemu" ? "c2" : "c3");
  const axis = (values, extra) => Object.assign({
    stroke: colour("muted"), grid: { stroke: colour("grid"), width: 1 }, ticks: { stroke: colour("line"), width: 1 },
    font: "11px system-ui, sans-serif", values: (u, marks) => marks.map((v) => (v == null ? "" : values(v))) }, extra);
  const width = (box) => Math.max(box.clientWidth, 320);

  function common(box, cell, key, height) {
    return {
      width: width(box), height, cursor: { sync: { key, scales: ["x", null] }, focus: { prox: 24 }, drag: { x: true, y: false } },
      hooks: { drawClear: [bands(cell)], draw: [names(cell)] }, legend: { live: true }, padding: [20, null, null, null],
    };
  }

  function latency(box, cell, points, key) {
    const failed = points.failed;
    const top = points.late.reduce((a, b) => Math.max(a, b), 1) * 1.6;
    // One time axis for both: those that failed come after the answered, in order of time together.
    const order = [...points.due].map((at, i) => [at, points.late[i], null]).concat(failed.map((at) => [at, null, top]))
      .sort((a, b) => a[0] - b[0]);
    const shown = failed.length ? 3 : 2;
    const columns = [0, 1, 2].map((i) => order.map((row) => row[i]));
    const dot = colourOf(cell);
    return new uPlot(Object.assign(common(box, cell, key, 330), {
      scales: { x: { time: false }, y: { distr: 3 } },
      axes: [axis((v) => three(v) + " s", {}), axis(duration, { size: 66 })],
      series: [{ label: "due", value: (u, v) => second(v) },
        { label: "latency", paths: () => null, points: { show: true, size: 3, fill: dot, stroke: dot, width: 0 },
          value: (u, v) => duration(v) },
        { label: "failed", paths: () => null, value: (u, v) => (v == null ? "-" : "failed"),
          points: { show: true, size: 8, stroke: colour("c8"), fill: colour("c8"), width: 0 } }].slice(0, shown),
    }), columns.slice(0, shown), box);
  }

  function course(box, cell, key) {
    const line = colourOf(cell);
    const shown = cell.throughput.unit === "B/s" ? size : (v) => (v == null ? "-" : three(v) + " /s");
    return new uPlot(Object.assign(common(box, cell, key, 210), {
      scales: { x: { time: false }, y: { range: (u, low, high) => [0, (high || 1) * 1.1] } },
      axes: [axis((v) => three(v) + " s", {}), axis(shown, cell.throughput.unit === "B/s" ? { size: 66, splits: sizes } : { size: 66 })],
      series: [{ label: "from", value: (u, v) => second(v) },
        { label: cell.throughput.what, stroke: line, width: 1.6, paths: uPlot.paths.stepped({ align: 1 }),
          points: { show: false }, value: (u, v) => shown(v) }],
    }), [cell.throughput.at, cell.throughput.values], box);
  }

  function gaps(box, cell, points, key) {
    const dot = colourOf(cell);
    return new uPlot(Object.assign(common(box, cell, key, 250), {
      scales: { x: { time: false }, y: { range: (u, low, high) => [0, (high || 1) * 1.1] } },
      axes: [axis((v) => three(v) + " s", {}), axis(duration, { size: 66 })],
      series: [{ label: "came", value: (u, v) => second(v) },
        { label: "after the one before", paths: () => null, points: { show: true, size: 3, fill: dot, stroke: dot, width: 0 },
          value: (u, v) => duration(v) }],
    }), [points.due, points.late], box);
  }

  // Without the bands of a move: their x is no time of it.
  const plain = (box, key, height) => ({
    width: width(box), height, cursor: { sync: { key, scales: ["x", null] }, focus: { prox: 24 }, drag: { x: true, y: false } },
    legend: { live: true }, padding: [12, 12, null, null],
  });
  const curve = (label, stroke, value, extra) => Object.assign({
    label, stroke, width: 1.6, spanGaps: true, points: { show: true, size: 5, fill: stroke, stroke, width: 0 }, value }, extra);

  // Two charts, one above the other: what each round sent, and the two rates. Before the first and behind the last there is
  // a place without a round, so that their bars are whole.
  function rounds(box, cell, key) {
    const all = [null, ...cell.rounds, null];
    const column = (pick) => all.map((each) => (each ? pick(each) : null));
    const number = all.map((each, i) => i);
    const bars = uPlot.paths.bars({ size: [0.7, 70] });
    const which = { label: "round", value: (u, v, s, i) => (i == null || !all[i] ? "-" : `${v} (${duration(all[i][2] / 1e3)})`) };
    const marks = (v) => (Number.isInteger(v) && v > 0 && v < all.length - 1 ? String(v) : "");
    const x = axis(marks, { incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000], space: 24 });
    const zero = { range: (u, low, high) => [0, (high || 1) * 1.12] };
    const bar = (label, name) => ({ label, fill: colour(name), stroke: colour(name), width: 0, paths: bars, points: { show: false },
      value: (u, v) => (v == null ? "-" : String(v)) });
    const scales = { x: { time: false }, y: zero };
    const sent = new uPlot(Object.assign(plain(box, key, 190), { scales, axes: [x, axis((v) => three(v), { size: 76 })],
      series: [which, bar("pages sent", "c1"), bar("pages sent while the guest stood still", "c2")] }),
    [number, column((each) => (each[1] ? null : each[0])), column((each) => (each[1] ? each[0] : null))], box);
    const rates = new uPlot(Object.assign(plain(box, key, 190), { scales, axes: [x, axis(size, { size: 76, splits: sizes })],
      series: [which, curve("sent a second", colour("c1"), (u, v) => size(v)), curve("written a second", colour("c2"), (u, v) => size(v))] }),
    [number, column((each) => each[3]), column((each) => each[4])], box);
    return [sent, rates];
  }

  // Two charts beside each other, or above where the page is narrow.
  function workingSet(box, found, key) {
    const parts = [0, 1].map(() => document.createElement("div"));
    box.replaceChildren(...(found.curves.length ? parts : parts.slice(0, 1)));
    const bytes = (v) => size(v, "");
    const unique = new uPlot(Object.assign(plain(parts[0], key + "-unique", 270), {
      scales: { x: { time: false }, y: { range: (u, low, high) => [0, (high || 1) * 1.1] } },
      axes: [axis((v) => three(v) + " s", {}), axis(bytes, { size: 66, splits: sizes })],
      series: [{ label: "window", value: (u, v) => second(v) }, curve("different pages written", colour("c1"), (u, v) => bytes(v))],
    }), [0, 1].map((i) => found.unique.map((each) => each[i])), parts[0]);
    if (!found.curves.length) return [unique];
    const speeds = [...new Set(found.curves.flatMap(([, pairs]) => pairs.map((each) => each[0])))].sort((a, b) => a - b);
    const ends = [speeds[0] * 0.8, ...speeds, speeds[speeds.length - 1] * 1.3];
    const time = (ns) => (ns == null ? "-" : duration(ns / 1e3));
    const expected = new uPlot(Object.assign(plain(parts[1], key + "-expected", 270), {
      scales: { x: { time: false, distr: 3, range: (u, low, high) => [low, high] }, y: { distr: 3 } },
      axes: [axis(rate, { splits: () => speeds, filter: (u, marks) => marks }), axis(time, { size: 66 })],
      series: [{ label: "bandwidth", value: (u, v) => (v == null ? "-" : rate(v)) }].concat(found.curves.map(([mode], i) =>
        curve(mode, colour("c" + (i + 1)), (u, v) => time(v), i > 2 ? { dash: [9, 7] } : {}))),
    }), [ends].concat(found.curves.map(([, pairs]) => {
      const at = new Map(pairs);
      return ends.map((speed) => (at.has(speed) ? at.get(speed) : null));
    })), parts[1]);
    return [unique, expected];
  }

  // What does not depend on the cell that is chosen.
  function recorded(load, found, number) {
    const box = document.querySelector(`[data-live="wws-${number}"]`);
    if (!box || !found) return;
    box.classList.add("on", "two");
    let drawn = [];
    function draw() {
      drawn.forEach((each) => each.destroy());
      window.godwit.charts = window.godwit.charts.filter((each) => each.load !== load || each.kind !== "wws");
      drawn = workingSet(box, found, "wws" + number);
      for (const chart of drawn) window.godwit.charts.push({ load, kind: "wws", points: 0, chart });
    }
    draw();
    dark.addEventListener("change", draw);
    fit(() => drawn);
  }

  function fit(drawn) {
    let timer = 0;
    addEventListener("resize", () => {
      clearTimeout(timer);
      timer = setTimeout(() => drawn().forEach((each) => each.setSize({ width: width(each.root.parentNode), height: each.height })), 120);
    });
  }

  // Of each kind of figure: what of the cell it needs (nothing: it is not drawn), and the charts it makes.
  const kinds = {
    latency: { has: (cell, got) => got.points && got.points.due.length + got.points.failed.length,
      make: (box, cell, got, key) => [latency(box, cell, got.points, key)], near: true },
    throughput: { has: (cell) => cell.throughput, make: (box, cell, got, key) => [course(box, cell, key)], near: true },
    arrivals: { has: (cell, got) => got.gaps, make: (box, cell, got, key) => [gaps(box, cell, got.gaps, key)], near: true },
    rounds: { has: (cell) => cell.rounds.length, make: (box, cell, got, key) => rounds(box, cell, key + "-rounds") },
  };

  async function section(load, cells, number) {
    const boxes = {};
    for (const kind in kinds) {
      const box = document.querySelector(`[data-live="${kind}-${number}"]`);
      if (box) boxes[kind] = box;
    }
    const first = Object.values(boxes)[0];
    if (!first || !cells.length) return;
    const pick = document.createElement("p");
    pick.className = "pick";
    const label = document.createElement("label");
    label.textContent = "Shown: ";
    const select = document.createElement("select");
    cells.forEach((cell, i) => select.add(new Option(cell.label, i)));
    label.append(select);
    const hint = document.createElement("span");
    hint.textContent = "Drag to zoom in; double-click to see all that was measured.";
    pick.append(label, hint);
    first.before(pick);
    let drawn = [];
    async function draw() {
      const cell = cells[select.value];
      const got = { points: cell.packed ? await unpack(cell.packed) : null,
        gaps: cell.arrivals ? await unpack(cell.arrivals) : null };
      drawn.forEach((each) => each.destroy());
      drawn = [];
      window.godwit.charts = window.godwit.charts.filter((each) => each.load !== load || each.kind === "wws");
      for (const [kind, box] of Object.entries(boxes)) {
        const able = Boolean(kinds[kind].has(cell, got));
        box.classList.toggle("on", able);
        if (!able) continue;
        const points = kind === "latency" ? got.points.due.length : kind === "arrivals" ? got.gaps.due.length : 0;
        for (const chart of kinds[kind].make(box, cell, got, "load" + number)) {
          if (kinds[kind].near) chart.setScale("x", { min: cell.near[0], max: cell.near[1] });
          drawn.push(chart);
          window.godwit.charts.push({ load, kind, points, chart });
        }
      }
    }
    await draw();
    const again = () => draw().catch((error) => problems.push(String(error)));
    select.addEventListener("change", again);
    dark.addEventListener("change", again);
    fit(() => drawn);
  }

  Promise.all(data.loads.map(async (each, i) => {
    recorded(each.load, each.wws, i);
    await section(each.load, each.cells, i);
  }))
    .catch((error) => problems.push(String(error)))
    .finally(() => { window.godwit.ready = true; });
})();
