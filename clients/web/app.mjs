/**
 * Knows how the parts of the page work together.
 * @module
 */
import { openBackEnd, readSite } from "./back_ends.mjs";
import { showBars } from "./bars.mjs";
import { asFile, Camera } from "./camera.mjs";
import { Conversation, figuresOf } from "./conversation.mjs";
import { forget, prepare } from "./isolation.mjs";
import { keptPatches } from "./kept.mjs";
import { watch } from "./live.mjs";
import { LoadingBar, notify } from "./notices.mjs";
import { listen, offerSamples } from "./sources.mjs";
import { onWhite, PictureView } from "./view.mjs";
import { inWords, lacking } from "./words.mjs";

const PROVIDER = "pocketvlm-provider"; // of localStorage
const QUESTIONS = ["Describe the picture.", "What is in the picture?"];

/**
 * An element of the page by its id; every one that is asked for is in index.html.
 * @param {string} id
 * @returns {any}
 */
const $ = (id) => document.getElementById(id);

/** The page at work. */
class App {
  constructor() {
    this.view = new PictureView($("canvas"));
    this.conversation = new Conversation($("turns"));
    this.loading = new LoadingBar({
      section: $("loading"), bar: $("loading-bar"), bytes: $("loading-bytes"),
      words: $("loading-text"),
    });
    this.camera = new Camera();
    /** @type {import("./back_ends.mjs").Site} */
    this.site = { back_end: "local", models: [], samples: [], questions: [] };
    /** @type {import("./back_ends.mjs").BackEnd | null} */
    this.backEnd = null;
    /** @type {Promise<void> | null} until the model is there */
    this.ready = null;
    /** @type {Blob | null} the picture that is shown */
    this.picture = null;
    /** @type {Promise<import("./back_ends.mjs").Seen> | null} of that picture */
    this.seeing = null;
    /** @type {import("./back_ends.mjs").Seen | null} once it was seen */
    this.seen = null;
    /** @type {AbortController | null} of the answer that is coming */
    this.answering = null;
  }

  /** Start. */
  async open() {
    this.listen();
    try {
      this.site = await readSite();
    } catch (error) {
      return this.failed(error);
    }
    const local = this.site.back_end === "local";
    if (local && (await prepare())) return; // the page is loaded again, with threads
    for (const element of document.querySelectorAll(".local-only")) {
      /** @type {HTMLElement} */ (element).hidden = !local;
    }
    if (local) for (const sentence of lacking()) notify($("notices"), sentence);
    offerSamples(
      $("samples"), this.site.samples, (picture) => this.take(picture),
      (error) => this.failed(error),
    );
    $("provider").value = localStorage.getItem(PROVIDER) ?? "auto";
    this.offerModels();
  }

  /** Offer the models of the site, of the address (`?model=`), or ask for one. */
  offerModels() {
    const named = new URLSearchParams(location.search).get("model");
    if (named && this.site.back_end === "local") {
      const model = { name: named.split("/").filter(Boolean).pop() ?? named, path: slashed(named) };
      this.site.models = [model, ...this.site.models];
    }
    $("model").replaceChildren(
      ...this.site.models.map((model, place) => new Option(model.name, String(place))),
    );
    if (this.site.models.length) this.load(this.site.models[0]);
    else $("opening").hidden = false;
  }

  /**
   * Load a model, in the place of the one before.
   * @param {import("./back_ends.mjs").Model} model
   * @param {File[] | null} [files] of a folder that was opened
   */
  load(model, files = null) {
    this.stop();
    this.backEnd?.close();
    $("opening").hidden = true;
    $("send").disabled = true;
    this.chips([model.name]);
    const provider = $("provider").value;
    const backEnd = openBackEnd(this.site.back_end, model, { provider, files });
    this.backEnd = backEnd;
    this.loading.begin(model.name);
    const onProgress = (/** @type {any} */ progress) => this.loading.note(progress);
    const ready = backEnd.load({ onProgress }).then(() => {
      if (this.backEnd === backEnd) this.loaded(backEnd);
    });
    this.ready = ready;
    ready.catch((error) => {
      if (this.backEnd === backEnd) this.failed(error);
    }).finally(() => {
      if (this.backEnd === backEnd) this.loading.end();
    });
    if (this.picture) this.take(this.picture);
  }

  /** @param {import("./back_ends.mjs").BackEnd} backEnd that is ready */
  loaded(backEnd) {
    const { model, budgets, budget } = backEnd.facts;
    for (const sentence of backEnd.notices) notify($("notices"), sentence);
    this.chips([model, ...backEnd.chips]);
    const slider = $("budget");
    slider.min = String(budgets[0]);
    slider.max = String(budgets[budgets.length - 1]);
    slider.value = String(budget);
    slider.disabled = budgets.length < 2;
    if (slider.disabled) $("budget-note").textContent = "This model keeps a fixed number.";
    $("send").disabled = false;
    document.body.dataset.ready = "yes";
    this.showKept();
    this.suggest();
  }

