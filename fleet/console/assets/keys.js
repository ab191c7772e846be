// The keys of the console. None of them takes a key away from somebody who types.
const places = { n: "/", r: "/routes", f: "/faults", m: "/machines", l: "/ledger", t: "/topics" };

export function startKeys() {
  const search = document.getElementById("q");
  const dialog = document.getElementById("keys");
  const open = document.getElementById("keys-open");
  if (open) { open.hidden = false; open.addEventListener("click", () => dialog.showModal()); }
  let going = 0;
  addEventListener("keydown", (e) => {
    if ((e.ctrlKey || e.metaKey) && e.key.toLowerCase() === "k") {
      e.preventDefault();
      search?.focus();
      return;
    }
    if (e.ctrlKey || e.metaKey || e.altKey || dialog?.open) return;
    const at = document.activeElement;
    if (e.key === "Escape" && at === search) { search.blur(); return; }
    if (at && at.matches("input, select, textarea, [contenteditable]")) return;
    if (going && performance.now() - going < 1500 && places[e.key]) { location.href = places[e.key]; return; }
    going = e.key === "g" ? performance.now() : 0;
    switch (e.key) {
      case "/": e.preventDefault(); search?.focus(); break;
      case "?": dialog?.showModal(); break;
      case "j": step(1); break;
      case "k": step(-1); break;
    }
  });
}

// step moves the focus to the link of the next or previous row of the page.
function step(by) {
  const links = [...document.querySelectorAll("main tbody th a, main tbody tr[data-key] > th:first-child a")].filter((a) => a.offsetParent !== null);
  const seen = [...new Set(links)];
  if (!seen.length) return;
  const row = document.activeElement?.closest("tr");
  const at = row ? seen.findIndex((a) => row.contains(a)) : -1;
  seen[Math.min(seen.length - 1, Math.max(0, at < 0 ? (by > 0 ? 0 : seen.length - 1) : at + by))].focus();
}
