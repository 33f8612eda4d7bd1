import { delta, receive, SoftwareTracker } from '@godwit/core';
import { createGuestMemory } from '@godwit/linux';
import { listenOn, lz4, tcp, zstd, zstdAvailable } from '@godwit/transport';

/** Receives one migration after the other until the parent disconnects. */
const links = await listenOn(tcp({ host: '127.0.0.1', port: 0 }));
const byteLength = Number(process.argv[2]);
const encodings = [delta(), lz4(), ...(zstdAvailable ? [zstd()] : [])];
let over = false;
process.once('disconnect', () => {
  over = true;
  void links.close();
});
process.send?.(links.listener.port);
while (!over) {
  const memory = createGuestMemory({ blocks: [{ id: 'ram', guestPhysicalAddress: 0, byteLength }] });
  const vm = {
    memory,
    trackers: [new SoftwareTracker(memory)],
    devices: [],
    pause: async () => {},
    resume: async () => {},
  };
  await receive(links, { prepare: () => vm, encodings }).result.catch((error: unknown) => {
    if (!over) console.error(error);
  });
  memory.close();
}
