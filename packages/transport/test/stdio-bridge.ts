/** Started by `exec` in the tests: carries bytes between its standard input and output and a UNIX socket. */
import { type ByteStream, stdio, unix } from '@godwit/transport';

async function pump(from: ByteStream, to: ByteStream): Promise<void> {
  const room = new Uint8Array(256 * 1024);
  for (;;) {
    const count = await from.read(room);
    if (count === 0) break;
    await to.write([room.subarray(0, count)]);
  }
  await to.close();
}

try {
  const socket = await unix({ path: process.argv[2] as string }).connect();
  const own = await stdio().connect();
  await Promise.all([pump(socket, own), pump(own, socket)]);
} catch (error) {
  process.stderr.write(`the bridge failed: ${error}\n`);
  process.exit(1);
}
