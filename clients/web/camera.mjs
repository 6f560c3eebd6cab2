/**
 * Knows the live camera: frames that come while the model is busy are dropped.
 * @module
 */

/**
 * @typedef {{perSecond: number, seen: number, dropped: number}} Figures frames a second that were
 *   answered, how many were, and how many came meanwhile
 */

/** A running camera. */
export class Camera {
  constructor() {
    this.video = document.createElement("video");
    this.video.muted = true;
    this.video.playsInline = true;
    /** @type {MediaStream | null} */
    this.stream = null;
    /** @type {number[]} when answers ended, milliseconds */
    this.ends = [];
    this.arrived = 0;
    this.answered = 0;
    /** @type {Promise<ImageBitmap | null>} its last frame, once it was stopped */
    this.last = Promise.resolve(null);
  }

  /** Whether it runs. */
  get running() {
    return this.stream !== null;
  }

  /**
   * Ask for the camera and start it; throws what `getUserMedia` throws.
   * @returns {Promise<void>}
   */
  async start() {
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new DOMException("no camera here", "NotSupportedError");
    }
    this.stream = await navigator.mediaDevices.getUserMedia({
      video: { facingMode: "environment", width: { ideal: 1280 } },
      audio: false,
    });
    this.video.srcObject = this.stream;
    await this.video.play();
    this.ends = [];
    this.arrived = 0;
    this.answered = 0;
    this.count();
  }

  /** Stop it, and let go of the device. */
  stop() {
    if (!this.stream) return;
    this.last = this.frame().catch(() => null);
    for (const track of this.stream?.getTracks() ?? []) track.stop();
    this.stream = null;
    this.video.srcObject = null;
  }

  /** Count frames as they arrive, where the browser says so. */
  count() {
    if (!this.running || !("requestVideoFrameCallback" in this.video)) return;
    this.video.requestVideoFrameCallback(() => {
      this.arrived += 1;
      this.count();
    });
  }

  /** Size of a frame in pixels. */
  get size() {
    return { width: this.video.videoWidth, height: this.video.videoHeight };
  }

  /**
   * The frame of this moment.
   * @returns {Promise<ImageBitmap>}
   */
  frame() {
    return createImageBitmap(this.video);
  }

  /**
   * Note that a frame was answered.
   * @returns {Figures} over the last ten
   */
  finished() {
    this.answered += 1;
    this.ends = [...this.ends, performance.now()].slice(-11);
    const spent = this.ends[this.ends.length - 1] - this.ends[0];
    return {
      perSecond: this.ends.length > 1 ? (1000 * (this.ends.length - 1)) / spent : 0,
      seen: this.answered,
      dropped: Math.max(0, this.arrived - this.answered),
    };
  }
}

/**
 * A frame as a file.
 * @param {ImageBitmap} frame
 * @returns {Promise<Blob>}
 */
export function asFile(frame) {
  const canvas = document.createElement("canvas");
  canvas.width = frame.width;
  canvas.height = frame.height;
  /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d")).drawImage(frame, 0, 0);
  return new Promise((resolve, reject) => {
    const take = (/** @type {Blob | null} */ blob) =>
      blob ? resolve(blob) : reject(new Error("the camera gave no frame"));
    canvas.toBlob(take, "image/jpeg", 0.92);
  });
}
