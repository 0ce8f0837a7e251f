// Runs files with onnxruntime-web, in Node or in a browser: see held.py for the files, browser.html and node.mjs for both.
const ARRAYS = { float32: Float32Array, int64: BigInt64Array, uint8: Uint8Array };

/** read: name -> ArrayBuffer; write: (name, bytes or text) -> nothing */
export async function hold(ort, provider, read, write) {
  const text = new TextDecoder().decode(await read("cases.json"));
  for (const { file, feeds, outputs } of JSON.parse(text)) {
    let told;
    try {
      const model = new Uint8Array(await read(`${file}.onnx`));
      const session = await ort.InferenceSession.create(model, { executionProviders: [provider] });
      const inputs = {};
      for (const [name, kind, shape, data] of feeds) {
        // half precision: its bytes are handed on as they are
        const values = new (ARRAYS[kind] ?? Uint16Array)(await read(data));
        inputs[name] = new ort.Tensor(kind, values, shape);
      }
      const results = await session.run(inputs, outputs);
      told = [];
      for (const [place, name] of outputs.entries()) {
        const { type, dims, data } = results[name];
        told.push([name, type, dims]);
        await write(`${file}.out${place}`, new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
      }
      await session.release();
    } catch (error) {
      told = String(error?.message ?? error);
    }
    await write(`${file}.json`, JSON.stringify(told));
  }
}
