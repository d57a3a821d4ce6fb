// Where pictures come from: files, folders, a video, the camera.

const IMAGES = /\.(png|jpe?g|bmp|webp|gif|avif)$/i;
const VIDEOS = /\.(mp4|webm|mov|m4v|mkv|ogv)$/i;

const isImage = (file) => file.type.startsWith("image/") || IMAGES.test(file.name);
const isVideo = (file) => file.type.startsWith("video/") || VIDEOS.test(file.name);

/** The pictures and videos among files, in the order of their names, and how many others were left out. */
export function sort(files) {
  const kept = [...files].filter((file) => !file.name.startsWith(".") && (isImage(file) || isVideo(file)));
  const place = (file) => file.webkitRelativePath || file.name;
  kept.sort((a, b) => place(a).localeCompare(place(b), undefined, { numeric: true }));
  return { files: kept, left: files.length - kept.length };
}

async function inside(entry) {
  if (entry.isFile) return [await new Promise((done, failed) => entry.file(done, failed))];
  const reader = entry.createReader(), found = [];
  for (;;) { // a reader gives its entries in portions
    const some = await new Promise((done, failed) => reader.readEntries(done, failed));
    if (!some.length) break;
    for (const one of some) found.push(...(await inside(one)));
  }
  return found;
}

/** All files that were dropped, those of folders too. */
export async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return [...transfer.files];
  return (await Promise.all(entries.map(inside))).flat();
}

/** A file as a bitmap: upright as EXIF says, no colours converted. */
export async function bitmapOf(file) {
  try {
    return await createImageBitmap(file, { imageOrientation: "from-image", colorSpaceConversion: "none", premultiplyAlpha: "none" });
  } catch {
    throw new Error(`${file.name} cannot be read by this browser: give a PNG, JPEG or WebP picture`);
  }
}

/** A playing <video> of a file or, without one, of the camera. */
export async function openVideo(file) {
  const video = document.createElement("video");
  video.muted = video.playsInline = true;
  if (file) {
    video.src = URL.createObjectURL(file);
    video.loop = true;
  } else {
    if (!navigator.mediaDevices) throw new Error("this browser gives no camera to this page: open it on localhost or by https");
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  }
  await new Promise((done, failed) => {
    video.onloadeddata = done;
    video.onerror = () => failed(new Error(`${file?.name ?? "the camera"} cannot be played by this browser: give an MP4 (H.264) or WebM video`));
  });
  return video;
}

export function closeVideo(video) {
  video.pause();
  video.srcObject?.getTracks().forEach((track) => track.stop());
  if (video.src) URL.revokeObjectURL(video.src);
}
