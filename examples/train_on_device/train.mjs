// Fine-tune in JavaScript with onnxruntime-web, in a browser or here in Node: node train.mjs FOLDER (what export.py wrote).
import fs from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import process from "node:process";

// onnxruntime-web is looked for where the command runs: npm install onnxruntime-web
const ort = createRequire(path.join(process.cwd(), "package.json"))("onnxruntime-web");
ort.env.wasm.numThreads = 1;

const [folder, epochs = "10"] = process.argv.slice(2);
const read = (name, Type) => new Type(new Uint8Array(fs.readFileSync(path.join(folder, name))).buffer);
const open = (part) => ort.InferenceSession.create(fs.readFileSync(path.join(folder, `training${part}.onnx`)));

const [step, start, evaluation] = await Promise.all(["", ".start", ".eval"].map(open));
const images = { train: read("train_images.bin", Float32Array), test: read("test_images.bin", Float32Array) };
const labels = { train: read("train_labels.bin", BigInt64Array), test: read("test_labels.bin", BigInt64Array) };
const rate = new ort.Tensor("float64", Float64Array.of(5e-3), []);

async function accuracy(state) {
  const wanted = evaluation.inputNames.filter((name) => name in state).map((name) => [name, state[name]]);
  const x = new ort.Tensor("float32", images.test, [labels.test.length, 64]);
  const [{ data: scores }] = Object.values(await evaluation.run({ x, ...Object.fromEntries(wanted) }));
  const best = (i) => scores.subarray(10 * i, 10 * i + 10).reduce((top, s, c, row) => (s > row[top] ? c : top), 0);
  return labels.test.reduce((right, label, i) => right + (best(i) === Number(label)), 0) / labels.test.length;
}

let state = await start.run({});
console.log(`before: ${(100 * (await accuracy(state))).toFixed(1)}% of ${labels.test.length} test images`);
for (let epoch = 1; epoch <= Number(epochs); epoch++) {
  let found;
  for (let at = 0; at + 32 <= labels.train.length; at += 32) {
    const x = new ort.Tensor("float32", images.train.slice(64 * at, 64 * (at + 32)), [32, 64]);
    const target = new ort.Tensor("int64", labels.train.slice(at, at + 32), [32]);
    found = await step.run({ x, target, learning_rate: rate, ...state });
    state = Object.fromEntries(Object.keys(state).map((name) => [name, found[`next/${name}`]]));
  }
  console.log(`epoch ${epoch}: loss ${found.loss.data[0].toFixed(3)}, ${(100 * (await accuracy(state))).toFixed(1)}%`);
}
