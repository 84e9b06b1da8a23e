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
  function size(v) {
    if (v == null) return "-";
    const names = ["B", "KiB", "MiB", "GiB"];
    let at = 0;
    while (Math.abs(v) >= 1024 && at < 3) { v /= 1024; at++; }
    return three(v) + " " + names[at] + "/s";
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
  const second = (v) => (v == null ? "-" : v.toFixed(4).replace(/0{1,3}$/, "") + " s");

  // Three columns of 32-bit integers: steps of the due times (us), latencies (us), due times of what failed (us).
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
    const dot = colour(cell.side === "godwit" ? "c1" : cell.side === "qemu" ? "c2" : "c3");
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
    const line = colour(cell.side === "godwit" ? "c1" : cell.side === "qemu" ? "c2" : "c3");
    const shown = cell.throughput.unit === "B/s" ? size : (v) => (v == null ? "-" : three(v) + " /s");
    return new uPlot(Object.assign(common(box, cell, key, 210), {
      scales: { x: { time: false }, y: { range: (u, low, high) => [0, (high || 1) * 1.1] } },
      axes: [axis((v) => three(v) + " s", {}), axis(shown, cell.throughput.unit === "B/s" ? { size: 66, splits: sizes } : { size: 66 })],
      series: [{ label: "from", value: (u, v) => second(v) },
        { label: cell.throughput.what, stroke: line, width: 1.6, paths: uPlot.paths.stepped({ align: 1 }),
          points: { show: false }, value: (u, v) => shown(v) }],
    }), [cell.throughput.at, cell.throughput.values], box);
  }

  async function section(load, cells, number) {
    const boxes = {};
    for (const kind of ["latency", "throughput"]) {
      const box = document.querySelector(`[data-live="${kind}-${number}"]`);
      if (box) boxes[kind] = box;
    }
    if (!boxes.latency && !boxes.throughput) return;
    const first = boxes.latency || boxes.throughput;
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
      const points = cell.packed ? await unpack(cell.packed) : null;
      drawn.forEach((each) => each.destroy());
      drawn = [];
      window.godwit.charts = window.godwit.charts.filter((each) => each.load !== load);
      for (const kind of ["latency", "throughput"]) {
        const box = boxes[kind];
        if (!box) continue;
        const able = kind === "latency" ? points && points.due.length + points.failed.length : cell.throughput;
        box.classList.toggle("on", Boolean(able));
        if (!able) continue;
        const chart = kind === "latency" ? latency(box, cell, points, "load" + number) : course(box, cell, "load" + number);
        chart.setScale("x", { min: cell.near[0], max: cell.near[1] });
        drawn.push(chart);
        window.godwit.charts.push({ load, kind, points: points ? points.due.length : 0, chart });
      }
    }
    await draw();
    const again = () => draw().catch((error) => problems.push(String(error)));
    select.addEventListener("change", again);
    dark.addEventListener("change", again);
    let timer = 0;
    addEventListener("resize", () => {
      clearTimeout(timer);
      timer = setTimeout(() => drawn.forEach((each) => each.setSize({ width: width(each.root.parentNode), height: each.height })), 120);
    });
  }

  Promise.all(data.loads.map((each, i) => section(each.load, each.cells, i)))
    .catch((error) => problems.push(String(error)))
    .finally(() => { window.godwit.ready = true; });
})();
