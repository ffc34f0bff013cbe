// Dawn as a child process: takes shaders, operands and dispatches on stdin and answers on stdout.
//
// A message is the length of a JSON text in 4 bytes, little-endian, the text, and `payload` bytes after it. Each is answered by one.
// The device is asked for with WebGPU's default limits, and subgroups where the adapter has them: Dawn holds shaders and dispatches
// to both.
import { readSync, writeSync } from 'node:fs';
import { create, globals } from 'webgpu';

Object.assign(globalThis, globals);

// Bytes from one `Params` to the next: WebGPU's default alignment.
const PARAMS_STRIDE = 256;

function read(length) {
  const bytes = Buffer.alloc(length);
  for (let at = 0; at < length; ) {
    const count = readSync(0, bytes, at, length - at, null);
    if (count === 0) process.exit(0);
    at += count;
  }
  return bytes;
}

function write(bytes) {
  for (let at = 0; at < bytes.length; ) at += writeSync(1, bytes, at);
}

function receive() {
  const message = JSON.parse(read(read(4).readUInt32LE()).toString());
  return [message, read(message.payload ?? 0)];
}

function send(message, payload = new Uint8Array()) {
  const text = Buffer.from(JSON.stringify({ ...message, payload: payload.length }));
  const length = Buffer.alloc(4);
  length.writeUInt32LE(text.length);
  write(length);
  write(text);
  write(payload);
}

const gpu = create(['backend=vulkan']);
const adapter = await gpu.requestAdapter();
if (!adapter) {
  console.error('Dawn finds no adapter that it takes');
  process.exit(1);
}
const hasSubgroups = adapter.features.has('subgroups');
const device = await adapter.requestDevice({ requiredFeatures: hasSubgroups ? ['subgroups'] : [] });
device.lost.then((info) => {
  console.error(`the device is lost: ${info.message}`);
  process.exit(1);
});

// What `work` gives, and what Dawn had against it.
async function scoped(work) {
  const filters = ['validation', 'out-of-memory', 'internal'];
  for (const filter of filters) device.pushErrorScope(filter);
  let result, refused;
  try {
    result = await work();
  } catch (error) {
    refused = String(error.message ?? error);
  }
  for (const _ of filters) refused = (await device.popErrorScope())?.message ?? refused;
  return [result, refused ?? null];
}

const params = device.createBindGroupLayout({
  entries: [{ binding: 0, visibility: GPUShaderStage.COMPUTE, buffer: { type: 'uniform' } }],
});
const shaders = [];

async function compile({ wgsl, binds }) {
  const [shader, refused] = await scoped(async () => {
    const module = device.createShaderModule({ code: wgsl });
    const { messages } = await module.getCompilationInfo();
    const errors = messages.filter((m) => m.type === 'error').map((m) => `${m.lineNum}:${m.linePos} ${m.message}`);
    if (errors.length) throw new Error(errors.join('\n'));
    const storage = device.createBindGroupLayout({
      entries: binds.map(([binding, written]) => ({
        binding,
        visibility: GPUShaderStage.COMPUTE,
        buffer: { type: written ? 'storage' : 'read-only-storage' },
      })),
    });
    const pipeline = device.createComputePipeline({
      layout: device.createPipelineLayout({ bindGroupLayouts: [storage, params] }),
      compute: { module, entryPoint: 'main' },
    });
    return { pipeline, storage };
  });
  shaders.push(shader);
  return { refused };
}

let operands = [];

function upload({ sizes }, bytes) {
  for (const buffer of operands) buffer.destroy();
  let at = 0;
  operands = sizes.map((size) => {
    const buffer = device.createBuffer({ size, usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST });
    device.queue.writeBuffer(buffer, 0, bytes, at, size);
    at += size;
    return buffer;
  });
}

// Buffers are operands, the result and scratch tensors, in this order.
async function run({ result, unwritten, scratch, dispatches }) {
  const made = [];
  const buffer = (size, usage) => {
    made.push(device.createBuffer({ size, usage }));
    return made.at(-1);
  };
  const [bytes, refused] = await scoped(async () => {
    const output = buffer(result, GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST | GPUBufferUsage.COPY_SRC);
    device.queue.writeBuffer(output, 0, new Uint8Array(result).fill(unwritten));
    const buffers = [...operands, output, ...scratch.map((size) => buffer(size, GPUBufferUsage.STORAGE))];
    const words = new Uint32Array((dispatches.length * PARAMS_STRIDE) / 4);
    dispatches.forEach((dispatch, i) => words.set(dispatch.params, (i * PARAMS_STRIDE) / 4));
    const uniform = buffer(words.byteLength, GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST);
    device.queue.writeBuffer(uniform, 0, words);
    const encoder = device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    dispatches.forEach(({ shader, binds, grid }, i) => {
      const { pipeline, storage } = shaders[shader];
      const entries = binds.map(([binding, of, offset, size]) => ({
        binding,
        resource: { buffer: buffers[of], offset, size },
      }));
      const block = { buffer: uniform, offset: i * PARAMS_STRIDE, size: PARAMS_STRIDE };
      pass.setPipeline(pipeline);
      pass.setBindGroup(0, device.createBindGroup({ layout: storage, entries }));
      pass.setBindGroup(1, device.createBindGroup({ layout: params, entries: [{ binding: 0, resource: block }] }));
      pass.dispatchWorkgroups(...grid);
    });
    pass.end();
    const readable = buffer(result, GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST);
    encoder.copyBufferToBuffer(output, 0, readable, 0, result);
    device.queue.submit([encoder.finish()]);
    await readable.mapAsync(GPUMapMode.READ);
    return new Uint8Array(readable.getMappedRange()).slice();
  });
  for (const buffer of made) buffer.destroy();
  return [{ refused }, refused ? undefined : bytes];
}

const { vendor, architecture, description, subgroupMinSize, subgroupMaxSize } = adapter.info;
send({
  adapter: [description, vendor, architecture].filter(Boolean).join(', '),
  subgroups: hasSubgroups ? [subgroupMinSize, subgroupMaxSize] : null,
});
for (;;) {
  const [message, payload] = receive();
  if (message.compile) send(await compile(message.compile));
  else if (message.upload) {
    const [, refused] = await scoped(() => upload(message.upload, payload));
    send({ refused });
  } else send(...(await run(message.run)));
}
