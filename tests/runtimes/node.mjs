// node node.mjs FOLDER: onnxruntime-web's WebAssembly on Node
import { readFileSync, writeFileSync } from "node:fs";
import * as ort from "onnxruntime-web";
import { hold } from "./hold.mjs";

const folder = process.argv[2];
ort.env.wasm.numThreads = 1;
ort.env.logLevel = "error";
const read = (name) => new Uint8Array(readFileSync(`${folder}/${name}`)).buffer;
await hold(ort, "wasm", read, (name, data) => writeFileSync(`${folder}/${name}`, data));
process.exit(0); // its worker threads would keep Node alive
