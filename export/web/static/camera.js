// A camera's frames, one after the other, as fast as they are taken.

/** Whether this page may ask for a camera: it may on https and on this computer's own address. */
export const CAN = Boolean(globalThis.isSecureContext && navigator.mediaDevices?.getUserMedia);

/** The camera that looks away from the user, where there are two. */
export class Camera {
  /**
   * @param {HTMLVideoElement} video that plays it.
   * @param {(frame: ImageBitmap) => Promise<void>} take what is done with a frame.
   */
  constructor(video, take) {
    this.video = video;
    this.take = take;
    this.stream = null;
    this.isOn = false; // from when it is asked for
    this.turn = 0; // of starts and stops: what is overtaken ends
  }

  /**
   * Asks for the camera, and takes frames until stop() or until the camera ends.
   *
   * @throws {Error} one line, where there is none or it isn't allowed.
   */
  async start() {
    const turn = ++this.turn;
    this.isOn = true;
    const video = { facingMode: { ideal: "environment" }, width: { ideal: 1280 } };
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video, audio: false });
    } catch (error) {
      if (turn !== this.turn) return;
      throw new Error(reason(error));
    }
    if (turn !== this.turn) return stream.getTracks().forEach((track) => track.stop());
    this.stream = stream;
    this.stream.getVideoTracks()[0].addEventListener("ended", () => this.stop());
    this.video.srcObject = this.stream;
    await this.video.play().catch(() => {}); // stopped before it began
    while (turn === this.turn) {
      await new Promise(requestAnimationFrame); // none while the page can't be seen
      if (turn !== this.turn || !this.video.videoWidth) continue;
      try {
        await this.takeOne();
      } catch (error) {
        if (turn === this.turn) throw error; // else it was stopped meanwhile
      }
    }
  }

  async takeOne() {
    const frame = await createImageBitmap(this.video);
    try {
      await this.take(frame);
    } finally {
      frame.close();
    }
  }

  stop() {
    this.turn++;
    this.isOn = false;
    this.stream?.getTracks().forEach((track) => track.stop());
    this.stream = this.video.srcObject = null;
  }
}

function reason(error) {
  if (error.name === "NotAllowedError") return "The camera isn't allowed here.";
  if (error.name === "NotFoundError") return "There is no camera.";
  return `The camera can't be used: ${error.message}`;
}
