import { abortable } from '../abortable.js';
import { GodwitError } from '../errors.js';
import { inTime } from '../in-time.js';
import { sendDigests } from '../verify/send-digests.js';
import type { SourceConnection } from './source-connection.js';
import type { SourceContext } from './source-context.js';

/**
 * Compares all RAM with the destination's, page by page, with the guest paused; resolves with the number of pages that were
 * compared. Rejects with `GODWIT_VERIFY_FAILED` when any differs, and with `GODWIT_SWITCHOVER_OVERRAN` after `verifyTimeoutMs`.
 */
export async function verifyMemory(context: SourceContext, connection: SourceConnection): Promise<number> {
  const { options } = context;
  const { clock, verifyTimeoutMs } = options;
  const limitMs = verifyTimeoutMs ?? defaultLimit(context);
  const over = new AbortController();
  const follow = () => over.abort(connection.signal.reason);
  connection.signal.addEventListener('abort', follow, { once: true });
  const comparing = compare(context, connection, over.signal);
  comparing.catch(() => {});
  try {
    return await (limitMs === 0 ? comparing : inTime(comparing, clock, limitMs, () => tooSlow(limitMs)));
  } finally {
    over.abort(tooSlow(limitMs));
    connection.signal.removeEventListener('abort', follow);
  }
}

async function compare(
  { vm, windows, options, rounds, namedFree }: SourceContext,
  connection: SourceConnection,
  signal: AbortSignal,
): Promise<number> {
  const { control: stream } = connection;
  const answer = connection.expect('verified');
  const { maximumPayload } = rounds.welcome;
  const sent = await sendDigests({
    ...{ windows, stream, clock: options.clock, signal, maximumPayload },
    unneeded: namedFree.pages,
  });
  const { pagesCompared, pagesDifferent, differences } = await abortable(answer, signal);
  if (!(pagesCompared >= sent)) {
    throw new GodwitError(
      'GODWIT_PROTOCOL',
      `${sent} digests were sent, but the destination compared ${pagesCompared} pages`,
    );
  }
  if (pagesDifferent === 0) return pagesCompared;
  const named: string[] = [];
  for (let i = 0; i + 1 < differences.length; i += 2) {
    named.push(`${vm.memory.blocks[differences[i] as number]?.id ?? '?'}:${differences[i + 1]}`);
  }
  throw new GodwitError(
    'GODWIT_VERIFY_FAILED',
    `${pagesDifferent} of ${pagesCompared} pages differ at the destination (${named.join(', ')}${pagesDifferent > named.length ? ', ...' : ''}); ` +
      `a writer of guest memory is seen by no dirty tracker, or the link alters bytes; the guest stays at the source${unseen(vm)}`,
  );
}

/** The blind spots of the trackers, for the message; empty when they have none. */
function unseen({ trackers }: SourceContext['vm']): string {
  const said = trackers.flatMap(({ name, blindSpots }) => (blindSpots === undefined ? [] : [`${name}: ${blindSpots}`]));
  return said.length === 0 ? '' : `. Not seen by ${said.join('; by ')}`;
}

/** A minute, and a second for each 64 MiB of RAM: a tenth of the rate at which either side hashes. */
function defaultLimit({ vm }: SourceContext): number {
  const bytes = vm.memory.blocks.reduce((sum, { byteLength }) => sum + byteLength, 0);
  return 60_000 + (bytes / (64 * 2 ** 20)) * 1000;
}

function tooSlow(limitMs: number): GodwitError {
  return new GodwitError(
    'GODWIT_SWITCHOVER_OVERRAN',
    `the RAM of both sides was not compared within verifyTimeoutMs (${limitMs.toFixed(0)} ms)`,
  );
}
