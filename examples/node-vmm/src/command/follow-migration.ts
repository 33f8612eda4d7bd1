import { constants } from 'node:os';
import type { MigrationEvent } from '@godwit/core';
import type { ControlClient } from '../control/control-client.js';
import type { MoveSummary } from '../control/control-protocol.js';
import { formatBytes, formatCount, formatMs, formatRange } from '../demo/quantity.js';
import { askVmm, type ClientOptions, WITH_GUEST } from './client-command.js';
import { onInterruption } from './interruptions.js';
import { MigrationPage } from './migration-page.js';
import { jsonProgress, type ProgressOutput, textProgress } from './progress-output.js';

/** The options of every command that follows a migration to its end. */
export interface FollowOptions extends ClientOptions {
  readonly quiet: boolean;
  /** The port of a live page; `true`: one that is free; undefined: no page. */
  readonly page?: number | true;
}

interface About {
  /** The heading of the page. */
  readonly title: string;
  /** What has happened to the guest at a good end. */
  readonly word: 'moved' | 'saved';
}

/** Asks the VMM for the migration; resolves with its figures. */
type Ask = (client: ControlClient, onEvent: (event: MigrationEvent) => void) => Promise<MoveSummary>;

/**
 * Follows a migration to its end, and resolves with the exit status. The first signal cancels it, with the second one the command ends and
 * the migration goes on. On a terminal a page stays until Ctrl-C.
 */
export async function followMigration(options: FollowOptions, about: About, ask: Ask): Promise<number> {
  const { json, quiet } = options;
  const shown = json ? jsonProgress(process.stdout) : textProgress(process.stdout);
  const output = quiet ? { event: () => {}, end: () => {} } : shown;
  let page = undefined as MigrationPage | undefined;
  let interrupted = false;
  const status = await askVmm(options, WITH_GUEST, async (client) => {
    page = await openPage(client, options, about.title);
    const undo = onInterruption(
      (signal) => {
        interrupted = true;
        cancel(client, signal, output);
      },
      (signal) => {
        output.end();
        process.stderr.write('the migration goes on without this command; "status" tells of it\n');
        process.exit(128 + constants.signals[signal]);
      },
    );
    try {
      const summary = await ask(client, (event) => {
        output.event(event);
        page?.hear(event);
      });
      page?.completed(summary);
      output.end();
      return { object: { result: about.word, ...summary }, lines: [summaryText(summary, about.word)] };
    } catch (error) {
      page?.failed(error as Error);
      output.end();
      throw error;
    } finally {
      undo();
    }
  });
  if (page === undefined) return status;
  if (process.stdout.isTTY && !json && !interrupted) await untilSignal(page.url);
  await page.close();
  return status;
}

async function openPage(
  client: ControlClient,
  { page, json }: FollowOptions,
  title: string,
): Promise<MigrationPage | undefined> {
  if (page === undefined) return undefined;
  const opened = await MigrationPage.open(client, { port: page === true ? 0 : page, title });
  process.stdout.write(json ? `${JSON.stringify({ page: opened.url })}\n` : `page: ${opened.url}\n`);
  return opened;
}

function cancel(client: ControlClient, signal: NodeJS.Signals, output: ProgressOutput): void {
  output.end();
  process.stderr.write('cancelling\n');
  client.ask('cancel', { reason: `${signal} at the terminal` }).then(
    ({ cancelled }) => {
      if (!cancelled) process.stderr.write('too late: the destination is given the guest, or has it\n');
    },
    () => {},
  );
}

/** The page stays open, so that a move that has ended can still be looked at. */
async function untilSignal(url: string): Promise<void> {
  process.stdout.write(`the page stays at ${url} until Ctrl-C\n`);
  await new Promise<void>((resolve) => {
    const undo = onInterruption(
      () => {
        undo();
        resolve();
      },
      () => {},
    );
  });
}

function summaryText(summary: MoveSummary, word: 'moved' | 'saved'): string {
  const { to, totalMs, downtimeMs, predictedDowntimeMs, predictedDowntimeRangeMs, rounds, wireBytes } = summary;
  if (summary.background !== undefined) {
    const { pausedMs, protection } = summary.background;
    return (
      `${word} to ${to}: ${formatMs(totalMs)}, paused for ${formatMs(pausedMs)}, ${formatBytes(wireBytes)}; the guest waited for ` +
      `${formatCount(protection.faults)} pages, the longest ${formatMs(protection.worstLatencyUs / 1000)}`
    );
  }
  const { postcopy } = summary;
  const lost = postcopy?.lostLinks ? `, over ${formatCount(postcopy.lostLinks + 1)} links` : '';
  const followed = postcopy && `; ${formatCount(postcopy.pages)} pages followed in ${formatMs(postcopy.ms)}${lost}`;
  const compared = summary.verified ? `; all ${formatCount(summary.verifiedPages)} pages compared: equal` : '';
  return (
    `${word} to ${to}: ${formatMs(totalMs)}, down for ${formatMs(downtimeMs)} (predicted ` +
    `${formatMs(predictedDowntimeMs)}, ${formatRange(predictedDowntimeRangeMs)}), ${rounds} rounds, ${formatBytes(wireBytes)}${compared}${followed ?? ''}`
  );
}
