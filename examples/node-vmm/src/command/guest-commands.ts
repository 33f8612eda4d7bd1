import { CPU_MODELS, type CpuModel } from '@godwit/linux/kvm';
import { Command, Option } from 'commander';
import { oneOfNames } from '../demo/named-values.js';
import { MAXIMUM_VCPUS, PAGE_SIZE } from '../guest/layout.js';
import type { LinuxBoot } from '../linux/boot-plan.js';
import { MAX_MEMORY_BYTES, MIN_MEMORY_BYTES } from '../machine/memory-map.js';
import { MAX_VCPUS } from '../vcpu/shared-board.js';
import type { DiskChoice, NetChoice, VirtioHost } from '../virtio/virtio-devices.js';
import { type LinuxSpec, workingSetProblem } from '../vmm/guest-spec.js';
import { chooseGuestKind, dirtyRingProblem } from '../vmm/hosted-guest.js';
import { linksFrom } from '../vmm/links.js';
import { PageFaultService } from '../vmm/page-fault-service.js';
import { absoluteUri, type TlsFiles, transportOf } from '../vmm/transport-of.js';
import { addTlsOptions, type TlsOptionValues, tlsFiles } from './tls-options.js';
import { bytes, disk, integer, milliseconds, net, pagePort, readNamed } from './values.js';
import { type Arrival, VmmRun } from './vmm-process.js';

interface CommonOptions {
  readonly control?: string;
  readonly quiet: boolean;
  readonly dirtyRing: boolean;
  readonly disk?: DiskChoice;
  readonly net?: NetChoice;
}

interface RunOptions extends CommonOptions {
  readonly memory?: number;
  readonly vcpus: number;
  readonly dirtyRate: number;
  readonly workingSet?: number;
  readonly order: 'sequential' | 'random';
  readonly heartbeat: number;
  readonly image?: string;
  readonly kernel?: string;
  readonly initrd?: string;
  readonly append?: string;
  readonly console?: 'ttyS0' | 'hvc0';
  readonly cpu?: CpuModel;
  readonly kvm: boolean;
}

interface ReceiveOptions extends CommonOptions, TlsOptionValues {
  readonly once: boolean;
  readonly paused: boolean;
  readonly reconnectTimeout?: number;
  readonly page?: number | true;
}

const MIB = 2 ** 20;
const DEFAULT_MEMORY = 512 * MIB;
const DEFAULT_IMAGE_MEMORY = 150 * MIB;
const DEFAULT_WORKING_SET = 64 * MIB;

/** Called with the exit status of the command. */
export type Ended = (status: number) => void;

/** The commands whose process is a VMM: `run`, `receive`, `restore`. */
export function guestCommands(ended: Ended): readonly Command[] {
  return [runCommand(ended), receiveCommand(ended), restoreCommand(ended)];
}

