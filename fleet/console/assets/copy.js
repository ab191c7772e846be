// Buttons that copy the text of an element to the clipboard. They stay hidden where a browser has no clipboard to offer: without scripts, or
// over a connection that is neither local nor secure.
export function startCopy() {
  if (!navigator.clipboard) return;
  for (const button of document.querySelectorAll("button[data-copy]")) {
    button.hidden = false;
    const said = button.parentElement.querySelector("[data-copied]");
    button.addEventListener("click", async () => {
      const from = document.getElementById(button.dataset.copy);
      let text = "There is nothing to copy.";
      if (from) {
        try {
          await navigator.clipboard.writeText(from.textContent);
          text = "Copied.";
        } catch {
          text = "The browser did not allow it: select the text instead.";
        }
      }
      said.textContent = text;
      setTimeout(() => { said.textContent = ""; }, 4000);
    });
  }
}
