// @grpc/grpc-js, with the messages of the project's own .proto file, over TCP or a Unix socket.
"use strict";

const assert = require("node:assert/strict");
const grpc = require("@grpc/grpc-js");
const { loadSync } = require("@grpc/proto-loader");
const { facts, restart, spend, untilAnswered } = require("./day.js");

const p = facts.prefix; // of every key

const OPTIONS = {
  "grpc.enable_http_proxy": 0,
  "grpc.initial_reconnect_backoff_ms": 50,
  "grpc.max_reconnect_backoff_ms": 200,
};
const bytes = (text) => Buffer.from(text);

/** A function that calls `method` and resolves to its answer. */
function caller(client) {
  return (method, request) =>
    new Promise((resolve, reject) => {
      const deadline = Date.now() + 5000;
      client[method](request, { deadline }, (error, answer) => (error ? reject(error) : resolve(answer)));
    });
}

async function values(call) {
  const put = await call("Put", { key: bytes(`${p}a`), value: bytes("one") });
  assert.equal(put.version.length, 16);
  const got = await call("Get", { key: bytes(`${p}a`) });
  assert.deepEqual([got.found, got.value.toString(), got.version], [true, "one", put.version]);
  assert.equal((await call("Get", { key: bytes(`${p}none`) })).found, false);
  const large = Buffer.alloc(1 << 20, 7);
  await call("Put", { key: bytes(`${p}large`), value: large });
  assert.ok((await call("Get", { key: bytes(`${p}large`) })).value.equals(large));
  const items = Array.from({ length: 100 }, (_, at) => ({ key: bytes(`${p}many:${at}`), put: bytes(`${at}`) }));
  const written = await call("BatchWrite", { items });
  assert.ok(written.results.every(({ result }) => result === "put"));
  const read = await call("BatchGet", { keys: items.map(({ key }) => key) });
  assert.deepEqual(read.results.map(({ value }) => value.value.toString()), items.map(({ put }) => put.toString()));
  const found = [];
  for (let cursor = null; cursor === null || cursor.length > 0; ) {
    const page = await call("Scan", { prefix: bytes(`${p}many:`), page_size: 30, keys_only: true, cursor: cursor ?? "" });
    found.push(...page.entries.map(({ key }) => key.toString()));
    cursor = page.next_cursor;
  }
  assert.deepEqual(found.sort(), items.map(({ key }) => key.toString()).sort());
  assert.equal((await call("Delete", { key: bytes(`${p}large`) })).existed, true);
}

async function ledger(call, keyspace) {
  const key = bytes(`${p}n`);
  assert.equal((await call("Increment", { keyspace, key, delta: 42 })).value, "42");
  const refused = await call("CompareAndSet", { keyspace, key, expected_absent: true, put: bytes("x") });
  assert.deepEqual([refused.applied, refused.value.toString()], [false, "42"]);
}

async function pipeline(client) {
  const stream = client.Pipeline({ deadline: Date.now() + 5000 });
  const answers = new Map();
  const ended = new Promise((resolve, reject) => stream.on("end", resolve).on("error", reject));
  stream.on("data", (answer) => answers.set(Number(answer.id), answer));
  for (let id = 1; id <= 50; id += 1) stream.write({ id, put: { key: bytes(`${p}p:${id}`), value: bytes(`${id}`) } });
  stream.write({ id: 51, get: { key: bytes("") } });
  stream.end();
  await ended;
  assert.equal(answers.size, 51);
  assert.equal(answers.get(50).response, "put");
  assert.equal(answers.get(51).error.code, grpc.status.INVALID_ARGUMENT);
}

async function errors(call) {
  await assert.rejects(call("Get", { key: bytes("") }), (error) => {
    assert.equal(error.code, grpc.status.INVALID_ARGUMENT);
    assert.equal(error.metadata.get("grpc-status-details-bin").length, 1);
    return true;
  });
  await assert.rejects(call("Increment", { key: bytes(`${p}a`), delta: 1 }), { code: grpc.status.FAILED_PRECONDITION });
}

spend(async () => {
  const { settings, keyspace, includeDirs, restarts } = facts;
  const definition = loadSync("protos/dabbawala/v1/data.proto", {
    includeDirs, keepCase: true, longs: String, defaults: true, oneofs: true,
  });
  const { Data } = grpc.loadPackageDefinition(definition).dabbawala.v1;
  const client = new Data(settings.target, grpc.credentials.createInsecure(), OPTIONS);
  const call = caller(client);
  await values(call);
  await ledger(call, keyspace);
  await pipeline(client);
  await errors(call);
  if (restarts) {
    await restart();
    const unavailable = (error) => error.code === grpc.status.UNAVAILABLE;
    const got = await untilAnswered(() => call("Get", { key: bytes(`${p}a`) }), unavailable);
    assert.equal(got.value.toString(), "one");
  }
  client.close();
});
