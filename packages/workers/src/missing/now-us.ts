/** Microseconds since 1970, on any thread. */
export function nowUs(): number {
  return (performance.timeOrigin + performance.now()) * 1000;
}
