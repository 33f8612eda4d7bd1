import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';

/** A direction of the link. */
export type Way = 'to destination' | 'to source';

/** A TCP link that tests can cut: all of its streams at once, after any byte. */
export class CuttableProxy {
  readonly #server: Server;
  readonly #pairs = new Set<readonly [Socket, Socket]>();
  /** Bytes that have passed. */
  readonly passed: Record<Way, number> = { 'to destination': 0, 'to source': 0 };
  #cutAt: { readonly way: Way; readonly bytes: number } | undefined;
  #refusing = false;
  cuts = 0;

  private constructor(target: number) {
    this.#server = createServer((near) => {
      if (this.#refusing) {
        near.destroy();
        return;
      }
      const far = connect(target, '127.0.0.1');
      const pair = [near, far] as const;
      this.#pairs.add(pair);
      for (const socket of pair) {
        socket.setNoDelay(true);
        socket.on('error', () => {});
        socket.on('close', () => {
          this.#pairs.delete(pair);
          near.destroy();
          far.destroy();
        });
      }
      this.#pass(near, far, 'to destination');
      this.#pass(far, near, 'to source');
    });
  }

  /** A proxy before a listener of this host. */
  static async to(port: number): Promise<CuttableProxy> {
    const proxy = new CuttableProxy(port);
    await new Promise<void>((resolve) => proxy.#server.listen(0, '127.0.0.1', resolve));
    return proxy;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  /** Cuts every stream now. */
  cut(): void {
    this.cuts++;
    this.#cutAt = undefined;
    for (const [near, far] of this.#pairs) {
      near.resetAndDestroy();
      far.resetAndDestroy();
    }
  }

  /** Cuts the link once this many further bytes have passed in a direction, over all streams. */
  cutAfter(way: Way, bytes: number): void {
    this.#cutAt = { way, bytes: this.passed[way] + bytes };
  }

  /** Whether new streams are refused. */
  set refusing(refusing: boolean) {
    this.#refusing = refusing;
  }

  async close(): Promise<void> {
    this.cut();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #pass(from: Socket, to: Socket, way: Way): void {
    from.on('data', (bytes: Buffer) => {
      const left = this.#cutAt?.way === way ? this.#cutAt.bytes - this.passed[way] : Number.POSITIVE_INFINITY;
      const passing = bytes.subarray(0, Math.min(bytes.length, left));
      this.passed[way] += passing.length;
      if (passing.length > 0 && !to.write(passing)) {
        from.pause();
        to.once('drain', () => from.resume());
      }
      if (bytes.length >= left) this.cut();
    });
    from.on('end', () => to.end());
  }
}
