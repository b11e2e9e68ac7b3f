// Renders /openapi.json. Text reaches the page through textContent only, so a description can never become markup.
"use strict";

const METHODS = ["get", "post", "put", "patch", "delete", "head", "options", "trace"];
const DEPTH = 8; // levels of an example; deeper schemas are recursive ones
const SAMPLES = {
  uuid: "0193595e-7c00-7000-8000-000000000001",
  "date-time": "2026-11-24T09:30:00.000000Z",
  date: "2026-11-24",
  uri: "https://example.org/",
};
const wide = matchMedia("(min-width: 60rem)"); // the same width as in docs.css
let spec = {};

start();

async function start() {
  for (const span of document.querySelectorAll("[data-origin]")) span.textContent = location.origin;
  for (const box of document.querySelectorAll(".code")) box.prepend(label("Shell", box.querySelector("code")));
  keepMenuOpenWhenWide();
  const state = document.getElementById("state");
  show(state, "Loading the operations…");
  try {
    const answer = await fetch("/openapi.json", { headers: { Accept: "application/json" } });
    if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
    spec = await answer.json();
    render();
    state.hidden = true;
  } catch (error) {
    state.classList.add("bad");
    show(state, `The operations could not be shown: ${error.message}. Reload the page to try again.`);
    return;
  }
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target) target.scrollIntoView();
  followReading();
}

function render() {
  const info = spec.info ?? {};
  if (info.title) document.title = `${info.title} API reference`;
  document.getElementById("version").textContent = info.version ? `Version ${info.version}` : "";
  document.getElementById("intro").append(prose(info.description));
  const groups = grouped();
  document.getElementById("operations").append(...authentication(), ...groups.map(section));
  document.getElementById("nav").append(...groups.map(navigation));
  document.getElementById("filter").addEventListener("input", filter);
}

// Operations by tag: first in the order the document lists its tags, then as they come.
function grouped() {
  const groups = new Map((spec.tags ?? []).map((tag) => [tag.name, { ...tag, operations: [] }]));
  for (const [path, item] of Object.entries(spec.paths ?? {})) {
    for (const method of METHODS.filter((name) => item[name])) {
      const operation = { ...item[method], path, method, id: slug(`${method} ${path}`) };
      const own = (item[method].parameters ?? []).map(resolve);
      const shared = (item.parameters ?? []).map(resolve);
      const overridden = (one) => own.some((other) => other.name === one.name && other.in === one.in);
      operation.parameters = [...shared.filter((one) => !overridden(one)), ...own];
      const tag = operation.tags?.[0] ?? "other";
      if (!groups.has(tag)) groups.set(tag, { name: tag, operations: [] });
      groups.get(tag).operations.push(operation);
    }
  }
  return [...groups.values()].filter((group) => group.operations.length > 0);
}

function authentication() {
  const schemes = Object.values(spec.components?.securitySchemes ?? {}).map(resolve);
  if (schemes.length === 0) return [];
  const bearer = schemes.some((scheme) => scheme.scheme?.toLowerCase() === "bearer");
  const title = node("h2", { id: "authentication-title" }, "Authentication");
  return [node("section", { id: "authentication", "aria-labelledby": title.id }, title,
    bearer && node("p", {}, "Send ", node("code", {}, "Authorization: Bearer $TOKEN"), " with every request, unless the operation says that it needs no token."),
    ...schemes.map((scheme) => prose(scheme.description)))];
}

function section(group) {
  const title = node("h2", { id: slug(`group ${group.name}`) }, heading(group.name));
  return node("section", { "aria-labelledby": title.id }, title, prose(group.description), ...group.operations.map(article));
}

function article(operation) {
  const title = node("h3", { id: `${operation.id}-title` }, node("a", { href: `#${operation.id}` }, name(operation)));
  const text = node("div", {}, prose(operation.description),
    operation.deprecated && node("p", { class: "must" }, "Deprecated"),
    !needsToken(operation) && node("p", { class: "quiet" }, "Needs no token."),
    ...parameters(operation), ...requestBody(operation), ...responses(operation));
  const samples = node("div", { class: "samples" }, codeBlock("Shell", curl(operation)), ...answerSample(operation));
  return node("article", { id: operation.id, class: operation.deprecated ? "operation old" : "operation", "aria-labelledby": title.id },
    title, route(operation), node("div", { class: "columns" }, text, samples));
}

