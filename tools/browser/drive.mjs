// Knows what is tried of the page in Chromium: reads a request from standard input, and writes what
// came of each trial, a line of JSON each.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";
import { serve } from "./host.mjs";
import { Person } from "./page.mjs";

const given = JSON.parse(readFileSync(0, "utf8"));
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const PLAIN = ["--no-sandbox", "--disable-gpu"];
const SOFTWARE_GPU = [
  "--no-sandbox",
  "--disable-gpu",
  "--enable-unsafe-webgpu",
  "--use-webgpu-adapter=swiftshader",
  "--enable-features=Vulkan",
];
const CAMERA = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"];

// Hides what SwiftShader computes wrongly: attention by subgroups.
const WITHOUT_SUBGROUPS = `
{
  const without = (names) => [...names].filter((name) => !/subgroup/.test(name));
  const features = Object.getOwnPropertyDescriptor(GPUAdapter.prototype, "features").get;
  const request = GPUAdapter.prototype.requestDevice;
  Object.defineProperty(GPUAdapter.prototype, "features", {
    get() { return new Set(without(features.call(this))); },
  });
  GPUAdapter.prototype.requestDevice = function (wanted = {}) {
    return request.call(this, { ...wanted, requiredFeatures: without(wanted.requiredFeatures ?? []) });
  };
}
`;
// A kernel that is wrong: what a graph on the GPU gives is a little off.
const WRONG_KERNEL = `
{
  const open = openRuntime;
  openRuntime = async (...given) => {
    const ort = await open(...given);
    const create = ort.InferenceSession.create.bind(ort.InferenceSession);
    ort.InferenceSession.create = async (model, options) => {
      const session = await create(model, options);
      if (!JSON.stringify(options?.executionProviders ?? []).includes("webgpu")) return session;
      const run = session.run.bind(session);
      session.run = async (...inputs) => {
        const outputs = await run(...inputs);
        const features = outputs.image_features;
        if (features?.location === "cpu") for (let at = 0; at < features.data.length; at += 7) {
          features.data[at] += 0.5;
        }
        return outputs;
      };
      return session;
    };
    return ort;
  };
}
`;

/** A browser of its own for a trial, closed behind it. */
async function within(options, work) {
  const { flags = PLAIN, altered = {}, page: settings = {} } = options;
  const host = await serve(given.site, altered);
  const browser = await chromium.launch({
    executablePath: given.chromium, headless: true, args: flags,
  });
  try {
    const context = await browser.newContext({ viewport: { width: 1240, height: 900 }, ...settings });
    const address = `http://localhost:${host.port}/`;
    await work({ context, host, address, person: new Person(await context.newPage()) });
  } finally {
    await browser.close();
    await host.close();
  }
}

/** Raise where two values differ. */
function equal(got, expected, what) {
  if (JSON.stringify(got) !== JSON.stringify(expected)) {
    throw new Error(`${what}: ${JSON.stringify(got)} for ${JSON.stringify(expected)}`);
  }
}

/** Ask everything that was asked of the runtime, and compare tokens and kept patches. */
async function compare(person, asked = given.asked) {
  let shown = "";
  for (const { picture, budget, question, tokens, kept } of asked) {
    if (picture !== shown) await person.choose(picture);
    shown = picture;
    await person.page.click("#start-over", { force: true }).catch(() => {});
    await person.budget(budget);
    equal(await person.kept(given.columns), kept, `kept of ${picture} at ${budget}`);
    const answer = await person.ask(question);
    equal(answer.tokens, tokens, `tokens of ${picture} at ${budget}`);
  }
}

