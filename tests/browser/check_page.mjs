// The chat page of `deepwide serve` in headless Chromium: types a message, sees the answer come, stops it, and sees the experts
// of a mixture. Pictures go to FOLDER.
//
//     npm install @sparticuz/chromium puppeteer-core       # in the working directory
//     node tests/browser/check_page.mjs DEEPWIDE MODEL FOLDER

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const [deepwide, model, folder] = process.argv.slice(2);
assert(folder, "usage: node check_page.mjs DEEPWIDE MODEL FOLDER");
mkdirSync(folder, { recursive: true });

// Packages of the working directory, not of the folder of this script.
const installed = async (name, entry) =>
  (await import(pathToFileURL(join(process.cwd(), "node_modules", name, entry)))).default;
const chromium = await installed("@sparticuz/chromium", "build/esm/index.js");
const puppeteer = await installed("puppeteer-core", "lib/esm/puppeteer/puppeteer-core.js");

const server = spawn(deepwide, ["serve", model, "--port", "0"], { stdio: ["ignore", "ignore", "pipe"] });
const lines = createInterface({ input: server.stderr });
const address = await new Promise((resolve, reject) => {
  lines.on("line", (line) => line.startsWith("listening on ") && resolve(line.slice("listening on ".length)));
  lines.on("close", () => reject(new Error("the server ended")));
});
const browser = await puppeteer.launch({ args: chromium.args, executablePath: await chromium.executablePath(), headless: "shell" });
try {
  const page = await browser.newPage();
  const faults = [];
  page.on("pageerror", (error) => faults.push(error.message));
  page.on("console", (message) => message.type() === "error" && faults.push(message.text()));
  page.on("request", (request) => request.url().startsWith(address) || faults.push(request.url()));
  await page.setViewport({ width: 1000, height: 720 });
  await page.goto(address);
  await page.waitForFunction(() => document.title !== "deepwide");
  const model = (await (await fetch(`${address}/v1/models`)).json()).data[0];
  const isVisible = (id) => page.$eval(id, (element) => element.checkVisibility());
  const answer = () => page.$$eval(".assistant .text", (all) => all.at(-1)?.textContent ?? "");
  const set = (id, value) => page.$eval(id, (element, value) => { element.value = value; }, value);
  const say = async (text) => { await page.type("#text", text); await page.keyboard.press("Enter"); };
  const picture = (name) => page.screenshot({ path: join(folder, `${name}.png`) });

  // An answer that comes part by part, and is stopped.
  await set("#temperature", "0");
  await set("#tokens", "400");
  await say("Write a long story about a lighthouse.");
  await page.waitForFunction(() => document.querySelector(".assistant .text").textContent.length > 20, { timeout: 120_000 });
  const early = await answer();
  assert(await isVisible("#stop") && !(await isVisible("#send")));
  await page.waitForFunction((length) => document.querySelector(".assistant .text").textContent.length > length + 40,
    { timeout: 120_000 }, early.length);
  assert((await answer()).startsWith(early), "parts are appended");
  await picture("stream");
  await page.click("#stop");
  await page.waitForFunction(() => !document.querySelector(".running"));
  assert(await isVisible("#send") && !(await isVisible("#stop")));
  const stopped = await answer();
  for (let tries = 0; ; tries++) {
    const metrics = await (await fetch(`${address}/metrics`)).text();
    if (/cancelled_total 1\n/.test(metrics) && /sequences_running 0\n/.test(metrics)) break;
    assert(tries < 100, "the server goes on");
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  assert.equal(await answer(), stopped);
  assert.match(await page.$eval(".assistant .note", (note) => note.textContent), /tokens .*stopped$/);

  // A second turn, to its end.
  await set("#tokens", "24");
  await say("Thank you.");
  await page.waitForFunction(() => document.querySelectorAll(".assistant").length === 2 && !document.querySelector(".running"),
    { timeout: 120_000 });
  assert((await answer()).length > 0);
  assert.equal(await page.$$eval(".failed", (all) => all.length), 0);

  // The experts of a mixture.
  assert.equal(await isVisible("#layers"), model.num_sparse_layers > 0);
  if (model.num_sparse_layers) {
    const colors = () => page.$$eval(".assistant .text span", (spans) => spans.map((span) => span.style.background));
    const before = await colors();
    assert(before.length > 20 && new Set(before).size > 1, "tokens have the colors of their experts");
    await page.select("#layer", "0");
    assert.notDeepEqual(await colors(), before, "another layer, other experts");
    assert.match(await page.$eval("#legend", (legend) => legend.textContent), /expert \d+: \d+ %/);
  }
  await picture("answer");
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: "dark" }]);
  await page.setViewport({ width: 400, height: 720 });
  await picture("narrow");
  await page.click("#clear");
  assert.equal(await page.$$eval(".turn", (all) => all.length), 0);
  assert.deepEqual(faults, []);
  console.log(`the page works with ${model.id}; pictures are in ${folder}`);
} finally {
  await browser.close();
  server.kill();
}
