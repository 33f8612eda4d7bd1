import koffi, { type KoffiFunc } from 'koffi';

/**
 * The C library that Node itself runs on, glibc or musl: symbols are looked up in the running process.
 *
 * Only built-in koffi types are used, since named types are registered once per process and two copies of this module
 * (a worker, a test runner) would collide. Variadic C functions (`ioctl`, `open`, `syscall`) are declared with the
 * fixed arguments that are passed: the call is the same on every 64-bit Linux ABI, and koffi is 30% faster with this
 * declaration.
 */
const thisProcess = koffi.load(null);

type Arguments = readonly unknown[];

/** Declares a C function; `A` and `R` are its JavaScript arguments and result. */
export function cFunction<A extends Arguments, R extends number | bigint | null>(
  name: string,
  result: string,
  parameters: string[],
): KoffiFunc<(...args: [...A]) => R> {
  return thisProcess.func(name, result, parameters) as KoffiFunc<(...args: [...A]) => R>;
}

/** The address of a function in this process, for the kernel's use. */
export function cFunctionAddress(name: string): bigint {
  return koffi.address(thisProcess.symbol(name));
}

/** `errno` of the last call made through koffi on this thread. Read it before anything else. */
export function lastErrno(): number {
  return koffi.errno();
}
