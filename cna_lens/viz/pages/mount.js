// Draws every view that is not drawn yet. It stands behind each view, and behind CircuitsVis, so
// that whichever of them a page holds last draws the view.
(() => {
  const draw = (host, choice) => {
    const props = { ...JSON.parse(host.dataset.props), ...JSON.parse(host.dataset.choices)[choice] };
    const place = document.createElement("div");
    place.id = `cna-${Math.random().toString(36).slice(2)}`;
    host.replaceChildren(place);
    window.CircuitsVis.render(place.id, window.CircuitsVis[host.dataset.circuitsvis], props);
  };
  if (!window.CircuitsVis) return;
  for (const view of document.querySelectorAll(".cna-view:not([data-ready])")) {
    view.dataset.ready = "";
    const hosts = [...view.querySelectorAll("[data-circuitsvis]")];
    const picker = view.querySelector("select");
    const notes = [...view.querySelectorAll("[data-notes]")];
    const show = () => {
      const choice = picker ? picker.selectedIndex : 0;
      for (const note of notes) note.textContent = JSON.parse(note.dataset.notes)[choice];
      for (const host of hosts) draw(host, choice);
    };
    if (picker) picker.onchange = show;
    show();
  }
})();
