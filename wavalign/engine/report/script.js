"use strict";
(() => {
  const say = (value, digits) => {
    if (value === null) return "–";
    const size = Math.abs(value);
    const text = size === 0 ? "0" : size >= 1e7 || size < 1e-3 ? size.toExponential(2)
      : size >= 1000 ? Math.round(size).toLocaleString("en") : size.toPrecision(digits);
    return (value < 0 ? "−" : "") + text;
  };

  const nearest = (points, step) => {
    let low = 0, high = points.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (points[middle][0] <= step) low = middle; else high = middle;
    }
    return Math.abs(points[low][0] - step) <= Math.abs(points[high][0] - step) ? points[low] : points[high];
  };

  for (const svg of document.querySelectorAll("svg.chart")) {
    const [low, high, start, end] = JSON.parse(svg.dataset.x);
    const series = JSON.parse(svg.dataset.series), digits = Number(svg.dataset.digits);
    const figure = svg.closest("figure");
    const at = figure.querySelector(".at"), outputs = figure.querySelectorAll("output");
    const cursor = svg.querySelector(".cursor");
    const rest = { at: at.textContent, values: [...outputs].map((output) => output.textContent) };
    const steps = [...new Set(series.flat().map((point) => point[0]))].sort((a, b) => a - b);
    let index = steps.length - 1;

    const show = (step) => {
      const x = high === low ? start : start + ((step - low) / (high - low)) * (end - start);
      cursor.setAttribute("x1", x);
      cursor.setAttribute("x2", x);
      at.textContent = `${svg.dataset.unit} ${step.toLocaleString("en")}`;
      outputs.forEach((output, i) => { output.textContent = say(nearest(series[i], step)[1], digits); });
    };
    const hide = () => {
      cursor.setAttribute("x1", -9);
      cursor.setAttribute("x2", -9);
      at.textContent = rest.at;
      outputs.forEach((output, i) => { output.textContent = rest.values[i]; });
    };
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
      const step = low + ((x - start) / (end - start)) * (high - low);
      index = steps.indexOf(nearest(steps.map((value) => [value]), step)[0]);
      show(steps[index]);
    });
    svg.addEventListener("pointerleave", hide);
    svg.addEventListener("focus", () => { if (svg.matches(":focus-visible")) show(steps[index]); });
    svg.addEventListener("blur", hide);
    svg.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: -1, ArrowRight: 1, Home: -steps.length, End: steps.length }[event.key];
      if (move === undefined) return;
      event.preventDefault();
      index = Math.min(steps.length - 1, Math.max(0, index + move));
      show(steps[index]);
    });
  }

  for (const box of document.querySelectorAll(".samples")) {
    const cards = [...box.querySelectorAll(".sample")], more = box.querySelector(".more");
    const status = box.querySelector(".shown");
    const first = Number(box.dataset.first);
    let all = false;
    const apply = () => {
      const tag = box.querySelector("input[type=radio]:checked")?.value ?? "";
      const wanted = cards.filter((card) => !tag || card.dataset.tags.split(" ").includes(tag));
      const shown = all ? wanted : wanted.slice(0, first);
      for (const card of cards) {
        card.hidden = !shown.includes(card);
        if (card.hidden) for (const audio of card.querySelectorAll("audio")) audio.pause();
      }
      more.hidden = shown.length === wanted.length;
      more.textContent = `Show ${wanted.length - shown.length} more`;
      status.textContent = `${shown.length} of ${cards.length} shown`;
    };
    box.classList.add("ready");
    box.addEventListener("change", (event) => {
      if (event.target.type === "radio") { all = false; apply(); }
    });
    more.addEventListener("click", () => {
      const next = cards.filter((card) => !card.hidden).length;
      all = true;
      apply();
      cards.filter((card) => !card.hidden)[next]?.focus();
    });
    apply();
  }

  let current = null;
  for (const player of document.querySelectorAll(".player")) {
    const audio = player.querySelector("audio"), button = player.querySelector("button");
    const range = player.querySelector("input"), time = player.querySelector(".time");
    const played = player.querySelector(".wave-played");
    const seconds = Number(range.max);
    audio.controls = false;
    player.classList.add("ready");

    let frame = 0;
    const paint = () => {
      const share = Math.min(1, audio.currentTime / seconds);
      played.style.setProperty("--p", `${share * 100}%`);
      range.value = audio.currentTime;
      time.textContent = audio.currentTime > 0 ? `${audio.currentTime.toFixed(1)} s` : `${seconds.toFixed(1)} s`;
    };
    const follow = () => { paint(); frame = requestAnimationFrame(follow); };
    audio.addEventListener("play", () => {
      if (current && current !== audio) current.pause();
      current = audio;
      player.classList.add("playing");
      button.setAttribute("aria-pressed", "true");
      cancelAnimationFrame(frame);
      follow();
    });
    audio.addEventListener("pause", () => {
      player.classList.remove("playing");
      button.setAttribute("aria-pressed", "false");
      cancelAnimationFrame(frame);
      paint();
    });
    audio.addEventListener("ended", () => { audio.currentTime = 0; paint(); });
    button.addEventListener("click", () => { if (audio.paused) audio.play(); else audio.pause(); });
    range.addEventListener("input", () => { audio.currentTime = Number(range.value); paint(); });
  }
})();
