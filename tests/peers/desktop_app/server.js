'use strict';
/*
A small desktop app of our own with the wire of the real one (end of 2023), for the tests:

    node server.js [PORT] [--registered MODE] [--app REF=URL]...        PORT 0, the default, is any free port

It serves Socket.IO on 127.0.0.1, prints `listening PORT`, then a line of JSON for all that it sees, takes
commands on its standard input and ends when that ends. As in the real one there are two sides, the main
process with the sockets and the window that knows the user, and they talk over two process-wide channels;
most of the real one's quirks come from that: every socket hears every result and every `registered`.

--registered true|false|never|late-300ms|repeated|bare|no-window    what a client hears after it has connected:
    true: that it may work · false: nobody is logged in; its jobs then are `offloaded` and never answered ·
    never: nothing, but jobs work · late: true after that time · repeated: true three times ·
    bare: the event without an argument, as older servers sent it · no-window: nothing, and jobs are not heard
--app sampleserver:latest=http://127.0.0.1:8080    jobs for this reference are posted there: a real container

What happens to a job is in its container_reference, before the colon. `offloaded(null, "success")` comes
first unless said otherwise:
    echo           answered with its content          sleep-20ms     the same after that time
    hold           the same at the command `release`  big            6,000,000 characters
    silent         never answered (a refused token)   double         answered twice (logged in twice)
    stray          first an answer to somebody else   recording      status 1 with an error beside the response
    fails, fails-WORD    status 1 and one of the executor's failure texts (FAILURES)
    nohost, timeout      status 0 and the error text
    refused        `offloaded({}, null)`, no answer   hasty          the answer before `offloaded`
    mute           no `offloaded`, no answer          implied        an answer, no `offloaded`
    drop           `offloaded`, then the connection is closed, no answer
With `-once` at its end (drop-once) this happens to the first job with that content, later ones are echoed.

Commands, a line each: release [CONTENT] · drop (close all connections) · kick (disconnect all sockets in the
Socket.IO way: python-socketio then does not come back) · stray · registered true|false (to every socket)
*/
const { randomUUID } = require('node:crypto');
const { EventEmitter } = require('node:events');
const { createServer } = require('node:http');
const { createInterface } = require('node:readline');
const { setTimeout: sleep } = require('node:timers/promises');
const { parseArgs } = require('node:util');
const { Server } = require('socket.io');

const DID = 'did:meca:0x5f1d'; // whose jobs these are, as the window knows and the client does not
const FAILURES = {
  fails: 'MECA not enough resources',
  'fails-gpu': 'not enough GPU available',
  'fails-paused': 'meca executor not started',
  'fails-start': 'container failed to start in time',
  'fails-limit': 'resource limit exceeds the maximum',
  'fails-invalid': 'invalid resource limit',
  'fails-dial': 'Post "http://meca_fails-dial_latest_c1-m0:8080": dial tcp 172.18.0.3:8080: connect: connection refused',
  'fails-network': 'Error: Network response was not ok',
  'fails-page': '<!doctype html>\n<html lang=en>\n<title>500 Internal Server Error</title>\n'
    + '<h1>Internal Server Error</h1>\n<p>The server encountered an internal error.</p>\n',
};

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: { registered: { type: 'string', default: 'true' }, app: { type: 'string', multiple: true, default: [] } },
});
const apps = new Map(options.app.map((text) => [text.slice(0, text.indexOf('=')), text.slice(text.indexOf('=') + 1)]));
const modeMatch = /^(true|false|never|repeated|bare|no-window|late-(\d+)ms)$/.exec(options.registered);
if (!modeMatch) throw new Error(`--registered ${options.registered} is unknown`);

const log = (saw, more = {}) => console.log(JSON.stringify({ saw, ...more }));
const toMain = new EventEmitter().setMaxListeners(0); // what the main process hears: registered, result
const toWindow = new EventEmitter(); // what the window hears: register, offload
const send = (side, ...message) => setImmediate(() => side.emit(...message)); // never at once: two processes

// -- the job: which one it is, and what comes of it

const seen = new Set(); // the `-once` names and contents that have had their turn
const held = []; // { content, release }

/** Return what is to happen to a job: the name of a behaviour, or of a container. */
function behaviourOf(text) {
  let job = {};
  try { job = JSON.parse(text); } catch { /* the window will find out */ }
  const name = String(job?.container_reference ?? '');
  const [word] = name.split(':');
  if (apps.has(name)) return name;
  if (!word.endsWith('-once')) return word;
  const key = JSON.stringify([word, job.content]);
  if (seen.has(key)) return 'echo';
  seen.add(key);
  return word.slice(0, -'-once'.length);
}

/** Throw for what the backend refuses with 422, as its data model did; numbers as content became text. */
function check(job) {
  const limit = (value) => value === undefined || (typeof value === 'number' && value >= 1);
  if (!['string', 'number', 'boolean'].includes(typeof job.content)) throw new Error('422: content is not a string');
  if (job.resource && !(limit(job.resource.cpu) && limit(job.resource.memory))) throw new Error('422: resource');
}

