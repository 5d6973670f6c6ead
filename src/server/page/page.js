// The page of `longtake serve`. What happens is the server's: this shows it, and finds it again after a reload.
// What a model, a file or a server says becomes text nodes, never HTML.

const $ = (id) => document.getElementById(id);
const state = { props: null, file: null, take: null, plan: null, messages: [], urls: new Map(), answer: null, watch: null, looked: null };

// ---- asking the server

function key() { return sessionStorage.getItem("longtake-key") || ""; }

function headers(more = {}) {
  return key() ? { ...more, Authorization: "Bearer " + key() } : more;
}

class Refused extends Error {}

async function call(path, options = {}) {
  const response = await fetch(path, { ...options, headers: headers(options.headers) });
  if (response.status === 401) {
    await askForKey();
    return call(path, options);
  }
  if (!response.ok) {
    const body = await response.json().catch(() => ({}));
    throw new Refused(body.error?.message || `the server says ${response.status}`);
  }
  return response;
}

const getJson = async (path) => (await call(path)).json();
const postJson = async (path, body, signal) =>
  call(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal });

function askForKey() {
  $("key-button").hidden = false;
  const dialog = $("key-dialog");
  if (!dialog.open) dialog.showModal();
  return new Promise((done) => {
    dialog.addEventListener("close", () => {
      sessionStorage.setItem("longtake-key", $("key").value.trim());
      done();
    }, { once: true });
  });
}

// Server-sent events by `fetch`, since an EventSource cannot send a key.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    const blocks = rest.split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const data = block.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n");
      if (data === "[DONE]") return;
      if (data) yield JSON.parse(data);
    }
  }
}

function complain(error) {
  if (error?.name === "AbortError") return;
  $("error").textContent = error?.message || String(error);
  $("error").hidden = false;
}

function forgive() { $("error").hidden = true; }

// ---- words

function bytes(n) {
  if (n == null) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let i = 0;
  while (n >= 1024 && i < units.length - 1) { n /= 1024; i += 1; }
  return `${n < 10 && i > 0 ? n.toFixed(1) : Math.round(n)} ${units[i]}`;
}

function time(seconds) {
  if (seconds == null) return "–";
  const s = Math.round(seconds);
  if (s < 60) return `${seconds < 10 ? seconds.toFixed(1) : s} s`;
  const h = Math.floor(s / 3600), m = Math.floor(s / 60) % 60;
  return h ? `${h} h ${m} min` : `${m} min ${s % 60} s`;
}

function clock(seconds) {
  const s = Math.max(0, seconds), pad = (n) => String(n).padStart(2, "0");
  const h = Math.floor(s / 3600), m = Math.floor(s / 60) % 60;
  return (h ? `${h}:${pad(m)}` : `${m}`) + `:${pad(Math.floor(s % 60))}`;
}

