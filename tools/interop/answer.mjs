// Answers questions from an exported folder with transformers.js alone, as it runs in Node or in a page.
// stdin: {folder, page: bool, dtype, asked: [{messages, pixels: {rgb, width, height}}, ...]}
// stdout: {prompts: the text of each, answers: the token ids of each}.
import fs from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";

const { folder, page, dtype, asked } = JSON.parse(fs.readFileSync(0, "utf8"));
const { AutoProcessor, LlavaForConditionalGeneration, RawImage, env } = await (page ? asInAPage() : inNode());
env.allowRemoteModels = false;
const name = path.basename(folder);

async function inNode() {
  const library = await import("@huggingface/transformers");
  library.env.localModelPath = path.dirname(folder);
  return library;
}

// The build for pages, with its own WebAssembly, on one thread. It finds no Node around it: addresses are fetched.
async function asInAPage() {
  Object.defineProperty(process, "release", { value: { name: "a page" } });
  const library = await import("./node_modules/@huggingface/transformers/dist/transformers.web.js");
  const served = (address) => path.join(path.dirname(folder), String(address).replace("/models/", ""));
  Object.assign(library.env, { allowLocalModels: true, localModelPath: "/models/", useBrowserCache: false, useWasmCache: false });
  library.env.fetch = async (address) => {
    const file = served(address);
    return fs.existsSync(file) ? new Response(fs.readFileSync(file)) : new Response("", { status: 404 });
  };
  const here = path.join(import.meta.dirname, "node_modules/onnxruntime-web/dist");
  Object.assign(library.env.backends.onnx.wasm, { wasmPaths: `${pathToFileURL(here)}/`, numThreads: 1 });
  return library;
}

const processor = await AutoProcessor.from_pretrained(name);
const model = await LlavaForConditionalGeneration.from_pretrained(name, dtype ? { dtype } : {});
const prompts = [], answers = [];
for (const { messages, pixels } of asked) {
  const prompt = processor.apply_chat_template(messages, { add_generation_prompt: true });
  const picture = new RawImage(Uint8ClampedArray.from(pixels.rgb), pixels.width, pixels.height, 3);
  const inputs = await processor(picture, prompt);
  const output = await model.generate({ ...inputs, do_sample: false, max_new_tokens: 32 });
  prompts.push(prompt);
  answers.push(output.slice(null, [inputs.input_ids.dims.at(-1), null]).tolist()[0].map(Number));
}
console.log(JSON.stringify({ prompts, answers }));
process.exit(0);
