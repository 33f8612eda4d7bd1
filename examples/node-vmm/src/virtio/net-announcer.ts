/** The times of the announcements, in milliseconds after the guest runs: QEMU's defaults (announce-initial, announce-step). */
const ANNOUNCED_AT_MS = [0, 50, 200, 450, 800];
/** The shortest Ethernet frame, in bytes without its checksum. */
const SHORTEST_FRAME = 60;
const MAC_BYTES = 6;
const REVERSE_ARP = 0x8035;
const ETHERNET = 1;
const IPV4 = 0x0800;
const REQUEST_REVERSE = 3;

/**
 * Announces the new place of a guest to its network, by frames of reverse ARP (RFC 903), from which switches learn the place and which no
 * host answers. They are sent several times, since the network may not be ready for the first ones.
 */
export class Announcer {
  readonly #frame: Uint8Array;
  readonly #send: (frame: Uint8Array) => void;
  #timers: NodeJS.Timeout[] = [];

  constructor(mac: Uint8Array, send: (frame: Uint8Array) => void) {
    this.#frame = announcement(mac);
    this.#send = send;
  }

  start(): void {
    this.#timers = ANNOUNCED_AT_MS.map((ms) => setTimeout(() => this.#send(this.#frame), ms));
  }

  stop(): void {
    for (const timer of this.#timers.splice(0)) clearTimeout(timer);
  }
}

/** The frame: a broadcast from `mac` that asks for the protocol address of `mac`. */
export function announcement(mac: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(SHORTEST_FRAME);
  const view = new DataView(bytes.buffer);
  bytes.fill(0xff, 0, MAC_BYTES);
  bytes.set(mac, MAC_BYTES);
  view.setUint16(12, REVERSE_ARP);
  view.setUint16(14, ETHERNET);
  view.setUint16(16, IPV4);
  bytes[18] = MAC_BYTES;
  bytes[19] = 4;
  view.setUint16(20, REQUEST_REVERSE);
  bytes.set(mac, 22);
  bytes.set(mac, 32);
  return bytes;
}
