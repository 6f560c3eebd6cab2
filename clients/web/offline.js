/*
 * Knows, as a service worker, how the page opens without network, and gives it the headers that
 * threads need where a plain host sends none.
 *
 * The page's own files come from the network as long as there is one. Libraries, whose folders are
 * named after their versions, come from the cache. Models are none of its business: the page keeps
 * them itself.
 */
const CACHE = "pocketvlm-page";
const scope = new URL(self.registration.scope);

self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));

self.addEventListener("fetch", (event) => {
  const { request } = event;
  const address = new URL(request.url);
  const own = address.origin === scope.origin && address.pathname.startsWith(scope.pathname);
  if (request.method !== "GET" || !own) return;
  const name = address.pathname.slice(scope.pathname.length);
  if (name.startsWith("models/")) return;
  event.respondWith(answer(request, name.startsWith("lib/")));
});

/* The reply to a request; what never changes is taken from the cache first. */
async function answer(request, lasting) {
  const cache = await caches.open(CACHE);
  const kept = await cache.match(request, { ignoreSearch: true });
  if (kept && (lasting || !navigator.onLine)) return isolated(kept);
  try {
    const reply = await fetch(request);
    if (reply.ok && reply.type === "basic") {
      await cache.put(request, reply.clone()).catch(() => {}); // no room is not a reason to fail
    }
    return isolated(reply);
  } catch (error) {
    if (kept) return isolated(kept);
    throw error;
  }
}

/* A reply with the headers of cross-origin isolation. */
function isolated(reply) {
  if (reply.status === 0 || reply.type === "opaque") return reply;
  const headers = new Headers(reply.headers);
  headers.set("Cross-Origin-Opener-Policy", "same-origin");
  headers.set("Cross-Origin-Embedder-Policy", "require-corp");
  headers.set("Cross-Origin-Resource-Policy", "same-origin");
  return new Response(reply.body, {
    status: reply.status,
    statusText: reply.statusText,
    headers,
  });
}
