// The report's pages as people see them: in Chromium, on a desk and on a phone.

import assert from "node:assert/strict";
import { mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { look, open } from "./look.mjs";

const FOLDER = process.env.CNCLIP_PAGES;
const WIDTHS = [1200, 400, 320];
let browser;

before(async () => (browser = await open()));
after(async () => browser?.close());

for (const name of (await readdir(FOLDER)).filter((name) => name.endsWith(".html"))) {
  for (const width of WIDTHS) {
    test(`${name} at ${width} px`, async () => {
      const { pictures, faults } = await look(browser, join(FOLDER, name), width);
      assert.deepEqual(faults, []);
      if (name.startsWith("evaluation")) assert.ok(pictures > 0, "it shows pictures");
    });
  }
}

test("what is wrong with a page is found", async () => {
  const folder = await mkdtemp(join(tmpdir(), "cnclip-page-"));
  const file = join(folder, "page.html");
  await writeFile(file, `<!doctype html><main><img alt="cat" src="data:image/png;base64,aGVsbG8="><script>
    console.error("oh no"); fetch("http://127.0.0.1:1/").catch(() => {}); undefined.x;</script>
    <p style="width:900px">wide</p><svg width="50" height="20"><text x="40" y="12">outside</text></svg></main>`);
  try {
    const { pictures, faults } = await look(browser, file, 400);
    assert.equal(pictures, 1);
    for (const fault of ["not drawn: the picture cat", "console: error: oh no", "asks for http://127.0.0.1:1/",
      "fails: TypeError", "scrolls sideways: ", "cut off: <p> wide", "outside its drawing: outside"]) {
      assert.ok(faults.some((found) => found.startsWith(fault)), `${fault} is not among ${faults.join("; ")}`);
    }
  } finally {
    await rm(folder, { recursive: true });
  }
});
