import type { PresetName } from '@godwit/core';
import { Command, Option } from 'commander';
import type { MigrateRequest, SnapshotRequest } from '../control/control-protocol.js';
import { encodings, oneOfNames } from '../demo/named-values.js';
import type { EncodingName } from '../vmm/encodings.js';
import { POLICY_NAMES } from '../vmm/policies.js';
import { absoluteUri } from '../vmm/transport-of.js';
import { clientOptions } from './client-command.js';
import { type FollowOptions, followMigration } from './follow-migration.js';
import type { Ended } from './guest-commands.js';
import { addTlsOptions, type TlsOptionValues, tlsFiles } from './tls-options.js';
import { bytes, milliseconds, pageChannels, pagePort } from './values.js';

const PAGE = 'a live page of it, on this host: at this port, or one that is free';

interface MigrateOptions extends FollowOptions, TlsOptionValues {
  readonly live?: boolean;
  readonly verify: boolean;
  readonly checksum: boolean;
  readonly downtimeLimit?: number;
  readonly pauseLimit?: number;
  readonly bandwidth?: number;
  readonly postcopy?: boolean;
  readonly postcopyBandwidth?: number;
  readonly policy?: PresetName;
  readonly timeBudget?: number;
  readonly pageChannels?: number | 'auto';
  readonly encodings?: readonly EncodingName[];
  readonly connectTimeout?: number;
  readonly reconnectTimeout?: number;
  readonly settleTimeout?: number;
}

interface SnapshotOptions extends FollowOptions {
  readonly live: boolean;
  readonly quit: boolean;
  readonly bandwidth?: number;
}

export function migrateCommand(ended: Ended): Command {
  const command = addTlsOptions(
    clientOptions(
      new Command('migrate')
        .description(
          'move the guest of a running VMM to one that awaits it with "receive". Ctrl-C cancels the migration.',
        )
        .argument(
          '<uri>',
          'where it is awaited: tcp:HOST:4444, tls:HOST:PORT, unix:PATH, ws://HOST:PORT/PATH, wss://..., exec:COMMAND',
        ),
    ),
  );
  return command
    .option('--live', 'the guest runs while its memory moves, and stands still only for the rest of it: the default')
    .option('--no-live', 'the guest stands still from the beginning, so that each page moves once')
    .option('--verify', 'compare the memory of both sides, page by page, before the guest may run there', false)
    .option('--downtime-limit <ms>', 'longest pause of the guest to aim for (default: 300)', milliseconds)
    .option(
      '--pause-limit <ms>',
      'bound on the pause, past which the guest runs on here (default: twice the downtime limit)',
      milliseconds,
    )
    .option('--bandwidth <bytes/s>', 'limit while the guest runs, such as 100M; 0 = none (default: 0)', bytes())
    .addOption(
      oneOfNames(
        new Option(
          '--policy <name>',
          'when to switch over, to hold the guest back and to give up (default: balanced; with --postcopy hybrid)',
        ),
        POLICY_NAMES,
      ),
    )
    .addOption(
      new Option(
        '--postcopy',
        'the guest may run there before all its memory has come: after one round, or when the policy or the command "postcopy" says so',
      ).conflicts('verify'),
    )
    .option(
      '--postcopy-bandwidth <bytes/s>',
      'limit once the guest runs there; pages that it waits for are not counted; 0 = none (default: 0)',
      bytes(),
    )
    .option('--time-budget <ms>', 'time for the whole migration, which the policy goes by', milliseconds)
    .option(
      '--page-channels <n>',
      'streams for pages beside the control stream, 0 to 64, or auto (default: auto)',
      pageChannels,
    )
    .option(
      '--encodings <names>',
      'how pages may be made smaller: delta, lz4, zstd, or several, as in delta,lz4',
      encodings,
    )
    .option('--checksum', 'with every frame a checksum, so that a changed byte is noticed and sent again', false)
    .option('--connect-timeout <ms>', 'how long to try to reach the destination (default: 10000)', milliseconds)
    .option(
      '--reconnect-timeout <ms>',
      'how long to try to connect again after a lost link (default: 30000)',
      milliseconds,
    )
    .option(
      '--settle-timeout <ms>',
      'after the handover: how long to ask the destination whether it runs the guest (default: 30000)',
      milliseconds,
    )
    .option('--quiet', 'no progress', false)
    .option('--page [port]', PAGE, pagePort)
    .action(async (uri: string, options: MigrateOptions) => {
      const to = absoluteUri(uri, process.cwd());
      checkPostcopy(command, options);
      const request = requestOf(to, options);
      const about = { title: `A guest, to ${to}`, word: 'moved' } as const;
      ended(await followMigration(options, about, (client, onEvent) => client.ask('migrate', request, onEvent)));
    });
}

export function snapshotCommand(ended: Ended): Command {
  return clientOptions(
    new Command('snapshot')
      .description('save the running guest in a file; it goes on when the file is whole')
      .argument('<file>', 'a file of this name is replaced once the new one is whole'),
  )
    .option('--bandwidth <bytes/s>', 'limit while the guest runs, such as 100M; 0 = none (default: 0)', bytes())
    .option('--live', 'let the guest run while it is saved, after a pause of milliseconds', false)
    .option('--quit', 'end the VMM once the file is whole: the guest is then only there', false)
    .option('--quiet', 'no progress', false)
    .option('--page [port]', PAGE, pagePort)
    .action(async (file: string, options: SnapshotOptions) => {
      const { live, quit, bandwidth } = options;
      const path = absoluteUri(`file:${file}`, process.cwd()).slice('file:'.length);
      const request: SnapshotRequest = {
        path,
        events: true,
        ...{ live, quit },
        ...(bandwidth !== undefined && { bandwidthLimit: bandwidth }),
      };
      const about = { title: `A guest, into ${path}`, word: 'saved' } as const;
      ended(await followMigration(options, about, (client, onEvent) => client.ask('snapshot', request, onEvent)));
    });
}

/** Refuses options that cannot be combined. */
function checkPostcopy(command: Command, { live, policy, postcopy, postcopyBandwidth }: MigrateOptions): void {
  if (postcopy && live === false) {
    command.error('error: --no-live lets the guest stand still for all of its memory, --postcopy for none: take one');
  }
  if (postcopy) return;
  if (policy === 'hybrid') command.error('error: the policy "hybrid" goes on as post-copy: give --postcopy too');
  if (postcopyBandwidth !== undefined) command.error('error: --postcopy-bandwidth is for --postcopy: give it too');
}

function requestOf(to: string, options: MigrateOptions): MigrateRequest {
  const { live, verify, checksum, downtimeLimit, pauseLimit, bandwidth, policy, timeBudget } = options;
  const { postcopy, postcopyBandwidth } = options;
  const { connectTimeout, reconnectTimeout, settleTimeout } = options;
  const tls = tlsFiles(options);
  const given = {
    tls,
    downtimeLimitMs: downtimeLimit,
    pauseLimitMs: pauseLimit,
    bandwidthLimit: bandwidth,
    policy,
    postcopy,
    postcopyBandwidth,
    timeBudgetMs: timeBudget,
    pageChannels: options.pageChannels,
    encodings: options.encodings,
    connectTimeoutMs: connectTimeout,
    reconnectTimeoutMs: reconnectTimeout,
    settleTimeoutMs: settleTimeout,
  };
  const defined = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
  return {
    to,
    events: true,
    ...(live !== undefined && { live }),
    verify,
    checksum,
    ...(defined as Omit<MigrateRequest, 'to'>),
  };
}
