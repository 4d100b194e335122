// Tests report pages in Chromium at the widths of a desktop and of two phones.

import assert from "node:assert/strict";
import { mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { inspectPage, launchBrowser } from "./inspect-page.mjs";

const FOLDER = process.env.CNCLIP_PAGES;
const WIDTHS = [1200, 400, 320];
let browser;

before(async () => (browser = await launchBrowser()));
after(async () => browser?.close());

for (const name of (await readdir(FOLDER)).filter((name) => name.endsWith(".html"))) {
  for (const width of WIDTHS) {
    test(`${name} at ${width} px`, async () => {
      const { images, defects } = await inspectPage(browser, join(FOLDER, name), width);
      assert.deepEqual(defects, []);
      if (name.startsWith("evaluation")) assert.ok(images > 0, "it has images");
    });
  }
}

// Without this test, an inspection that finds nothing at all would pass.
test("every kind of defect is found", async () => {
  const folder = await mkdtemp(join(tmpdir(), "cnclip-page-"));
  const file = join(folder, "page.html");
  await writeFile(file, `<!doctype html><main><img alt="cat" src="data:image/png;base64,aGVsbG8="><script>
    console.error("oh no"); fetch("http://127.0.0.1:1/").catch(() => {}); undefined.x;</script>
    <p style="width:900px">wide</p><svg width="50" height="20"><text x="40" y="12">outside</text></svg></main>`);
  try {
    const { images, defects } = await inspectPage(browser, file, 400);
    assert.equal(images, 1);
    for (const expected of ["not displayed: image cat", "console: error: oh no", "requests http://127.0.0.1:1/",
      "script error: TypeError", "scrolls horizontally: ", "clipped: <p> wide", "outside its chart: outside"]) {
      assert.ok(defects.some((defect) => defect.startsWith(expected)), `${expected} is not in ${defects.join("; ")}`);
    }
  } finally {
    await rm(folder, { recursive: true });
  }
});
