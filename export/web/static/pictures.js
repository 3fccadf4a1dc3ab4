// Files, the clipboard's pictures and a camera's frames as pixels: turned as EXIF says, the numbers
// as they are stored, transparency dropped, as the library reads pictures.

const AS_STORED = { premultiplyAlpha: "none", colorSpaceConversion: "none" };

/**
 * A file's picture.
 *
 * @param {Blob} file
 * @returns {Promise<ImageBitmap>}
 * @throws {Error} one line, where the browser can't read it.
 */
export async function openPicture(file) {
  try {
    // Browsers that don't know the words turn pictures upright by themselves.
    const asStored = createImageBitmap(file, { imageOrientation: "from-image", ...AS_STORED });
    return await asStored.catch(() => createImageBitmap(file));
  } catch {
    throw new Error(`${file.name || "The picture"} can't be read as a picture by this browser.`);
  }
}

/**
 * A bitmap's pixels, some rows at a time, as scaling.js takes them.
 *
 * @param {ImageBitmap} bitmap
 * @param {boolean} transparent whether what is transparent has a colour; a GIF's has none.
 * @returns the source; `lost` is true once it has pixels whose colour this browser doesn't give.
 */
export function pixelsOf(bitmap, transparent = true) {
  const { width, height } = bitmap;
  const canvas = document.createElement("canvas");
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const source = { width, height, strip, lost: false };
  async function strip(top, count) {
    canvas.width = width; // which clears it
    canvas.height = count;
    context.drawImage(bitmap, 0, top, width, count, 0, 0, width, count);
    const { data } = context.getImageData(0, 0, width, count);
    if (!transparent || isOpaque(data)) return data;
    const colours = await straight(bitmap, top, count);
    source.lost ||= !colours;
    return colours ?? data;
  }
  return source;
}

function isOpaque(data) {
  for (let i = 3; i < data.length; i += 4) if (data[i] !== 255) return false;
  return true;
}

/**
 * The colours of transparent pixels, which a 2D canvas loses; null without WebGL.
 */
async function straight(bitmap, top, height) {
  const width = bitmap.width;
  const gl = document.createElement("canvas").getContext("webgl");
  if (!gl || Math.max(width, height) > gl.getParameter(gl.MAX_TEXTURE_SIZE)) return null;
  const rows = await createImageBitmap(bitmap, 0, top, width, height, AS_STORED);
  gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, rows);
  gl.bindFramebuffer(gl.FRAMEBUFFER, gl.createFramebuffer());
  const texture = gl.getParameter(gl.TEXTURE_BINDING_2D);
  gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, texture, 0);
  const data = new Uint8Array(4 * width * height);
  gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, data);
  const failed = gl.getError() !== gl.NO_ERROR;
  gl.getExtension("WEBGL_lose_context")?.loseContext();
  rows.close();
  return failed ? null : data;
}
