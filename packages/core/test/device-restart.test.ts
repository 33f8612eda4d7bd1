import type { Frame, MigratableDevice } from '@godwit/core';
import { engineParts } from '@godwit/core/testing';
import { expect, test } from '@jest/globals';

const { DeviceSender } = engineParts;

/** A device whose calls return when the test says so. */
class HangingDevice implements MigratableDevice {
  readonly id = 'gpu';
  readonly version = 1;
  readonly calls: string[] = [];
  readonly #return = new Map<string, () => void>();

  /** Lets the call that hangs yield its chunk and return. */
  letGo(call: 'precopy' | 'save'): void {
    this.#return.get(call)?.();
  }

  async *precopy(): AsyncGenerator<Uint8Array> {
    yield* this.#hang('precopy', 1);
  }

  async *save(): AsyncGenerator<Uint8Array> {
    yield* this.#hang('save', 2);
  }

  async restart(): Promise<void> {
    this.calls.push('restart');
  }

  async load(): Promise<void> {}

  async *#hang(call: 'precopy' | 'save', byte: number): AsyncGenerator<Uint8Array> {
    this.calls.push(call);
    await new Promise<void>((resolve) => this.#return.set(call, resolve));
    yield Uint8Array.of(byte);
    this.calls.push(`${call} returns`);
  }
}

/** A connection that keeps what it carries. */
function carrier(sender: InstanceType<typeof DeviceSender>) {
  const frames: Frame[] = [];
  const over = new AbortController();
  sender.use(
    {
      signal: over.signal,
      write: async (frame) => {
        frames.push(frame);
      },
      ping: async () => 0,
    },
    1024,
    1024,
  );
  return { frames, over };
}

/** Lets everything run that waits for no one. */
const settle = () => new Promise<void>((resolve) => setImmediate(resolve));

test('a device whose save() has not returned begins again after it has, and is asked for nothing before', async () => {
  const device = new HangingDevice();
  const sender = new DeviceSender([device]);
  carrier(sender);
  const givenUp = new AbortController();
  const saving = sender.save(1, givenUp.signal);
  await settle();
  givenUp.abort(new Error('given up'));
  await expect(saving).rejects.toThrow('given up');

  await sender.restart();
  await sender.precopy();
  expect(device.calls).toEqual(['save']);
  expect(sender.calls.isBusy(device)).toBe(true);
  expect(await sender.switchoverBlocker(new AbortController().signal)).toContain('"gpu", asked to save');

  device.letGo('save');
  await sender.calls.idle();
  expect(device.calls).toEqual(['save', 'restart']);
  void sender.precopy();
  await settle();
  expect(device.calls).toEqual(['save', 'restart', 'precopy']);
});

test('what a device yields of the time before it began again is not sent', async () => {
  const device = new HangingDevice();
  const sender = new DeviceSender([device]);
  const first = carrier(sender);
  const offering = sender.precopy();
  await settle();
  first.over.abort(new Error('the link is lost'));
  await expect(offering).rejects.toThrow('the link is lost');

  const second = carrier(sender);
  await sender.restart();
  device.letGo('precopy');
  await sender.calls.idle();
  await sender.resume([0], [0]);
  expect(second.frames).toEqual([]);
  expect(sender.sequences).toEqual([0]);
});
