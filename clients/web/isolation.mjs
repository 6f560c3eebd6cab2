/**
 * Knows how the page gets threads, and opens without network: by a service worker, see offline.js.
 * @module
 */

const TRIED = "pocketvlm-isolation-tried";

/**
 * Start the service worker. On a first visit the page is loaded once more, before anything large is
 * downloaded: then all of it goes through the service worker, which keeps it and gives it threads.
 * @returns {Promise<boolean>} whether the page is about to be loaded again
 */
export async function prepare() {
  if (!("serviceWorker" in navigator) || !globalThis.isSecureContext) return false;
  const controlled = Boolean(navigator.serviceWorker.controller);
  try {
    await navigator.serviceWorker.register("offline.js");
    await navigator.serviceWorker.ready;
  } catch {
    return false; // private windows of some browsers have none: one thread, and a network
  }
  if (controlled && globalThis.crossOriginIsolated) return false;
  if (sessionStorage.getItem(TRIED)) return false; // once: it may not help everywhere
  sessionStorage.setItem(TRIED, "yes");
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
