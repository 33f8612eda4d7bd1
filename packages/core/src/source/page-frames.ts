import { PageRunList } from '../memory/page-run.js';
import type { PageBatch } from './page-channel.js';

/** Most runs of a frame: with the frame's header they are the entries of one gathering write (IOV_MAX is 1024). */
const FRAME_RUNS = 1023;

/**
 * Cuts a batch into batches of at most `framePages` pages, each to be sent as a frame, for a channel that asks for batches larger
 * than a frame (`PageChannel.batchBytes`). The holes come last, in one batch. All batches share one list of runs, so that each
 * batch is valid until the next one is taken from the generator.
 */
export function* pageFrames(batch: PageBatch, framePages: number): Generator<PageBatch> {
  const { holes } = batch;
  const none = new PageRunList(1);
  const runs = new PageRunList(Math.min(FRAME_RUNS, batch.runs.length));
  const frame = { ...batch, runs, holes: none };
  for (let i = 0; i < batch.runs.length; i++) {
    let page = batch.runs.firstPage(i);
    let left = batch.runs.runPages(i);
    while (left > 0) {
      const take = Math.min(left, framePages - runs.pageCount);
      runs.push(page, take);
      page += take;
      left -= take;
      if (runs.pageCount < framePages && runs.length < FRAME_RUNS) continue;
      yield frame;
      runs.clear();
    }
  }
  if (runs.length > 0) yield frame;
  if (holes.length > 0) yield { ...batch, runs: none, holes };
}
