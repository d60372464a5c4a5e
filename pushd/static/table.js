/** The table of stocks: a row a stock, kept in step with the document. */

import { formatChange, formatCount, formatPrice } from "./format.js";
import { Sparkline } from "./sparkline.js";

/** @typedef {{symbol: string, name: string, price: number, change: number, volume: number}} Stock */

export class StockTable {
  #body;
  #template;
  /** @type {Map<string, Row>} */
  #rows = new Map();

  /**
   * @param {HTMLTableSectionElement} body
   * @param {HTMLTemplateElement} template a row
   */
  constructor(body, template) {
    this.#body = body;
    this.#template = template;
  }

  /**
   * Show these stocks, in this order, and no others.
   *
   * @param {Stock[]} stocks
   */
  show(stocks) {
    const first = this.#rows.size === 0;
    const present = new Set(stocks.map((stock) => stock.symbol));
    for (const [symbol, row] of this.#rows) {
      if (!present.has(symbol)) {
        this.#rows.delete(symbol);
        row.leave();
      }
    }
    let place = this.#body.firstElementChild;
    for (const stock of stocks) {
      const row = this.#rows.get(stock.symbol) ?? this.#enter(stock, !first);
      row.show(stock);
      while (place?.classList.contains("leaving")) {
        place = place.nextElementSibling;
      }
      if (row.element === place) {
        place = place.nextElementSibling;
      } else {
        this.#body.insertBefore(row.element, place);
      }
    }
  }

  #enter(stock, animated) {
    const row = new Row(this.#template, stock);
    if (animated) {
      row.enter();
    }
    this.#rows.set(stock.symbol, row);
    return row;
  }
}

class Row {
  #sparkline = new Sparkline();
  #shown = null;

  constructor(template, stock) {
    this.element = template.content.firstElementChild.cloneNode(true);
    this.element.dataset.symbol = stock.symbol;
    this.element.querySelector(".symbol").textContent = stock.symbol;
    this.element.querySelector(".name").textContent = stock.name;
    this.#cell("trend").append(this.#sparkline.element);
  }

  /** @param {Stock} stock */
  show(stock) {
    this.#sparkline.push(stock.price);
    if (stock === this.#shown) {
      return; // a patch leaves what it does not touch the same object
    }
    const before = this.#shown;
    this.#shown = stock;
    if (stock.price !== before?.price) {
      this.#cell("price").replaceChildren(figure(stock.price, before?.price));
    }
    this.#cell("change").textContent = formatChange(stock.change);
    this.#cell("volume").textContent = formatCount(stock.volume);
    this.element.dataset.trend = ["down", "flat", "up"][Math.sign(stock.change) + 1];
  }

  /** Unfold, when it is put into the table. */
  enter() {
    const element = this.element;
    element.classList.add("entering");
    element.addEventListener("animationend", (event) => {
      if (event.animationName === "enter") {
        element.classList.remove("entering");
      }
    });
  }

  /** Fold away, and be gone. */
  leave() {
    // From here on it stands for no stock: not for whoever reads the page, nor for a test.
    delete this.element.dataset.symbol;
    this.element.setAttribute("aria-hidden", "true");
    this.element.classList.remove("entering");
    this.element.classList.add("leaving");
    // Nothing moves on a page that is hidden, or for who prefers it so.
    const moving = document.hidden ? [] : this.element.getAnimations({ subtree: true });
    Promise.allSettled(moving.map((one) => one.finished)).then(() => this.element.remove());
  }

  #cell(name) {
    return this.element.querySelector(`.${name} > div`);
  }
}

/** A price that flashes when it moved. A new element: its animation runs from the beginning. */
function figure(price, before) {
  const element = document.createElement("span");
  element.textContent = formatPrice(price);
  if (before !== undefined) {
    element.className = price > before ? "rose" : "fell";
  }
  return element;
}
