import type { IoctlArgument } from '@godwit/linux/unstable';
import type { Descriptor } from './descriptor.js';
import type { KernelPort } from './kernel-port.js';

/** One call of a procedure; `yield` returns its result, a descriptor or the ioctl's return value. */
export type KernelStep =
  | { readonly open: string }
  | { readonly on: Descriptor; readonly request: number; readonly argument?: IoctlArgument }
  | { readonly close: Descriptor };

/** A procedure of several calls, written once, and run on the event loop (`atOnce`) or on pool threads (`onPool`). */
export type KernelSteps<T> = Generator<KernelStep, T, number>;

/** Runs a procedure while the event loop is blocked. */
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

/**
 * Runs a procedure while the event loop goes on. Nodes are opened on the event loop, which takes microseconds; ioctls on
 * them may take seconds.
 */
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
