/**
 * Knows how the page gets threads, and opens without network: by a service worker, see offline.js.
 * @module
 */

const TRIED = "pocketvlm-isolation-tried";

/**
 * Start the service worker. Where it would give the page threads, the page is loaded once more,
 * before anything else is downloaded.
 * @returns {Promise<boolean>} whether the page is about to be loaded again
 */
export async function prepare() {
  if (!("serviceWorker" in navigator) || !globalThis.isSecureContext) return false;
  try {
    await navigator.serviceWorker.register("offline.js");
    await navigator.serviceWorker.ready;
  } catch {
    return false; // private windows of some browsers have none: one thread, and a network
  }
  if (globalThis.crossOriginIsolated || sessionStorage.getItem(TRIED)) return false;
  sessionStorage.setItem(TRIED, "yes"); // once: browsers without it would load it forever
  location.reload();
  return true;
}

/** Remove the service worker's files and the model's. */
export async function forget() {
  if ("caches" in globalThis) {
    for (const name of await caches.keys()) {
      if (name.startsWith("pocketvlm")) await caches.delete(name);
    }
  }
  const registrations = (await navigator.serviceWorker?.getRegistrations?.()) ?? [];
  for (const registration of registrations) await registration.unregister();
}