function route(operation) {
  return node("p", { class: "route" }, verb(operation.method), node("code", {}, ...breakable(operation.path)));
}

function verb(method) {
  return node("span", { class: `verb ${method}` }, method === "delete" ? "del" : method);
}

function parameters(operation) {
  const places = [["path", "Path parameters"], ["query", "Query parameters"], ["header", "Headers"], ["cookie", "Cookies"]];
  return places.flatMap(([place, title]) => {
    const found = operation.parameters.filter((one) => one.in === place);
    if (found.length === 0) return [];
    const items = found.map((one) => field(one.name, one.schema ?? {}, one.required, one.description, one.example ?? first(one.examples)));
    return [node("h4", {}, title), node("ul", { class: "fields" }, ...items)];
  });
}

function requestBody(operation) {
  const body = resolve(operation.requestBody);
  const contents = Object.entries(body?.content ?? {});
  if (contents.length === 0) return [];
  const parts = contents.flatMap(([type, media]) => [
    node("p", { class: "quiet" }, node("code", {}, type), body.required ? "" : " (optional)"),
    shape(media.schema), codeBlock("Example body", sample(media, type, true)),
  ]);
  return [node("h4", {}, "Request body"), prose(body.description), ...parts];
}

function responses(operation) {
  const items = Object.entries(operation.responses ?? {}).map(([status, answer]) => {
    const { description, content = {}, headers = {} } = resolve(answer);
    const tone = status < "400" ? "status ok" : "status bad";
    const parts = Object.entries(content).map(([type, media]) =>
      node("div", {}, node("p", { class: "quiet" }, node("code", {}, type)), expander("Fields of the answer", () => shape(media.schema), hasFields(media.schema))));
    const sent = Object.entries(headers).map(([key, value]) => field(key, resolve(value).schema ?? {}, false, resolve(value).description));
    return node("li", {}, node("div", { class: "field" }, node("code", { class: tone }, status)), prose(description), ...parts,
      sent.length > 0 && node("ul", { class: "fields" }, ...sent));
  });
  return items.length === 0 ? [] : [node("h4", {}, "Responses"), node("ul", { class: "fields" }, ...items)];
}

function answerSample(operation) {
  const good = Object.entries(operation.responses ?? {}).filter(([status]) => status.startsWith("2"));
  const [status, answer] = good.find(([code]) => code === "201") ?? good[0] ?? [];
  const [type, media] = Object.entries(resolve(answer)?.content ?? {})[0] ?? [];
  const text = media && sample(media, type);
  return text ? [codeBlock(`Answer ${status}`, text)] : [];
}

// --- schemas ---