  /** @param {string[]} words about what computes */
  chips(words) {
    $("chips").replaceChildren(
      ...words.map((word) => Object.assign(document.createElement("li"), { textContent: word })),
    );
  }

  /** Offer questions to begin with. */
  suggest() {
    const questions = this.site.questions.length ? this.site.questions : QUESTIONS;
    $("suggestions").replaceChildren(
      ...questions.slice(0, 5).map((question) => {
        const button = document.createElement("button");
        button.type = "button";
        button.textContent = question;
        button.addEventListener("click", () => this.ask(question));
        return button;
      }),
    );
  }

  /**
   * Take another picture: show it, and look at it as soon as the model is there.
   * @param {Blob} picture
   */
  async take(picture) {
    this.stop();
    if (this.seen) this.backEnd?.release(this.seen);
    this.picture = picture;
    this.seen = null;
    this.conversation.begin();
    for (const button of $("samples").querySelectorAll("button")) {
      button.setAttribute("aria-pressed", "false");
    }
    const seeing = this.look(picture);
    this.seeing = seeing;
    try {
      const seen = await seeing;
      if (this.seeing !== seeing) return this.backEnd?.release(seen);
      this.seen = seen;
      this.showKept();
    } catch (error) {
      if (this.seeing !== seeing) return;
      this.seeing = null;
      this.failed(error);
    } finally {
      if (this.seeing === seeing || !this.seeing) $("stage").classList.remove("busy");
    }
  }

  /**
   * @param {Blob} picture
   * @returns {Promise<import("./back_ends.mjs").Seen>}
   */
  async look(picture) {
    const bitmap = await createImageBitmap(picture); // upright
    this.view.keep([]);
    this.view.show(onWhite(bitmap), bitmap);
    $("stage").classList.remove("empty");
    $("stage").classList.add("busy");
    $("canvas").setAttribute("aria-label", `Picture, ${bitmap.width} by ${bitmap.height} pixels`);
    await this.ready;
    if (!this.backEnd) throw new Error("choose a model first");
    return this.backEnd.see(picture);
  }

  /** Draw the patches that the slider's budget keeps; nothing is computed for it. */
  showKept() {
    const budget = Number($("budget").value);
    const patches = this.seen?.patches ?? this.backEnd?.facts.patches;
    const tiles = this.seen?.tiles ?? [];
    const each = tiles.length > 1 ? ` in each of ${tiles.length} tiles` : "";
    $("kept").textContent = patches ? `${budget} of ${patches}${each}` : String(budget);
    $("budget").setAttribute("aria-valuetext", `${budget} visual tokens`);
    if (this.camera.running) return;
    this.view.keep(keptPatches(this.seen?.tiles ?? null, budget));
    if (!this.seen) return;
    const kept = this.view.kept.reduce((sum, tile) => sum + tile.patches.length, 0);
    const { width, height } = this.seen;
    const words = kept ? `, ${kept} patches kept` : "";
    $("canvas").setAttribute("aria-label", `Picture, ${width} by ${height} pixels${words}`);
  }

  /**
   * Ask a question, and show what comes of it.
   * @param {string} question
   */
  async ask(question) {
    if (!this.backEnd || this.answering || !question.trim()) return;
    const { backEnd, conversation } = this;
    const { turns } = conversation; // another picture begins others
    const controller = new AbortController();
    this.busy(controller);
    const shown = conversation.ask(question, this.seeing ? this.view.small() : null);
    try {
      await this.ready;
      const seen = this.seeing ? await this.seeing : null;
      const answer = await backEnd.ask({
        turns: [...turns],
        question,
        seen,
        budget: Number($("budget").value),
        maxNewTokens: Number($("longest").value) || 64,
        signal: controller.signal,
        onText: (piece) => shown.append(piece),
      });
      this.answered(answer, shown, seen);
      turns.push({ question, answer: answer.text.trim() });
    } catch (error) {
      if (controller.signal.aborted) shown.finish("Stopped.");
      else shown.fail(inWords(error));
    } finally {
      this.busy(null);
    }
  }

  /**
   * @param {import("./back_ends.mjs").Answer} answer
   * @param {import("./conversation.mjs").AnswerView} shown
   * @param {import("./back_ends.mjs").Seen | null} seen
   */
  answered(answer, shown, seen) {
    if (answer.tiles && seen && seen === this.seen) {
      seen.tiles = answer.tiles;
      this.showKept();
    }
    if (shown.text !== answer.text) {
      shown.text = "";
      shown.append(answer.text);
    }
    shown.finish(figuresOf(answer));
    showBars($("bars"), answer.timings);
    document.body.dataset.tokens = answer.tokenIds.join(" ");
  }

