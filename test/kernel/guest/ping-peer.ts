import { createServer, type Server, type Socket } from 'node:net';

/** The network of the suites: the address of this side, and of the guest. */
export const PEER_ADDRESS = [10, 0, 2, 2] as const;
export const GUEST_ADDRESS = [10, 0, 2, 15] as const;

const PEER_MAC = Uint8Array.of(0x52, 0x54, 0, 0, 0, 2);
const BROADCAST = new Uint8Array(6).fill(0xff);
const IPV4 = 0x0800;
const ARP = 0x0806;
const REVERSE_ARP = 0x8035;
const ICMP = 1;
const ECHO_REQUEST = 8;
const ECHO_REPLY = 0;
const LENGTH_BYTES = 4;
const ETHERNET_BYTES = 14;
const IP_BYTES = 20;

/**
 * The other end of a guest's network card: a UNIX socket to which a VMM connects. It pings the guest, and notes how long no answer came. A
 * VMM that has the guest next connects anew, and takes the place of the one before.
 */
export class PingPeer {
  /** Answers so far, and announcements of the guest's place. */
  answers = 0;
  announcements = 0;
  #longestGapMs = 0;
  #lastAnswer: number | undefined;
  #sequence = 0;
  #guestMac: Uint8Array | undefined;
  #vmm: Socket | undefined;
  #onAnswer: () => void = () => {};
  readonly #server: Server;
  readonly #timer: NodeJS.Timeout;

  /** @param everyMs the time between two pings */
  constructor(path: string, everyMs: number) {
    this.#server = createServer((socket) => this.#connected(socket)).listen(path);
    this.#timer = setInterval(() => this.#ping(), everyMs);
  }

  /** The longest time without an answer since the last call, in milliseconds. */
  takeLongestGapMs(): number {
    const gap = this.#longestGapMs;
    this.#longestGapMs = 0;
    return gap;
  }

  /** Resolves when the guest has answered so many pings from now on. */
  answered(count: number): Promise<void> {
    const until = this.answers + count;
    return new Promise((resolve) => {
      this.#onAnswer = () => {
        if (this.answers >= until) resolve();
      };
    });
  }

  async close(): Promise<void> {
    clearInterval(this.#timer);
    this.#vmm?.destroy();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #connected(socket: Socket): void {
    this.#vmm = socket;
    let rest: Buffer = Buffer.alloc(0);
    socket.on('data', (bytes) => {
      rest = Buffer.concat([rest, bytes]);
      while (rest.length >= LENGTH_BYTES && rest.length >= LENGTH_BYTES + rest.readUInt32BE(0)) {
        const end = LENGTH_BYTES + rest.readUInt32BE(0);
        this.#arrives(rest.subarray(LENGTH_BYTES, end));
        rest = rest.subarray(end);
      }
    });
    socket.on('error', () => {});
  }

  #send(frame: Uint8Array): void {
    const length = Buffer.alloc(LENGTH_BYTES);
    length.writeUInt32BE(frame.byteLength);
    if (this.#vmm?.writable === true) this.#vmm.write(Buffer.concat([length, frame]));
  }

  #arrives(frame: Buffer): void {
    const type = frame.readUInt16BE(12);
    if (type === REVERSE_ARP) this.announcements++;
    if (type === ARP) this.#arp(frame);
    if (type === IPV4 && frame[ETHERNET_BYTES + 9] === ICMP && frame[ETHERNET_BYTES + IP_BYTES] === ECHO_REPLY) {
      const now = performance.now();
      this.#longestGapMs = Math.max(this.#longestGapMs, now - (this.#lastAnswer ?? now));
      this.#lastAnswer = now;
      this.answers++;
      this.#onAnswer();
    }
  }

  #arp(frame: Buffer): void {
    const sender = frame.subarray(ETHERNET_BYTES + 8, ETHERNET_BYTES + 14);
    this.#guestMac = Uint8Array.from(sender);
    const isRequest = frame.readUInt16BE(ETHERNET_BYTES + 6) === 1;
    if (isRequest && frame.subarray(ETHERNET_BYTES + 24, ETHERNET_BYTES + 28).equals(Uint8Array.from(PEER_ADDRESS)))
      this.#send(arp(2, sender));
  }

  #ping(): void {
    if (this.#guestMac === undefined) this.#send(arp(1, BROADCAST));
    else this.#send(echoRequest(this.#guestMac, this.#sequence++ & 0xffff));
  }
}

/** An ARP packet (RFC 826): 1 asks for the guest's address, 2 answers with this side's. */
function arp(operation: 1 | 2, to: Uint8Array): Buffer {
  const body = Buffer.alloc(28);
  body.writeUInt16BE(1, 0);
  body.writeUInt16BE(IPV4, 2);
  body.set([6, 4], 4);
  body.writeUInt16BE(operation, 6);
  body.set(PEER_MAC, 8);
  body.set(PEER_ADDRESS, 14);
  body.set(operation === 1 ? new Uint8Array(6) : to, 18);
  body.set(GUEST_ADDRESS, 24);
  return ethernet(to, ARP, body);
}

/** An ICMP echo request (RFC 792). */
function echoRequest(to: Uint8Array, sequence: number): Buffer {
  const icmp = Buffer.alloc(16);
  icmp[0] = ECHO_REQUEST;
  icmp.writeUInt16BE(sequence, 6);
  icmp.writeUInt16BE(checksum(icmp), 2);
  const ip = Buffer.alloc(IP_BYTES);
  ip[0] = 0x45;
  ip.writeUInt16BE(IP_BYTES + icmp.length, 2);
  ip[8] = 64;
  ip[9] = ICMP;
  ip.set(PEER_ADDRESS, 12);
  ip.set(GUEST_ADDRESS, 16);
  ip.writeUInt16BE(checksum(ip), 10);
  return ethernet(to, IPV4, Buffer.concat([ip, icmp]));
}

function ethernet(to: Uint8Array, type: number, body: Buffer): Buffer {
  const header = Buffer.alloc(ETHERNET_BYTES);
  header.set(to, 0);
  header.set(PEER_MAC, 6);
  header.writeUInt16BE(type, 12);
  return Buffer.concat([header, body]);
}

/** The Internet checksum (RFC 1071). */
function checksum(bytes: Buffer): number {
  let sum = 0;
  for (let i = 0; i < bytes.length; i += 2) sum += bytes.readUInt16BE(i);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
}
