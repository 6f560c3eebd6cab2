// Knows how the graphs of an artifact are opened, by the onnxruntime of pages and by that of Node,
// and which provider computes.
import { ClientError, reasonOf } from "./errors.mjs";

/** @typedef {"wasm" | "webgpu" | "cpu"} Provider */

/**
 * Open a graph.
 * @param {any} ort onnxruntime-web, or onnxruntime-node.
 * @param {import("./downloads.mjs").Files} files
 * @param {any} facts
 * @param {string} graph a file of the artifact.
 * @param {Provider} provider
 * @param {string[]} onDevice outputs that stay on the device where the provider has memory of its
 *   own.
 * @returns {Promise<any>} an InferenceSession.
 * @throws {ClientError}
 */
export async function openSession(ort, files, facts, graph, provider, onDevice = []) {
  // A plan of memory for each shape would stay for as long as the session, and prompts and caches
  // have a new one at every step.
  /** @type {any} */
  const options = { executionProviders: [provider], enableMemPattern: false };
  if (provider === "webgpu" && onDevice.length)
    options.preferredOutputLocation = Object.fromEntries(
      onDevice.map((name) => [name, "gpu-buffer"]),
    );
  const onDisk = provider === "cpu" && files.path !== null;
  try {
    if (onDisk)
      return await ort.InferenceSession.create(/** @type {any} */ (files).path(graph), options);
    const model = await files.bytes(graph);
    const beside = facts.weights[graph] ?? [];
    // ONNX Runtime knows a file of weights by its name beside the graph.
    const data = beside.map(async (/** @type {string} */ file) => ({
      path: file.split("/").pop(),
      data: await files.weights(file),
    }));
    const externalData = await Promise.all(data);
    return await ort.InferenceSession.create(
      model,
      externalData.length ? { ...options, externalData } : options,
    );
  } catch (error) {
    if (error instanceof ClientError) throw error;
    throw new ClientError(
      `${graph} is not opened by ${provider} (${reasonOf(error)})${adviceFor(reasonOf(error))}`,
      error,
    );
  }
}

/** @param {string} reason */
function adviceFor(reason) {
  if (/GatherBlockQuantized/.test(reason))
    return ": this build has no 4-bit tables, use onnxruntime-web/wasm or --embed-precision fp16";
  if (/implementation for/.test(reason)) return ": choose another precision";
  if (/memory|allocat/i.test(reason))
    return ": the model is too large for this device, export a smaller precision";
  return "";
}

/**
 * The provider that can be tried: what was asked for, or what there is instead, with the reason in
 * `notices`.
 * @param {any} ort
 * @param {Provider | undefined} wanted
 * @param {string[]} notices
 * @returns {Promise<Provider>}
 */
export async function availableProvider(ort, wanted, notices) {
  const isNode = Boolean(ort.env?.versions?.node);
  if (isNode && (wanted ?? "cpu") !== "cpu")
    throw new ClientError(`onnxruntime-node computes with the provider cpu here, not ${wanted}`);
  if (isNode) return "cpu";
  if (wanted === "cpu")
    throw new ClientError(
      "The provider cpu is onnxruntime-node's; onnxruntime-web has wasm and webgpu",
    );
  if (wanted !== "webgpu") return "wasm";
  const reason = await withoutGpu();
  if (!reason) return "webgpu";
  notices.push(`WebGPU is not used, as ${reason}; WASM computes instead.`);
  return "wasm";
}

/** Why there is no WebGPU; empty where there is one. */
async function withoutGpu() {
  const gpu = /** @type {any} */ (globalThis.navigator)?.gpu;
  if (gpu) {
    const adapter = await gpu.requestAdapter().catch(() => null);
    return adapter ? "" : "the browser finds no device for it";
  }
  return globalThis.isSecureContext === false
    ? "this page is not a secure context (serve it by https or from localhost)"
    : "this browser has none";
}

/**
 * What makes WASM slower than it could be, in words.
 * @param {any} ort
 * @param {number | undefined} threads asked for.
 * @param {string[]} notices
 */
export function prepareThreads(ort, threads, notices) {
  const wasm = ort.env?.wasm;
  if (!wasm) return;
  if (threads !== undefined) wasm.numThreads = threads;
  if (typeof window !== "undefined" && !globalThis.crossOriginIsolated)
    notices.push(
      "One thread computes: for more the server must send the headers " +
        "Cross-Origin-Opener-Policy: same-origin and Cross-Origin-Embedder-Policy: require-corp.",
    );
}
