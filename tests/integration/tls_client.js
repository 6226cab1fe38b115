// One line of key=value, tabs between, for each connection that is wanted; one line for each answer.
'use strict';
const fs = require('fs');
const tls = require('tls');
const readline = require('readline');

const REQUEST = 'GET / HTTP/1.1\r\nHost: test.example\r\nConnection: close\r\n\r\n';

function options(asked, session) {
  const made = {
    host: '127.0.0.1',
    port: Number(asked.port),
    servername: asked.name,
    rejectUnauthorized: asked.ca !== '',
    requestOCSP: asked.staple !== '',
  };
  if (asked.ca) made.ca = fs.readFileSync(asked.ca);
  if (asked.ca && !asked.name) made.checkServerIdentity = () => undefined;
  if (asked.version) made.minVersion = made.maxVersion = asked.version;
  if (asked.version === 'TLSv1' || asked.version === 'TLSv1.1') {
    made.ciphers = 'DEFAULT@SECLEVEL=0';
  } else if (asked.cipher) {
    made.ciphers = asked.version === 'TLSv1.2' ? asked.cipher : 'TLS_AES_128_GCM_SHA256';
    made.sigalgs = asked.scheme;
  }
  if (asked.alpn) made.ALPNProtocols = asked.alpn.split(',');
  if (asked.certificate) {
    made.cert = fs.readFileSync(asked.certificate + '.pem');
    made.key = fs.readFileSync(asked.certificate + '.key');
  }
  if (session) made.session = session;
  return made;
}

function once(asked, session, done) {
  const said = {version: '', subject: '', alpn: '', status: '', reused: '', stapled: false, error: ''};
  let kept = null;
  let got = '';
  let sock;
  const over = (error) => {
    if (done === null) return;
    if (error) said.error = `${error.code || ''} ${error.message}`.replace(/\s+/g, ' ');
    said.status = got.slice(9, 12);
    const call = done;
    done = null;
    if (sock) sock.destroy();
    call(said, kept);
  };
  try {
    sock = tls.connect(options(asked, session));
  } catch (error) {
    over(error);
    return;
  }
  sock.setTimeout(20000, () => over(new Error('timeout')));
  sock.on('secureConnect', () => {
    const subject = sock.getPeerCertificate().subject;
    said.version = sock.getProtocol();
    said.subject = subject ? subject.CN : '';
    said.alpn = sock.alpnProtocol || '';
    said.reused = sock.isSessionReused();
    sock.write(REQUEST);
  });
  sock.on('OCSPResponse', (response) => { said.stapled = Boolean(response && response.length); });
  sock.on('session', (one) => { kept = one; });
  sock.on('keylog', (line) => { if (asked.key_log) fs.appendFileSync(asked.key_log, line); });
  sock.on('data', (data) => { got += data.toString('latin1'); });
  sock.on('error', over);
  sock.on('end', () => over(null));
  sock.on('close', () => over(null));
}

const lines = [];
let busy = false;

function next() {
  if (busy || !lines.length) return;
  busy = true;
  const asked = {};
  for (const field of lines.shift().split('\t')) {
    const at = field.indexOf('=');
    asked[field.slice(0, at)] = field.slice(at + 1);
  }
  const answer = (said) => {
    const fields = Object.entries(said).map(([key, value]) => `${key}=${value}`);
    process.stdout.write(fields.join('\t') + '\n');
    busy = false;
    next();
  };
  once(asked, null, (said, session) => {
    if (asked.again) once(asked, session, answer);
    else answer(said);
  });
}

readline.createInterface({input: process.stdin}).on('line', (line) => {
  lines.push(line);
  next();
});
