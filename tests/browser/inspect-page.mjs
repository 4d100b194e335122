// Opens a page in a browser and lists its defects: failed requests, script errors, broken images, clipped content.

import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const { chromium } = createRequire(`${process.env.CNCLIP_PACKAGES}/`)("playwright-core");

// Without these, Chromium itself sends requests (updates, safe browsing) to its vendor's servers.
const ARGUMENTS = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync"];

export const launchBrowser = () =>
  chromium.launch({ executablePath: process.env.CNCLIP_CHROMIUM, args: ARGUMENTS });

/** All defects of a file in a window of this width, and the number of its images. */
export async function inspectPage(browser, file, width) {
  const url = pathToFileURL(file).href;
  const context = await browser.newContext({ viewport: { width, height: 800 }, deviceScaleFactor: 1 });
  const defects = [];
  // A report must be self-contained, so every request but the one for the page itself is a defect.
  await context.route("**", (route) => {
    const requested = route.request().url();
    if (requested === url) return route.continue();
    defects.push(`requests ${requested}`);
    return route.abort();
  });
  const page = await context.newPage();
  page.on("console", (message) => defects.push(`console: ${message.type()}: ${message.text()}`));
  page.on("pageerror", (error) => defects.push(`script error: ${error}`));
  await page.goto(url, { waitUntil: "load" });
  const { images, found } = await page.evaluate(findLayoutDefects);
  await context.close();
  return { images, defects: [...defects, ...found] };
}

// Runs inside the page, so it can use nothing of this module.
async function findLayoutDefects() {
  document.querySelectorAll("details").forEach((details) => (details.open = true));
  const images = [...document.images];
  await Promise.all(images.map((image) => image.decode().catch(() => {})));
  const found = images.filter((image) => image.naturalWidth === 0)
    .map((image) => `not displayed: image ${image.alt}`);
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth > width) {
    found.push(`scrolls horizontally: ${document.documentElement.scrollWidth} px in ${width}`);
  }
  const isScrollable = (element) => element.closest(".scroll, pre");
  for (const element of document.querySelectorAll("main *, header *")) {
    const { left, right } = element.getBoundingClientRect();
    const isHidden = element.closest(".hidden");
    // Half a pixel of tolerance: layout positions are fractional.
    const isClipped = left < -0.5 || right > width + 0.5;
    if (!isHidden && !isScrollable(element) && right > left && isClipped) {
      found.push(`clipped: <${element.tagName.toLowerCase()}> ${element.textContent.trim().slice(0, 40)}`);
    }
  }
  for (const chart of document.querySelectorAll("svg")) {
    const box = chart.getBoundingClientRect();
    for (const text of chart.querySelectorAll("text")) {
      const { left, right, top, bottom } = text.getBoundingClientRect();
      const overflow = Math.max(box.left - left, right - box.right, box.top - top, bottom - box.bottom);
      if (overflow > 1) found.push(`outside its chart: ${text.textContent}`);
    }
  }
  const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
  if (new Set(ids).size !== ids.length) found.push("duplicate id");
  return { images: images.length, found };
}
