// An echo application on node: every request is answered with its body.
// node app.cjs plain PORT | https PORT CHAIN KEY | unix PATH
const fs = require('node:fs');
const http = require('node:http');
const https = require('node:https');

const [kind, where, chain, key] = process.argv.slice(2);

function echo(request, response) {
  const parts = [];
  request.on('data', (part) => parts.push(part));
  request.on('end', () => {
    const body = Buffer.concat(parts);
    response.writeHead(200, { 'Content-Type': 'application/octet-stream', 'Content-Length': body.length });
    response.end(body);
  });
}

const server = kind === 'https'
  ? https.createServer({ cert: fs.readFileSync(chain), key: fs.readFileSync(key) }, echo)
  : http.createServer(echo);
server.keepAliveTimeout = 3600 * 1000;
server.listen(kind === 'unix' ? { path: where } : { host: '127.0.0.1', port: Number(where) });
process.on('SIGTERM', () => process.exit(0));
