// node-redis, over TCP or a Unix socket, RESP2 or RESP3.
"use strict";

const assert = require("node:assert/strict");
const { createClient, ErrorReply, RESP_TYPES } = require("redis");
const { facts, restart, spend, untilAnswered } = require("./day.js");

const p = facts.prefix; // of every key

async function connected(settings, database = 0) {
  const client = createClient({ ...settings, database });
  client.on("error", () => {}); // a broken connection; it connects again by itself
  await client.connect();
  return client;
}

async function values(client) {
  assert.equal(await client.ping(), "PONG");
  assert.equal(await client.get(`${p}none`), null);
  assert.equal(await client.set(`${p}a`, "one"), "OK");
  assert.equal(await client.get(`${p}a`), "one");
  assert.equal(await client.set(`${p}t`, "v", { expiration: { type: "EX", value: 100 } }), "OK");
  const ttl = await client.ttl(`${p}t`);
  assert.ok(ttl > 90 && ttl <= 100, `ttl ${ttl}`);
  assert.equal(await client.mSet({ [`${p}b`]: "2", [`${p}c`]: "" }), "OK");
  assert.deepEqual(await client.mGet([`${p}b`, `${p}none`, `${p}c`]), ["2", null, ""]);
  assert.equal(await client.exists([`${p}a`, `${p}b`, `${p}none`]), 2);
  assert.equal(await client.strLen(`${p}a`), 3);
  assert.equal(await client.type(`${p}a`), "string");
  const bytes = Buffer.from([0, 13, 10, 255]);
  await client.set(`${p}bytes`, bytes);
  const binary = client.withTypeMapping({ [RESP_TYPES.BLOB_STRING]: Buffer });
  assert.deepEqual(await binary.get(`${p}bytes`), bytes);
  const found = [];
  for await (const page of client.scanIterator({ MATCH: `${p}*`, COUNT: 2 })) found.push(...page);
  assert.deepEqual(found.sort(), [`${p}a`, `${p}b`, `${p}bytes`, `${p}c`, `${p}t`]);
  assert.equal(await client.del([`${p}b`, `${p}c`, `${p}none`]), 2);
}

async function pipelines(client) {
  const many = await Promise.all(Array.from({ length: 200 }, (_, at) => client.set(`${p}many:${at}`, `${at}`)));
  assert.ok(many.every((reply) => reply === "OK"));
  const answers = await client.multi().set(`${p}p`, "1").get(`${p}p`).del(`${p}p`).execAsPipeline();
  assert.deepEqual(answers, ["OK", "1", 1]);
  // A pipeline with an error in it is rejected with that error; what stood beside it was done.
  await assert.rejects(client.multi().set(`${p}p`, "1").incr(`${p}p`).del(`${p}many:0`).execAsPipeline(), ErrorReply);
  assert.deepEqual(await client.mGet([`${p}p`, `${p}many:0`]), ["1", null]);
  await client.del(`${p}p`);
}

async function errors(client) {
  const refused = (ask, words) => assert.rejects(ask, (error) => error instanceof ErrorReply && words.test(error.message));
  await refused(client.incr(`${p}a`), /needs a linearizable keyspace/);
  await refused(client.sendCommand(["FOO", "bar"]), /^ERR unknown command 'FOO', with args beginning with: 'bar'/);
  await refused(client.set("", "v"), /KEY_INVALID/);
}

async function ledger(client) {
  assert.equal(await client.incr(`${p}n`), 1);
  assert.equal(await client.incrBy(`${p}n`, 41), 42);
  assert.equal(await client.set(`${p}n`, "x", { condition: "NX" }), null);
  assert.equal(await client.expire(`${p}n`, 100), 1);
  assert.equal(await client.persist(`${p}n`), 1);
  assert.equal(await client.getDel(`${p}n`), "42");
}

spend(async () => {
  const { settings, database, restarts } = facts;
  const client = await connected(settings);
  const other = await connected(settings, database);
  await values(client);
  await pipelines(client);
  await errors(client);
  await ledger(other);
  if (restarts) {
    await restart();
    const closed = (error) => error.name.startsWith("Socket") || error.name.startsWith("Disconnects");
    assert.equal(await untilAnswered(() => client.get(`${p}a`), closed), "one");
    assert.equal(await untilAnswered(() => other.incr(`${p}after`), closed), 1);
  }
  await client.close();
  await other.close();
});
