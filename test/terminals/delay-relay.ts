/**
 * A program: `node delay-relay.js PORT HOST PORT MILLISECONDS` listens on 127.0.0.1, connects to HOST:PORT for each connection, and
 * passes on bytes in both directions, each after the delay. It prints `listening` once it does.
 */
import net from 'node:net';

/** Bytes on the way in one direction, beyond which the sender waits: 400 Mbit/s for 80 ms. */
const MOST_ON_THE_WAY = 4 * 2 ** 20;

const [port, host = '', farPort, delay] = process.argv.slice(2);

const server = net.createServer({ allowHalfOpen: true }, (near) => {
  const far = net.connect({ host, port: Number(farPort), allowHalfOpen: true });
  pass(near, far, Number(delay));
  pass(far, near, Number(delay));
});
server.listen(Number(port), '127.0.0.1', () => process.stdout.write('listening\n'));

function pass(from: net.Socket, to: net.Socket, delayMs: number): void {
  let onTheWay = 0;
  from.on('data', (bytes: Buffer) => {
    onTheWay += bytes.length;
    if (onTheWay > MOST_ON_THE_WAY) from.pause();
    setTimeout(() => {
      to.write(bytes, () => {
        onTheWay -= bytes.length;
        if (onTheWay <= MOST_ON_THE_WAY) from.resume();
      });
    }, delayMs);
  });
  from.on('end', () => setTimeout(() => to.end(), delayMs));
  from.on('error', () => to.destroy());
  from.on('close', (hadError) => {
    if (hadError) to.destroy();
  });
}
