import { constants } from 'node:os';
import { chooseGuestKind } from '../vmm/hosted-guest.js';
import type { DemoEvent } from './demo-event.js';
import { DemoPage } from './demo-page.js';
import { type DemoOptions, parseArguments } from './options.js';
import { DemoRun } from './run.js';
import { jsonOutput, liveOutput, plainOutput, wantsColour } from './view/output.js';

/** Runs the demo with the process's own arguments. Never rejects; sets the exit status. */
export async function main(): Promise<void> {
  const parsed = parseArguments(process.argv.slice(2));
  if (parsed.kind === 'exit') {
    (parsed.status === 0 ? process.stdout : process.stderr).write(parsed.text);
    process.exitCode = parsed.status;
    return;
  }
  const { options } = parsed;
  const page = options.page === undefined ? undefined : await openPage(options, options.page);
  const started = performance.now();
  const now = () => performance.now() - started;
  const write = (text: string) => process.stdout.write(text);
  const live = options.output === 'auto' && process.stdout.isTTY && process.env['TERM'] !== 'dumb';
  const output =
    options.output === 'json'
      ? jsonOutput(write)
      : live
        ? liveOutput(process.stdout, now, wantsColour(options.color, process.env))
        : plainOutput(write);

  const show = (event: DemoEvent) => output.show({ ...event, atMs: now() });
  const run = new DemoRun(options, chooseGuestKind(options.kvm), show, page && ((message) => page.hear(message)));
  if (page !== undefined) show({ event: 'page', url: page.url });
  let leave: (() => void) | undefined;
  let signalled: NodeJS.Signals | undefined;
  const onSignal = (signal: NodeJS.Signals) => {
    if (leave !== undefined) {
      leave();
      return;
    }
    // The second signal ends the hosts at once.
    if (signalled !== undefined) run.kill();
    signalled = signal;
    run.cancel();
  };
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, onSignal);
  // An error means that the reader of stdout is gone, as with `npm run demo | head`.
  process.stdout.on('error', () => run.kill());

  const verified = await run.run();
  output.end();
  if (page !== undefined) {
    // On a terminal the page stays open until the user ends the demo.
    if (process.stdout.isTTY && signalled === undefined) {
      write(`\nthe page stays at ${page.url} until Ctrl-C\n`);
      await new Promise<void>((resolve) => {
        leave = resolve;
      });
    }
    await page.close();
  }
  process.exitCode = signalled === undefined ? (verified ? 0 : 1) : 128 + constants.signals[signalled];
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.off(signal, onSignal);
}

/** Opens the page, or ends the demo with an error message. */
async function openPage(options: DemoOptions, port: number): Promise<DemoPage> {
  try {
    return await DemoPage.open(options, port);
  } catch (error) {
    process.stderr.write(`error: ${(error as Error).message}\n`);
    process.exit(2);
  }
}