function runCommand(ended: Ended): Command {
  const command = common(
    new Command('run').description(
      'run a guest, with a control socket, until it has moved away or "quit" ends it.\n' +
        'Without --image or --kernel it is the bundled guest, which writes memory and checks itself.',
    ),
  )
    .option(
      '--memory <size>',
      'guest memory, such as 512M (default), or 150M with --image',
      bytes(MIN_MEMORY_BYTES, MAX_MEMORY_BYTES),
    )
    .option(
      '--vcpus <n>',
      `virtual CPUs, up to ${MAXIMUM_VCPUS}, or ${MAX_VCPUS} with --kernel`,
      integer(1, MAX_VCPUS),
      2,
    )
    .option(
      '--dirty-rate <pages/s>',
      'page writes per second over all vCPUs, 0 = flat out',
      integer(0, 2 ** 31 - 1),
      5000,
    )
    .option('--working-set <size>', 'memory that the guest writes (default: 64M, at most half)', bytes(PAGE_SIZE))
    .addOption(
      oneOfNames(new Option('--order <order>', 'in which it writes its pages').default('sequential'), [
        'sequential',
        'random',
      ]),
    )
    .option('--heartbeat <ms>', 'between two lines on its console', integer(10, 60_000), 1000)
    .option('--image <file>', 'boot this flat image instead, in real mode at 0x7c00, on one vCPU and KVM')
    .option('--kernel <file>', 'boot this Linux instead, a bzImage; it reads what is typed at its console')
    .option('--initrd <file>', 'its first file system')
    .option('--append <text>', 'its command line, such as "console=ttyS0"')
    .addOption(
      oneOfNames(
        new Option(
          '--console <name>',
          'of a Linux, which gets what is typed: its serial port, or a virtio console',
        ).default(undefined, 'ttyS0'),
        ['ttyS0', 'hvc0'],
      ),
    )
    .addOption(
      oneOfNames(
        new Option(
          '--cpu <model>',
          'the processor that a guest on KVM sees: all of this host, or a level that other hosts have too',
        ).default(undefined, 'host'),
        CPU_MODELS,
      ),
    )
    .option('--no-kvm', 'a worker thread that writes real memory, in place of a KVM guest');
  return command.action(async (options: RunOptions) => {
    const { memory, vcpus, kvm, image, kernel, dirtyRate, order, heartbeat } = options;
    if (image !== undefined && kernel !== undefined) command.error('error: give --image or --kernel, not both');
    const forLinux = [options.initrd, options.append, options.disk, options.net, options.console];
    if (kernel === undefined && forLinux.some((option) => option !== undefined)) {
      command.error('error: --initrd, --append, --disk, --net and --console are for --kernel');
    }
    if (image !== undefined) refuseUnused(command, '--image', { ...OF_THE_BUNDLED_GUEST, vcpus: '--vcpus' });
    if (kernel !== undefined) refuseUnused(command, '--kernel', OF_THE_BUNDLED_GUEST);
    const bundled = image === undefined && kernel === undefined;
    const { kind, note } = bundled ? chooseGuestKind(kvm) : { kind: 'kvm' as const };
    if (kernel === undefined && vcpus > MAXIMUM_VCPUS) {
      command.error(
        `error: the bundled guest has at most ${MAXIMUM_VCPUS} vCPUs, a Linux (--kernel) up to ${MAX_VCPUS}`,
      );
    }
    refuseDirtyRing(command, options, kind);
    if (kind === 'software' && options.cpu !== undefined) command.error('error: --cpu is for a guest on KVM');
    const cpu = options.cpu === undefined ? {} : { cpu: options.cpu };
    if (image !== undefined) {
      const file = await readNamed('--image', image);
      ended(
        await vmm(options, (run) =>
          run.vmm.boot({ kind: 'image', memoryBytes: memory ?? DEFAULT_IMAGE_MEMORY, image: file, ...cpu }),
        ),
      );
      return;
    }
    if (kernel !== undefined) {
      const spec = await linuxSpec(kernel, options);
      ended(
        await vmm(options, async (run) => {
          await run.vmm.boot(spec);
          run.tell('the guest runs here; Ctrl-] ends it on a terminal');
        }),
      );
      return;
    }
    const memoryBytes = pageFloor(memory ?? DEFAULT_MEMORY);
    const workingSetBytes = pageFloor(options.workingSet ?? Math.min(DEFAULT_WORKING_SET, memoryBytes / 2));
    const problem = workingSetProblem(memoryBytes, vcpus, workingSetBytes);
    if (problem !== undefined) command.error(`error: --working-set does not fit into --memory: ${problem}`);
    const spec = {
      kind,
      ...cpu,
      memoryBytes,
      vcpus,
      dirtyPagesPerSecond: dirtyRate,
      workingSetBytes,
      order,
      wholePages: false,
      heartbeatMs: heartbeat,
    };
    ended(
      await vmm(options, async (run) => {
        if (note !== undefined) run.tell(note);
        await run.vmm.boot(spec);
        run.tell('the guest runs here');
      }),
    );
  });
}

async function linuxSpec(kernel: string, options: RunOptions): Promise<LinuxSpec> {
  const { memory, vcpus, initrd, append } = options;
  const linux: LinuxBoot = {
    kernel: await readNamed('--kernel', kernel),
    ...(initrd !== undefined && { initrd: await readNamed('--initrd', initrd) }),
    ...(append !== undefined && { commandLine: append }),
  };
  const virtio = { rng: true, balloon: true, console: options.console === 'hvc0', ...virtioHost(options) };
  const cpu = options.cpu === undefined ? {} : { cpu: options.cpu };
  return { kind: 'linux', memoryBytes: pageFloor(memory ?? DEFAULT_MEMORY), vcpus, linux, virtio, ...cpu };
}

function receiveCommand(ended: Ended): Command {
  const command = addTlsOptions(
    common(
      new Command('receive')
        .description('await a guest, run it, and let it move on: with a control socket, as "run"')
        .argument(
          '<uri>',
          'where to listen: tcp:0.0.0.0:4444, tls:HOST:PORT, unix:PATH, ws://HOST:PORT/PATH, wss://..., stdio:, file:PATH',
        ),
    ),
  )
    .option('--once', 'end when the first attempt fails, with its exit status, instead of awaiting the next', false)
    .option('--paused', 'leave the guest paused, whatever it did at the source', false)
    .option(
      '--reconnect-timeout <ms>',
      'how long a source whose link was lost may take to come back (default: 30000)',
      milliseconds,
    )
    .option('--page [port]', 'a live page of the arrival, on this host: at this port, or one that is free', pagePort);
  return command.action(async (uri: string, options: ReceiveOptions) => {
    refuseDirtyRing(command, options, 'kvm');
    ended(await receive(absoluteUri(uri, process.cwd()), tlsFiles(options), options, {}));
  });
}

