// A custom workflow in Node, by docs/worker-protocol.md alone: a report of two parts, written side by side, that
// a person lets out. The engine starts it as the config says:
//
//   custom_workflows:
//     bulletin:
//       command: node
//       args: [custom_worker.js]
//       folder: path/to/this/folder
//       env: {RETINUE_PROTOS: path/to/protos}    # in this checkout they are found
//       agents: [reporter, editor]
//       mcp_servers: [time]
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import grpc from '@grpc/grpc-js';
import protoLoader from '@grpc/proto-loader';

const here = path.dirname(fileURLToPath(import.meta.url));
const protos = process.env.RETINUE_PROTOS || path.join(here, '..', '..', 'protos');
const { RETINUE_WORKER_ADDRESS: address, RETINUE_WORKER_TOKEN: token } = process.env;
if (!address || !token) {
  console.error('this is started by the engine: name it as `command` of a custom workflow');
  process.exit(2);
}

// Asked for in the same way each time it runs: after a crash or a wait what has ended is not done again.
async function bulletin(ctx, topic) {
  const now = await ctx.tool('time', 'get_current_time', { timezone: 'UTC' });
  const parts = await Promise.all([
    ctx.agent('reporter', `What is the news of ${topic}?`, 'news'),
    ctx.agent('reporter', `What are the numbers of ${topic}?`, 'numbers').catch((error) => {
      console.error(`no numbers: ${error.message}`);
      return '';
    }),
  ]);
  const report = await ctx.agent('editor', parts.filter(Boolean).join(' '));
  const allowed = await ctx.ask(`May this go out? ${report}`, { type: 'boolean' });
  return { report, allowed, time: now.datetime };
}

// What the code may ask for. Each call is a promise of what it gives; the key is for those side by side.
class Context {
  #stream;
  #open = new Map();

  constructor(stream) {
    this.#stream = stream;
  }

  agent(name, message, key) {
    const target = { kind: 'COMPONENT_KIND_AGENT', name };
    return this.#call({ run: { target, message } }, key);
  }

  tool(server, tool, args, key) {
    return this.#call({ tool: { server, tool, arguments_json: JSON.stringify(args) } }, key);
  }

  ask(question, schema, key) {
    return this.#call({ input: { question, answer_schema_json: JSON.stringify(schema) } }, key);
  }

  #call(call, key = '') {
    const call_id = this.#open.size + 1;
    return new Promise((resolve, reject) => {
      this.#open.set(call_id, { resolve, reject });
      this.#stream.write({ call: { call_id, key, call } });
    });
  }

  hear({ call_id, outcome, output_json: output, error }) {
    const { resolve, reject } = this.#open.get(call_id);
    if (outcome === 'output_json') resolve(JSON.parse(output));
    else reject(Object.assign(new Error(error.message), { facts: error }));
  }
}

// The last message. The error of a call that the code did not catch keeps its reason.
function ended(stream, running) {
  running.then(
    (output) => stream.write({ result: { output_json: JSON.stringify(output ?? null) } }),
    (error) => {
      const { name: type, message, stack: traceback, facts } = error;
      stream.write({ failure: { type, message, traceback, error: facts } });
    },
  );
}

const definition = protoLoader.loadSync('retinue/engine/v1/worker_service.proto', {
  includeDirs: [protos],
  keepCase: true,
  longs: Number,
  enums: String,
  oneofs: true,
});
const { WorkerService } = grpc.loadPackageDefinition(definition).retinue.engine.v1;
const engine = new WorkerService(address, grpc.credentials.createInsecure());
const metadata = new grpc.Metadata();
metadata.set('authorization', `Bearer ${token}`);

const stream = engine.Work(metadata);
const ctx = new Context(stream);
stream.on('data', ({ message, begin, answer }) => {
  if (message === 'begin') ended(stream, bulletin(ctx, JSON.parse(begin.input_json)));
  else ctx.hear(answer);
});
// The end of the stream is the end of the process, whenever it comes.
stream.on('end', () => process.exit(0));
stream.on('error', () => process.exit(1));
process.stdin.on('end', () => process.exit(1)).resume();
