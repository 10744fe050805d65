// One client's day, steered by the test that started it: `day.js` gives what it needs, the other files are the days.
//
// The last argument is JSON: where the doors are. A line "restart" on standard output asks the test to start the
// sidecar again; a line on standard input says that it has. The process ends with 0 when all was as expected.
"use strict";

const readline = require("node:readline");

const DEADLINE_MS = 40_000;
const PAUSE_MS = 50;

const facts = JSON.parse(process.argv[2]);
const told = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();

/** Has the sidecar killed and started again; resolves when it serves. */
async function restart() {
  process.stdout.write("restart\n");
  await told.next();
}

/** Calls `ask` until it answers. Errors on the way must be ones for which `expected(error)` is true. */
async function untilAnswered(ask, expected) {
  for (;;) {
    try {
      return await ask();
    } catch (error) {
      if (!expected(error)) throw error;
      await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
    }
  }
}

/** Runs `work()` and ends the process: with its stack trace when something was not as expected. */
function spend(work) {
  setTimeout(() => {
    console.error(`not done within ${DEADLINE_MS} ms`);
    process.exit(3);
  }, DEADLINE_MS).unref();
  work().then(
    () => process.exit(0),
    (error) => {
      console.error(error);
      process.exit(1);
    },
  );
}

module.exports = { facts, restart, spend, untilAnswered };
