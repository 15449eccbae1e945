// Making and finding elements. Text goes in as text, never as markup.

export const by = (id) => document.getElementById(id);

/** An element with properties and children; null children are left out. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** A drawing of 24 by 24, of one path. */
export function drawing(path) {
  const [svg, line] = ["svg", "path"].map((name) => document.createElementNS("http://www.w3.org/2000/svg", name));
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  line.setAttribute("d", path);
  svg.append(line);
  return svg;
}

/** Say something to people who listen instead of look. */
export const announce = (text) => { by("news").textContent = text; };

/** Whether movement is unwanted, by the system or by the settings of the page. */
export const still = () =>
  document.documentElement.dataset.motion === "less" || matchMedia("(prefers-reduced-motion: reduce)").matches;

/** What a browser keeps for the page; a browser that keeps nothing is fine. */
export const kept = {
  get(key) { try { return localStorage.getItem(`edgereel.${key}`); } catch { return null; } },
  set(key, value) { try { localStorage.setItem(`edgereel.${key}`, value); } catch { /* not kept */ } },
};
