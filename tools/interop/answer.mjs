// Answers questions from an exported folder with transformers.js alone.
// stdin: {"folder": ..., "asked": [{"image": file, "prompt": chat text with one <image>}, ...]}; stdout: token ids of each answer.
import fs from "node:fs";
import path from "node:path";
import { AutoProcessor, LlavaForConditionalGeneration, RawImage, env } from "@huggingface/transformers";

const { folder, asked } = JSON.parse(fs.readFileSync(0, "utf8"));
env.allowRemoteModels = false;
env.localModelPath = path.dirname(path.resolve(folder));
const name = path.basename(path.resolve(folder));

const processor = await AutoProcessor.from_pretrained(name);
const model = await LlavaForConditionalGeneration.from_pretrained(name, { dtype: "fp32", device: "cpu" });

const answers = [];
for (const { image, prompt } of asked) {
  const inputs = await processor(await RawImage.read(image), prompt);
  const output = await model.generate({ ...inputs, do_sample: false, max_new_tokens: 32 });
  const [start, end] = [inputs.input_ids.dims.at(-1), null];
  answers.push(output.slice(null, [start, end]).tolist()[0].map(Number));
}
console.log(JSON.stringify(answers));
