// ioredis, over TCP or a Unix socket, RESP2 or RESP3.
"use strict";

const assert = require("node:assert/strict");
const { Redis, ReplyError } = require("ioredis");
const { facts, restart, spend, untilAnswered } = require("./day.js");

const p = facts.prefix; // of every key

function connected(settings, db = 0) {
  const client = new Redis({ ...settings, db });
  client.on("error", () => {}); // a broken connection; it connects again by itself
  return client;
}

async function values(client) {
  assert.equal(await client.ping(), "PONG");
  assert.equal(await client.get(`${p}none`), null);
  assert.equal(await client.set(`${p}a`, "one"), "OK");
  assert.equal(await client.get(`${p}a`), "one");
  assert.equal(await client.set(`${p}t`, "v", "PX", 100_000), "OK");
  const pttl = await client.pttl(`${p}t`);
  assert.ok(pttl > 90_000 && pttl <= 100_000, `pttl ${pttl}`);
  assert.equal(await client.mset({ [`${p}b`]: "2", [`${p}c`]: "" }), "OK");
  assert.deepEqual(await client.mget(`${p}b`, `${p}none`, `${p}c`), ["2", null, ""]);
  assert.equal(await client.exists(`${p}a`, `${p}b`, `${p}none`), 2);
  assert.equal(await client.getrange(`${p}a`, 1, -1), "ne");
  const bytes = Buffer.from([0, 13, 10, 255]);
  await client.set(`${p}bytes`, bytes);
  assert.deepEqual(await client.getBuffer(`${p}bytes`), bytes);
  const found = [];
  for await (const page of client.scanStream({ match: `${p}*`, count: 2 })) found.push(...page);
  assert.deepEqual(found.sort(), [`${p}a`, `${p}b`, `${p}bytes`, `${p}c`, `${p}t`]);
  assert.equal(await client.unlink(`${p}b`, `${p}c`, `${p}none`), 2);
}

async function pipelines(client) {
  const pipeline = client.pipeline();
  for (let at = 0; at < 200; at += 1) pipeline.set(`${p}many:${at}`, `${at}`).get(`${p}many:${at}`);
  const answers = await pipeline.exec();
  assert.deepEqual(answers.slice(-2), [[null, "OK"], [null, "199"]]);
  const [first, second, third] = await client.pipeline().set(`${p}p`, "1").incr(`${p}p`).get(`${p}p`).exec();
  assert.deepEqual([first, third], [[null, "OK"], [null, "1"]]);
  assert.ok(second[0] instanceof ReplyError);
}

async function errors(client) {
  const refused = (ask, words) => assert.rejects(ask, (error) => error instanceof ReplyError && words.test(error.message));
  await refused(client.incr(`${p}a`), /needs a linearizable keyspace/);
  await refused(client.call("FOO", "bar"), /^ERR unknown command 'FOO', with args beginning with: 'bar'/);
  await refused(client.set("", "v"), /KEY_INVALID/);
}

async function ledger(client) {
  assert.equal(await client.incr(`${p}n`), 1);
  assert.equal(await client.decrby(`${p}n`, 8), -7);
  assert.equal(await client.set(`${p}n`, "x", "NX"), null);
  assert.equal(await client.expire(`${p}n`, 100), 1);
  assert.equal(await client.persist(`${p}n`), 1);
  assert.equal(await client.getdel(`${p}n`), "-7");
}

spend(async () => {
  const { settings, database, restarts } = facts;
  const client = connected(settings);
  const other = connected(settings, database);
  await values(client);
  await pipelines(client);
  await errors(client);
  await ledger(other);
  if (restarts) {
    await restart();
    const closed = (error) => /Connection is closed|ECONN|EPIPE/.test(error.message);
    assert.equal(await untilAnswered(() => client.get(`${p}a`), closed), "one");
    assert.equal(await untilAnswered(() => other.incr(`${p}after`), closed), 1);
  }
  await client.quit();
  await other.quit();
});
