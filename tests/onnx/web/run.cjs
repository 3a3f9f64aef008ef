// node run.cjs MODEL FEEDS: runs MODEL on each set of inputs in FEEDS, a JSON list, and prints the outputs as JSON.
const fs = require("fs");
const ort = require("onnxruntime-web");

ort.env.wasm.numThreads = 1;

const tensors = (feed) =>
  Object.fromEntries(
    Object.entries(feed).map(([name, { data, dims }]) => [name, new ort.Tensor("float32", Float32Array.from(data), dims)]),
  );

async function main([model, feeds]) {
  const session = await ort.InferenceSession.create(fs.readFileSync(model));
  const found = [];
  for (const feed of JSON.parse(fs.readFileSync(feeds, "utf8"))) {
    const outputs = await session.run(tensors(feed));
    found.push(
      Object.fromEntries(Object.entries(outputs).map(([name, t]) => [name, { data: Array.from(t.data), dims: t.dims }])),
    );
  }
  console.log(JSON.stringify(found));
}

main(process.argv.slice(2));
