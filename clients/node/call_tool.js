// Calls a tool of an MCP server and shows its progress: `node call_tool.js SERVER TOOL '{"path": "…"}'`.
// RETINUE_MCP_HOST_ADDRESS says where the MCP host is, RETINUE_PROTOS where the protos are
// (`retinue protos --out DIR` writes them; in this checkout they are found). An elicitation is declined.
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import grpc from '@grpc/grpc-js';
import protoLoader from '@grpc/proto-loader';

const here = path.dirname(fileURLToPath(import.meta.url));
const protos = process.env.RETINUE_PROTOS || path.join(here, '..', '..', 'protos');
const address = process.env.RETINUE_MCP_HOST_ADDRESS || '127.0.0.1:7402';
const [server, tool, args = '{}'] = process.argv.slice(2);
if (!server || !tool) {
  console.error("usage: node call_tool.js SERVER TOOL ['{\"name\": \"value\"}']");
  process.exit(2);
}

const definition = protoLoader.loadSync('retinue/mcphost/v1/service.proto', {
  includeDirs: [protos],
  keepCase: true,
  longs: Number,
  enums: String,
  oneofs: true,
});
const { McpHostService } = grpc.loadPackageDefinition(definition).retinue.mcphost.v1;
const host = new McpHostService(address, grpc.credentials.createInsecure());

const metadata = new grpc.Metadata();
if (process.env.RETINUE_TOKEN) {
  metadata.set('authorization', `Bearer ${process.env.RETINUE_TOKEN}`);
}

const call = { server: { name: server }, tool, arguments_json: args, accepts_elicitation: true };
let failed = true;
const stream = host.CallTool({ call }, metadata);
stream.on('data', ({ update, progress, result, request }) => {
  if (update === 'progress') {
    const total = progress.total === undefined ? '' : ` of ${progress.total}`;
    console.log(`${progress.progress}${total} ${progress.message ?? ''}`.trimEnd());
  } else if (update === 'request') {
    console.log(`? ${request.elicitation?.message}`);
    const elicitation = { action: 'ELICITATION_ACTION_DECLINE' };
    host.AnswerServerRequest({ request_id: request.request_id, elicitation }, metadata, () => {});
  } else if (update === 'result') {
    failed = result.is_error;
    for (const { part, text, blob, link } of result.content ?? []) {
      if (part === 'text') console.log(text);
      else if (part === 'blob') console.log(`[${blob.mime_type}, ${blob.data.length} bytes]`);
      else console.log(`[${link.name}](${link.uri})`);
    }
  }
});
stream.on('error', (error) => {
  console.error(`${error.code}: ${error.details}`);
  process.exitCode = 1;
});
stream.on('end', () => {
  process.exitCode = failed ? 1 : 0;
  host.close();
});
