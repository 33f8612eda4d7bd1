import type { MigratableDevice, MigratableVm, Migration } from '@godwit/core';

/** A guest whose first stop-and-copies overrun the pause limit. */
export interface Overrunning {
  /** The same guest, with a device whose `save` hangs until its signal aborts. */
  readonly vm: MigratableVm;
  /** Requests the next switchover once one was given up: by itself the engine waits longer after each. */
  hurry(migration: Migration): void;
}

/**
 * Stop-and-copies of `vm` overrun `times` times. The one after them is forced: it has no bound, so that a slow machine does not go
 * back once more.
 */
export function overrunning(vm: MigratableVm, times: number): Overrunning {
  let wentBack = 0;
  const [device, ...others] = vm.devices as [MigratableDevice, ...MigratableDevice[]];
  async function* save(signal?: AbortSignal): AsyncIterable<Uint8Array> {
    if (wentBack < times) await aborted(signal);
    else yield* device.save(signal);
  }
  return {
    vm: instead(vm, { devices: [instead(device, { save }), ...others] }),
    hurry(migration) {
      let asked = 0;
      migration.subscribe(({ type }) => {
        if (type === 'went-back') wentBack++;
        if (type !== 'round' || asked === wentBack) return;
        asked = wentBack;
        migration.switchOver({ force: wentBack >= times });
      });
    },
  };
}

/** Wraps an object and replaces some of its properties. Methods keep the original as `this`, since it may have private fields. */
function instead<T extends object>(original: T, other: Partial<T>): T {
  return new Proxy(original, {
    get(target, key) {
      if (Object.hasOwn(other, key)) return Reflect.get(other, key);
      const value: unknown = Reflect.get(target, key);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
}

function aborted(signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve) => {
    if (signal === undefined || signal.aborted) resolve();
    else signal.addEventListener('abort', () => resolve(), { once: true });
  });
}
