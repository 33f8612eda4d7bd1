import { abortable } from '../abortable.js';
import { GodwitError } from '../errors.js';
import { DirtyBitmaps } from '../memory/dirty-bitmaps.js';
import { namedPages } from '../memory/named-pages.js';
import { FEATURES } from '../protocol/negotiate.js';
import type { SourceConnection } from './source-connection.js';
import type { SourceContext } from './source-context.js';

/**
 * Tells the destination, with the guest still running here, which pages are owed now: most of those that will be missing there. The
 * destination gives up what it has of these pages before the guest is paused. Resolves with these pages, and with none after a failure,
 * which is left to the next step, over the same connection.
 */
export async function announceMissing(context: SourceContext, connection: SourceConnection): Promise<DirtyBitmaps> {
  const { vm, queue } = context;
  const announced = new DirtyBitmaps(vm.memory);
  announced.or(queue.owed);
  try {
    await tellMissing(context, connection, announced);
    await connection.ping();
    return announced;
  } catch {
    // The link is lost, or the migration is over.
    return new DirtyBitmaps(vm.memory);
  }
}

/**
 * Tells the destination that these pages will be missing there too, as far as they are not among those that it was `told` over this
 * connection, and adds them to those: with the guest paused, a small frame is made and read sooner than a large one.
 */
export async function tellFurtherMissing(
  context: SourceContext,
  connection: SourceConnection,
  pages: DirtyBitmaps,
  told: DirtyBitmaps,
): Promise<void> {
  const further = new DirtyBitmaps(context.vm.memory);
  further.or(pages);
  further.andNot(told);
  told.or(further);
  if (!further.isEmpty()) await tellMissing(context, connection, further);
}

/** Tells the destination that these pages will be missing there. */
async function tellMissing(
  { rounds, options, session }: SourceContext,
  connection: SourceConnection,
  pages: DirtyBitmaps,
): Promise<void> {
  const asBits = rounds.welcome.features.includes(FEATURES.bitmap);
  for (const [block, bitmap] of pages.blocks.entries()) {
    for await (const named of namedPages(bitmap, asBits, options.clock)) {
      await abortable(connection.write({ type: 'missing', block, ...named }), session.signal);
    }
  }
}

/** Opens the urgent channel to requests, once the last missing pages were named; it stays closed if none is missing. */
export function openToRequests(context: SourceContext): void {
  const { queue, postcopy } = context;
  context.missingPages = queue.count();
  context.byPostcopy = context.missingPages > 0;
  if (context.byPostcopy && postcopy !== undefined) Atomics.store(postcopy.open, 0, 1);
}

/** The pages of which the destination was told, or which it has fetched already. */
export function accountedFor({ queue, vm }: SourceContext): DirtyBitmaps {
  const pages = new DirtyBitmaps(vm.memory);
  pages.or(queue.owed);
  pages.or(queue.taken);
  return pages;
}

/**
 * Whether the destination can hold the state that the devices report: by post-copy no state is loaded before all of it has come, since a
 * device that loads must find every page that was sent.
 */
export function stateFits({ devices, rounds }: SourceContext): boolean {
  return devices.reports.outlook.bytes <= rounds.welcome.maximumDeviceState;
}

/**
 * The error for more device state than the destination holds: a device would load before the destination knows which pages are missing, and
 * could read zeros in their place.
 */
export function tooMuchState(maximumBytes: number): GodwitError {
  return new GodwitError(
    'GODWIT_LIMIT_EXCEEDED',
    `the state of the devices is larger than the ${maximumBytes} bytes that the destination holds (maximumDeviceState), and by post-copy none ` +
      'can be loaded before all has come: raise maximumDeviceState there, or leave postcopy out',
  );
}