  /** @param {AbortController | null} controller of the answer that is coming, or none */
  busy(controller) {
    this.answering = controller;
    $("stop").hidden = !controller;
    $("send").hidden = Boolean(controller);
    for (const button of $("suggestions").querySelectorAll("button")) {
      button.disabled = Boolean(controller);
    }
    const { dataset } = document.body;
    dataset.answering = controller ? "yes" : "no";
    if (!controller) dataset.answers = String(Number(dataset.answers ?? 0) + 1);
  }

  /** End the answer that is coming, and the camera. */
  stop() {
    this.answering?.abort();
    if (this.camera.running) this.camera.stop();
  }

  /** Start the camera, or stop it. */
  async live() {
    if (this.camera.running) return this.stop();
    this.stop();
    const controller = new AbortController();
    try {
      await this.ready;
      if (!this.backEnd) throw new Error("choose a model first");
      await this.camera.start();
      this.seen = null;
      this.seeing = null;
      this.conversation.begin();
      $("stage").classList.remove("empty", "busy");
      this.busy(controller);
      $("live").setAttribute("aria-pressed", "true");
      $("live").textContent = "Stop camera";
      await watch({
        camera: this.camera, backEnd: this.backEnd, view: this.view, caption: $("caption"),
        figures: $("live-figures"), signal: controller.signal, asked: () => this.asked(),
      });
    } catch (error) {
      if (!controller.signal.aborted) this.failed(error);
    } finally {
      this.camera.stop();
      this.busy(null);
      $("live").setAttribute("aria-pressed", "false");
      $("live").textContent = "Live camera";
    }
    // What was seen last is the picture of further questions.
    const last = await this.camera.last;
    if (last && !this.seeing && !this.camera.running) this.take(await asFile(last));
  }

  /** What is asked of each frame. */
  asked() {
    const question = $("question").value.trim() || this.site.questions[0] || QUESTIONS[0];
    const budget = Number($("budget").value);
    return { question, budget, maxNewTokens: Number($("longest").value) || 64 };
  }

  /** @param {unknown} error that people should read */
  failed(error) {
    notify($("notices"), inWords(error), { bad: true });
  }

  /** Listen to everything that people do. */
  listen() {
    listen(
      { stage: $("stage"), inputs: [$("file"), $("photo")] },
      (picture) => this.take(picture), (reason) => notify($("notices"), reason, { bad: true }),
    );
    $("budget").addEventListener("input", () => this.showKept());
    $("show-kept").addEventListener("change", () => this.view.toggle($("show-kept").checked));
    $("ask").addEventListener("submit", (/** @type {Event} */ event) => {
      event.preventDefault();
      const question = $("question").value;
      if (this.answering || $("send").disabled || !question.trim()) return;
      $("question").value = "";
      this.ask(question.trim());
    });
    $("question").addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      $("ask").requestSubmit();
    });
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.stop();
    });
    $("stop").addEventListener("click", () => this.stop());
    $("live").addEventListener("click", () => this.live());
    $("start-over").addEventListener("click", () => this.conversation.clear());
    $("model").addEventListener("change", () => this.load(this.site.models[$("model").value]));
    $("provider").addEventListener("change", () => {
      localStorage.setItem(PROVIDER, $("provider").value);
      if (this.site.models.length) this.load(this.site.models[$("model").value]);
    });
    $("forget").addEventListener("click", async () => {
      await forget();
      notify($("notices"), "What this page had downloaded was removed.");
    });
    this.listenToOpening();
  }

  /** Listen to how a model is opened that the site has not. */
  listenToOpening() {
    $("open-address").addEventListener("submit", (/** @type {Event} */ event) => {
      event.preventDefault();
      const path = slashed($("address").value);
      this.add({ name: path.split("/").filter(Boolean).pop() ?? path, path }, null);
    });
    $("folder").addEventListener("change", () => {
      const files = [...$("folder").files];
      if (!files.length) return;
      this.add({ name: files[0].webkitRelativePath.split("/")[0] || "folder" }, files);
    });
  }

  /**
   * @param {import("./back_ends.mjs").Model} model
   * @param {File[] | null} files
   */
  add(model, files) {
    this.site.models.push(model);
    $("model").append(new Option(model.name, String(this.site.models.length - 1)));
    $("model").value = String(this.site.models.length - 1);
    this.load(model, files);
  }
}

/**
 * @param {string} address of a folder
 * @returns {string} ending in a slash
 */
function slashed(address) {
  return address.endsWith("/") ? address : `${address}/`;
}

const app = new App();
// For whoever looks at it from the browser's console, and for tests.
Object.assign(globalThis, { pocketvlm: app });
app.open();
