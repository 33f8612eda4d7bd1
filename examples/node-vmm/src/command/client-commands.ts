import type { PresetName } from '@godwit/core';
import { Command, Option } from 'commander';
import { oneOfNames } from '../demo/named-values.js';
import { POLICY_NAMES } from '../vmm/policies.js';
import { ANY, askVmm, type ClientOptions, clientOptions, type For, MIGRATING, WITH_GUEST } from './client-command.js';
import { EXIT } from './exit-status.js';
import { allVmms } from './find-vmm.js';
import type { Ended } from './guest-commands.js';
import { migrateCommand, snapshotCommand } from './migrate-command.js';
import { statusText } from './status-text.js';
import { bytes, milliseconds } from './values.js';

interface AdjustOptions extends ClientOptions {
  readonly downtimeLimit?: number;
  readonly bandwidth?: number;
  readonly postcopyBandwidth?: number;
  readonly policy?: PresetName;
}

/** The commands that talk to a running VMM. */
export function clientCommands(ended: Ended): readonly Command[] {
  return [
    migrateCommand(ended),
    statusCommand(ended),
    simple('cancel', 'cancel the migration under way, to or from a VMM: the guest stays at the source').action(
      async (options: ClientOptions) =>
        ended(
          await askVmm(options, MIGRATING, async (vmm) => {
            const reply = await vmm.ask('cancel', {});
            return { object: reply, lines: [reply.cancelled ? 'cancelled' : 'too late: it is being handed over'] };
          }),
        ),
    ),
    adjustCommand(ended),
    simple('switchover', 'switch over now, as soon as what is left fits into the pause limit')
      .option('--force', 'at once, whatever the downtime', false)
      .action(async (options: ClientOptions & { readonly force: boolean }) =>
        ended(await done(options, MIGRATING, 'asked for', (vmm) => vmm.ask('switchover', { force: options.force }))),
      ),
    simple(
      'postcopy',
      'let the guest of a migration with --postcopy run at the destination now; its pages follow',
    ).action(async (options: ClientOptions) =>
      ended(await done(options, MIGRATING, 'asked for', (vmm) => vmm.ask('postcopy', {}))),
    ),
    snapshotCommand(ended),
    simple('pause', 'let the guest stand still until "resume", wherever it moves to').action(
      async (options: ClientOptions) => ended(await done(options, WITH_GUEST, 'paused', (vmm) => vmm.ask('pause', {}))),
    ),
    simple('resume', 'let a paused guest run').action(async (options: ClientOptions) =>
      ended(await done(options, WITH_GUEST, 'running', (vmm) => vmm.ask('resume', {}))),
    ),
    simple('balloon', 'ask a Linux guest to give so much of its memory to this host, or to take it back')
      .argument('<size>', 'what is to be in its balloon, such as 256M; 0 = nothing', bytes())
      .action(async (size: number, options: ClientOptions) =>
        ended(await done(options, WITH_GUEST, 'asked for', (vmm) => vmm.ask('balloon', { bytes: size }))),
      ),
    simple('power-button', 'press the power button of a Linux guest, which shuts down if it is set up so').action(
      async (options: ClientOptions) =>
        ended(await done(options, WITH_GUEST, 'pressed', (vmm) => vmm.ask('powerButton', {}))),
    ),
    simple('check', 'compare every page of the bundled guest with what it has written').action(
      async (options: ClientOptions) => ended(await check(options)),
    ),
    simple('settle', 'ask the destination again whether it runs a guest of which that is unknown').action(
      async (options: ClientOptions) =>
        ended(
          await askVmm(options, ANY, async (vmm) => {
            const reply = await vmm.ask('settle', {});
            return { object: reply, lines: ['the destination runs the guest'] };
          }),
        ),
    ),
    simple('recover', 'run the guest here, since the other side of its migration is dead for certain')
      .option('--peer-is-dead', 'the word for it: if it is not, the guest runs on both sides', false)
      .action(async (options: ClientOptions & { readonly peerIsDead: boolean }) =>
        ended(
          await done(options, ANY, 'the guest runs here', (vmm) =>
            vmm.ask('recover', { peerIsDead: options.peerIsDead }),
          ),
        ),
      ),
    simple('quit', 'end a VMM and its guest')
      .option('--force', 'even where it may be the only one that has the guest', false)
      .action(async (options: ClientOptions & { readonly force: boolean }) =>
        ended(await done(options, ANY, 'ended', (vmm) => vmm.ask('quit', { force: options.force }))),
      ),
  ];
}

function simple(name: string, description: string): Command {
  return clientOptions(new Command(name).description(description));
}

function statusCommand(ended: Ended): Command {
  return simple('status', 'what a VMM is doing; without --control, every VMM of this user').action(
    async (options: ClientOptions) => {
      if (options.control === undefined && options.wait === 0) {
        const all = await allVmms();
        if (all.length > 0) {
          for (const { client, status } of all) {
            const lines = options.json
              ? [JSON.stringify({ control: client.path, ...status })]
              : [`${client.path}`, ...statusText(status).map((line) => `  ${line}`)];
            process.stdout.write(`${lines.join('\n')}\n`);
            client.close();
          }
          ended(EXIT.done);
          return;
        }
      }
      ended(
        await askVmm(options, ANY, async (vmm) => {
          const status = await vmm.ask('status', {});
          return { object: { control: vmm.path, ...status }, lines: statusText(status) };
        }),
      );
    },
  );
}

function adjustCommand(ended: Ended): Command {
  const command = simple('adjust', 'change what the migration under way goes by; it applies at once')
    .option('--downtime-limit <ms>', 'longest pause of the guest to aim for', milliseconds)
    .option('--bandwidth <bytes/s>', 'limit while the guest runs, such as 100M; 0 = none', bytes())
    .option('--postcopy-bandwidth <bytes/s>', 'the same once the guest runs at the destination', bytes())
    .addOption(oneOfNames(new Option('--policy <name>', 'who decides from now on'), POLICY_NAMES));
  return command.action(async (options: AdjustOptions) => {
    const { downtimeLimit, bandwidth, postcopyBandwidth, policy } = options;
    const adjustment = {
      ...(downtimeLimit !== undefined && { downtimeLimitMs: downtimeLimit }),
      ...(bandwidth !== undefined && { bandwidthLimit: bandwidth }),
      ...(postcopyBandwidth !== undefined && { postcopyBandwidth }),
      ...(policy !== undefined && { policy }),
    };
    if (Object.keys(adjustment).length === 0) {
      command.error('error: give what is to change: --downtime-limit, --bandwidth, --postcopy-bandwidth or --policy');
    }
    ended(await done(options, MIGRATING, 'adjusted', (vmm) => vmm.ask('adjust', adjustment)));
  });
}

async function check(options: ClientOptions): Promise<number> {
  let defects = 0;
  const status = await askVmm(options, WITH_GUEST, async (vmm) => {
    const report = await vmm.ask('check', {});
    defects = report.defects.length;
    return { object: report, lines: [`checked ${report.pages} pages: ${defects} defects`, ...report.defects] };
  });
  return status === EXIT.done && defects > 0 ? EXIT.failed : status;
}

function done(
  options: ClientOptions,
  which: For,
  word: string,
  ask: (vmm: Parameters<Parameters<typeof askVmm>[2]>[0]) => Promise<object>,
): Promise<number> {
  return askVmm(options, which, async (vmm) => ({ object: await ask(vmm), lines: [word] }));
}
