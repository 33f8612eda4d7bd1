import { TapLink } from '../../dist/virtio/tap-link.js';

/**
 * In a network namespace whose host has the address 10.9.8.1 on the interface tap0: asks for it by ARP as a guest would, and prints what came
 * back; then closes the link, and opens it again. Its test is beside it.
 */
const GUEST_MAC = [0x52, 0x54, 0x00, 1, 2, 3];
const [OURS, HOST] = [
  [10, 9, 8, 2],
  [10, 9, 8, 1],
];
const REQUEST = Uint8Array.from([
  ...[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, ...GUEST_MAC, 0x08, 0x06],
  ...[0, 1, 0x08, 0, 6, 4, 0, 1, ...GUEST_MAC, ...(OURS ?? []), 0, 0, 0, 0, 0, 0, ...(HOST ?? [])],
  ...new Array(18).fill(0),
]);

/** The sender's address of an answer to the request; undefined for another frame. */
function answered(frame: Uint8Array): string | undefined {
  const isReply = frame[12] === 0x08 && frame[13] === 0x06 && frame[21] === 2;
  return isReply ? [...frame.subarray(28, 32)].join('.') : undefined;
}

async function ask(link: TapLink): Promise<string> {
  return new Promise((resolve) => {
    link.open((frame) => {
      const who = answered(frame);
      if (who !== undefined) resolve(who);
    });
    link.send(REQUEST);
  });
}

const link = new TapLink({ tap: 'tap0' });
const other = new TapLink({ tap: 'tap0' });
const results: string[] = [await ask(link)];
try {
  other.open(() => {});
} catch (error) {
  results.push((error as { code: string }).code);
}
try {
  other.requireFree();
} catch (error) {
  results.push((error as { code: string }).code);
}
await link.close();
other.requireFree();
results.push(await ask(other));
await other.close();
await other.close();
try {
  new TapLink({ tap: 'nowhere' });
} catch (error) {
  results.push((error as { code: string }).code);
}
process.stdout.write(results.join(' '));
