import { fork } from 'node:child_process';
import { CommandProcess } from '@godwit/example-node-vmm/process';
import { afterEach, expect, test } from '@jest/globals';
import type { AnsweringCommands, ClosingMessage } from './answering-process.js';

type Answering = CommandProcess<AnsweringCommands, ClosingMessage>;

const started: Answering[] = [];

function start(onMessage: (message: ClosingMessage) => void = () => {}): Answering {
  const child = fork(new URL('./answering-process.js', import.meta.url), {
    serialization: 'advanced',
    stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
    execArgv: [],
  });
  const answering: Answering = new CommandProcess('answering', child, onMessage);
  started.push(answering);
  return answering;
}

afterEach(async () => {
  await Promise.all(started.splice(0).map((one) => one.end(1000)));
});

test('commands that overlap are answered, each once', async () => {
  const answering = start();
  await expect(Promise.all([1, 2, 3].map((value) => answering.ask('double', value)))).resolves.toEqual([2, 4, 6]);
});

test('an error keeps its code and names the process', async () => {
  const answering = start();
  await expect(answering.ask('fail', { code: 'GODWIT_BLOCKED' })).rejects.toMatchObject({
    name: 'CommandError',
    code: 'GODWIT_BLOCKED',
    message: 'answering: coded',
  });
  await expect(answering.ask('fail', { code: undefined })).rejects.toMatchObject({
    code: 'GODWIT_INTERNAL',
    message: 'answering: the process failed to fail: plain',
  });
});

test('a process that dies fails every pending command, with the end of its stderr', async () => {
  const answering = start();
  const hanging = answering.ask('hang', null);
  const gone = { code: 'GODWIT_LINK_LOST', message: expect.stringMatching(/ended with SIGKILL: last words$/) };
  await Promise.all([
    expect(hanging).rejects.toMatchObject(gone),
    expect(answering.ask('die', null)).rejects.toMatchObject(gone),
  ]);
  await expect(answering.ask('double', 1)).rejects.toMatchObject({ code: 'GODWIT_LINK_LOST' });
});

test('messages of the process come beside its answers; it exits when the channel closes', async () => {
  let arrived: (message: ClosingMessage) => void = () => {};
  const message = new Promise<ClosingMessage>((resolve) => {
    arrived = resolve;
  });
  const answering = start(arrived);
  answering.ask('hang', null).catch(() => {});
  await expect(message).resolves.toEqual({ type: 'closing' });
  await answering.end(10_000);
  await expect(answering.exited).resolves.toBeUndefined();
});
