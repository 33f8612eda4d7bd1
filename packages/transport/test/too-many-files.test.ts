import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { expect, jest, test } from '@jest/globals';

jest.setTimeout(60_000);

/** Opens files until there are no more descriptors, and then connects, listens and opens a snapshot. */
const PROGRAM = `
import { openSync } from 'node:fs';
import { connectTo, file, listenOn, tcp, unix } from '@godwit/transport';
const links = await listenOn(tcp({ port: 0 }));
const outcome = (work) => work.then(() => 'done', ({ code, message, cause }) => ({ code, message, cause: cause?.code }));
await outcome(unix({ path: '/no/such.sock' }).connect());
try { for (;;) openSync('/dev/null'); } catch {}
const request = { migrationId: '0'.repeat(32), pageChannels: 0, connection: 1 };
const signal = AbortSignal.timeout(20_000);
const outcomes = [
  await outcome(tcp({ port: links.listener.port }).connect()),
  await outcome(tcp({ port: 0 }).listen()),
  await outcome(listenOn(unix({ path: '/tmp/godwit-emfile.sock' }))),
  await outcome(connectTo(file({ path: '/tmp/godwit-emfile.snapshot' })).connect(request, signal)),
  await outcome(listenOn(file({ path: process.execPath })).then((restoring) => restoring.accept(signal))),
];
process.stdout.write(JSON.stringify(outcomes), () => process.exit());
`;

test('a process with too many open files is told so by name, in the message and in the cause', async () => {
  const script = `ulimit -n 512; exec '${process.execPath}' --input-type=module -e "$PROGRAM"`;
  const { stdout } = await promisify(execFile)('sh', ['-c', script], { env: { ...process.env, PROGRAM } });
  const outcomes = JSON.parse(stdout) as { code: string; message: string; cause: string }[];
  expect(outcomes).toHaveLength(5);
  for (const outcome of outcomes) {
    expect(outcome).toMatchObject({ cause: 'EMFILE', message: expect.stringContaining('EMFILE') });
    expect(outcome.message).toMatch(/too many open files/);
  }
});