function restoreCommand(ended: Ended): Command {
  const command = common(
    new Command('restore')
      .description('run the guest of a snapshot; the file stays as it is, and may be restored again')
      .argument('<file>', 'the snapshot'),
  )
    .option('--at-once', 'let the guest run before its memory is loaded: pages come when it needs them', false)
    .option('--paused', 'leave the guest paused', false)
    .option('--page [port]', 'a live page of it, on this host: at this port, or one that is free', pagePort);
  return command.action(
    async (file: string, { atOnce, ...options }: Omit<ReceiveOptions, 'once'> & { readonly atOnce: boolean }) => {
      refuseDirtyRing(command, options, 'kvm');
      const uri = absoluteUri(`file:${file}`, process.cwd());
      ended(await receive(uri, undefined, { ...options, once: true }, { atOnce }));
    },
  );
}

function common(command: Command): Command {
  return command
    .option('--control <path>', "the control socket (default: the next free one of this user's folder)")
    .option(
      '--disk <file>',
      "a Linux guest's disk: a raw file, or FILE,readonly or FILE,direct; a guest that has one needs it at each host",
      disk,
    )
    .option(
      '--net <socket>',
      "a Linux guest's network: a UNIX socket to connect to, SOCKET,listen, or tap:NAME; a guest that has one needs it at each host",
      net,
    )
    .option('--quiet', "do not show the guest's console", false)
    .option(
      '--dirty-ring',
      "log what the guest writes in KVM's dirty rings, whose cost is by what it writes, not by its memory (default: KVM's dirty log)",
      false,
    );
}

/** Options that only the bundled guest has, by their names in commander. */
const OF_THE_BUNDLED_GUEST: Readonly<Record<string, string>> = {
  dirtyRate: '--dirty-rate',
  workingSet: '--working-set',
  order: '--order',
  heartbeat: '--heartbeat',
  kvm: '--no-kvm',
};

/** Refuses options that the guest of `other` has no use for. */
function refuseUnused(command: Command, other: string, unused: Readonly<Record<string, string>>): void {
  const given = Object.entries(unused).filter(([name]) => command.getOptionValueSource(name) === 'cli');
  if (given.length === 0) return;
  const flags = given.map(([, flag]) => flag).join(', ');
  command.error(`error: ${flags}: the guest of ${other} has no use for ${given.length === 1 ? 'it' : 'them'}`);
}

/** Refuses dirty rings where there are none, before a machine is built. */
function refuseDirtyRing(command: Command, { dirtyRing }: CommonOptions, kind: 'kvm' | 'software'): void {
  const problem = dirtyRing ? dirtyRingProblem(kind) : undefined;
  if (problem !== undefined) command.error(`error: --dirty-ring: ${problem}`);
}

async function receive(
  uri: string,
  tls: TlsFiles | undefined,
  options: ReceiveOptions,
  { atOnce = false }: { readonly atOnce?: boolean },
): Promise<number> {
  // With `stdio:` standard output carries the stream, and the console goes to standard error.
  const stdio = /^stdio:/i.test(uri);
  const faults = new PageFaultService();
  // The threads start while the machine is built, since its guest waits for them.
  if (atOnce) void faults.ready();
  try {
    return await vmm(
      options,
      async (run) => {
        const refused = (error: Error): void => run.tell(`refused: ${error.message}`);
        const transport = await transportOf(uri, { tls, onRefused: refused });
        const arrival: Arrival = {
          listening: await linksFrom(transport, { onRefused: refused }),
          once: options.once || stdio || /^file:/i.test(uri),
          settings: {
            ...(options.paused && { onArrival: 'pause' }),
            ...(options.reconnectTimeout !== undefined && { reconnectTimeoutMs: options.reconnectTimeout }),
            ...(atOnce && { run: 'at once' }),
            faults,
          },
          page: options.page === true ? 0 : options.page,
        };
        await run.receive(arrival);
      },
      stdio,
    );
  } finally {
    await faults.close();
  }
}

/** A VMM with its console on standard output, and its own messages on standard error. */
function vmm(options: CommonOptions, start: (run: VmmRun) => Promise<void>, noStdout = false): Promise<number> {
  const { stdin, stdout, stderr } = process;
  const console = options.quiet ? undefined : noStdout ? stderr : stdout;
  const host = { dirtyRing: options.dirtyRing, virtio: virtioHost(options) };
  const run = new VmmRun({ console, messages: stderr, input: noStdout ? undefined : stdin }, host);
  return run.run(options.control, () => start(run));
}

/** What the virtio devices of a guest are connected to here. */
function virtioHost({ disk, net: card }: CommonOptions): VirtioHost {
  return { ...(disk !== undefined && { disk }), ...(card !== undefined && { net: card }) };
}

function pageFloor(size: number): number {
  return Math.max(PAGE_SIZE, Math.floor(size / PAGE_SIZE) * PAGE_SIZE);
}