function resolve(value) {
  for (let hops = 0; value?.$ref && hops < 20; hops += 1) {
    const { $ref, ...siblings } = value;
    const steps = $ref.replace(/^#\//, "").split("/").map((step) => decodeURIComponent(step).replace(/~1/g, "/").replace(/~0/g, "~"));
    const target = $ref.startsWith("#/") ? steps.reduce((at, step) => at?.[step], spec) : undefined;
    value = { title: steps.at(-1), ...(target ?? { description: `Missing: ${$ref}` }), ...siblings };
  }
  return value;
}

// One flat view of a schema: references followed, allOf merged, "or null" noted.
function flat(schema, depth = 0) {
  let view = schema === undefined || typeof schema === "boolean" ? {} : { ...resolve(schema) };
  const choices = view.oneOf ?? view.anyOf;
  const real = choices?.filter((choice) => choice.type !== "null");
  if (choices && real.length < choices.length) view.nullable = true;
  if (real?.length === 1 && depth < DEPTH) {
    const { oneOf, anyOf, ...outer } = view;
    view = { ...flat(real[0], depth + 1), ...outer };
  } else if (real) {
    view.choices = real;
  }
  if (Array.isArray(view.type)) {
    view.nullable = view.type.includes("null");
    view.type = view.type.filter((type) => type !== "null").join(" or ");
  }
  for (const part of depth < DEPTH ? view.allOf ?? [] : []) {
    const inner = flat(part, depth + 1);
    const both = { properties: { ...inner.properties, ...view.properties }, required: [...(inner.required ?? []), ...(view.required ?? [])] };
    view = { ...inner, ...view, ...both };
  }
  return view;
}

function shape(schema) {
  const view = flat(schema);
  if (view.items && !view.properties) return node("div", {}, node("p", { class: "quiet" }, typeName(view)), shape(view.items));
  const required = new Set(view.required ?? []);
  const items = Object.entries(view.properties ?? {}).map(([key, value]) => field(key, value, required.has(key), value.description));
  const values = map(view);
  if (values) items.push(field("any name", values, false));
  const choices = (view.choices ?? []).map((choice, index) =>
    node("li", {}, expander(variantName(choice, index), () => shape(choice), hasFields(choice)), prose(flat(choice).description)));
  return node("div", {}, items.length > 0 && node("ul", { class: "fields" }, ...items),
    choices.length > 0 && node("p", { class: "quiet" }, "One of:"), choices.length > 0 && node("ul", { class: "fields" }, ...choices),
    items.length + choices.length === 0 && node("p", { class: "quiet" }, typeName(view)));
}

function field(key, schema, required, description, example) {
  const view = flat(schema);
  const inner = view.items ? flat(view.items) : view;
  return node("li", {},
    node("div", { class: "field" }, node("code", {}, key), node("span", { class: "type" }, typeName(view)), required && node("span", { class: "must" }, "required")),
    prose(description ?? view.description), limits(view, inner, example), expander(`Fields of ${key}`, () => shape(inner), hasFields(inner)));
}

function limits(view, inner, example) {
  const facts = [];
  const add = (text, value) => value !== undefined && facts.push(`${text} ${typeof value === "string" ? value : JSON.stringify(value)}`);
  if (inner.enum) facts.push(`one of ${inner.enum.map((value) => (value === null ? "null" : String(value))).join(", ")}`);
  add("always", view.const);
  add("default", view.default);
  add("at least", view.minimum);
  add("at most", view.maximum);
  add("more than", view.exclusiveMinimum);
  add("less than", view.exclusiveMaximum);
  if (view.minLength !== undefined || view.maxLength !== undefined) facts.push(`${view.minLength ?? 0} to ${view.maxLength ?? "any number of"} characters`);
  if (view.minItems !== undefined || view.maxItems !== undefined) facts.push(`${view.minItems ?? 0} to ${view.maxItems ?? "any number of"} items`);
  add("pattern", view.pattern);
  add("example", example ?? (view.properties || view.items ? undefined : view.example ?? view.examples?.[0]));
  return facts.length > 0 && node("p", { class: "limits" }, sentence(facts.join("; ")));
}

function typeName(view) {
  const plain = view.choices ? "one of several" : view.type || (view.properties ? "object" : view.enum ? "string" : "any JSON value");
  let text = view.format && !/^u?int\d*$/.test(view.format) ? `${plain} (${view.format})` : plain;
  if (view.items) text = `array of ${typeName(flat(view.items))}`;
  return view.nullable ? `${text}, or null` : text;
}

function variantName(choice, index) {
  const view = flat(choice);
  const tags = Object.entries(view.properties ?? {}).filter(([, value]) => flat(value).enum?.length === 1 || flat(value).const !== undefined);
  const tag = tags.map(([key, value]) => `${key}: ${flat(value).const ?? flat(value).enum[0]}`).join(", ");
  return tag || view.title || `${typeName(view)}, variant ${index + 1}`;
}

function map(view) {
  return view.type === "object" && typeof view.additionalProperties === "object" ? view.additionalProperties : undefined;
}

function hasFields(schema) {
  const view = flat(schema);
  return Boolean(view.properties || view.choices || map(view) || (view.items && hasFields(view.items)));
}

// --- examples ---

// The text of a request or answer body: the given example, or one made from the schema.
function sample(media, type = "application/json", asked = false) {
  const value = media.example ?? first(media.examples) ?? example(media.schema, asked);
  if (value === undefined) return "";
  const lines = type.includes("ndjson");
  if (typeof value === "string" && (lines || !type.endsWith("json"))) return value.trimEnd();
  return lines && Array.isArray(value) ? value.map((line) => JSON.stringify(line)).join("\n") : pretty(value);
}

// JSON with what is short kept on one line.
function pretty(value, indent = "") {
  const inner = `${indent}  `;
  const list = Array.isArray(value);
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  const items = list ? value.map((one) => pretty(one, inner)) : Object.entries(value).map(([key, one]) => `${JSON.stringify(key)}: ${pretty(one, inner)}`);
  const [open, close] = list ? "[]" : "{}";
  const line = open + items.join(", ") + close;
  if (line.length + indent.length < 48 && !line.includes("\n") && (indent || items.length < 2)) return line;
  return `${open}\n${items.map((item) => inner + item).join(",\n")}\n${indent}${close}`;
}

function first(examples) {
  return Object.values(examples ?? {}).map((one) => resolve(one)?.value ?? one)[0];
}

// A request shows what is required or has an example of its own; an answer shows everything.
function example(schema, asked, outer = []) {
  const view = flat(schema);
  const given = view.example ?? view.examples?.[0] ?? view.const ?? view.default ?? view.enum?.[0];
  if (given !== undefined) return given;
  const seen = [...outer, schema?.$ref];
  if (seen.length > DEPTH || (schema?.$ref && outer.includes(schema.$ref))) return undefined;
  const make = (part) => example(part, asked, seen);
  if (view.choices) return make(view.choices[0]);
  if (view.properties || view.type === "object") {
    const wanted = ([key, value]) => !asked || view.required?.includes(key) || flat(value).example !== undefined;
    const pairs = Object.entries(view.properties ?? {}).filter(wanted).map(([key, value]) => [key, make(value)]);
    return Object.fromEntries(pairs.filter(([, value]) => value !== undefined));
  }
  if (view.type === "array") return [make(view.items)].filter((item) => item !== undefined);
  if (view.nullable) return null;
  if (view.type === "integer" || view.type === "number") return Math.max(1, view.minimum ?? 1);
  if (view.type === "boolean") return false;
  if (view.type === "string") return SAMPLES[view.format] ?? "string";
  return view.type === "null" ? null : "any value";
}

function needsToken(operation) {
  const needs = operation.security ?? spec.security ?? [];
  return needs.length > 0 && needs.every((need) => Object.keys(need).length > 0);
}

function curl(operation) {
  const [type, media] = Object.entries(resolve(operation.requestBody)?.content ?? {})[0] ?? [];
  const body = media && sample(media, type, true);
  const implied = body ? "post" : "get";
  const verbPart = operation.method === "head" ? "--head " : operation.method === implied ? "" : `-X ${operation.method.toUpperCase()} `;
  const lines = [`curl ${verbPart}"${address(operation)}"`];
  if (needsToken(operation)) lines.push('-H "Authorization: Bearer $TOKEN"');
  if (body) lines.push(`-H "Content-Type: ${type}"`, `${type.includes("ndjson") ? "--data-binary" : "-d"} '${body.replaceAll("'", "'\\''")}'`);
  return lines.join(" \\\n  ");
}

// Percent-encoding leaves nothing that a shell or curl's globbing would read inside double quotes.
function address(operation) {
  const value = (one) => one.example ?? first(one.examples) ?? flat(one.schema).example ?? SAMPLES[flat(one.schema).format];
  const path = operation.path.replace(/\{([^}]+)\}/g, (whole, key) => {
    const found = operation.parameters.find((one) => one.in === "path" && one.name === key);
    const known = found && value(found);
    return known === undefined ? `$${key.toUpperCase().replace(/\W/g, "_")}` : encodeURIComponent(known);
  });
  const asked = operation.parameters.filter((one) => one.in === "query" && (one.required || one.example !== undefined));
  const query = asked.map((one) => `${encodeURIComponent(one.name)}=${encodeURIComponent(value(one) ?? example(one.schema, true)).replaceAll("%3A", ":")}`);
  return location.origin + path + (query.length > 0 ? `?${query.join("&")}` : "");
}

