import { execFileSync, spawnSync } from 'node:child_process';

/** The addresses of the two hosts, on a network of their own. */
export const SOURCE_ADDRESS = '10.231.17.1';
export const DESTINATION_ADDRESS = '10.231.17.2';

/** A slow link on which packets are lost. */
const RATE = '400mbit';
const LOSS = '0.005';

/**
 * Two network namespaces with a link of 400 Mbit/s between them, on which 0.5 % of the packets are lost each way. Linux kernels
 * without netem have no delay: a `DelayRelay` makes one.
 */
export class TwoHosts {
  readonly source = `godwit-a-${process.pid}`;
  readonly destination = `godwit-b-${process.pid}`;

  /** Why the namespaces cannot be made; undefined if they can. The test is to make them, with all features that are used. */
  static problem(): string | undefined {
    if (process.getuid?.() !== 0) return 'not root';
    for (const [program, option] of [
      ['ip', '-V'],
      ['tc', '-V'],
      ['iptables', '-V'],
    ] as const) {
      if (spawnSync(program, [option]).error !== undefined) return `${program} is not installed`;
    }
    let hosts: TwoHosts | undefined;
    try {
      hosts = new TwoHosts();
      return undefined;
    } catch (error) {
      return `no network namespaces with a veth link, tbf and statistic: ${(error as Error).message.trim().replaceAll(/[()\n]/g, ' ')}`;
    } finally {
      hosts?.close();
    }
  }

  constructor() {
    const { source, destination } = this;
    try {
      for (const name of [source, destination]) run('ip', 'netns', 'add', name);
      run('ip', 'link', 'add', 'link0', 'netns', source, 'type', 'veth', 'peer', 'name', 'link0', 'netns', destination);
      for (const [name, address] of [
        [source, SOURCE_ADDRESS],
        [destination, DESTINATION_ADDRESS],
      ] as const) {
        inside(name, 'ip', 'address', 'add', `${address}/24`, 'dev', 'link0');
        inside(name, 'ip', 'link', 'set', 'lo', 'up');
        inside(name, 'ip', 'link', 'set', 'link0', 'up');
        inside(name, ...'tc qdisc add dev link0 root tbf burst 256kb latency 50ms rate'.split(' '), RATE);
        inside(name, ...'iptables -A INPUT -i link0 -m statistic --mode random -j DROP --probability'.split(' '), LOSS);
      }
    } catch (error) {
      this.close();
      throw error;
    }
  }

  /** The words before a command that make it run at one of the two hosts. */
  at(name: string): readonly string[] {
    return ['ip', 'netns', 'exec', name];
  }

  /** Interrupts the link, or restores it. */
  link(state: 'up' | 'down'): void {
    inside(this.source, 'ip', 'link', 'set', 'link0', state);
  }

  /** Packets that were dropped on purpose, at both hosts. */
  lostPackets(): number {
    const lost = (name: string): number =>
      Number(/^\s*(\d+)\s+\d+\s+DROP/m.exec(inside(name, 'iptables', '-L', 'INPUT', '-v', '-n', '-x'))?.[1]);
    return lost(this.source) + lost(this.destination);
  }

  close(): void {
    for (const name of [this.source, this.destination]) spawnSync('ip', ['netns', 'delete', name]);
  }
}

function inside(name: string, ...command: readonly string[]): string {
  return run('ip', 'netns', 'exec', name, ...command);
}

function run(program: string, ...args: readonly string[]): string {
  return execFileSync(program, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
}