function element(name, text, attributes = {}) {
  const node = document.createElement(name);
  if (text != null) node.textContent = text;
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

// Bold, code, and times of the video; all else is text as it is.
function fill(node, text) {
  node.replaceChildren();
  for (const [i, part] of text.split("```").entries()) {
    if (i % 2) { node.append(element("pre", part.replace(/^\w*\n/, ""))); continue; }
    for (const piece of part.split(/(\*\*[^*\n]+\*\*|`[^`\n]+`|\b\d{1,2}:\d{2}(?::\d{2})?\b)/)) {
      if (/^\*\*.+\*\*$/.test(piece)) node.append(element("strong", piece.slice(2, -2)));
      else if (/^`.+`$/.test(piece)) node.append(element("code", piece.slice(1, -1)));
      else if (/^\d{1,2}:\d{2}(:\d{2})?$/.test(piece) && !$("player").hidden) {
        const link = element("a", piece, { href: "#player" });
        const seconds = piece.split(":").reduce((sum, n) => 60 * sum + Number(n), 0);
        link.addEventListener("click", (event) => { event.preventDefault(); seek(seconds); });
        node.append(link);
      } else node.append(piece);
    }
  }
}

// ---- lists

function item(label, note, chosen, choose, remove) {
  const li = element("li", null, { class: chosen ? "item chosen" : "item" });
  const open = element("button", label, { type: "button", title: label });
  open.append(element("small", note));
  if (chosen) open.setAttribute("aria-current", "true");
  open.addEventListener("click", choose);
  li.append(open);
  if (remove) {
    const gone = element("button", "✕", { type: "button", class: "icon", "aria-label": `Remove ${label}` });
    gone.addEventListener("click", remove);
    li.append(gone);
  }
  return li;
}

async function refresh() {
  if (!state.props?.longtake?.takes) { $("no-takes").textContent = "This server keeps nothing."; return; }
  const [takes, files] = await Promise.all([getJson("/v1/takes"), getJson("/v1/files")]);
  $("no-takes").hidden = takes.data.length > 0;
  $("takes").replaceChildren(...takes.data.map((take) => {
    const { processed = 0, total = 0 } = take.progress || {};
    const part = total ? ` ${Math.floor(100 * processed / total)} %` : "";
    const note = take.status === "ready" ? bytes(take.bytes) : take.status + (take.status === "reading" ? part : "");
    const remove = take.read_only ? null : async () => {
      await call(`/v1/takes/${take.id}`, { method: "DELETE" }).catch(complain);
      if (state.take?.id === take.id) leave();
      refresh().catch(complain);
    };
    return item(take.name, note, state.take?.id === take.id, () => openTake(take), remove);
  }));
  $("files").replaceChildren(...files.data.map((file) => {
    const note = [file.seconds != null ? time(file.seconds) : null, bytes(file.bytes)].filter(Boolean).join(", ");
    const remove = async () => {
      await call(`/v1/files/${file.id}`, { method: "DELETE" }).catch(complain);
      if (state.file?.id === file.id && !state.take) leave();
      refresh().catch(complain);
    };
    return item(file.filename, note, !state.take && state.file?.id === file.id, () => openFile(file), remove);
  }));
}

function leave() {
  state.watch?.abort();
  Object.assign(state, { file: null, take: null, plan: null, messages: [], looked: null });
  location.hash = "";
  $("stage").hidden = true;
  showMessages();
}

// ---- a video that was uploaded: what it would cost

async function openFile(file) {
  forgive();
  state.watch?.abort();
  const same = state.file?.id === file.id;
  Object.assign(state, { file, take: null, plan: null, messages: same ? state.messages : [], looked: same ? state.looked : null });
  location.hash = file.id;
  stage(file.filename, "uploaded", file.id);
  $("reading").hidden = true;
  $("plan").hidden = file.kind !== "video";
  $("end").value = "";
  $("start").value = "";
  if (file.kind === "video") {
    $("end").placeholder = file.seconds?.toFixed(1) ?? "";
    await replan();
  } else strip(null);
  showMessages();
  refresh().catch(complain);
}

function stage(title, badge, blob) {
  $("stage").hidden = false;
  $("stage-title").textContent = title;
  $("state").textContent = badge;
  $("state").className = "badge " + badge;
  const url = state.urls.get(blob), player = $("player");
  player.hidden = !url;
  if (url && player.src !== url) player.src = url;
  if (!url) player.removeAttribute("src");
}

function options() {
  const given = { fps: 2 ** Number($("fps").value) };
  const pixels = Number($("pixels").value);
  if (pixels < 20) given.max_pixels = Math.round(2 ** pixels);
  if ($("start").value) given.start = Number($("start").value);
  if ($("end").value) given.end = Number($("end").value);
  return given;
}

let planning = 0;
async function replan() {
  const mine = ++planning;
  const fps = 2 ** Number($("fps").value), pixels = Number($("pixels").value);
  $("fps-out").textContent = fps >= 1 ? fps.toFixed(1) : `one every ${(1 / fps).toFixed(1)} s`;
  $("pixels-out").textContent = pixels < 20 ? `${Math.round(2 ** pixels / 1000)} thousand pixels` : "as the model likes it";
  try {
    const plan = await (await postJson("/v1/plan", { file_id: state.file.id, options: options() })).json();
    if (mine !== planning) return;
    forgive();
    state.plan = plan;
    const [video] = plan.media;
    const figures = [
      ["Frames", `${video.frames} of ${video.size.join("×")}`],
      ["Tokens", plan.n_media.toLocaleString("en")],
      ["Memory", bytes(plan.memory.total)],
      ["Time", plan.seconds ? `about ${time(plan.seconds.total)}` : "seconds"],
    ];
    if (plan.reduced.length) figures.push(["Reduced", plan.reduced.join("; ")]);
    $("figures").replaceChildren(...figures.map(([name, value]) => {
      const row = element("div");
      row.append(element("dt", name), element("dd", value));
      return row;
    }));
    $("read").disabled = false;
    strip(video);
  } catch (error) {
    if (mine !== planning) return;
    $("read").disabled = true;
    complain(error);
  }
}

function strip(video) {
  const box = $("strip");
  box.replaceChildren();
  box.className = "";
  $("strip-note").textContent = "";
  if (!video?.times?.length) return;
  if (looks(box, video)) return;
  const length = video.duration || video.times.at(-1) || 1;
  // A mark every few pixels is enough for eyes.
  const step = Math.max(1, Math.ceil(video.times.length / 200));
  for (let i = 0; i < video.times.length; i += step) {
    const at = video.times[i];
    const mark = element("button", null, { type: "button", title: clock(at), "aria-label": `Frame at ${clock(at)}` });
    mark.style.left = `${Math.min(99.5, 100 * at / length)}%`;
    mark.tabIndex = i === 0 ? 0 : -1;
    mark.addEventListener("click", () => seek(at));
    box.append(mark);
  }
  $("strip-note").textContent = `${video.times.length} frames, from ${clock(video.times[0])} to ${clock(video.times.at(-1))}`;
}

// Where the last answer looked, in place of the plain frames: a bar for each frame pair, as high as its share.
function looks(box, video) {
  const pairs = state.looked?.media?.[0]?.pairs || [];
  const peak = Math.max(...pairs.map(({ among }) => among), 0);
  if (!peak) return false;
  const length = Math.max(video.duration || 0, pairs.at(-1).to) || 1;
  const step = Math.ceil(pairs.length / 200);
  box.className = "looked";
  for (let i = 0; i < pairs.length; i += step) {
    const group = pairs.slice(i, i + step);
    const most = group.reduce((a, b) => (b.among > a.among ? b : a));
    const title = `${clock(most.from)} to ${clock(most.to)}: ${(100 * most.among).toFixed(1)} %`;
    const bar = element("button", null, { type: "button", title, "aria-label": `Looked at from ${title}` });
    bar.style.left = `${100 * group[0].from / length}%`;
    bar.style.width = `${100 * (group.at(-1).to - group[0].from) / length}%`;
    bar.style.setProperty("--share", most.among / peak);
    bar.tabIndex = i === 0 ? 0 : -1;
    bar.addEventListener("click", () => seek(most.from));
    box.append(bar);
  }
  $("strip-note").textContent = state.looked.text;
  return true;
}

function seek(seconds) {
  const player = $("player");
  if (player.hidden) { $("talk-note").textContent = `${clock(seconds)} (choose the file again to see it here)`; return; }
  player.currentTime = seconds;
  player.focus();
}

$("strip").addEventListener("keydown", (event) => {
  const marks = [...$("strip").children], at = marks.indexOf(document.activeElement);
  const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: marks.length - 1 }[event.key];
  if (at < 0 || to == null || !marks[to]) return;
  event.preventDefault();
  marks[at].tabIndex = -1;
  marks[to].tabIndex = 0;
  marks[to].focus();
});

// ---- a take: read, and then asked

async function openTake(take) {
  forgive();
  state.watch?.abort();
  const same = state.take?.id === take.id;
  Object.assign(state, { take, file: null, messages: same ? state.messages : [], looked: same ? state.looked : null });
  location.hash = take.id;
  showTake(take);
  showMessages();
  refresh().catch(complain);
  if (take.status === "queued" || take.status === "reading") watchTake(take.id);
}

function showTake(take) {
  state.take = take;
  stage(take.name, take.status, take.source?.file_id);
  $("plan").hidden = true;
  $("reading").hidden = take.status === "ready";
  const { processed = 0, total = 0, frames_done = 0, frames_total = 0, eta_ms } = take.progress || {};
  $("reading-bar").value = total ? processed / total : 0;
  const left = eta_ms ? `, about ${time(eta_ms / 1000)} left` : "";
  $("reading-note").textContent = take.error?.message
    || (take.status === "queued" ? "waits for its turn" : `${processed.toLocaleString("en")} of ${total.toLocaleString("en")} tokens, frame ${frames_done} of ${frames_total}${left}`);
  $("reading-cancel").hidden = !["queued", "reading"].includes(take.status);
  $("reading-go").hidden = !["paused", "failed"].includes(take.status) || !take.source?.file_id;
  strip(take.plan?.media?.[0]);
  snippets();
}

async function watchTake(id) {
  const abort = (state.watch = new AbortController());
  for (let tries = 0; !abort.signal.aborted && tries < 100; tries += 1) {
    try {
      for await (const take of events(await call(`/v1/takes/${id}/events`, { signal: abort.signal }))) {
        if (state.take?.id !== id) return;
        showTake(take);
        if (["ready", "failed", "paused"].includes(take.status)) { refresh().catch(complain); return; }
      }
    } catch (error) {
      if (error.name === "AbortError") return;
      if (error instanceof Refused) return complain(error);
    }
    await new Promise((done) => setTimeout(done, 1000));
  }
}

$("plan").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    const body = { file_id: state.file.id, options: options(), name: state.file.filename };
    openTake(await (await postJson("/v1/takes", body)).json());
  } catch (error) { complain(error); }
});
let later;
for (const id of ["fps", "pixels", "start", "end"]) {
  $(id).addEventListener("input", () => { clearTimeout(later); later = setTimeout(replan, 200); });
}
$("reading-cancel").addEventListener("click", async () => {
  try { openTake(await (await call(`/v1/takes/${state.take.id}/cancel`, { method: "POST" })).json()); } catch (error) { complain(error); }
});
$("reading-go").addEventListener("click", async () => {
  try { openTake(await (await call(`/v1/takes/${state.take.id}/resume`, { method: "POST" })).json()); } catch (error) { complain(error); }
});

// ---- the conversation

function showMessages() {
  $("messages").replaceChildren(...state.messages.map(({ role, content }) => {
    const li = element("li", null, { class: role });
    fill(li, content);
    return li;
  }));
  snippets();
}

function request(question) {
  const id = state.take?.id || state.file?.id;
  const turns = [...state.messages.map(({ role, content }) => ({ role, content })), { role: "user", content: question }];
  if (id) {
    const first = turns.find((turn) => turn.role === "user");
    first.content = [{ type: "file", file: { file_id: id } }, { type: "text", text: first.content }];
  }
  return { messages: turns };
}

$("ask").addEventListener("submit", async (event) => {
  event.preventDefault();
  const question = $("question").value.trim();
  if (!question || state.answer) return;
  forgive();
  const body = { ...request(question), stream: true, return_progress: true, stream_options: { include_usage: true }, longtake: { where: true } };
  state.messages.push({ role: "user", content: question }, { role: "assistant", content: "" });
  const said = state.messages.at(-1);
  $("question").value = "";
  showMessages();
  const shown = $("messages").lastElementChild;
  const abort = (state.answer = new AbortController());
  busy(true);
  try {
    for await (const chunk of events(await postJson("/v1/chat/completions", body, abort.signal))) {
      if (chunk.error) throw new Refused(chunk.error.message);
      if (chunk.prompt_progress) progress(chunk.prompt_progress);
      const text = chunk.choices?.[0]?.delta?.content;
      if (text) { said.content += text; fill(shown, said.content); }
      if (chunk.longtake?.media?.[0]) {
        state.looked = chunk.longtake.where;
        strip(state.take?.plan?.media?.[0] || chunk.longtake.media[0]);
      }
      if (chunk.timings?.prompt_ms != null) {
        const { cache_n, prompt_n, prompt_ms, predicted_n, predicted_per_second } = chunk.timings;
        $("talk-note").textContent = `${prompt_n} tokens read in ${time(prompt_ms / 1000)} (${cache_n} were there), ${predicted_n} answered at ${predicted_per_second.toFixed(1)} a second`;
      }
    }
  } catch (error) {
    complain(error);
  } finally {
    if (!said.content) { state.messages.splice(-2); $("question").value ||= question; showMessages(); }
    state.answer = null;
    busy(false);
  }
});

function busy(is) {
  $("send").hidden = is;
  $("stop").hidden = !is;
}

function progress({ stage, processed, total, frames_done, frames_total, queue_position, eta_ms }) {
  const left = eta_ms ? `, about ${time(eta_ms / 1000)} left` : "";
  const frames = frames_total ? `, frame ${frames_done} of ${frames_total}` : "";
  $("talk-note").textContent = queue_position ? `number ${queue_position} in the queue` : `${stage}: ${processed} of ${total} tokens${frames}${left}`;
}

$("stop").addEventListener("click", () => state.answer?.abort());
$("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); $("ask").requestSubmit(); }
});

function snippets() {
  const body = request("What happens in this video?");
  body.messages = body.messages.slice(-1);
  if (state.messages.length) Object.assign(body, request2());
  const json = JSON.stringify(body, null, 2);
  const auth = key() ? ' \\\n  -H "Authorization: Bearer $LONGTAKE_API_KEY"' : "";
  $("curl").textContent = `curl ${location.origin}/v1/chat/completions${auth} \\\n  -H "Content-Type: application/json" -d '${json.replaceAll("'", "'\\''")}'`;
  const python = json.replaceAll(/\btrue\b/g, "True").replaceAll(/\bfalse\b/g, "False").replaceAll(/\bnull\b/g, "None");
  $("python").textContent = `from openai import OpenAI\n\nclient = OpenAI(base_url="${location.origin}/v1", api_key="${key() ? "…" : "none"}")\nanswer = client.chat.completions.create(\n    model="",\n    messages=${JSON.parse(JSON.stringify(python)).replace(/^\{\s*"messages": /, "").replace(/\n\}$/, "")},\n)\nprint(answer.choices[0].message.content)`;
}

// The question that is on the screen.
function request2() {
  const first = state.messages[0];
  const kept = state.messages;
  state.messages = [];
  const body = request(first.content);
  state.messages = kept;
  return body;
}

for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText($(button.dataset.copy).textContent).catch(complain);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
}

// ---- uploads

function upload(file) {
  forgive();
  const request = new XMLHttpRequest();
  request.open("PUT", "/v1/files?purpose=video&filename=" + encodeURIComponent(file.name));
  request.setRequestHeader("Content-Type", "application/octet-stream");
  if (key()) request.setRequestHeader("Authorization", "Bearer " + key());
  $("upload").hidden = false;
  $("upload-name").textContent = file.name;
  $("upload-bar").value = 0;
  request.upload.addEventListener("progress", ({ loaded, total }) => { $("upload-bar").value = total ? loaded / total : 0; });
  request.addEventListener("loadend", () => {
    $("upload").hidden = true;
    if (!request.status) return complain(new Error("the upload did not reach the server"));
    const body = JSON.parse(request.responseText || "{}");
    if (request.status === 401) return askForKey().then(() => upload(file));
    if (request.status !== 200) return complain(new Refused(body.error?.message || `the server says ${request.status}`));
    state.urls.set(body.id, URL.createObjectURL(file));
    openFile(body).catch(complain);
  });
  request.addEventListener("abort", () => { $("upload").hidden = true; });
  $("upload-cancel").onclick = () => request.abort();
  request.send(file);
}

$("file").addEventListener("change", () => { const [file] = $("file").files; if (file) upload(file); $("file").value = ""; });
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", name === "dragover");
    if (name === "drop" && event.dataTransfer.files[0]) upload(event.dataTransfer.files[0]);
  });
}
$("key-button").addEventListener("click", askForKey);

// ---- the beginning

async function begin() {
  for (;;) {
    try {
      const ready = await fetch("/ready");
      if (ready.ok) break;
      $("model").textContent = (await ready.json()).status + " …";
    } catch { $("model").textContent = "the server is not there"; }
    await new Promise((done) => setTimeout(done, 1000));
  }
  state.props = await getJson("/props");
  const { n_ctx } = state.props.default_generation_settings;
  $("model").textContent = `${state.props.model_alias}, a context of ${n_ctx.toLocaleString("en")} tokens`;
  snippets();
  await refresh();
  const id = location.hash.slice(1);
  if (id.startsWith("take-")) await openTake(await getJson(`/v1/takes/${id}`));
  else if (id.startsWith("file-")) await openFile(await getJson(`/v1/files/${id}`));
}

begin().catch(complain);
setInterval(() => { if (state.props && !document.hidden) refresh().catch(() => {}); }, 5000);
