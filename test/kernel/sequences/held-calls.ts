import type { IoctlArgument } from '@godwit/linux/unstable';
import type { KernelPort } from '@godwit/vfio';

interface HeldCall {
  readonly request: number;
  readonly argument: IoctlArgument | undefined;
  readonly perform: () => number;
  readonly deliver: (result: number) => void;
  /** The call's result; undefined until the kernel has made the call. */
  result: number | undefined;
}

/**
 * A kernel whose slow calls wait for the test twice: before the kernel makes them, and before their result goes to the
 * caller. This imitates a pool thread that is late at either end. So a seed can produce every order in which threads can
 * run.
 */
export class HeldCalls implements KernelPort {
  /** Called right after the kernel has made a call. */
  onPerformed: (request: number, argument: Uint8Array, result: number) => void = () => {};
  /** While false, calls go straight through. */
  holding = false;
  readonly #kernel: KernelPort;
  readonly #held: HeldCall[] = [];

  constructor(kernel: KernelPort) {
    this.#kernel = kernel;
  }

  /** Calls that the kernel has not made yet, in the order of their requests. */
  get asked(): readonly HeldCall[] {
    return this.#held.filter(({ result }) => result === undefined);
  }

  /** Calls that the kernel has made, and whose callers do not have the result yet. */
  get performed(): readonly HeldCall[] {
    return this.#held.filter(({ result }) => result !== undefined);
  }

  perform(call: HeldCall): void {
    call.result = call.perform();
    if (typeof call.argument === 'object') {
      this.onPerformed(call.request, call.argument as Uint8Array, call.result);
    }
  }

  deliver(call: HeldCall): void {
    this.#held.splice(this.#held.indexOf(call), 1);
    call.deliver(call.result as number);
  }

  open = (path: string): number => this.#kernel.open(path);
  close = (fd: number): void => this.#kernel.close(fd);
  ioctl = (fd: number, request: number, argument?: IoctlArgument): number => this.#kernel.ioctl(fd, request, argument);
  read = (fd: number, buffer: Uint8Array): Promise<number> => this.#kernel.read(fd, buffer);
  write = (fd: number, buffer: Uint8Array): Promise<number> => this.#kernel.write(fd, buffer);

  ioctlAsync = (fd: number, request: number, argument?: IoctlArgument): Promise<number> => {
    const perform = () => this.#kernel.ioctl(fd, request, argument);
    return new Promise((deliver) => {
      const call: HeldCall = { request, argument, perform, deliver, result: undefined };
      this.#held.push(call);
      if (this.holding) return;
      this.perform(call);
      this.deliver(call);
    });
  };
}