// --- the page ---

function navigation(group) {
  const links = group.operations.map((operation) => {
    const link = node("a", { href: `#${operation.id}` }, verb(operation.method), node("span", {}, name(operation)));
    link.dataset.find = `${operation.method} ${operation.path} ${name(operation)}`.toLowerCase();
    link.addEventListener("click", () => { if (!wide.matches) document.getElementById("menu").open = false; });
    return node("li", {}, link);
  });
  const title = node("p", { class: "group", id: slug(`menu ${group.name}`) }, heading(group.name));
  return node("div", {}, title, node("ul", { "aria-labelledby": title.id }, ...links));
}

function filter(event) {
  const words = event.target.value.toLowerCase().split(/\s+/);
  let left = 0;
  for (const group of document.getElementById("nav").children) {
    let shown = 0;
    for (const item of group.querySelectorAll("li")) {
      item.hidden = !words.every((word) => item.firstChild.dataset.find.includes(word));
      shown += item.hidden ? 0 : 1;
    }
    group.hidden = shown === 0;
    left += shown;
  }
  document.getElementById("none").textContent = left === 0 ? "No operation matches." : "";
}

function keepMenuOpenWhenWide() {
  const menu = document.getElementById("menu");
  const fit = () => { menu.open = wide.matches; };
  wide.addEventListener("change", fit);
  fit();
}

