// Runs an explainer with the code of docs/explainer.md: node run.mjs EXPLAIN.MJS EXPLAINER.ONNX PIXELS WIDTH THREADS OUT
import { readFileSync, writeFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [code, model, pixels, width, threads, out] = process.argv.slice(2);
const { explain, overlay, ort } = await import(pathToFileURL(code));
ort.env.wasm.numThreads = Number(threads);
ort.env.logLevel = "error";
const session = await ort.InferenceSession.create(readFileSync(model), { executionProviders: ["wasm"] });
const data = readFileSync(pixels);
const picture = { data, width: Number(width), height: data.length / 4 / Number(width) };
let result;
const milliseconds = [];
for (let run = 0; run < 3; run++) {
  const start = performance.now();
  result = await explain(session, picture);
  milliseconds.push(performance.now() - start);
}
const painted = overlay(result);
const { heat, ...rest } = result;
writeFileSync(out, Buffer.from(heat.buffer, heat.byteOffset, heat.byteLength));
const deepest = heat.indexOf(heat.reduce((a, b) => Math.max(a, b)));
const alpha = painted[4 * deepest + 3];
const version = ort.env.versions.web;
console.log(JSON.stringify({ ...rest, milliseconds, alpha, painted: painted.length, version }));
process.exit(0); // its worker threads would keep Node alive
