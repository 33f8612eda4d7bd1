import { constants } from 'node:os';
import { chooseGuestKind } from '../vmm/hosted-guest.js';
import type { DemoEvent } from './demo-event.js';
import { parseArguments } from './options.js';
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

  const run = new DemoRun(options, chooseGuestKind(options.kvm), (event: DemoEvent) =>
    output.show({ ...event, atMs: now() }),
  );
  let signalled: NodeJS.Signals | undefined;
  const onSignal = (signal: NodeJS.Signals) => {
    // The second signal ends the hosts at once.
    if (signalled !== undefined) run.kill();
    signalled = signal;
    run.cancel();
  };
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, onSignal);
  // The reader of stdout is gone, as with `npm run demo | head`.
  process.stdout.on('error', () => run.kill());

  const verified = await run.run();
  output.end();
  process.exitCode = signalled === undefined ? (verified ? 0 : 1) : 128 + constants.signals[signalled];
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.off(signal, onSignal);
}
