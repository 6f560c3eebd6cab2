/**
 * Knows how a person opens a model that the site does not have: by its address, or from a folder of
 * the device.
 * @module
 */

/** @typedef {import("./back_ends.mjs").Model} Model */

/**
 * Listen to the fields that models are opened by.
 * @param {{form: HTMLFormElement, address: HTMLInputElement, folder: HTMLInputElement}} parts of
 *   the page
 * @param {(model: Model, files: File[] | null) => void} onModel called with each, and with the files
 *   of an opened folder
 */
export function listenToOpening({ form, address, folder }, onModel) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    onModel(modelAt(address.value), null);
  });
  folder.addEventListener("change", () => {
    const files = [...(folder.files ?? [])];
    if (!files.length) return;
    onModel({ name: files[0].webkitRelativePath.split("/")[0] || "folder" }, files);
  });
}

/**
 * The model in a folder of a host.
 * @param {string} address of the folder
 * @returns {Model} named after it
 */
export function modelAt(address) {
  const name = address.split("/").filter(Boolean).pop() ?? address;
  return { name, path: address.endsWith("/") ? address : `${address}/` };
}
