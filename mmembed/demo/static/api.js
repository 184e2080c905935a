// The demo's HTTP API. Every failure is an ApiError whose message may be shown.

export class ApiError extends Error {
  constructor(code, message, { status = 0, requestId = null } = {}) {
    super(message);
    this.code = code;
    this.status = status;
    this.requestId = requestId;
  }
}

export const isAbort = (error) => error.name === "AbortError";

async function call(path, options = {}) {
  let response;
  try {
    response = await fetch(`api/${path}`, options);
  } catch (error) {
    if (isAbort(error)) throw error;
    throw new ApiError(
      "unreachable",
      "The server does not answer. See whether `mmembed demo` still runs in its terminal, then try again.",
    );
  }
  if (response.ok) return response.status === 204 ? null : response.json();
  const body = await response.json().catch(() => ({}));
  const { code, message, request_id: requestId } = body.error ?? {};
  throw new ApiError(
    code ?? `http_${response.status}`,
    message ?? `The server answered ${response.status} ${response.statusText}.`,
    { status: response.status, requestId },
  );
}

const post = (path, body, signal) =>
  call(path, {
    method: "POST",
    signal,
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });

const part = encodeURIComponent;

export const info = () => call("info");
export const search = (body, signal) => post("search", body, signal);
export const explain = (body, signal) => post("explain", body, signal);
export const row = (id, signal) => call(`rows/${part(id)}`, { signal });

export const boxes = (id, number, words, signal) =>
  call(`rows/${part(id)}/boxes?${new URLSearchParams({ number, words })}`, { signal });

export const pageUrl = (id, number, width) =>
  `api/rows/${part(id)}/page?number=${number}&width=${width}`;

export const uploadThumbnail = (id) => `api/uploads/${part(id)}/thumbnail`;

export const upload = (file, signal) =>
  call(`uploads?${new URLSearchParams({ name: file.name || "pasted" })}`, {
    method: "POST",
    body: file,
    signal,
    headers: { "Content-Type": "application/octet-stream" },
  });
