/**
 * Knows where ONNX Runtime's two builds for pages lie, and downloads their binaries so that people
 * see how far they are.
 * @module
 */

// Whoever assembles the page puts paths in the place of these names: a worker knows no import map.
const RUNTIMES = {
  wasm: {
    open: () => import("onnxruntime-web/wasm"),
    module: "onnxruntime-web/wasm",
    binary: "ort-wasm-simd-threaded.wasm",
  },
  webgpu: {
    open: () => import("onnxruntime-web/webgpu"),
    module: "onnxruntime-web/webgpu",
    binary: "ort-wasm-simd-threaded.asyncify.wasm",
  },
};

/**
 * ONNX Runtime, ready to open sessions.
 * @param {"wasm" | "webgpu"} provider 14 MB for WASM; the 27 MB of WebGPU only where it is asked for
 * @param {number} threads
 * @param {(progress: {file: string, loaded: number, total: number}) => void} onProgress
 * @returns {Promise<any>} the namespace of onnxruntime-web
 */
export async function openRuntime(provider, threads, onProgress) {
  const { open, module, binary } = RUNTIMES[provider];
  const ort = await open();
  const address = new URL(binary, new URL(module, import.meta.url));
  ort.env.wasm.numThreads = threads;
  ort.env.wasm.wasmBinary = await download(address.href, binary, onProgress);
  return ort;
}

/**
 * @param {string} address
 * @param {string} file its name, for people
 * @param {(progress: {file: string, loaded: number, total: number}) => void} onProgress
 * @returns {Promise<ArrayBuffer>}
 */
async function download(address, file, onProgress) {
  const reply = await fetch(address);
  if (!reply.ok || !reply.body) throw new Error(`${file} is missing on the server (${reply.status})`);
  // Where the host compresses it, the length is of what is sent, not of what comes out.
  const encoded = reply.headers.get("content-encoding");
  const total = encoded ? 0 : Number(reply.headers.get("content-length") ?? 0);
  const pieces = [];
  let loaded = 0;
  const reader = reply.body.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    pieces.push(value);
    loaded += value.length;
    onProgress({ file, loaded, total });
  }
  return new Blob(pieces).arrayBuffer();
}
