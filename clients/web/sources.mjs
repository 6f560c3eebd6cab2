/**
 * Knows where pictures come from: dropped, pasted, chosen, photographed, or a sample of the site.
 * @module
 */

/**
 * Listen to everything that brings a picture.
 * @param {object} parts of the page
 * @param {HTMLElement} parts.stage that pictures are dropped on
 * @param {HTMLInputElement[]} parts.inputs of files
 * @param {(picture: Blob) => void} onPicture called with each
 * @param {(reason: string) => void} onRefused called with what is not a picture, in words
 */
export function listen({ stage, inputs }, onPicture, onRefused) {
  const take = (/** @type {Iterable<File>} */ files) => {
    const all = [...files];
    const picture = all.find((file) => file.type.startsWith("image/"));
    if (picture) onPicture(picture);
    else if (all.length) onRefused(`${all[0].name || "That"} is not a picture.`);
  };
  for (const input of inputs) {
    input.addEventListener("change", () => {
      take(input.files ?? []);
      input.value = ""; // the same file may be chosen again
    });
  }
  listenToDrops(stage, take);
  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (!files.length) return; // words, for the field that has the focus
    event.preventDefault();
    take(files);
  });
}

/**
 * @param {HTMLElement} stage
 * @param {(files: Iterable<File>) => void} take
 */
function listenToDrops(stage, take) {
  const carriesFiles = (/** @type {DragEvent} */ event) =>
    event.dataTransfer?.types.includes("Files") ?? false;
  // Anywhere on the page: a picture that misses the stage must not replace the page.
  document.addEventListener("dragover", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    stage.classList.add("over");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) stage.classList.remove("over");
  });
  document.addEventListener("drop", (event) => {
    stage.classList.remove("over");
    if (!carriesFiles(event)) return;
    event.preventDefault();
    take(event.dataTransfer?.files ?? []);
  });
}

/**
 * Offer the sample pictures of a site, each as a button.
 * @param {HTMLElement} list
 * @param {string[]} addresses relative to the page
 * @param {(picture: Blob) => void} onPicture
 * @param {(error: unknown) => void} onError
 */
export function offerSamples(list, addresses, onPicture, onError) {
  for (const address of addresses) {
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-pressed", "false");
    const picture = document.createElement("img");
    picture.src = address;
    picture.alt = `Sample picture ${nameOf(address)}`;
    button.append(picture);
    button.addEventListener("click", async () => {
      try {
        const reply = await fetch(address);
        if (!reply.ok) throw new Error(`${address} was not found (${reply.status})`);
        onPicture(await reply.blob());
        for (const other of list.querySelectorAll("button")) {
          other.setAttribute("aria-pressed", String(other === button));
        }
      } catch (error) {
        onError(error);
      }
    });
    const item = document.createElement("li");
    item.append(button);
    list.append(item);
  }
}

/**
 * "scene 2" of "samples/scene-2.png".
 * @param {string} address
 * @returns {string}
 */
function nameOf(address) {
  const name = address.split("/").pop() ?? "";
  return name.replace(/\.\w+$/, "").replaceAll("-", " ");
}
