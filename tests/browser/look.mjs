// What a reader of a page would meet, in a browser that shows it: everything that is wrong with it, in words.

import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const { chromium } = createRequire(`${process.env.CNCLIP_PACKAGES}/`)("playwright-core");

// Without these, Chromium itself asks its maker's servers for news.
const QUIET = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync"];

export const open = () => chromium.launch({ executablePath: process.env.CNCLIP_CHROMIUM, args: QUIET });

/** Every fault of the file at this width, and how many pictures it has. */
export async function look(browser, file, width) {
  const address = pathToFileURL(file).href;
  const context = await browser.newContext({ viewport: { width, height: 800 }, deviceScaleFactor: 1 });
  const faults = [];
  await context.route("**", (route) => {
    const asked = route.request().url();
    if (asked === address) return route.continue();
    faults.push(`asks for ${asked}`);
    return route.abort();
  });
  const page = await context.newPage();
  page.on("console", (message) => faults.push(`console: ${message.type()}: ${message.text()}`));
  page.on("pageerror", (error) => faults.push(`fails: ${error}`));
  await page.goto(address, { waitUntil: "load" });
  const { pictures, found } = await page.evaluate(seen);
  await context.close();
  return { pictures, faults: [...faults, ...found] };
}

// Runs inside the page.
async function seen() {
  document.querySelectorAll("details").forEach((folded) => (folded.open = true));
  const pictures = [...document.images];
  await Promise.all(pictures.map((picture) => picture.decode().catch(() => {})));
  const found = pictures.filter((picture) => picture.naturalWidth === 0)
    .map((picture) => `not drawn: the picture ${picture.alt}`);
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth > width) {
    found.push(`scrolls sideways: ${document.documentElement.scrollWidth} px in ${width}`);
  }
  const scrolls = (thing) => thing.closest(".scroll, pre");
  for (const thing of document.querySelectorAll("main *, header *")) {
    const { left, right } = thing.getBoundingClientRect();
    const hidden = thing.closest(".hidden");
    if (!hidden && !scrolls(thing) && right > left && (left < -0.5 || right > width + 0.5)) {
      found.push(`cut off: <${thing.tagName.toLowerCase()}> ${thing.textContent.trim().slice(0, 40)}`);
    }
  }
  for (const drawing of document.querySelectorAll("svg")) {
    const edge = drawing.getBoundingClientRect();
    for (const text of drawing.querySelectorAll("text")) {
      const { left, right, top, bottom } = text.getBoundingClientRect();
      const out = Math.max(edge.left - left, right - edge.right, edge.top - top, bottom - edge.bottom);
      if (out > 1) found.push(`outside its drawing: ${text.textContent}`);
    }
  }
  const marks = [...document.querySelectorAll("[id]")].map((thing) => thing.id);
  if (new Set(marks).size !== marks.length) found.push("an id is given twice");
  return { pictures: pictures.length, found };
}
