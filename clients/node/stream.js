// Streams a run of an agent: `node stream.js AGENT MESSAGE`. The protos are all that it needs.
// RETINUE_ENGINE_ADDRESS says where the engine is, RETINUE_PROTOS where the protos are
// (`retinue protos --out DIR` writes them; in this checkout they are found).
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { randomUUID } from 'node:crypto';
import grpc from '@grpc/grpc-js';
import protoLoader from '@grpc/proto-loader';

const here = path.dirname(fileURLToPath(import.meta.url));
const protos = process.env.RETINUE_PROTOS || path.join(here, '..', '..', 'protos');
const address = process.env.RETINUE_ENGINE_ADDRESS || '127.0.0.1:7403';
const [agent, message] = process.argv.slice(2);
if (!agent || !message) {
  console.error('usage: node stream.js AGENT MESSAGE');
  process.exit(2);
}

const definition = protoLoader.loadSync('retinue/engine/v1/service.proto', {
  includeDirs: [protos],
  keepCase: true,
  longs: Number,
  enums: String,
  oneofs: true,
});
const { RunService } = grpc.loadPackageDefinition(definition).retinue.engine.v1;
const engine = new RunService(address, grpc.credentials.createInsecure());

const metadata = new grpc.Metadata();
if (process.env.RETINUE_TOKEN) {
  metadata.set('authorization', `Bearer ${process.env.RETINUE_TOKEN}`);
}

const run = { request_id: randomUUID(), target: { name: agent }, message };
let failed = true;
const stream = engine.StreamRun({ run }, metadata);
stream.on('data', ({ events }) => {
  for (const event of events) {
    if (event.event === 'run_started') {
      console.log(`run ${event.run_id} in session ${event.run_started.session_id}`);
    } else if (event.event === 'text_delta') {
      process.stdout.write(event.text_delta.text);
    } else if (event.event === 'tool_call_started') {
      const { server, tool, arguments_json: args } = event.tool_call_started;
      console.log(`\n> ${server}/${tool} ${args}`);
    } else if (event.event === 'tool_call_completed') {
      console.log(`< ${event.tool_call_completed.outcome} ${event.tool_call_completed.text}`);
    } else if (event.event === 'run_finished') {
      const { state, usage, error } = event.run_finished.result;
      failed = state !== 'RUN_STATE_SUCCEEDED';
      console.log(`\n${state}, ${usage.input_tokens} tokens in, ${usage.output_tokens} out`);
      if (error) console.error(error.message);
    }
  }
});
stream.on('error', (error) => {
  console.error(`${error.code}: ${error.details}`);
  process.exitCode = 1;
});
stream.on('end', () => {
  process.exitCode = failed ? 1 : 0;
  engine.close();
});
