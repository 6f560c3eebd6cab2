// Knows how a person uses the page: opens it, gives it a picture, moves the slider, asks.

/** Milliseconds that a step may take: machines that test are slow, and no time is asserted. */
export const PATIENCE = 240_000;

/** The page as a test uses it. */
export class Person {
  /** @param {import("playwright-core").Page} page */
  constructor(page) {
    this.page = page;
    this.troubles = [];
    this.requests = [];
    page.setDefaultTimeout(PATIENCE);
    page.on("pageerror", (error) => this.troubles.push(String(error)));
    page.on("console", (message) => {
      if (message.type() === "error") this.troubles.push(message.text());
    });
    page.on("request", (request) => this.requests.push(request.url()));
  }

  /** Open the page and wait until its model answers. */
  async open(address) {
    // It loads itself once more to have threads.
    await this.page.goto(address, { waitUntil: "commit" });
    await this.page.waitForFunction(
      () => document.body?.dataset.ready === "yes" || document.querySelector(".notices .bad"),
    );
    const bad = await this.page.locator(".notices .bad").allTextContents();
    if (bad.length) throw new Error(bad.join("; "));
  }

  /** Choose a picture, and wait until it was looked at. */
  async choose(path) {
    await this.page.setInputFiles("#file", path);
    await this.looked();
  }

  /** Wait until the picture was looked at. */
  async looked() {
    await this.page.waitForFunction(
      () => globalThis.pocketvlm.seen !== null || document.querySelector(".notices .bad"),
    );
  }

  /** Move the slider. */
  async budget(tokens) {
    await this.page.locator("#budget").fill(String(tokens));
  }

  /** Ask, and return the answer's tokens and text. */
  async ask(question) {
    return this.answered(async () => {
      await this.page.fill("#question", question);
      await this.page.press("#question", "Enter");
    });
  }

  /** Ask in some way, wait for the answer, and return it. */
  async answered(ask) {
    const count = () => Number(document.body.dataset.answers ?? 0);
    const before = await this.page.evaluate(count);
    await ask();
    await this.page.waitForFunction((most) => Number(document.body.dataset.answers ?? 0) > most, before);
    const failed = await this.page.locator("#turns li:last-child .failed").allTextContents();
    if (failed.length) throw new Error(failed.join("; "));
    const tokens = await this.page.evaluate(() => document.body.dataset.tokens ?? "");
    const text = await this.page.locator("#turns li:last-child p").first().textContent();
    return { tokens: tokens.split(" ").filter(Boolean).map(Number), text };
  }

  /** Patches that are drawn bright, numbered row by row in a grid of so many columns. */
  async kept(columns) {
    const patches = await this.page.evaluate(() =>
      globalThis.pocketvlm.view.kept.flatMap((tile) => tile.patches),
    );
    return patches
      .map(({ x, y, width, height }) => Math.round(y / height) * columns + Math.round(x / width))
      .sort((a, b) => a - b);
  }

  /** What is said on top. */
  async chips() {
    return this.page.locator("#chips li").allTextContents();
  }

  /** The notices. */
  async notices() {
    return this.page.locator("#notices p span").allTextContents();
  }
}
