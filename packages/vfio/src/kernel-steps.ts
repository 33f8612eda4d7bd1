import type { IoctlArgument } from '@godwit/linux/unstable';
import type { Descriptor } from './descriptor.js';
import type { KernelPort } from './kernel-port.js';

/** One call of a procedure: its result comes back from `yield`, a descriptor or what the ioctl returned. */
export type KernelStep =
  | { readonly open: string }
  | { readonly on: Descriptor; readonly request: number; readonly argument?: IoctlArgument }
  | { readonly close: Descriptor };

/** A procedure of several calls, written once: it is made at once (`atOnce`) or on pool threads (`onPool`). */
export type KernelSteps<T> = Generator<KernelStep, T, number>;

/** The event loop waits until all of it is done. */
export function atOnce<T>(port: KernelPort, steps: KernelSteps<T>): T {
  let next = steps.next();
  while (next.done !== true) {
    let result: number;
    try {
      result = made(port, next.value);
    } catch (error) {
      next = steps.throw(error);
      continue;
    }
    next = steps.next(result);
  }
  return next.value;
}

function made(port: KernelPort, step: KernelStep): number {
  if ('open' in step) return port.open(step.open);
  if ('on' in step) return step.on.ioctl(step.request, step.argument);
  step.close.close();
  return 0;
}

/** The event loop goes on meanwhile. Opening a node is done in microseconds; what is asked of it then may take seconds. */
export async function onPool<T>(port: KernelPort, steps: KernelSteps<T>): Promise<T> {
  let next = steps.next();
  while (next.done !== true) {
    let result: number;
    try {
      result = await begun(port, next.value);
    } catch (error) {
      next = steps.throw(error);
      continue;
    }
    next = steps.next(result);
  }
  return next.value;
}

async function begun(port: KernelPort, step: KernelStep): Promise<number> {
  if ('open' in step) return port.open(step.open);
  if ('on' in step) return step.on.ioctlAsync(step.request, step.argument);
  await step.close.closeAsync();
  return 0;
}
