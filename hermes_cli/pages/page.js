const find = document.querySelector(".find");
if (find) {
  const [text, kind, said] = find.children;
  const cards = [...document.querySelectorAll(".item")].map(
    card => [card, card.textContent.toLowerCase(), card.dataset.flags.split(" ")]);
  const apply = () => {
    let shown = 0;
    for (const [card, words, flags] of cards) {
      const fits = words.includes(text.value.toLowerCase()) && (!kind.value || flags.includes(kind.value));
      card.hidden = !fits;
      shown += fits;
    }
    said.textContent = shown === cards.length ? "" : shown + " of " + cards.length;
  };
  text.addEventListener("input", apply);
  kind.addEventListener("change", apply);
  find.hidden = cards.length < 2;
}
