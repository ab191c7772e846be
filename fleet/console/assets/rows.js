// Puts a new rendering of a fragment in place of the old one. What did not change is left alone, so that focus, selection and scrolling stay.
// Rows of tables are known by their key: their cells change in place, and while a pointer or the focus is on a table no row comes, goes or
// moves; a button offers it instead.

const parse = (html) => {
  const t = document.createElement("template");
  t.innerHTML = html;
  return t.content;
};

export function applyFragment(target, html, after) {
  const next = document.createElement(target.tagName);
  next.append(parse(html));
  patchChildren(target, next, after);
  after();
}

// busy reports whether somebody is about to use what is in an element.
const busy = (el) => el.matches(":hover") || el.contains(document.activeElement);

function patchChildren(old, next, after) {
  const a = [...old.childNodes].filter((n) => !(n.nodeType === 1 && n.classList.contains("pill")));
  const b = [...next.childNodes];
  if (a.length === b.length && a.every((n, i) => same(n, b[i]))) {
    a.forEach((n, i) => patch(n, b[i], after));
    return;
  }
  // The shape changed. Parts that are of one kind and in order are kept.
  let i = 0;
  for (const n of b) {
    while (i < a.length && !same(a[i], n) && !b.some((m) => same(a[i], m))) a[i++].remove();
    if (i < a.length && same(a[i], n)) {
      patch(a[i++], n, after);
    } else {
      old.insertBefore(n, a[i] || null);
    }
  }
  for (; i < a.length; i++) a[i].remove();
}

const label = (n) => {
  if (n.nodeType !== 1) return String(n.nodeType);
  const heading = n.tagName === "SECTION" ? n.querySelector("h2")?.textContent ?? n.getAttribute("aria-label") : "";
  return n.tagName + " " + (n.dataset.key ?? heading ?? "");
};
const same = (a, b) => label(a) === label(b);

function patch(old, next, after) {
  if (old.isEqualNode(next)) return;
  if (old.nodeType !== 1) {
    if (old.nodeValue !== next.nodeValue) old.nodeValue = next.nodeValue;
    return;
  }
  if (old.tagName === "TIME" && old.dateTime === next.dateTime) return; // its text is an age that goes on
  if (old.tagName === "DETAILS") next.open = old.open;
  for (const { name } of [...old.attributes]) if (!next.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of [...next.attributes]) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  if (old.tagName === "TIME") { delete old.dataset.exact; old.textContent = next.textContent; return; }
  if (old.tagName === "PROGRESS") old.value = next.value;
  if (old.tagName === "TBODY") { patchRows(old, next, after); return; }
  patchChildren(old, next, after);
}

function patchRows(old, next, after) {
  const rows = new Map([...old.rows].map((r) => [r.dataset.key, r]));
  const wanted = [...next.rows];
  for (const row of wanted) {
    const there = rows.get(row.dataset.key);
    if (there) patch(there, row.cloneNode(true), after);
  }
  const keys = wanted.map((r) => r.dataset.key);
  const shown = [...old.rows].map((r) => r.dataset.key);
  const table = old.closest("table");
  if (keys.length === shown.length && keys.every((k, i) => k === shown[i])) { offer(table, 0); return; }
  const settle = () => {
    old.replaceChildren(...wanted.map((row) => {
      const there = rows.get(row.dataset.key);
      if (!there) row.classList.add("fresh");
      return there || row;
    }));
    offer(table, 0);
    after();
  };
  if (!busy(table)) { settle(); return; }
  offer(table, keys.filter((k) => !rows.has(k)).length, settle);
}

// offer shows a button below a table that takes over what is held back; none while nothing is.
function offer(table, fresh, settle) {
  const home = table.parentElement;
  home.querySelector(":scope > .pill")?.remove();
  if (!settle) return;
  const b = document.createElement("button");
  b.type = "button";
  b.className = "pill";
  b.textContent = fresh ? fresh + " new, show" : "The order changed, show";
  b.addEventListener("click", settle);
  table.after(b);
  const leave = () => { if (b.isConnected && !busy(table)) settle(); };
  table.addEventListener("pointerleave", () => setTimeout(leave, 300), { once: true });
  table.addEventListener("focusout", () => setTimeout(leave, 300), { once: true });
}