/** Return [status, response, error] of a job; throw where the real one's backend answers with an HTTP error. */
async function answer(behaviour, content) {
  const [, ms] = /^sleep-(\d+)ms$/.exec(behaviour) ?? [];
  if (ms) await sleep(Number(ms));
  if (behaviour === 'hold') {
    log('held', { content });
    await new Promise((release) => { held.push({ content, release }); });
  }
  if (behaviour in FAILURES) return [1, FAILURES[behaviour], null];
  if (apps.has(behaviour)) return [1, await post(apps.get(behaviour), content), null];
  switch (behaviour) {
    case 'big': return [1, 'x'.repeat(6_000_000), null];
    case 'nohost': return [0, '', 'No host available.'];
    case 'timeout': return [0, '', 'Time out.'];
    case 'recording': return [1, content, 'Error recording task: nonce too low'];
    case 'silent': throw new Error('401: the token has expired');
    case 'echo': case 'hold': case 'double': case 'stray': case 'hasty': case 'implied': return [1, content, null];
    default: return ms ? [1, content, null] : [1, `Error response from daemon: No such image: ${behaviour}`, null];
  }
}

/** Return what a container says, whatever its HTTP status: the real executor does not look at it. */
async function post(url, body) {
  try {
    const reply = await fetch(url, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body });
    return await reply.text();
  } catch (error) {
    return `Post "${url}": ${error.cause?.message ?? error.message}`;
  }
}

// -- the window

toWindow.on('register', () => {
  const [, mode, ms] = modeMatch;
  if (mode === 'bare') send(toMain, 'registered');
  else if (ms) setTimeout(() => toMain.emit('registered', true), Number(ms));
  else if (mode === 'repeated') for (let times = 0; times < 3; times += 1) send(toMain, 'registered', true);
  else if (mode !== 'never') send(toMain, 'registered', mode === 'true');
});

/** Do one job; whatever goes wrong here is never told to anyone. */
async function offload(text, behaviour, done) {
  try {
    const job = JSON.parse(`${text.slice(0, -1)},"did":"${DID}"}`); // as the real one adds it: by cutting the string
    check(job);
    const [status, response, error] = await answer(behaviour, String(job.content));
    const transaction = status === 0 && error.startsWith('No host') ? '' : randomUUID();
    if (behaviour === 'stray') send(toMain, 'result', 1, 'not yours', null, 'somebody-else', randomUUID());
    send(toMain, 'result', status, response, error, String(job.task_id ?? '') || '0', transaction);
    setImmediate(done);
  } catch (error) {
    log('lost', { why: error.message });
  }
}

// Subscribed only while the user is logged in.
if (options.registered !== 'false') {
  toWindow.on('offload', (text, behaviour, done) => {
    offload(text, behaviour, done);
    if (behaviour === 'double') offload(text, behaviour, done);
  });
}

// -- the main process

const http = createServer();
const io = new Server(http); // its limit for one message from a client is 1,000,000 bytes

io.on('connection', (socket) => {
  log('connect', { id: socket.id, transport: socket.conn.transport.name });
  if (options.registered === 'no-window') return;
  const onRegistered = (...ok) => socket.emit('registered', ...ok);
  const onResult = (...result) => socket.emit('job_results_received', ...result);
  toMain.on('registered', onRegistered);
  toMain.on('result', onResult);
  socket.on('offload', (...given) => {
    const [text] = given;
    const behaviour = behaviourOf(text);
    log('offload', { id: socket.id, given: given.map((value) => (value?.length > 4000 ? value.slice(0, 4000) : value)) });
    const accept = () => socket.emit('offloaded', null, 'success');
    if (behaviour === 'refused') {
      socket.emit('offloaded', new Error('An object could not be cloned.'), null); // arrives as {}
    } else if (behaviour === 'drop') {
      accept();
      socket.conn.close();
    } else if (behaviour !== 'mute') {
      if (!['hasty', 'implied'].includes(behaviour)) accept();
      send(toWindow, 'offload', text, behaviour, behaviour === 'hasty' ? accept : () => {});
    }
  });
  socket.on('disconnect', (reason) => {
    log('disconnect', { id: socket.id, reason });
    toMain.removeListener('result', onResult);
    toMain.removeAllListeners('registered'); // everybody's, as the real one does
  });
  send(toWindow, 'register');
});

createInterface({ input: process.stdin }).on('line', (line) => {
  const [, command, rest] = /^(\S+)\s*(.*)$/.exec(line) ?? [];
  if (command === 'release') {
    const chosen = held.filter(({ content }) => !rest || content === rest);
    for (const job of chosen) { held.splice(held.indexOf(job), 1); job.release(); }
  } else if (command === 'drop') {
    for (const socket of io.sockets.sockets.values()) socket.conn.close();
  } else if (command === 'kick') {
    io.disconnectSockets(false);
  } else if (command === 'stray') {
    send(toMain, 'result', 1, 'not yours', null, 'somebody-else', randomUUID());
  } else if (command === 'registered') {
    send(toMain, 'registered', rest === 'true');
  }
  log('command', { line });
}).on('close', () => process.exit());

http.listen(Number(positionals[0] ?? 0), '127.0.0.1', () => console.log(`listening ${http.address().port}`));
