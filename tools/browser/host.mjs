// Knows a static host: plain, without headers for threads, and with files exchanged where a test
// asks for it.
import { createReadStream } from "node:fs";
import { readFile, stat } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, join, normalize } from "node:path";

const TYPES = {
  ".html": "text/html; charset=utf-8",
  ".mjs": "text/javascript",
  ".js": "text/javascript",
  ".css": "text/css",
  ".svg": "image/svg+xml",
  ".json": "application/json",
  ".wasm": "application/wasm",
  ".png": "image/png",
  ".jpg": "image/jpeg",
};

/**
 * Serve a folder on a free port of this machine.
 * @param {string} folder
 * @param {Record<string, (text: string) => string>} [altered] files by name whose text is changed
 * @returns {Promise<{port: number, asked: string[], close: () => Promise<void>}>}
 */
export async function serve(folder, altered = {}) {
  const asked = [];
  const server = createServer(async (request, reply) => {
    const name = decodeURIComponent(new URL(request.url ?? "/", "http://host").pathname).slice(1);
    const path = join(folder, normalize(name || "index.html"));
    asked.push(name);
    try {
      const { size } = await stat(path);
      const headers = { "content-type": TYPES[extname(path)] ?? "application/octet-stream" };
      if (name in altered) {
        reply.writeHead(200, headers).end(altered[name](await readFile(path, "utf8")));
      } else {
        reply.writeHead(200, { ...headers, "content-length": size });
        createReadStream(path).pipe(reply);
      }
    } catch {
      reply.writeHead(404).end("not here");
    }
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve(undefined)));
  const { port } = /** @type {import("node:net").AddressInfo} */ (server.address());
  const close = () =>
    new Promise((resolve) => {
      server.close(() => resolve(undefined));
      server.closeAllConnections();
    });
  return { port, asked, close };
}