const trials = {
  async "answers as the runtime does, and nothing comes from elsewhere"() {
    await within({}, async ({ person, address }) => {
      await person.open(address);
      await person.page.click(".settings summary");
      await compare(person);
      const others = person.requests.filter((url) => !/^(blob|data):/.test(url) && !url.startsWith(address));
      equal(others, [], "requests to other hosts");
      equal(person.troubles, [], "console");
      equal(await person.page.evaluate(() => crossOriginIsolated), true, "isolation");
    });
  },

  async "a second visit without network"() {
    await within({}, async ({ context, person, address, host }) => {
      await person.open(address);
      await person.choose(given.asked[0].picture);
      await person.page.close();
      await host.close();
      const again = new Person(await context.newPage());
      await again.open(address);
      await again.page.click(".settings summary");
      await compare(again, given.asked.slice(0, 1));
    });
  },

  async "several turns, and a second question from cached features"() {
    await within({}, async ({ person, address }) => {
      const { picture, budget, questions, tokens } = given.turns;
      await person.open(address);
      await person.choose(picture);
      await person.budget(budget);
      equal((await person.ask(questions[0])).tokens, tokens[0], "tokens of the first turn");
      const stages = () => person.page.locator("#bars tr").evaluateAll(
        (rows) => rows.map((row) => row.dataset.stage).filter(Boolean),
      );
      if (!(await stages()).includes("vision")) throw new Error(`stages ${await stages()}`);
      equal((await person.ask(questions[1])).tokens, tokens[1], "tokens of the second turn");
      if ((await stages()).includes("vision")) throw new Error("vision ran for a second question");
      equal(await person.page.locator("#turns .theirs").count(), 2, "answers");
      const figures = await person.page.locator("#turns li:last-child .figures").textContent();
      if (!/from before/.test(figures ?? "")) throw new Error(`no cached tokens: ${figures}`);
    });
  },

  async "by keyboard alone"() {
    await within({}, async ({ person, address }) => {
      const { page } = person;
      await person.open(address);
      const tabTo = async (test) => {
        for (let steps = 0; steps < 40; steps++) {
          await page.keyboard.press("Tab");
          if (await page.evaluate(test)) return;
        }
        throw new Error(`Tab never came to ${test}`);
      };
      await tabTo('document.activeElement.closest("#samples") !== null');
      await page.keyboard.press("Enter");
      await person.looked();
      await tabTo('document.activeElement.id === "budget"');
      const before = await page.locator("#kept").textContent();
      await page.keyboard.press("ArrowLeft");
      if ((await page.locator("#kept").textContent()) === before) throw new Error("slider");
      await tabTo('document.activeElement.id === "question"');
      await page.keyboard.type(given.asked[0].question);
      const { text } = await person.answered(() => page.keyboard.press("Enter"));
      if (!text?.trim()) throw new Error("no answer");
    });
  },

  async "a live camera answers frame after frame until it is stopped"() {
    await within({ flags: [...PLAIN, ...CAMERA] }, async ({ person, address }) => {
      await person.open(address);
      await person.page.click("#live");
      await person.page.waitForFunction(() =>
        /frames\/s/.test(document.querySelector("#live-figures")?.textContent ?? ""),
      );
      const figures = await person.page.locator("#live-figures").textContent();
      if (!/first token/.test(figures ?? "")) throw new Error(`figures ${figures}`);
      await person.page.keyboard.press("Escape");
      await person.page.waitForFunction(() => document.body.dataset.answering === "no");
      equal(await person.page.locator("#live").textContent(), "Live camera", "button");
    });
  },

  async "plain http from another machine: it answers, and says what is missing"() {
    const flags = [...PLAIN, "--host-resolver-rules=MAP lan.test 127.0.0.1"];
    await within({ flags }, async ({ person, host }) => {
      await person.open(`http://lan.test:${host.port}/`);
      const notices = (await person.notices()).join(" ");
      if (!/plain http/.test(notices)) throw new Error(`notices ${notices}`);
      await person.page.click(".settings summary");
      await compare(person, given.asked.slice(0, 1));
    });
  },

  async "what is not a picture is refused in words"() {
    await within({}, async ({ person, address }) => {
      await person.open(address);
      const file = { name: "a.png", mimeType: "image/png", buffer: Buffer.from("no picture") };
      await person.page.setInputFiles("#file", file);
      const bad = await person.page.locator(".notices .bad span").first().textContent();
      if (!/cannot be read as a picture/.test(bad ?? "")) throw new Error(`said ${bad}`);
    });
  },

  async "phone width, light and dark: nothing overflows, axe objects to nothing"() {
    for (const colorScheme of ["light", "dark"]) {
      for (const viewport of [{ width: 390, height: 844 }, { width: 1240, height: 900 }]) {
        const narrow = viewport.width < 500;
        const page = { colorScheme, viewport, hasTouch: narrow, isMobile: narrow };
        await within({ page }, async ({ person, address }) => {
          await person.open(address);
          await person.choose(given.asked[0].picture);
          await person.budget(Math.min(...given.asked.map((each) => each.budget)));
          await person.ask(given.asked[0].question);
          const name = `${narrow ? "phone" : "desk"}-${colorScheme}.png`;
          await person.page.screenshot({ path: `${given.screenshots}/${name}`, fullPage: narrow });
          const [wide, inner] = await person.page.evaluate(() => [
            document.documentElement.scrollWidth, innerWidth,
          ]);
          if (wide > inner) throw new Error(`${wide} pixels wide of ${inner}`);
          const found = await person.page.evaluate(`${axe}; axe.run()`);
          const broken = found.violations.map(({ id, nodes }) => `${id}: ${nodes[0].html}`);
          equal(broken, [], `axe (${name})`);
        });
      }
    }
  },

  async "a server delivers the page and answers"() {
    await within({}, async ({ person }) => {
      await person.open(given.server);
      equal((await person.chips()).at(-1), "Server", "chips");
      for (const { picture, budget, question, tokens, kept } of given.asked.slice(0, 2)) {
        await person.choose(picture);
        await person.budget(budget);
        equal((await person.ask(question)).tokens, tokens, `tokens of ${picture} at ${budget}`);
        equal(await person.kept(given.columns), kept, `kept of ${picture} at ${budget}`);
      }
      equal(person.troubles, [], "console");
    });
  },

  async "WebGPU in software without subgroups answers as the runtime does"() {
    const altered = { "runtimes.mjs": (text) => text + WITHOUT_SUBGROUPS };
    await within({ flags: SOFTWARE_GPU, altered }, async ({ person, address }) => {
      await person.page.addInitScript(() => localStorage.setItem("pocketvlm-provider", "webgpu"));
      await person.open(address);
      const chips = (await person.chips()).join(" ");
      if (!/WebGPU/.test(chips)) throw new Error(`${chips}; ${await person.notices()}`);
      await person.page.click(".settings summary");
      await compare(person, given.asked.slice(0, 1));
    });
  },

  async "a planted wrong kernel is refused, and WASM answers"() {
    const altered = { "runtimes.mjs": (text) => text.replace("export async function openRuntime", "export let openRuntime = async function openRuntime") + WITHOUT_SUBGROUPS + WRONG_KERNEL };
    await within({ flags: SOFTWARE_GPU, altered }, async ({ person, address }) => {
      await person.page.addInitScript(() => localStorage.setItem("pocketvlm-provider", "webgpu"));
      await person.open(address);
      const chips = (await person.chips()).join(" ");
      const notices = (await person.notices()).join(" ");
      if (!/WASM/.test(chips) || !/self-test/.test(notices)) throw new Error(`${chips}; ${notices}`);
      await person.page.click(".settings summary");
      await compare(person, given.asked.slice(0, 1));
    });
  },

  async "WebGPU in software as it is answers rightly, or is refused"() {
    await within({ flags: SOFTWARE_GPU }, async ({ person, address }) => {
      await person.page.addInitScript(() => localStorage.setItem("pocketvlm-provider", "webgpu"));
      await person.open(address);
      await person.page.click(".settings summary");
      await compare(person, given.asked.slice(0, 1));
    });
  },
};

for (const [name, trial] of Object.entries(trials)) {
  if (given.only && !name.includes(given.only)) continue;
  let problem = "";
  try {
    await trial();
  } catch (error) {
    problem = String(error instanceof Error ? error.message : error).split("\n")[0].slice(0, 600);
  }
  console.log(JSON.stringify({ trial: name, problem }));
}
