// What the console does beyond its pages: ages that go on, live fragments, keys. Every page works without it.
import { applyFragment } from "./rows.js";
import { startKeys } from "./keys.js";
import { startCopy } from "./copy.js";

const lostAfter = 4000; // ms without a word from the server after which nothing shown is of now

const body = document.body;
const banner = document.getElementById("banner");
const bannerText = document.getElementById("banner-text");
const pulse = document.getElementById("pulse-text");

// The service's clock: what it was when it was told last, and how fast it goes.
const clock = { told: Number(body.dataset.now), at: performance.now(), speed: Number(body.dataset.speed) || 1 };
const serviceNow = () => clock.told + (performance.now() - clock.at) * clock.speed;

let trouble = banner.hidden ? "" : bannerText.textContent;
let pageTrouble = "";
let heard = performance.now();
let asOf = "";
let source = null;

function ago(ms) {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 60) return s + " s ago";
  if (s < 3600) return Math.floor(s / 60) + " min ago";
  if (s < 172800) return Math.floor(s / 3600) + " h " + (Math.floor(s / 60) % 60) + " min ago";
  return Math.floor(s / 86400) + " days ago";
}

function showAges() {
  const now = serviceNow();
  for (const t of document.querySelectorAll("time[data-ago]")) {
    if (!t.dataset.exact) {
      t.dataset.exact = t.textContent;
      t.title = t.textContent;
    }
    const text = ago(now - Date.parse(t.dateTime));
    if (t.textContent !== text) t.textContent = text;
  }
}

function showTrouble() {
  let text = trouble || pageTrouble;
  if (source && performance.now() - heard > lostAfter) {
    text = "This page has lost Farebeat" + (asOf ? ". What is shown is of " + asOf : "") + ". It connects again by itself.";
  }
  body.classList.toggle("lost", text !== "");
  if (bannerText.textContent !== text) bannerText.textContent = text;
  banner.hidden = text === "";
  if (source || text) pulse.textContent = text ? "not now" + (asOf ? ", of " + asOf : "") : "live, " + asOf;
}

function listen() {
  source = new EventSource(body.dataset.live);
  source.addEventListener("state", (e) => {
    const s = JSON.parse(e.data);
    clock.told = s.now;
    clock.speed = s.speed;
    clock.at = heard = performance.now();
    asOf = s.as_of;
    trouble = s.trouble;
    showTrouble();
  });
  source.addEventListener("patch", (e) => {
    heard = performance.now();
    const p = JSON.parse(e.data);
    const target = document.querySelector('[data-fragment="' + CSS.escape(p.id) + '"]');
    if (target) applyFragment(target, p.html, showAges);
  });
  source.addEventListener("page", (e) => {
    pageTrouble = JSON.parse(e.data).trouble;
    showTrouble();
  });
  source.addEventListener("over", () => {
    source.close();
    pageTrouble = "This page is not kept up to date any more: load it again.";
    showTrouble();
  });
  source.addEventListener("error", () => {
    // A browser tries again after a broken stream, but not after a refusal.
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, 3000);
    showTrouble();
  });
}

// A table that is wider than the screen begins at the running hour, with one before it.
for (const hour of document.querySelectorAll(".scroll th.now")) {
  const box = hour.closest(".scroll");
  const first = hour.parentElement.firstElementChild;
  if (box.scrollWidth > box.clientWidth) box.scrollLeft = hour.offsetLeft - first.offsetWidth - hour.offsetWidth;
}

startKeys();
startCopy();
showAges();
setInterval(() => { showAges(); showTrouble(); }, 1000);
if (body.dataset.live) {
  listen();
  // A page that comes back from the browser's memory is as old as when it was left.
  addEventListener("pageshow", (e) => { if (e.persisted) location.reload(); });
  addEventListener("pagehide", () => source && source.close());
}
