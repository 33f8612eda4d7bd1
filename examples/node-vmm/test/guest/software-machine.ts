/** A software guest in ordinary memory under a virtual clock: runs for so many heartbeats, then pauses. */
import {
  type BootParams,
  type GuestLine,
  GuestLineParser,
  type GuestRam,
  MailboxWriter,
  placeWorkingSet,
  RAM_HIGH_ADDRESS,
  runSoftwareGuest,
  type SoftwareGuestExit,
  type SoftwareGuestState,
} from '@godwit/example-node-vmm/guest';

export interface SparseRam extends GuestRam {
  clone(): SparseRam;
}

/** Two blocks, on both sides of the 4 GiB line. */
export function twoBlocks(low: Uint8Array, high: Uint8Array): SparseRam {
  return {
    view(address, length) {
      const [block, offset] = address >= RAM_HIGH_ADDRESS ? [high, address - RAM_HIGH_ADDRESS] : [low, address];
      if (offset + length > block.byteLength) throw new RangeError(`no RAM at 0x${address.toString(16)}`);
      return block.subarray(offset, offset + length);
    },
    clone: () => twoBlocks(low.slice(), high.slice()),
  };
}

export function bootParams(change: Partial<BootParams> = {}): BootParams {
  const vcpus = change.vcpus ?? 2;
  return {
    vcpus,
    order: 'sequential',
    wholePages: false,
    console: 'line',
    pagesPerSecond: 0,
    heartbeatMicroseconds: 20_000,
    seed: 1,
    ...placeWorkingSet({ low: 4 << 20, high: 1 << 20 }, vcpus, 60, 40),
    ...change,
  };
}

export class SoftwareMachine {
  readonly lines: GuestLine[] = [];
  ram = twoBlocks(new Uint8Array(4 << 20), new Uint8Array(1 << 20));
  state: SoftwareGuestState | undefined;
  clock = 1000;
  readonly params: BootParams;
  defectCode: number | undefined;
  lastMessage = 0;
  readonly #parser = new GuestLineParser();

  constructor(change: Partial<BootParams> = {}) {
    this.params = bootParams(change);
  }

  /** Runs until so many heartbeats more, or a defect. */
  run(heartbeats: number): SoftwareGuestExit {
    const control = new Int32Array(new SharedArrayBuffer(4));
    const mailbox = new MailboxWriter(this.ram, this.lastMessage);
    let left = heartbeats;
    const exit = runSoftwareGuest(
      this.ram,
      this.params,
      control,
      {
        print: (text) => {
          for (const line of this.#parser.push(text)) {
            this.lines.push(line);
            if (line.type === 'heartbeat' && --left === 0) control[0] = 1;
          }
        },
        now: () => {
          this.clock += 250;
          if (this.clock % 7000 === 0) mailbox.post();
          return this.clock;
        },
        sleep: (microseconds) => {
          this.clock += microseconds;
        },
        defect: (code) => {
          this.defectCode = code;
        },
      },
      this.state,
    );
    this.state = exit.state;
    this.lastMessage = mailbox.lastMessage;
    return exit;
  }
}
