/** A price's last minute or so, as a small line. */

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 120;
const HEIGHT = 28;
const MARGIN = 3; // room for the dot
const MOST = 90;
const FEWEST = 15; // a line of fewer points begins further to the right
const CALM = 0.0015; // a range of less than this part of the price looks flat

export class Sparkline {
  #values = [];
  #area = path("area");
  #line = path("line");
  #dot = path("dot");

  constructor() {
    this.element = document.createElementNS(SVG, "svg");
    this.element.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    this.element.setAttribute("class", "sparkline");
    // As wide as there is room for; lines keep their width (vector-effect in the style sheet).
    this.element.setAttribute("preserveAspectRatio", "none");
    // What it shows is told by price and change.
    this.element.setAttribute("aria-hidden", "true");
    this.element.append(this.#area, this.#line, this.#dot);
  }

  /** Add the newest value and draw. */
  push(value) {
    // A stock that has just entered has a price, and no past: its line begins flat.
    this.#values.push(...(this.#values.length ? [value] : [value, value]));
    this.#values.splice(0, this.#values.length - MOST);
    this.#draw();
  }

  #draw() {
    const points = this.#points();
    const line = points.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join("L");
    this.#line.setAttribute("d", `M${line}`);
    this.#area.setAttribute("d", `M${points[0][0].toFixed(1)},${HEIGHT}L${line}V${HEIGHT}Z`);
    // No length, but round ends.
    this.#dot.setAttribute("d", `M${points.at(-1)}h0`);
  }

  #points() {
    const values = this.#values;
    const low = Math.min(...values);
    const high = Math.max(...values);
    const middle = (low + high) / 2;
    const range = Math.max(high - low, middle * CALM);
    const stride = (WIDTH - MARGIN) / (Math.max(values.length, FEWEST) - 1);
    return values.map((value, n) => [
      WIDTH - MARGIN - (values.length - 1 - n) * stride,
      HEIGHT / 2 - ((value - middle) / range) * (HEIGHT - 2 * MARGIN),
    ]);
  }
}

function path(name) {
  const element = document.createElementNS(SVG, "path");
  element.setAttribute("class", name);
  return element;
}