// Marks in the menu the operation that is at the top of the window.
function followReading() {
  const links = new Map([...document.querySelectorAll("#nav a")].map((link) => [link.hash.slice(1), link]));
  const watch = new IntersectionObserver((seen) => {
    for (const { target } of seen.filter((one) => one.isIntersecting)) {
      for (const link of links.values()) link.removeAttribute("aria-current");
      links.get(target.id)?.setAttribute("aria-current", "location");
    }
  }, { rootMargin: "-15% 0px -80% 0px" });
  for (const part of document.querySelectorAll(".operation")) watch.observe(part);
}

function codeBlock(title, text) {
  const code = node("code", {}, text);
  const pre = node("pre", { tabindex: "0", role: "group", "aria-label": title }, code);
  return text ? node("div", { class: "code" }, label(title, code), pre) : undefined;
}

function label(title, code) {
  const button = node("button", { type: "button", "aria-label": `Copy: ${title}` }, "Copy");
  const said = node("span", { class: "quiet", role: "status" });
  button.addEventListener("click", () => copy(code, said));
  return node("p", { class: "label" }, node("span", { class: "grow" }, title), said, button);
}

// Browsers offer the clipboard on https and localhost only; elsewhere the text is left selected.
async function copy(code, said) {
  try {
    await navigator.clipboard.writeText(code.textContent);
    said.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(code);
    said.textContent = document.execCommand("copy") ? "Copied" : "Selected, copy it by hand";
  }
  setTimeout(() => { said.textContent = ""; }, 2500);
}

function expander(title, make, wanted) {
  if (!wanted) return undefined;
  const box = node("details", { class: "more" }, node("summary", {}, title));
  box.addEventListener("toggle", () => { if (box.open && box.children.length === 1) box.append(make()); });
  return box;
}

// The part of Markdown that doc comments use: paragraphs, lists, fenced code, `code`, **strong**, [links](https://…).
function prose(text) {
  const box = node("div", { class: "prose" });
  for (const [index, block] of (text ?? "").split(/^```.*$/m).entries()) {
    if (index % 2 === 1) box.append(node("div", { class: "code" }, node("pre", { tabindex: "0" }, node("code", {}, block.trim()))));
    else for (const part of block.split(/\n\s*\n|\n(?=[-*] )/)) paragraph(box, part.trim());
  }
  return box;
}

function paragraph(box, part) {
  if (part === "") return;
  const item = /^[-*] /.test(part);
  const line = part.replace(/^(?:[-*]|#+) /, "").replace(/\s*\n\s*/g, " ");
  if (!item) return box.append(node("p", {}, ...inline(line)));
  if (box.lastChild?.tagName !== "UL") box.append(node("ul"));
  box.lastChild.append(node("li", {}, ...inline(line)));
}

function inline(text) {
  return text.split(/(`[^`]+`|\*\*[^*]+\*\*|\[[^\]]+\]\([^)\s]+\))/).map((piece) => {
    if (/^`.+`$/.test(piece)) return node("code", {}, piece.slice(1, -1));
    if (/^\*\*.+\*\*$/.test(piece)) return node("strong", {}, piece.slice(2, -2));
    const [, words, target] = piece.match(/^\[([^\]]+)\]\((.+)\)$/) ?? [];
    return /^(?:https?:\/\/|\/|#)/.test(target ?? "") ? node("a", { href: target, rel: "noreferrer" }, words) : words ?? piece;
  });
}

function node(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children.filter((child) => child !== undefined && child !== false && child !== null && !empty(child)));
  return made;
}

function empty(child) {
  return child === "" || (child.className === "prose" && child.childNodes.length === 0);
}

function name(operation) {
  return operation.summary?.replace(/\.$/, "") || `${operation.method.toUpperCase()} ${operation.path}`;
}

function heading(text) {
  return sentence(text.replaceAll(/[_-]/g, " "));
}

function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

function breakable(path) {
  return path.split(/(?=\/)/).flatMap((step) => [document.createElement("wbr"), step]);
}

function slug(text) {
  return text.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/-$/, "");
}

function show(box, text) {
  box.textContent = text;
  box.hidden = false;
}
